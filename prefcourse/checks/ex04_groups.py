"""Check of exercise notebook 04, exercise 1b: siblings in groups of unequal size."""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise


def _batches(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, completions: int) -> Case:
        # each prompt once at least, the rest by chance, in any order
        given = torch.randint(prompts, (completions - prompts,), generator=draw)
        prompt = torch.cat([torch.arange(prompts), given])[torch.randperm(completions, generator=draw)]
        return {"u": 2 * torch.randn(completions, generator=draw, dtype=torch.float64), "prompt": prompt}

    u = torch.tensor([1.0, 0.0, 0.5, 3.0, 2.0, -1.0], dtype=torch.float64)
    fixed = {"u": u, "prompt": torch.tensor([0, 0, 0, 0, 1, 1])}
    mixed = Limit("the completions of a prompt do not stand together", fixed | {"prompt": torch.tensor([0, 1] * 3)})
    alone = Limit("a prompt has one completion alone", fixed | {"prompt": torch.tensor([0, 0, 0, 1, 1, 2])})
    named = Limit("prompts have other numbers than 0, 1, 2", fixed | {"prompt": torch.tensor([7, 40, 7, 7, 40, 40])})
    return [fixed, mixed, alone, named, case(3, 11), case(5, 9)]


def _siblings(prompt: Tensor) -> Tensor:
    """(N, N) float: 1 where two completions answer one prompt and are not the same."""
    same = (prompt[:, None] == prompt[None]).double()
    return same - torch.eye(len(prompt), dtype=torch.float64)


@exercise(
    cases=_batches,
    points=2,
    where="From scratch, I: RLOO",
    hint="prompt[:, None] == prompt says who answers the same prompt; take each completion itself out of it. The sum "
    "of the siblings' u, divided by their number, is the baseline; without siblings the advantage is 0.",
)
def group_advantages(u, prompt):
    """The leave-one-out advantage of each completion, in groups of unequal size."""
    siblings = _siblings(prompt)  # (N, N)
    number = siblings.sum(1)
    return torch.where(number > 0, u - siblings @ u / number.clamp(min=1), 0.0)


@group_advantages.mutant(
    "the own completion is in your baseline: divide by the number of the *others* of its prompt, and leave it out of "
    "their sum."
)
def own_included(u, prompt):
    same = (prompt[:, None] == prompt[None]).double()
    return u - same @ u / same.sum(1)


@group_advantages.mutant(
    "you divide by one K for all prompts. The groups differ in size: divide by the number of siblings of each."
)
def one_size(u, prompt):
    siblings, K = _siblings(prompt), len(u) / len(prompt.unique())
    return torch.where(siblings.sum(1) > 0, u - siblings @ u / max(K - 1, 1e-9), 0.0)


@group_advantages.mutant("your siblings are the whole batch: they are the completions of the same prompt alone.")
def across_prompts(u, prompt):
    return u - (u.sum() - u) / (len(u) - 1)


@group_advantages.mutant(
    "a completion without siblings keeps its whole u in yours. There is nothing to compare it with: its advantage is 0."
)
def alone_keeps_u(u, prompt):
    siblings = _siblings(prompt)
    return u - siblings @ u / siblings.sum(1).clamp(min=1)


@group_advantages.mutant("a completion without siblings gives 0 / 0 in yours: its advantage is 0.")
def zero_by_zero(u, prompt):
    siblings = _siblings(prompt)
    return u - siblings @ u / siblings.sum(1)


@group_advantages.mutant(
    "you take neighbours for siblings. The completions of a prompt may stand anywhere: compare the numbers in `prompt`."
)
def neighbours(u, prompt):
    runs = torch.cat([torch.zeros(1, dtype=torch.long), (prompt[1:] != prompt[:-1]).long().cumsum(0)])
    return group_advantages.reference(u, runs)


@group_advantages.mutant("you subtract the siblings' sum: their mean is the baseline.")
def sum_for_mean(u, prompt):
    siblings = _siblings(prompt)
    return torch.where(siblings.sum(1) > 0, u - siblings @ u, 0.0)


@group_advantages.mutant("these are baselines: the advantage is u minus the mean of the siblings.")
def baselines(u, prompt):
    siblings = _siblings(prompt)
    return siblings @ u / siblings.sum(1).clamp(min=1)
