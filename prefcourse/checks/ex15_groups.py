"""Checks of exercise notebook 15, exercises 4 and 5: whose mean a group's is, and what dynamic sampling reads."""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise

# ---------------------------------------------------------------------------------------------- the bug


def _orders(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, k: int) -> Case:
        order = torch.randperm(prompts * k, generator=draw)
        owner = torch.arange(prompts).repeat_interleave(k)[order]
        easy = torch.rand(prompts, generator=draw)
        rewards = (torch.rand(prompts * k, generator=draw) < easy[owner]).double()
        rewards[0] = 1 - rewards[1]
        return {"rewards": rewards, "owner": owner.tolist()}

    rewards = torch.tensor([1.0, 0, 1, 0, 1, 0, 0, 1], dtype=torch.float64)
    tiled = {"rewards": rewards, "owner": [0, 1, 0, 1, 0, 1, 0, 1]}
    return [
        tiled,
        {"rewards": rewards, "owner": [0, 0, 0, 1, 1, 1, 1, 1]},
        Limit("siblings stand side by side", tiled | {"owner": [0, 0, 0, 0, 1, 1, 1, 1]}),
        Limit("a prompt has one sample alone", tiled | {"owner": [0, 0, 0, 0, 0, 0, 0, 1]}),
        Limit("a prompt is always passed", {"rewards": torch.tensor([1.0, 0, 1, 1]).double(), "owner": [4, 7, 4, 7]}),
        case(3, 4),
        case(4, 5),
        case(2, 6),
    ]


def _by_owner(rewards, owner) -> Tensor:
    owner = torch.as_tensor(owner)
    return torch.stack([rewards[owner == own].mean() for own in owner])


@exercise(
    cases=_orders,
    points=3,
    where="The maths: what a group's mean does",
    hint="for each row take the mean of the rewards whose owner is the same: rewards[owner == own].mean() with owner "
    "as a tensor. The rows stay in their order.",
)
def group_advantages(rewards, owner):
    """Each reward less the mean of its own prompt's, whatever the order of the rows."""
    return rewards - _by_owner(rewards, owner)


@group_advantages.mutant(
    "your groups are neighbours, as the colleague's are: rows of one prompt need not stand together."
)
def neighbours(rewards, owner):
    k = len(rewards) // len(set(owner))
    whole = rewards[: len(rewards) // k * k].view(-1, k).mean(-1).repeat_interleave(k)
    rest = rewards[len(whole) :]
    return rewards - torch.cat([whole, rest.mean().expand_as(rest) if len(rest) else rest])


@group_advantages.mutant("your mean is that of the whole batch: easy prompts are pushed up then, and hard ones down.")
def whole_batch(rewards, owner):
    return rewards - rewards.mean()


@group_advantages.mutant("you leave a row out of its own mean: that is RLOO, and a lone sample has no others.")
def leave_one_out(rewards, owner):
    owner = torch.as_tensor(owner)
    count = torch.stack([(owner == own).sum() for own in owner]).double()
    others = (_by_owner(rewards, owner) * count - rewards) / (count - 1).clamp(min=1)
    return rewards - others


@group_advantages.mutant("this is the mean of each prompt, and not the reward less it.")
def means_alone(rewards, owner):
    return _by_owner(rewards, owner)


@group_advantages.mutant("the sign is turned round: reward less mean, so that a right reply is pushed up.")
def turned(rewards, owner):
    return _by_owner(rewards, owner) - rewards


@group_advantages.mutant("your rows come back sorted by prompt: keep the order in which they came.")
def sorted_rows(rewards, owner):
    order = torch.as_tensor(owner).argsort(stable=True)
    return (rewards - _by_owner(rewards, owner))[order]


@group_advantages.mutant("you start a new group wherever the prompt changes: all rows of a prompt are one group.")
def stretches(rewards, owner):
    starts = [i for i in range(len(owner)) if i == 0 or owner[i] != owner[i - 1]]
    found = rewards.clone()
    for a, b in zip(starts, [*starts[1:], len(owner)], strict=True):
        found[a:b] = rewards[a:b] - rewards[a:b].mean()
    return found


# ---------------------------------------------------------------------------------------------- dynamic sampling


def _mixes(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, k: int) -> Case:
        return {"rates": torch.rand(prompts, generator=draw, dtype=torch.float64) * 0.9 + 0.05, "k": k}

    mix = torch.tensor([0.01, 0.1, 0.5, 0.95], dtype=torch.float64)
    return [
        {"rates": mix, "k": 8},
        Limit("a prompt is never passed", {"rates": torch.tensor([0.0, 0.2, 0.6]).double(), "k": 8}),
        Limit("a prompt is always passed", {"rates": torch.tensor([1.0, 0.2, 0.6]).double(), "k": 4}),
        Limit("a group has two samples", {"rates": mix, "k": 2}),
        Limit("all prompts are alike", {"rates": torch.full((3,), 0.3, dtype=torch.float64), "k": 8}),
        case(5, 8),
        case(4, 4),
        case(6, 16),
    ]


def _diet(contrast: Tensor, share: Tensor | None = None, draws: Tensor | None = None) -> dict[str, Tensor]:
    share = contrast / contrast.sum() if share is None else share
    return {"share": share, "draws": 1 / contrast.mean() if draws is None else draws}


def _contrast(rates: Tensor, k: int) -> Tensor:
    return 1 - rates**k - (1 - rates) ** k


@exercise(
    cases=_mixes,
    points=3,
    where="Three habits, exactly",
    hint="c = 1 - rates**k - (1 - rates)**k is the chance that a group has a contrast. Prompts are drawn alike, so "
    "those kept have the shares c / c.sum(), and a draw is kept with c.mean(): it takes one over that.",
)
def diet(rates, k):
    """Which prompts dynamic sampling keeps, and how many it draws for one that it keeps."""
    return _diet(_contrast(rates, k))


@diet.mutant("a group with all samples right is flat as well: 1 - p^k - (1 - p)^k.")
def only_all_wrong(rates, k):
    return _diet(1 - (1 - rates) ** k)


@diet.mutant("a group with all samples wrong is flat as well: 1 - p^k - (1 - p)^k.")
def only_all_right(rates, k):
    return _diet(1 - rates**k)


@diet.mutant("this is the chance of a *flat* group: what is kept has a contrast.")
def flat_ones(rates, k):
    return _diet(rates**k + (1 - rates) ** k)


@diet.mutant("one over the chance is what a kept group weighs; how *often* it is kept goes with the chance itself.")
def turned_over(rates, k):
    c = _contrast(rates, k)
    return _diet(c, share=(1 / c) / (1 / c).sum())


@diet.mutant("the shares do not sum to 1: divide by their sum.")
def not_normalised(rates, k):
    c = _contrast(rates, k)
    return _diet(c, share=c)


@diet.mutant("all prompts have the same share in yours: they are drawn alike, and kept by their chance of a contrast.")
def drawn_alike(rates, k):
    return _diet(_contrast(rates, k), share=torch.ones_like(rates) / len(rates))


@diet.mutant("`draws` counts groups: k samples each come on top, and are not asked for.")
def samples(rates, k):
    c = _contrast(rates, k)
    return _diet(c, draws=k / c.mean())


@diet.mutant("you average one over the chance of each prompt. A draw is of any prompt: one over the mean chance.")
def mean_of_waits(rates, k):
    c = _contrast(rates, k)
    return _diet(c, draws=(1 / c).mean())


@diet.mutant("`draws` is the chance that a draw is kept: how many it takes is one over that.")
def chance_kept(rates, k):
    c = _contrast(rates, k)
    return _diet(c, draws=c.mean())


@diet.mutant("p (1 - p) is the contrast of two samples: with k of them a mix is likelier.")
def of_two(rates, k):
    return _diet(2 * rates * (1 - rates))
