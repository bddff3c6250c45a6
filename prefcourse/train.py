"""One training loop for every loss in `LOSSES` that works on pairs, and for supervised fine-tuning.

    history = train(policy, world.pairs["train"], world.tokenizer, loss="dpo", beta=0.1)

What happens: rows → token ids; the reference's log-probs, once; then, batch by batch, policy log-probs → loss → step.
`history` is a dict of columns with TRL's metric names, one entry a step.
"""

import copy
import math
import os
import sys
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.logprobs import sequence_logps
from prefcourse.losses import LOSSES
from prefcourse.preferences import Batch, Row, check_rows, collate, encode

History = dict[str, list[float]]
MEGABATCH = 16  # batches within which rows are sorted by length


def train(
    policy: PreTrainedModel, data: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, loss: str = "dpo",
    reference: PreTrainedModel | None = None, lr: float = 1.5e-4, epochs: float = 1, steps: int | None = None,
    batch_size: int = 32, warmup: float = 0.1, schedule: str = "cosine", max_grad_norm: float = 1.0,
    precision: str = "auto", seed: int = 0, measure: Callable[[PreTrainedModel], dict[str, float]] | None = None,
    every: int = 25, progress: bool = True, **loss_arguments,
) -> History:  # fmt: skip
    """Train `policy` in place and return its history.

    data: rows with prompt, chosen, rejected; for loss="sft" rows with prompt, completion (or chosen) do.
    reference: π_ref; by default a frozen copy of `policy` as it is now, so that the first margins are exactly 0.
    steps: optimiser steps, one batch each; by default as many as `epochs` over the data need.
    warmup: share of the steps in which the learning rate climbs to `lr`; then it falls by `schedule` ("cosine",
        "linear") or stays ("constant").
    precision: "fp32", "bf16", "fp16" (with loss scaling) or "auto": what is fast on the device and safe.
    measure: called with the policy before the first step, every `every` steps and at the end; the numbers it returns
        become columns of the history, nan at the steps between.
    loss_arguments: the loss's own parameters, such as beta=0.1; one that it does not take is an error.

    Raises ValueError for bad rows or arguments, FloatingPointError if the loss or the gradient stops being finite.
    """
    spec = _spec(loss, loss_arguments)
    needs = spec.inputs(**loss_arguments)
    sequences = _encode(data, tokenizer, "policy_rejected" in needs, policy.config.max_position_embeddings)
    if steps is None:
        steps = math.ceil(epochs * len(sequences) / max(batch_size, 1))
    if steps < 1 or batch_size < 1 or lr <= 0:
        raise ValueError(f"need steps >= 1, batch_size >= 1 and lr > 0, got {steps=}, {batch_size=}, {lr=}")
    lr_factor(0, steps, warmup, schedule)  # an unknown schedule is an error now, not after the warm-up
    batches = plan([sum(len(p) + len(c) for p, c in group) for group in sequences], batch_size, steps, seed)
    device = policy.device
    dtype = choose_precision(precision, device.type)
    amp = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    stored = None
    if spec.needs_reference:
        reference = copy.deepcopy(policy) if reference is None else reference
        stored = _reference_logps(reference, sequences, batches, tokenizer, amp, progress)
    policy.eval()  # no dropout: the margin must be 0 when policy and reference are the same
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps, warmup, schedule))
    scale = loss_arguments.get("beta", spec.defaults.get("beta", 1.0))  # of the implicit reward β log π/π_ref

    history: History = {}
    bar = progress_bar(batches, "train", progress)
    for step, rows in enumerate(bar):
        measured = measure(policy) if measure and step % every == 0 else {}
        batch = _batch(sequences, rows, tokenizer).to(device)  # kB sequences, k = 2 for pairs
        with amp:
            logps = sequence_logps(policy, batch).split(len(rows))  # k of (B,)
        lengths = batch.lengths.split(len(rows))
        values = dict(zip(("policy_chosen", "policy_rejected"), logps, strict=False))
        values |= dict(zip(("chosen_lengths", "rejected_lengths"), lengths, strict=False))
        if stored is not None:
            refs = stored[rows].to(device).unbind(1)  # k of (B,)
            values |= dict(zip(("reference_chosen", "reference_rejected"), refs, strict=False))
        if not all(bool(x.isfinite().all()) for x in logps):
            raise FloatingPointError(_diverged(step, rows, lr, "log-probabilities"))
        per_example = spec.function(**{name: values[name] for name in needs}, **loss_arguments)  # (B,)

        scaler.scale(per_example.mean()).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
        if not bool(norm.isfinite()) and dtype != torch.float16:  # in fp16 the scaler skips such a step
            raise FloatingPointError(_diverged(step, rows, lr, "gradients"))
        now = {"step": step, "lr": rate.get_last_lr()[0], "loss": per_example.mean().item(), "grad_norm": norm.item()}
        _append(history, now | _metrics(values, scale) | measured)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        rate.step()
        bar.set_postfix_str(f"loss {now['loss']:.3f}", refresh=False)
    if measure:
        _append(history, {"step": steps, **measure(policy)})
    return history


def plan(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Which rows form the batch of each step: epochs in random order, rows of similar length side by side.

    Rows are shuffled, sorted by length within groups of 16 batches, cut, and the batches shuffled again: little
    padding, and still every row comes once an epoch in an unforeseeable order. Each batch has `batch_size` rows; the
    last rows of an epoch share a batch with the first of the next.
    """
    generator, rest, batches = torch.Generator().manual_seed(seed), [], []
    while len(batches) < steps:
        rows = rest + torch.randperm(len(lengths), generator=generator).tolist()
        end = len(rows) // batch_size * batch_size
        if rest and end:  # the batch between two epochs
            batches.append(rows[:batch_size])
        for start in range(batch_size if rest else 0, end, MEGABATCH * batch_size):
            group = sorted(rows[start : min(start + MEGABATCH * batch_size, end)], key=lambda i: lengths[i])
            cut = [group[k : k + batch_size] for k in range(0, len(group), batch_size)]
            batches += [cut[k] for k in torch.randperm(len(cut), generator=generator).tolist()]
        rest = rows[end:]
    return batches[:steps]


def lr_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """The share of `lr` in use at `step`: linear warm-up, then constant, or a cosine or a line down to zero."""
    begin = round(warmup * steps)
    done = (step - begin) / max(steps - begin, 1)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    if schedule not in factors:
        raise ValueError(f"schedule must be one of {', '.join(factors)}, got {schedule!r}")
    return (step + 1) / (begin + 1) if step < begin else factors[schedule]


def choose_precision(precision: str, device: str) -> torch.dtype:
    """The dtype of `precision`; "auto" is bf16 where it is fast (new GPUs, AMX), fp16 on old GPUs, else fp32."""
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in names:
        return names[precision]
    if precision != "auto":
        raise ValueError(f"precision must be one of auto, {', '.join(names)}, got {precision!r}")
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.bfloat16 if device == "cpu" and amx() else torch.float32


def progress_bar(items: Sequence, name: str, shown: bool = True) -> tqdm:
    """A bar over `items` in a terminal or a live notebook; silent in a pipe, a log, or with TQDM_DISABLE set."""
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(items, desc=name, leave=False, disable=not (shown and live) or "TQDM_DISABLE" in os.environ)


def _spec(loss: str, arguments: dict):
    if loss not in LOSSES:
        raise ValueError(f"there is no loss {loss!r}; the losses are: {', '.join(LOSSES)}")
    spec = LOSSES[loss]
    if spec.data != "paired":
        raise ValueError(f"loss {loss!r} needs unpaired data, which this loop does not batch; use a paired loss")
    if "delta" in spec.inputs():
        raise ValueError(f"loss {loss!r} needs delta, a running mean of rewards, which this loop does not keep")
    for name in arguments:
        if name not in spec.defaults:
            raise ValueError(f"loss {loss!r} has no parameter {name!r}; it has: {', '.join(spec.defaults) or 'none'}")
    return spec


def _encode(data: Sequence[Row], tokenizer, paired: bool, longest: int) -> list[tuple]:
    """Rows → a tuple of (prompt_ids, completion_ids) each: chosen and rejected, or the one completion."""
    columns = ["chosen", "rejected"] if paired else ["chosen" if data and "chosen" in data[0] else "completion"]
    rows = check_rows(data, ["prompt", *columns], where="data")
    sequences = [tuple(encode(row["prompt"], row[c], tokenizer) for c in columns) for row in rows]
    for number, group in enumerate(sequences, start=1):
        for prompt, completion in group:
            if len(prompt) + len(completion) > longest:
                raise ValueError(
                    f"data, line {number}: {len(prompt) + len(completion)} tokens, but the model takes {longest}. "
                    "Shorten the row or leave it out."
                )
    return sequences


@torch.no_grad()
def _reference_logps(reference, sequences, batches: list[list[int]], tokenizer, amp, progress: bool) -> torch.Tensor:
    """log π_ref of each sequence that the run will meet, once: (len(sequences), k), nan for the others.

    We score the very batches of the run, so that policy and reference round alike and the first margins are exactly 0.
    """
    stored = torch.full((len(sequences), len(sequences[0])), math.nan)
    reference.eval()
    for rows in progress_bar(batches, "reference", progress):
        if stored[rows].isnan().any():
            with amp:
                logps = sequence_logps(reference, _batch(sequences, rows, tokenizer).to(reference.device))
            stored[rows] = logps.float().cpu().view(-1, len(rows)).T
    return stored


def _batch(sequences: list[tuple], rows: list[int], tokenizer) -> Batch:
    """Rows of k sequences each → a batch of k·B sequences: first all chosen, then all rejected."""
    columns = zip(*(sequences[i] for i in rows), strict=True)
    return collate([sequence for column in columns for sequence in column], tokenizer.pad_token_id)


@torch.no_grad()
def _metrics(values: dict[str, torch.Tensor], beta: float) -> dict[str, float]:
    """TRL's metrics of one batch: implicit rewards β log π/π_ref, their margin and accuracy, and the log-probs."""
    sides = [side for side in ("chosen", "rejected") if f"policy_{side}" in values]
    found = {f"logps/{side}": values[f"policy_{side}"].mean().item() for side in sides}
    if "reference_rejected" in values:
        chosen, rejected = (beta * (values[f"policy_{s}"] - values[f"reference_{s}"]) for s in sides)  # (B,) each
        found["rewards/chosen"], found["rewards/rejected"] = chosen.mean().item(), rejected.mean().item()
        found["rewards/margins"] = (chosen - rejected).mean().item()
        found["rewards/accuracies"] = (chosen > rejected).float().mean().item()
    return found


def _append(history: History, row: dict[str, float]) -> None:
    """Add one step to the columns; a column that this step does not have gets nan."""
    before = len(next(iter(history.values()), []))
    for name in row:
        history.setdefault(name, [math.nan] * before)
    for name, column in history.items():
        column.append(row.get(name, math.nan))


def _diverged(step: int, rows: list[int], lr: float, what: str) -> str:
    return (
        f"step {step}: the {what} are not finite (rows {rows[:8]}{' ...' if len(rows) > 8 else ''} of the data). "
        f"The policy is broken from here on; start again with a lower lr than {lr:g} or in fp32."
    )
