"""One training loop for every loss in `LOSSES`, on pairs or on single completions, and for a loss of your own.

    history = train(policy, world.pairs["train"], world.tokenizer, loss="dpo", beta=0.1)

What happens: rows → token ids; the reference's log-probs, once; then, batch by batch, policy log-probs → loss → step.
`history` is a dict of columns with TRL's metric names, one entry a step; `training.history` has the table.

The same call trains a LoRA policy (`training.lora`), in several processes (`training.devices`), and goes on after an
interruption (`checkpoint=…, resume=True`; `training.checkpoint`).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.generate import Completion, generate
from prefcourse.logprobs import sequence_logps
from prefcourse.losses import Vec
from prefcourse.preferences import Batch, Row, collate
from prefcourse.training import checkpoint as checkpoints
from prefcourse.training import guards, lora
from prefcourse.training.batches import Feed, encode_rows
from prefcourse.training.devices import choose_precision, find_devices, precision_name, progress_bar, watched
from prefcourse.training.history import History, append, batch_metrics, reward_metrics, sample_metrics
from prefcourse.training.reference import ReferenceLogps, find_reference, fingerprint, score_feed, weights_digest

SAMPLED = 64  # prompts taken from the data for max_kl without prompts, and completions scored at a time


def train(
    policy: PreTrainedModel, data: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *,
    loss: str | Callable[..., Vec] = "dpo", reference: nn.Module | ReferenceLogps | str | Path | None = None,
    lr: float = 1.5e-4, epochs: float = 1, steps: int | None = None, batch_size: int = 32,
    micro_batch: int | None = None, warmup: float = 0.1, schedule: str = "cosine", max_grad_norm: float = 1.0,
    precision: str = "auto", seed: int = 0, max_length: int | None = None, too_long: str = "error",
    score: Callable[[nn.Module, Batch], Tensor] = sequence_logps,
    measure: Callable[[PreTrainedModel], dict[str, float]] | None = None, every: int = 25,
    prompts: Sequence[str] = (), on_samples: Callable[[int, list[Completion]], None] | None = None,
    max_kl: float | None = None, checkpoint: str | Path | None = None, checkpoint_every: int = 50,
    resume: bool = False, progress: bool = True, say: Callable[[str], None] | None = None, **loss_arguments,
) -> History:  # fmt: skip
    """Train `policy` in place and return its history.

    data: rows with prompt, chosen, rejected; for loss="sft" prompt, completion (or chosen); for loss="kto" prompt,
        completion, label, or pairs, each of which then counts as two completions.
    loss: a name in LOSSES, or a function of your own: arguments named like theirs, one value per example, (B,).
    reference: π_ref. By default `policy` as it is now, so that the first margins are exactly 0. Or a model; "base", a
        LoRA policy with its adapters off; or the log-probs that `reference_logps` computed (or their file).
    steps: optimiser steps, one batch each; by default as many as `epochs` over the data need.
    batch_size: examples a step, in all processes together. micro_batch: how many of them one process has in memory at
        a time (gradient accumulation); it changes nothing but memory and speed.
    warmup: share of the steps in which the learning rate climbs to `lr`; then it falls by `schedule` ("cosine",
        "linear") or stays ("constant").
    precision: "fp32", "bf16", "fp16" (with loss scaling) or "auto": what is fast on the device and safe.
    too_long: "error", "drop" or "truncate", for sequences above the model's context or `max_length` tokens.
    score: model and batch → one number per sequence, (N,). The losses in LOSSES expect log-probs.
    measure: called with the policy before the first step, every `every` steps and at the end; the numbers it returns
        become columns of the history, nan at the steps between.
    prompts: just as often the policy completes these, and kl, eos_rate and length become columns; `on_samples` gets
        the step and the completions. max_kl: stop at the first such kl above this many nats.
    checkpoint: a folder in which everything is saved every `checkpoint_every` steps and at the end. resume: go on from
        its newest checkpoint, bit for bit as if nothing had happened, or begin if there is none. All other arguments
        must be those of the run that stopped, the policy it began with included.
    say: told in a line what runs where; by default it is printed in a terminal or a live notebook.
    loss_arguments: the loss's own parameters, such as beta=0.1; one that it does not take is an error.

    Raises ValueError for bad rows or arguments or another run's checkpoint, OSError if a checkpoint cannot be written,
    FloatingPointError if the loss or the gradient stops being finite. What was saved before is whole and finite.
    """
    # ------------------------------------------------------------ check everything before any time is spent
    name, spec = guards.find_loss(loss, loss_arguments)
    needs, devices, longest = spec.inputs(**loss_arguments), find_devices(policy), guards.context(policy, max_length)
    has_reference, mismatched = any(need.startswith("reference") for need in needs), "kl_policy" in needs
    policy.eval()  # no dropout: the margin must be 0 when policy and reference are the same
    guards.check_model(policy, tokenizer, "policy")
    examples = encode_rows(data, tokenizer, needs=needs, longest=longest, too_long=too_long)
    steps = math.ceil(epochs * len(examples) / max(batch_size, 1)) if steps is None else steps
    micro_batch = batch_size if micro_batch is None else micro_batch
    guards.check_sizes(steps, batch_size, micro_batch, lr, every, checkpoint_every, devices.count, needs)
    guards.warn_of_lr(policy, lr, spec)
    lr_factor(0, steps, warmup, schedule)  # an unknown schedule is an error now, not after the warm-up
    feed = Feed.plan(examples, batch_size=batch_size, steps=steps, seed=seed, mismatched=mismatched, longest=longest)
    dtype = choose_precision(precision, devices.device.type)
    amp = torch.autocast(devices.device.type, dtype, enabled=dtype != torch.float32)
    if max_kl is not None and not prompts:
        prompts = list(dict.fromkeys(row["prompt"] for row in data))[:SAMPLED]

    # ------------------------------------------------------------ how a batch is scored
    model = scorer = _Scorer(policy, score)  # `model`: what several processes make of it

    def by_model(batch: Batch) -> Tensor:
        return model(batch.input_ids, batch.completion_mask)

    def by_policy(batch: Batch) -> Tensor:
        return scorer(batch.input_ids, batch.completion_mask)

    def logps_of(groups: Sequence[tuple], by: Callable[[Batch], Tensor] = by_model) -> tuple[Tensor, Tensor]:
        """b examples of k sequences → log-probs and completion lengths, (b, k) each."""
        columns = zip(*groups, strict=True)  # first all chosen, then all rejected
        sequences = [sequence for column in columns for sequence in column]
        batch = collate(sequences, tokenizer.pad_token_id or 0).to(devices.device)
        with amp:
            logps = by(batch)
        return logps.view(-1, len(groups)).T, batch.lengths.view(-1, len(groups)).T

    @torch.no_grad()
    def frozen_logps(groups: Sequence[tuple], by: Callable[[Batch], Tensor] = by_model) -> Tensor:
        return logps_of(groups, by)[0]

    def look(step: int) -> dict[str, float]:
        """What is measured before `step`."""
        found = dict(measure(policy)) if measure else {}
        if prompts:
            completions = generate(lora.plain(policy), tokenizer, prompts, seed=seed)
            groups = [((tokenizer(p)["input_ids"], c.ids),) for p, c in zip(prompts, completions, strict=True)]
            parts = [groups[k : k + SAMPLED] for k in range(0, len(groups), SAMPLED)] if by_reference else []
            pairs = [(frozen_logps(p, by_policy).cpu(), frozen_logps(p, by_reference).cpu()) for p in parts]
            kl = [ours - theirs for ours, theirs in pairs]
            found |= sample_metrics(completions, torch.cat(kl) if kl else None)
            if on_samples:
                on_samples(step, completions)
        return found

    def look_for_all(step: int) -> dict[str, float]:
        if not (measure or prompts):
            return {}
        with devices.gathered(model, scorer):
            return devices.from_main(partial(look, step))

    # ------------------------------------------------------------ the reference's log-probs, once; where we are
    marks, origin, by_reference, stored = fingerprint(data, feed, dtype), weights_digest(policy), None, None
    if has_reference or prompts:
        by_reference, marks["reference"], stored = find_reference(reference, policy, by_policy, score, bool(prompts))
        guards.check_reference(reference, tokenizer, by_reference is not None, max_kl)
    this_run = {
        "loss": name, "loss_arguments": loss_arguments, "lr": lr, "steps": steps, "batch_size": batch_size,
        "micro_batch": micro_batch, "warmup": warmup, "schedule": schedule, "max_grad_norm": max_grad_norm,
        "seed": seed, "policy": origin, **marks,
    }  # fmt: skip
    place = devices.from_main(partial(checkpoints.find, checkpoint, this_run, resume)) if checkpoint else None
    if has_reference:
        cache = Path(checkpoint) / "reference.safetensors" if checkpoint else None
        if stored is None and place and cache.exists():
            stored = ReferenceLogps.load(cache)
        if stored is None:
            stored = score_feed(partial(frozen_logps, by=by_reference), feed, marks, devices, micro_batch, progress)
            if cache:
                devices.from_main(partial(stored.save, cache))
        stored.require(marks)
        stored.cover(feed)
    by_reference = by_reference if devices.rank == 0 else None  # needed again for samples, which the first looks at

    start, history, rewards = 0, {}, [0.0, 0.0]  # rewards: sum and number of all so far, for BCO's δ
    saved = checkpoints.load(place, policy) if place else None
    if saved:
        start, history, rewards = saved.step, saved.history, saved.carry
        checkpoints.set_rng_state(saved.rng)
        if saved.done:
            return history
    model = devices.wrap(scorer)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(devices.device.type, enabled=dtype == torch.float16)
    if saved:
        devices.load_optimizer(optimizer, saved.optimizer)
        scaler.load_state_dict(saved.scaler)

    def save(step: int, rng: dict, done: bool = False) -> None:
        states = {"optimizer": devices.optimizer_state(optimizer), "scaler": scaler.state_dict()}
        states |= {"carry": rewards, "rng": rng}
        state = checkpoints.State(step=step, done=done, run=this_run, history=history, **states)
        devices.gather(model, scorer)
        devices.from_main(partial(checkpoints.save, checkpoint, state, policy, tokenizer))

    def last_saved() -> Path | None:
        return checkpoints.latest(checkpoint) if checkpoint else None

    # ------------------------------------------------------------ the loop
    say = say or (print if progress and watched() else lambda line: None)
    if devices.rank == 0:
        say(f"{devices}, {precision_name(dtype)}: {examples}; steps {start} to {steps}, {batch_size} examples each")
    beta = loss_arguments.get("beta", spec.defaults.get("beta", 1.0))  # of the implicit reward β log π/π_ref
    bar = progress_bar(range(start, steps), "train", progress and devices.rank == 0)
    for step in bar:
        rows, rng = feed.batches[step], checkpoints.rng_state() if checkpoint else {}
        optimizer.param_groups[0]["lr"] = rate = lr * lr_factor(step, steps, warmup, schedule)
        measured = look_for_all(step) if step % every == 0 else {}
        if max_kl is not None and measured.get("kl", 0.0) > max_kl:
            append(history, {"step": step, **measured})
            break
        given = {}  # inputs of the loss that belong to the whole batch
        if mismatched:
            given["kl_policy"] = devices.map(feed.mixed(step), frozen_logps, micro_batch)[:, 0].to(devices.device)
            kl_reference = [stored.mismatched[epoch, i] for epoch, i in zip(feed.epochs[step], rows, strict=True)]
            given["kl_reference"] = torch.stack(kl_reference).to(devices.device)
        if "delta" in needs:
            given["delta"] = rewards[0] / max(rewards[1], 1)

        parts, found = devices.parts(len(rows), micro_batch), []
        for part in parts:
            mine = [rows[k] for k in part]
            with devices.sync(model, now=part is parts[-1]):
                logps, lengths = logps_of([examples.sequences[i] for i in mine])  # (b, k)
                good = logps.detach().isfinite().all(1).tolist()
                if not all(good):
                    bad = [examples.rows[i] for i, fine in zip(mine, good, strict=True) if not fine]
                    raise FloatingPointError(guards.diverged(step, bad, lr, "log-probabilities", last_saved()))
                frozen = stored.logps[mine].to(devices.device) if has_reference else None
                values = given | examples.inputs(mine, logps, lengths, frozen)
                per_example = spec.function(**{need: values[need] for need in needs}, **loss_arguments)  # (b,)
                scaler.scale(per_example.sum() * (devices.count / len(rows))).backward()
            found.append(torch.cat([per_example.detach()[:, None], logps.detach(), lengths], 1))
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        if not bool(norm.isfinite()) and scaler.get_scale() <= 1:  # above 1, in fp16, the scaler skips such a step
            bad = [examples.rows[i] for i in rows]
            raise FloatingPointError(guards.diverged(step, bad, lr, "gradients", last_saved()))
        if checkpoint and step > start and step % checkpoint_every == 0:
            save(step, rng)  # now that this batch has shown the weights to be good, and before we change them

        table = devices.pool(len(rows), [k for part in parts for k in part], torch.cat(found))  # (B, 1 + 2k), CPU
        k = table.shape[1] // 2
        logps, lengths, frozen = table[:, 1 : 1 + k], table[:, 1 + k :], stored.logps[rows] if has_reference else None
        if step == 0 and has_reference and marks["reference"] == origin:
            guards.check_zero_rewards(logps, frozen, [examples.rows[i] for i in rows], dtype)
        if "delta" in needs:
            rewards = [rewards[0] + beta * (logps - frozen).sum().item(), rewards[1] + logps.numel()]
        now = {"step": step, "lr": rate, "loss": table[:, 0].mean().item(), "grad_norm": float(norm)}
        if mismatched:
            now["z0"] = (given["kl_policy"] - given["kl_reference"]).mean().clamp(min=0).item()
        now |= {"delta": given["delta"]} if "delta" in given else {}
        if score is sequence_logps:
            desirable = [examples.desirable[i] for i in rows] if examples.desirable else []
            now |= batch_metrics(logps, frozen, lengths, desirable, beta, name)
        elif k == 2:
            now |= reward_metrics(*logps.unbind(1))
        append(history, now | measured)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        bar.set_postfix_str(f"loss {now['loss']:.3f}", refresh=False)
    else:  # no budget was exceeded
        step = steps
        if measure or prompts:
            append(history, {"step": steps, **look_for_all(steps)})
    if checkpoint:
        save(step, checkpoints.rng_state(), done=True)
    devices.gather(model, scorer)
    return history


class _Scorer(nn.Module):
    """`score(policy, batch)` as the forward of a module: that is what DDP and FSDP know how to wrap."""

    def __init__(self, policy: nn.Module, score: Callable[[nn.Module, Batch], Tensor]):
        super().__init__()
        self.policy, self.score = policy, score

    def forward(self, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
        return self.score(lora.plain(self.policy), Batch(input_ids, completion_mask))


def lr_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """The share of `lr` in use at `step`: linear warm-up, then constant, or a cosine or a line down to zero."""
    begin = round(warmup * steps)
    done = (step - begin) / max(steps - begin, 1)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    if schedule not in factors:
        raise ValueError(f"schedule must be one of {', '.join(factors)}, got {schedule!r}")
    return (step + 1) / (begin + 1) if step < begin else factors[schedule]
