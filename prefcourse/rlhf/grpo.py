"""GRPO and the changes made to it since, one switch each: for a reward that a program decides, or any other.

    history = grpo(policy, verifiers.two_sentences, prompts, world.tokenizer)               # Dr. GRPO, the default
    history = grpo(policy, ..., length="own", std=True)                                     # GRPO
    history = grpo(policy, ..., length="batch", std=True, clip=(0.2, 0.28), dynamic=True)   # DAPO
    history = grpo(policy, ..., length="own", std=True, ratio="sequence")                   # GSPO

Each step samples k completions of some prompts, gives each its reward less the group's mean, and makes an optimiser
step with each of `minibatches` parts. What the switches change stands in three small functions: `advantages_of`,
`divisors` and `grpo_loss`. RLOO with β in the reward, and PPO, are in `policy_gradient`.

| switch | values | from |
|---|---|---|
| std | divide a group's advantages by their standard deviation | GRPO (Shao et al. 2024, §4.1.2); taken out by Liu et al. 2025 |
| length | a completion's sum over tokens is divided by its "own" length, by the "most" tokens there can be, or by the "batch"'s mean length | GRPO; Dr. GRPO (Liu et al. 2025); DAPO (Yu et al. 2025) |
| clip | how far π/π_old may fall below and rise above 1 | PPO and GRPO: alike; DAPO: 0.2 and 0.28, "clip-higher" |
| dynamic | draw again until enough groups have a contrast | DAPO, "dynamic sampling" |
| ratio | π/π_old of each "token", or of the "sequence": the geometric mean over its tokens | GRPO; GSPO (Zheng et al. 2025) |
"""  # noqa: E501

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.finite import mask_like, number, together, whole
from prefcourse.logprobs import kl_k1, kl_k3, token_logps
from prefcourse.loss_inputs import trusted
from prefcourse.preferences import Batch
from prefcourse.rlhf.advantages import grpo_advantages
from prefcourse.rlhf.rollouts import Reward, Rollout, check_run, draw_seed, rollout, update
from prefcourse.terminal import Bar
from prefcourse.train import lr_factor
from prefcourse.training.batches import plan
from prefcourse.training.history import History, append

LENGTHS, RATIOS = ("own", "most", "batch"), ("token", "sequence")
ROUNDS = 4  # of drawing, at most, with `dynamic`


def advantages_of(rewards: Tensor, std: bool) -> Tensor:
    """(B, K) rewards → (B, K): less the group's mean, divided by its spread if `std`; exactly 0 without a contrast."""
    [rewards] = together(rewards=rewards)
    A = grpo_advantages(rewards) if std else rewards - rewards.mean(-1, keepdim=True)
    return torch.where(contrast(rewards)[..., None], A, torch.zeros_like(A))  # a mean of equal numbers may be rounded


def contrast(rewards: Tensor) -> Tensor:
    """(..., K) rewards → (...) bool: does a group hold two different ones? Without, nothing is learnt from it."""
    return rewards.amax(-1) != rewards.amin(-1)


def divisors(lengths: Tensor, length: str, most: int) -> Tensor:
    """What the sums over tokens of completions with `lengths`, (N,), are divided by, (N,). most: tokens there can be.

    Only "own" differs within a batch: it takes a long completion's tokens for less than a short one's. The others are a
    number for all, to which Adam's step is blind unless it changes from batch to batch.
    """
    return {
        "own": lengths,
        "most": torch.full_like(lengths, most),
        "batch": lengths.mean().expand_as(lengths),
    }[length]


def grpo_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, divisor: Tensor, *,
    clip: tuple[float, float] = (0.2, 0.2), ratio: str = "token",
) -> Tensor:  # fmt: skip
    """-Σ_t min(ρ_t A, clip(ρ_t) A) / divisor of each completion, (N,). Shao et al. 2024, §4.1.1, without its KL.

    logps, old_logps, mask: (N, T), tokens of the policy and of the one that drew them; advantages, divisor: (N,).
    ρ_t is π/π_old of the token, or for "sequence" that of the whole completion to the power 1/|o|, the same at each
    of its tokens: so with the divisor |o| a completion has -min(ρ A, clip(ρ) A), which is GSPO (Zheng et al. 2025).
    At ρ = 1 both have the gradient -A ∇log π / divisor, whatever the value is.
    """
    logps, old_logps = together(logps=logps, old_logps=old_logps)
    advantages, divisor, mask = *together(advantages=advantages, divisor=divisor), mask_like(mask, logps)
    rho, A = ratios(logps, old_logps, mask, ratio), advantages[:, None]
    held = rho.clamp(1 - clip[0], 1 + clip[1])
    return -(torch.minimum(rho * A, held * A) * mask).sum(-1) / divisor


def ratios(logps: Tensor, old_logps: Tensor, mask: Tensor, ratio: str = "token") -> Tensor:
    """π/π_old at each token, (N, T): its own, or the geometric mean over the completion at all of them."""
    log_ratio = (logps - old_logps) * mask
    if ratio == "sequence":
        log_ratio = (log_ratio.sum(-1) / mask.sum(-1))[:, None].expand_as(logps)
    return log_ratio.exp()


def grpo(
    policy: PreTrainedModel, reward: Reward, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *,
    reference: PreTrainedModel | None = None, beta: float = 0.0, k: int = 8, steps: int = 25, batch_size: int = 16,
    minibatches: int = 1, std: bool = False, length: str = "most", clip: tuple[float, float] = (0.2, 0.2),
    dynamic: bool = False, ratio: str = "token", lr: float = 1e-4, warmup: float = 0.1, schedule: str = "constant",
    max_grad_norm: float = 1.0, max_new_tokens: int = 48, seed: int = 0,
    measure: Callable[[PreTrainedModel], dict[str, float]] | None = None, every: int = 25, progress: bool = True,
) -> History:  # fmt: skip
    """Train `policy` in place and return its history. The switches: see the head of this module.

    Each step draws k completions of each of `batch_size` prompts, leaves out the rows with A = 0, which have no
    gradient and get no forward pass, and makes `minibatches` optimiser steps, each with its own part of the others;
    from the second on, π/π_old is no longer 1. Where all have A = 0 there is no step.
    beta: the price of KL, in the loss: β Σ_t k3 of each completion, divided as its tokens are (Shao et al. 2024,
        Eq. 4). 0 needs no `reference`, and no memory for one. measure, every: as in `prefcourse.train.train`.

    Columns: step, lr, reward (mean over all that was drawn), flat (share of groups without a contrast), drawn
    (groups), length, length_right and length_wrong (tokens, of completions with a reward above ½ and others; nan
    where there is none), eos_rate, loss, grad_norm (means over the step's updates), clip_fraction (share of tokens
    where the clip holds the gradient back), kl (mean log π/π_ref, with beta alone), and those of `measure`.
    Raises ValueError for bad arguments or rewards, FloatingPointError if loss or gradient stop being finite.
    """
    check_run(policy, reference, prompts, beta, steps, batch_size, lr, warmup, schedule, max_grad_norm, math.inf, 0.0)
    whole("k", k, 2), whole("minibatches", minibatches, 1, batch_size)
    _check_switches(length, ratio, clip)
    if beta and reference is None:
        raise ValueError("beta is above 0 and there is no reference; give the policy to stay near, or take beta=0")
    policy.eval()  # no dropout: the first π/π_old must be 1
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    history: History = {}
    bar = Bar(plan([1] * len(prompts), batch_size, steps, seed), "grpo", progress)
    for step, rows in enumerate(bar):
        measured = measure(policy) if measure and step % every == 0 else {}
        [group] = optimizer.param_groups
        group["lr"] = lr * lr_factor(step, steps, warmup, schedule)
        others = random.Random(draw_seed(seed, step))
        asked = [[prompts[i] for i in rows]]
        asked += [others.choices(list(prompts), k=batch_size) for _ in range((ROUNDS - 1) * dynamic)]
        batch, rewards, seen = _draw(policy, reward, asked, tokenizer, k, max_new_tokens, draw_seed(seed, step), step)
        row = {"step": step, "lr": group["lr"]} | _describe(seen, k) | measured
        A, found = advantages_of(rewards, std).flatten(), []  # (N,)
        divisor = divisors(batch.lengths.to(A.dtype), length, max_new_tokens)
        kept = torch.arange(len(A), device=A.device) if beta else A.nonzero()[:, 0]  # where A = 0, β k3 alone is left
        parts = [part for part in kept.tensor_split(minibatches) if len(part)]
        with torch.no_grad():  # what drew them: the policy as it is before the first of several updates
            old = [token_logps(policy, _rows(batch, part)) for part in parts] if len(parts) > 1 else [None]
        for part, before in zip(parts, old, strict=False):
            own = _rows(batch, part)
            logps, mask = token_logps(policy, own), own.completion_mask[:, 1:]  # (n, T - 1)
            before = logps.detach() if before is None else before
            with trusted():  # `update` refuses what is not finite
                losses = grpo_loss(logps, before, A[part], mask, divisor[part], clip=clip, ratio=ratio)
                noted = {"clip_fraction": held_share(logps.detach(), before, A[part], mask, clip=clip, ratio=ratio)}
                if beta:
                    with torch.no_grad():
                        ref = token_logps(reference, own)
                    losses = losses + beta * kl_k3(logps, ref).sum(-1) / divisor[part]
                    noted["kl"] = kl_k1(logps.detach(), ref).sum(-1).mean().item()
                loss = losses.sum() * minibatches / len(A)  # rows left out have a loss of 0
            found.append(noted | {"loss": loss.item(), "grad_norm": update(optimizer, loss, max_grad_norm, step)})
        names = ("loss", "grad_norm", "clip_fraction") + ("kl",) * bool(beta)
        row |= {name: sum(f[name] for f in found) / len(found) if found else math.nan for name in names}
        append(history, row)
        bar.note = f"reward {row['reward']:.2f}, flat groups {row['flat']:.0%}"
    if measure:
        append(history, {"step": len(history["step"]), **measure(policy)})
    return history


# ------------------------------------------------------------------------------------------- what a step is made of


def _draw(
    policy: PreTrainedModel, reward: Reward, asked: list[list[str]], tokenizer: PreTrainedTokenizerBase, k: int,
    most: int, seed: int, step: int,
) -> tuple[Batch, Tensor, list[Rollout]]:  # fmt: skip
    """B groups to learn from, as a batch of N = B·k rows, siblings side by side, rewards (B, k), and all rollouts.

    asked: B prompts for each round. With one round all its groups are taken. With several, those that have a contrast,
    and no more rounds are drawn than it takes; if there never are enough, the rest are flat.
    """
    good, flat, seen = [], [], []
    while len(good) < len(asked[0]) and len(seen) < len(asked):
        siblings = [prompt for prompt in asked[len(seen)] for _ in range(k)]
        own_seed = seed + 25_000 * len(seen)  # no other step and no other run draws these
        seen.append(rollout(policy, reward, siblings, tokenizer, max_new_tokens=most, seed=own_seed, step=step))
        last = seen[-1]
        for group in zip(*(x.split(k) for x in (last.batch.input_ids, last.batch.completion_mask, last.rewards)),
                         strict=True):  # fmt: skip
            (good if len(asked) == 1 or contrast(group[-1]) else flat).append(group)
    ids, mask, rewards = zip(*(good + flat)[: len(asked[0])], strict=True)
    widest = max(part.shape[1] for part in ids)  # rounds have widths of their own
    ids, mask = (torch.cat([pad(part, (0, widest - part.shape[1])) for part in parts]) for parts in (ids, mask))
    return Batch(ids, mask), torch.stack(rewards), seen


def _rows(batch: Batch, rows: Tensor) -> Batch:
    return Batch(batch.input_ids[rows], batch.completion_mask[rows])


def held_share(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, *, clip: tuple[float, float] = (0.2, 0.2),
    ratio: str = "token",
) -> float:  # fmt: skip
    """The share of tokens whose π/π_old has left the band in the direction of A, where `grpo_loss` has no gradient."""
    rho, A = ratios(logps, old_logps, mask, ratio), advantages[:, None]
    held = ((A > 0) & (rho > 1 + clip[1])) | ((A < 0) & (rho < 1 - clip[0]))
    return ((held & mask).sum() / mask.sum()).item()


def _describe(seen: list[Rollout], k: int) -> dict[str, float]:
    """The columns that depend on the samples alone, over all rounds of drawing."""
    rewards = torch.cat([s.rewards for s in seen])
    lengths = torch.cat([s.batch.lengths for s in seen]).float()
    flat = ~contrast(rewards.view(-1, k))
    right = rewards > 0.5

    def mean(of: Tensor) -> float:
        return of.float().mean().item()  # nan of nothing

    return {
        "reward": mean(rewards),
        "flat": mean(flat),
        "drawn": float(len(flat)),
        "length": mean(lengths),
        "length_right": mean(lengths[right]),
        "length_wrong": mean(lengths[~right]),
        "eos_rate": mean(torch.cat([s.finished for s in seen])),
    }


def _check_switches(length: str, ratio: str, clip: tuple[float, float]) -> None:
    if length not in LENGTHS:
        raise ValueError(f"length must be {', '.join(LENGTHS)}, got {length!r}")
    if ratio not in RATIOS:
        raise ValueError(f"ratio must be token or sequence, got {ratio!r}")
    low, high = clip
    number("clip[0]", low, above=0, below=1), number("clip[1]", high, above=0)
