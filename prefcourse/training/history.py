"""What a run writes down: plain columns with TRL's metric names, one entry a step, nan where a step has none.

| column | what it is |
|---|---|
| step, lr, loss, grad_norm | the step, its learning rate, mean loss of its batch, gradient norm before clipping |
| logps/chosen, logps/rejected | mean log π of the completions, in nats |
| rewards/chosen, rewards/rejected | mean implicit reward β log π/π_ref |
| rewards/margins, rewards/accuracies | chosen minus rejected, and how often it is above 0 |
| z0 | KTO: the KL estimate from mismatched pairs (TRL calls it kl) |
| delta | BCO: the running mean of all rewards of earlier steps |
| nll_loss, log_odds_ratio | ORPO: its two terms |
| kl, eos_rate, length | of completions that the policy samples: mean log π/π_ref, share that ends with EOS, tokens |
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prefcourse.generate import Completion

History = dict[str, list[float]]


def append(history: History, row: dict[str, float]) -> None:
    """Add one step to the columns; a column that this step does not have gets nan."""
    before = len(next(iter(history.values()), []))
    for name in row:
        history.setdefault(name, [math.nan] * before)
    for name, column in history.items():
        column.append(row.get(name, math.nan))


def null_for_nan(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None: JSON has no nan."""
    if isinstance(value, dict):
        return {key: null_for_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [null_for_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@torch.no_grad()
def batch_metrics(
    logps: Tensor, reference: Tensor | None, lengths: Tensor, desirable: Sequence[bool], beta: float, loss: str
) -> dict[str, float]:
    """Metrics of a batch of B examples: log π and log π_ref (B, k) in nats, lengths (B, k) in tokens.

    k = 2 for pairs. k = 1 for single completions; with labels, "chosen" are the desirable ones, and a side that the
    batch lacks is nan.
    """
    good = torch.tensor(desirable, dtype=torch.bool)
    names = ("chosen", "rejected") if desirable else ("chosen", "rejected")[: logps.shape[1]]
    sides = {
        name: (lambda x, k=k: x[good if k == 0 else ~good, 0] if desirable else x[:, k]) for k, name in enumerate(names)
    }
    found = {f"logps/{name}": of(logps).mean().item() for name, of in sides.items()}
    if reference is not None and len(sides) == 2:
        rewards = {name: beta * of(logps - reference) for name, of in sides.items()}
        found |= reward_metrics(rewards["chosen"], rewards["rejected"], paired=not desirable)
    return found | (orpo_metrics(logps, lengths) if loss == "orpo" else {})


def reward_metrics(chosen: Tensor, rejected: Tensor, paired: bool = True) -> dict[str, float]:
    """TRL's four numbers on rewards, (B,) each; the accuracy needs pairs."""
    found = {"rewards/chosen": chosen.mean().item(), "rewards/rejected": rejected.mean().item()}
    found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    if paired:
        found["rewards/margins"] = (chosen - rejected).mean().item()
        found["rewards/accuracies"] = (chosen > rejected).float().mean().item()
    return found


def sample_metrics(completions: Sequence[Completion], kl: Tensor | None) -> dict[str, float]:
    """What the policy's own completions look like, with log π/π_ref of each, (N,) nats, where it is known."""
    found = {} if kl is None else {"kl": kl.mean().item()}
    found["eos_rate"] = sum(c.finished for c in completions) / len(completions)
    found["length"] = sum(len(c.ids) for c in completions) / len(completions)
    return found


@torch.no_grad()
def orpo_metrics(policy: Tensor, lengths: Tensor) -> dict[str, float]:
    """ORPO's two terms before λ: nats per token of the chosen completions, and log σ of the log odds ratio, (B, 2)."""
    means = (policy / lengths).clamp(max=-torch.finfo(policy.dtype).tiny)
    odds = means - torch.log(-torch.expm1(means))  # (B, 2), log odds
    ratio = torch.nn.functional.logsigmoid(odds[:, 0] - odds[:, 1])
    return {"nll_loss": -means[:, 0].mean().item(), "log_odds_ratio": ratio.mean().item()}
