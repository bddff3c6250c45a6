"""One training loop for every loss in `LOSSES`, on pairs or on single completions, and for a loss of your own.

    history = train(policy, world.pairs["train"], world.tokenizer, loss="dpo", beta=0.1)

What happens: rows → token ids; the reference's log-probs, once; then, batch by batch, policy log-probs → loss → step.
`history` is a dict of columns with TRL's metric names, one entry a step; `training.history` has the table.

The same call trains a LoRA policy (`training.lora`), in several processes (`training.devices`), and goes on after an
interruption (`checkpoint=…, resume=True`; `training.checkpoint`).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.generate import Completion
from prefcourse.logprobs import sequence_logps
from prefcourse.losses import Vec
from prefcourse.preferences import Batch, Row
from prefcourse.training import guards, memory, rates, saving
from prefcourse.training.batches import Feed, encode_rows
from prefcourse.training.devices import find_devices
from prefcourse.training.history import History
from prefcourse.training.looking import Looking, looking_at
from prefcourse.training.objective import Objective
from prefcourse.training.reference import ReferenceLogps
from prefcourse.training.run import Run
from prefcourse.training.scoring import Scoring
from prefcourse.worlds.models import context


def train(
    policy: PreTrainedModel, data: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *,
    loss: str | Callable[..., Vec] = "dpo", reference: nn.Module | ReferenceLogps | str | Path | None = None,
    lr: float = 1.5e-4, epochs: float = 1, steps: int | None = None, batch_size: int = 32,
    micro_batch: int | None = None, warmup: float = 0.1, schedule: str = "cosine", max_grad_norm: float = 1.0,
    precision: str | None = None, seed: int = 0, max_length: int | None = None, too_long: str = "error",
    score: Callable[[nn.Module, Batch], Tensor] = sequence_logps,
    measure: Callable[[PreTrainedModel], dict[str, float]] | None = None, every: int = 25,
    prompts: Sequence[str] = (), on_samples: Callable[[int, list[Completion]], None] | None = None,
    sample_tokens: int = 48, max_kl: float | None = None, checkpoint: str | Path | None = None,
    checkpoint_every: int = 50, resume: bool = False, progress: bool = True, say: Callable[[str], None] | None = None,
    on_step: Callable[[dict[str, float], int], None] | None = None, **loss_arguments,
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
    precision: "fp32", "bf16", "fp16" (with loss scaling) or "auto": what is fast on the device and safe. By default
        fp32 on a CPU, for which the course's numbers speak, and "auto" on a GPU.
    too_long: "error", "drop", "truncate" or "left", for sequences above the model's context or `max_length` tokens.
    score: model and batch → one number per sequence, (N,). The losses in LOSSES expect log-probs.
    measure: called with the policy before the first step, every `every` steps and at the end; the numbers it returns
        become columns of the history, nan at the steps between.
    prompts: just as often the policy completes these in `sample_tokens`, and kl, eos_rate and length become columns;
        `on_samples` gets step and completions. max_kl: stop at the first such kl above this many nats.
    checkpoint: a folder in which everything is saved every `checkpoint_every` steps and at the end. resume: go on from
        its newest checkpoint, bit for bit as if nothing had happened, or begin if there is none. All other arguments
        must be those of the run that stopped, the policy it began with included.
    say: told in a line what runs where; by default it is printed in a terminal or a live notebook. on_step: told each
        row of the history as it is written, and the number of steps; after a resumption from the first new row on.
    loss_arguments: the loss's own parameters, such as beta=0.1; one that it does not take is an error.

    Raises ValueError for bad rows or arguments or another run's checkpoint, OSError if none can be written,
    MemoryError if a step is too large, FloatingPointError if loss or gradient stops being finite; what was saved is.
    """
    # Everything is checked before any time is spent.
    policy.eval()  # no dropout: the margin must be 0 when policy and reference are the same
    objective, devices = Objective.find(loss, loss_arguments), find_devices(policy)
    guards.check_model(policy, tokenizer, "policy")
    memory.check_recomputing(policy)
    longest = context(policy, max_length)
    examples = encode_rows(data, tokenizer, needs=objective.needs, longest=longest, too_long=too_long)
    guards.check_numbers(epochs, warmup, max_grad_norm, seed)
    steps = math.ceil(epochs * len(examples) / max(batch_size, 1)) if steps is None else steps
    micro_batch = batch_size if micro_batch is None else micro_batch
    guards.check_sizes(
        len(examples), steps, batch_size, micro_batch, lr, every, checkpoint_every, devices.count, objective.needs
    )
    rates.warn(policy, lr, objective.spec)
    prompts = looking_at(prompts, data, tokenizer, max_kl, room=context(policy) - sample_tokens)
    lrs = [lr * lr_factor(step, steps, warmup, schedule) for step in range(steps)]
    plan = {"batch_size": batch_size, "steps": steps, "seed": seed}
    feed = Feed.plan(examples, **plan, mismatched=objective.mismatched, longest=longest)
    scoring = Scoring(policy, score, devices, precision, tokenizer.pad_token_id)
    looking = Looking(
        scoring, tokenizer, measure=measure, every=every, prompts=prompts,
        on_samples=on_samples, max_kl=max_kl, seed=seed, sample_tokens=sample_tokens,
    )  # fmt: skip
    settings = plan | {
        "loss": objective.name, "loss_arguments": loss_arguments, "lr": lr, "micro_batch": micro_batch,
        "warmup": warmup, "schedule": schedule, "max_grad_norm": max_grad_norm,
    }  # fmt: skip
    explained = memory.explained(micro_batch, max(examples.lengths), policy, devices.count)
    with explained, saving.alone(checkpoint, devices):
        run = Run.begin(
            data, objective, feed, looking, reference, lrs, settings, folder=checkpoint, save_every=checkpoint_every,
            resume=resume, progress=progress, on_step=on_step,
        )  # fmt: skip
        if not run.done:
            run.announce(say)
            _loop(run)
    return run.history


def _loop(run: Run) -> None:
    """Batch → log-probs → loss → step → record, from where `run` stands to its end."""
    scoring, devices, stepper, last = run.scoring, run.scoring.devices, run.stepper, len(run.feed.batches)
    for step in run.steps():
        rng = run.checkpoints.rng()
        stepper.plan(step)  # the learning rate
        seen = run.looking.before(step)  # samples and KL, every so often
        if run.looking.too_far(seen):
            run.note({"step": step, **seen})
            last = step
            break
        numbers = run.feed.batches[step]  # of the step's B examples
        shared = run.shared_inputs(step)  # inputs of the loss that belong to the whole batch

        parts, found = devices.parts(len(numbers), run.micro_batch), []
        for part in parts:  # one, unless gradients are accumulated
            mine = [numbers[place] for place in part]
            with stepper.accumulating(last=part is parts[-1]):
                logps, lengths = scoring.logps([run.examples.sequences[i] for i in mine])  # (b, k) nats, (b, k) tokens
                inputs = run.examples.inputs(mine, logps, lengths, run.reference_logps(mine))
                losses = run.objective(shared | inputs)  # (b,)
                stepper.backward(losses, len(numbers))
            found.append(torch.cat([losses.detach()[:, None], logps.detach(), lengths], 1))  # (b, 1 + 2k)
        norm = stepper.clip()
        table = devices.pool(len(numbers), [place for part in parts for place in part], torch.cat(found))
        run.require_finite(step, table, norm)
        if run.checkpoints.due(step, run.start):
            run.save(step, rng)  # now that this batch has shown the weights to be good, and before we change them
        run.record(step, table, norm, shared, seen)  # the numbers of the weights before the step
        stepper.step()
    else:  # no budget was exceeded
        if run.looking.wanted:
            run.note({"step": last, **run.looking.now(last)})
    run.finish(last)


def lr_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """The share of `lr` in use at `step`: linear warm-up, then constant, or a cosine or a line down to zero."""
    begin = round(warmup * steps)
    done = (step - begin) / max(steps - begin, 1)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    if schedule not in factors:
        raise ValueError(f"schedule must be one of {', '.join(factors)}, got {schedule!r}")
    return (step + 1) / (begin + 1) if step < begin else factors[schedule]
