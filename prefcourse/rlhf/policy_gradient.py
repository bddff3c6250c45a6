"""RLHF for a language model: sample, score, and push up what scored better than expected. RLOO and PPO.

    history = rloo(policy, world.gold, prompts, world.tokenizer, reference=world.sft, beta=0.3)
    history = ppo(policy, world.gold, prompts, world.tokenizer, reference=world.sft, beta=0.3)

Both climb J = E[r] - β KL(π‖π_ref). RLOO takes a completion as one action and compares it with its siblings. PPO takes
each token as an action, compares it with what a value head expected, and uses its samples several times, clipped.
The formulas are in `advantages`, sampling and scoring in `rollouts`, the same two methods on an exactly solvable table
in `table_gradients`. `history` is a dict of columns, one entry a step.

A completion that reaches `max_new_tokens` without EOS ends there: it gets the reward of the text as it stands, less
`missing_eos_penalty`. Models run in their own precision, without dropout: at first π/π_ref and π/π_old are exactly 1.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.finite import number, whole
from prefcourse.logprobs import completion_states, kl_k1, kl_k3, pick, token_logps
from prefcourse.loss_inputs import trusted
from prefcourse.preferences import Batch
from prefcourse.rlhf.advantages import (
    adapt_coefficient,
    gae,
    grpo_advantages,
    kl_penalty,
    masked_mean,
    ppo_clip_loss,
    rloo_advantages,
    whiten,
)
from prefcourse.rlhf.rollouts import Reward, check_run, describe, draw_seed, rollout, update
from prefcourse.terminal import Bar
from prefcourse.train import lr_factor
from prefcourse.training.batches import plan
from prefcourse.training.history import History, append

UPDATE = ("loss", "grad_norm", "policy_loss", "value_loss", "clip_fraction")  # PPO's columns that describe its updates


def rloo(
    policy: PreTrainedModel, reward: Reward, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *,
    reference: PreTrainedModel | None = None, beta: float = 0.3, k: int = 4, steps: int = 40, batch_size: int = 32,
    lr: float = 1e-4, warmup: float = 0.1, schedule: str = "constant", max_grad_norm: float = 20.0,
    max_new_tokens: int = 48, missing_eos_penalty: float = 0.0, max_kl: float = math.inf,
    advantages: Callable[[Tensor], Tensor] = rloo_advantages, kl_in: str = "reward", seed: int = 0,
    measure: Callable[[PreTrainedModel], dict[str, float]] | None = None, every: int = 25, progress: bool = True,
) -> History:  # fmt: skip
    """Train `policy` in place by REINFORCE leave-one-out (Ahmadian et al. 2024) and return its history.

    Each step samples k completions of each of `batch_size` prompts and makes one optimiser step with all of them.

    reference: π_ref; by default a frozen copy of `policy` as it is now. beta: the price of KL, in reward per nat.
    max_kl: stop, without another update, at a step whose samples have a higher mean log π/π_ref, in nats.
    advantages: from rewards (batch_size, k) to advantages. kl_in: where KL is paid for. "reward": β log π/π_ref off
        each reward, before. "loss": β Σ k3 of each completion, as in GRPO (Shao et al. 2024, Eq. 4); its gradient
        is that of the forward KL (lesson 02). `grpo_advantages` needs "loss" or β = 0: it divides by a group's spread,
        and where all rewards are equal only the penalties spread.
    warmup, schedule, measure, every: as in `prefcourse.train.train`.

    Columns: step, lr, reward (mean; penalties not taken off), kl (mean log π/π_ref of the samples, nats),
    kl_coefficient (β), loss, grad_norm, length (tokens), eos_rate, entropy (mean -log π of a token, nats), and those of
    `measure`. The loss is a handle for the gradient: its value does not say how good the policy is.
    Raises ValueError for bad arguments or rewards, FloatingPointError if loss or gradient stop being finite.
    """
    limits = (max_grad_norm, max_kl, missing_eos_penalty)
    check_run(policy, reference, prompts, beta, steps, batch_size, lr, warmup, schedule, *limits)
    k = whole("k", k, 2)  # RLOO compares completions of the same prompt
    in_loss = _in_loss(kl_in, advantages, beta)
    policy.eval()  # no dropout: the KL must be 0 while policy and reference are the same
    reference = copy.deepcopy(policy) if reference is None else reference.eval()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    rate = LambdaLR(optimizer, lambda step: lr_factor(step, steps, warmup, schedule))
    history: History = {}
    bar = Bar(plan([1] * len(prompts), batch_size, steps, seed), "rloo", progress)
    for step, rows in enumerate(bar):
        measured = measure(policy) if measure and step % every == 0 else {}
        asked = [prompts[i] for i in rows for _ in range(k)]  # siblings side by side, N = batch_size · k
        seen = rollout(
            policy, reward, asked, tokenizer, max_new_tokens=max_new_tokens, seed=draw_seed(seed, step), step=step
        )
        logps = token_logps(policy, seen.batch)  # (N, T-1)
        with torch.no_grad(), trusted():  # `update` refuses what is not finite
            ref = token_logps(reference, seen.batch)
            log_ratio = kl_k1(logps, ref).sum(-1)  # (N,)
            earned = seen.rewards - missing_eos_penalty * ~seen.finished - (not in_loss) * beta * log_ratio
            A = advantages(earned.view(-1, k)).flatten()  # (N,)
        loss = -(A * logps.sum(-1)).mean()
        loss = loss + beta * kl_k3(logps, ref).sum(-1).mean() if in_loss else loss
        row = {"step": step, "lr": rate.get_last_lr()[0]} | describe(seen, logps, log_ratio, beta) | measured
        row |= {"loss": loss.item(), "grad_norm": math.nan}
        if row["kl"] > max_kl:
            append(history, row)
            break
        row["grad_norm"] = update(optimizer, loss, max_grad_norm, step)
        append(history, row)
        rate.step()
        bar.note = f"reward {row['reward']:.2f}, KL {row['kl']:.1f}"
    if measure:
        append(history, {"step": len(history["step"]), **measure(policy)})
    return history


def _in_loss(kl_in: str, advantages: Callable[[Tensor], Tensor], beta: float) -> bool:
    """Is KL paid for in the loss? Raises ValueError for a place that is none, or is none for GRPO's advantages."""
    if kl_in not in ("reward", "loss"):
        raise ValueError(f"kl_in must be reward or loss, got {kl_in!r}")
    if kl_in == "reward" and beta and advantages is grpo_advantages:
        raise ValueError(
            "grpo_advantages divide by the spread of a group, and where all its rewards are equal that is the spread "
            "of the KL penalties: noise of full size. Take kl_in='loss', or beta=0."
        )
    return kl_in == "loss" and bool(beta)


def make_value_head(policy: PreTrainedModel) -> nn.Linear:
    """V(x, y_<t), the penalised reward still to come: a line through the policy's last hidden state, 0 at first."""
    head = nn.Linear(policy.config.hidden_size, 1, device=policy.device, dtype=policy.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def logps_and_values(policy: PreTrainedModel, head: nn.Linear, batch: Batch) -> Tensor:
    """log π of completion tokens, as `token_logps`, and V before each of them, in one pass: (2, N, T - 1)."""
    hidden = completion_states(policy, batch)  # (C, D), C completion tokens
    logits = policy.get_output_embeddings()(hidden).float()  # (C, V)
    logps, values = pick(logits, batch.layout.targets), head(hidden)[:, 0].float()  # (C,) each
    return torch.stack([batch.layout.rows(x) for x in (logps, values)])


def ppo(
    policy: PreTrainedModel, reward: Reward, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *,
    reference: PreTrainedModel | None = None, value_head: nn.Linear | None = None, beta: float = 0.3,
    kl_target: float | None = None, steps: int = 30, batch_size: int = 128, minibatches: int = 2, epochs: int = 2,
    eps: float = 0.2, gamma: float = 1.0, lam: float = 0.95, value_coefficient: float = 0.1, lr: float = 1e-4,
    head_lr: float = 1e-2, warmup: float = 0.1, schedule: str = "constant", max_grad_norm: float = 1.0,
    max_new_tokens: int = 48, missing_eos_penalty: float = 0.0, max_kl: float = math.inf, seed: int = 0,
    measure: Callable[[PreTrainedModel], dict[str, float]] | None = None, every: int = 25, progress: bool = True,
) -> History:  # fmt: skip
    """Train `policy` in place by PPO with the clipped surrogate (Schulman et al. 2017) and return its history.

    Each step samples one completion of each of `batch_size` prompts, gives each token its share of the KL penalty
    (Ziegler et al. 2019), estimates advantages by GAE, and makes epochs · minibatches optimiser steps with them.

    reference, beta, max_kl, missing_eos_penalty, measure, every: as in `rloo`.
    kl_target: adapt β after each step so that the KL goes there, in nats; None keeps β.
    value_head: from `make_value_head`, to look at it afterwards; trained in place, at the rate `head_lr`. It shares the
        policy's body, which the value loss moves too, with the weight `value_coefficient`.
    eps, gamma, lam: the clip range, and GAE's discount and λ; see `advantages`, which are whitened over the batch.

    Columns: those of `rloo` (loss and grad_norm are means over the step's updates; `kl` and the others describe the
    samples, before them), and policy_loss, value_loss, clip_fraction (share of tokens with π/π_old outside 1 ± ε).
    Raises ValueError for bad arguments or rewards, FloatingPointError if loss or gradient stop being finite.
    """
    limits = (max_grad_norm, max_kl, missing_eos_penalty)
    check_run(policy, reference, prompts, beta, steps, batch_size, lr, warmup, schedule, *limits)
    _check_ppo(batch_size, minibatches, epochs, eps, gamma, lam, beta, kl_target, value_coefficient, head_lr)
    policy.eval()  # no dropout: the first π/π_old must be 1, and the KL 0 while policy and reference are the same
    reference = copy.deepcopy(policy) if reference is None else reference.eval()
    head = make_value_head(policy) if value_head is None else value_head
    groups = [{"params": list(policy.parameters())}, {"params": list(head.parameters()), "lr": head_lr}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    rate = LambdaLR(optimizer, lambda step: lr_factor(step, steps, warmup, schedule))
    generator = torch.Generator().manual_seed(seed)
    history: History = {}
    bar = Bar(plan([1] * len(prompts), batch_size, steps, seed), "ppo", progress)
    for step, rows in enumerate(bar):
        measured = measure(policy) if measure and step % every == 0 else {}
        seen = rollout(
            policy, reward, [prompts[i] for i in rows], tokenizer,
            max_new_tokens=max_new_tokens, seed=draw_seed(seed, step), step=step,
        )  # fmt: skip
        parts = torch.arange(batch_size).tensor_split(minibatches)
        batches = [Batch(seen.batch.input_ids[p], seen.batch.completion_mask[p]) for p in parts]
        evaluate = partial(logps_and_values, policy, head)
        # Part by part, as in the updates, so that the first ratios are 1 to the last bit.
        with torch.no_grad(), trusted():
            old, values = torch.cat([evaluate(batch) for batch in batches], 1)  # (N, T-1) each, N = batch_size
            ref = torch.cat([token_logps(reference, batch) for batch in batches])
            scores = seen.rewards - missing_eos_penalty * ~seen.finished  # (N,)
            A = gae(kl_penalty(scores, old, ref, seen.mask, beta), values, seen.mask, gamma=gamma, lam=lam)
            returns, A = A + values, whiten(A, seen.mask)  # (N, T-1)
            log_ratio = kl_k1(old, ref).sum(-1)  # (N,)
        row = {"step": step, "lr": rate.get_last_lr()[0]}
        row |= describe(seen, old, log_ratio, beta) | measured | dict.fromkeys(UPDATE, math.nan)
        if row["kl"] > max_kl:
            append(history, row)
            break
        found = []
        for i in (i for _ in range(epochs) for i in torch.randperm(minibatches, generator=generator).tolist()):
            p, mask = parts[i], seen.mask[parts[i]]
            logps, V = evaluate(batches[i])  # (n, T-1) each, n = batch_size / minibatches
            with trusted():  # `update` refuses what is not finite
                policy_loss = masked_mean(ppo_clip_loss(logps, old[p], A[p], eps), mask)
                value_loss = 0.5 * masked_mean((V - returns[p]) ** 2, mask)
                clipped = masked_mean((logps.detach() - old[p]).expm1().abs() > eps, mask)
            loss = policy_loss + value_coefficient * value_loss
            norm = update(optimizer, loss, max_grad_norm, step)
            found.append([loss.item(), norm, policy_loss.item(), value_loss.item(), clipped.item()])
        row |= dict(zip(UPDATE, torch.tensor(found).mean(0).tolist(), strict=True))
        append(history, row)
        rate.step()
        if kl_target is not None:
            beta = adapt_coefficient(beta, row["kl"], kl_target)
        bar.note = f"reward {row['reward']:.2f}, KL {row['kl']:.1f}"
    if measure:
        append(history, {"step": len(history["step"]), **measure(policy)})
    return history


def _check_ppo(
    batch_size, minibatches, epochs, eps, gamma, lam, beta, kl_target, value_coefficient, head_lr
) -> None:  # fmt: skip
    whole("minibatches", minibatches, 1, batch_size), whole("epochs", epochs)
    number("eps", eps, above=0, below=1), number("gamma", gamma, least=0, most=1), number("lam", lam, least=0, most=1)
    number("value_coefficient", value_coefficient, least=0), number("head_lr", head_lr, above=0)
    if kl_target is not None and not (number("kl_target", kl_target) > 0 and beta > 0):
        raise ValueError(f"kl_target needs kl_target > 0 and a beta > 0 to start from, got {kl_target=}, {beta=}")
