"""Checks of exercise notebook 14, exercise 5: a judge with a favourite place, made up in `made_up_judge`."""

from collections.abc import Callable

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.made_up_judge import PlacedJudge, placed_judge

# ---------------------------------------------------------------------------------------------- the bug


def _placed(draw: torch.Generator) -> list[Case]:
    worth, place = {"good": 1.0, "poor": -1.0}, {"x": 0.5, "z": 2.5}
    fixed = {
        "ask": PlacedJudge(worth, place),
        "prompts": ["x", "z"],
        "first": ["good", "poor"],
        "second": ["poor", "good"],
    }
    fair = fixed | {"ask": PlacedJudge(worth, dict.fromkeys(place, 0.0))}
    fair = Limit("the judge likes no place more", fair)
    return [fixed, fair, placed_judge(draw, 5, 1.5), placed_judge(draw, 9, -2.0)]


def _both_orders(ask: Callable, prompts, first, second) -> tuple[Tensor, Tensor]:
    return ask(prompts, first, second), ask(prompts, second, first)


def _verdict(judgement: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"judgement": judgement, "bias": bias}


@exercise(
    cases=_placed,
    points=3,
    where="A language model as judge",
    hint="ask twice: s = ask(prompts, first, second) and t = ask(prompts, second, first), the log-odds of the first "
    "*place*. What the texts deserve changes its sign between the two, what the place adds does not.",
)
def judgement(ask, prompts, first, second):
    """What a judge thinks of the texts, and what it thinks of the place."""
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict((straight - turned) / 2, (straight + turned) / 2)


@judgement.mutant(
    "you ask once, in one order: what the place adds is in your judgement. Ask with the texts exchanged, too."
)
def one_order(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict(straight, (straight + turned) / 2)


@judgement.mutant(
    "the two are exchanged: the mean of both answers is what stays when the texts are exchanged, the bias. Half their "
    "difference is the judgement."
)
def exchanged(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict((straight + turned) / 2, (straight - turned) / 2)


@judgement.mutant("a half is missing: both answers hold the judgement once, and their difference holds it twice.")
def no_half(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict(straight - turned, straight + turned)


@judgement.mutant(
    "you subtract one mean bias from all answers. This judge likes a place more at some prompts than at others: take "
    "the bias of each pair."
)
def mean_bias(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    bias = (straight + turned) / 2
    return _verdict(straight - bias.mean(), bias)


@judgement.mutant("the bias is not halved: the sum of both answers holds it twice.")
def bias_not_halved(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict((straight - turned) / 2, straight + turned)


@judgement.mutant("the judgement is not halved: the difference of both answers holds it twice.")
def judgement_not_halved(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict(straight - turned, (straight + turned) / 2)


@judgement.mutant("you average probabilities: the judge answers in log-odds, whose mean is free of the place.")
def of_probabilities(ask, prompts, first, second):
    one, other = (answer.sigmoid() for answer in _both_orders(ask, prompts, first, second))
    return _verdict((one - other) / 2, (one + other) / 2)


@judgement.mutant("one number for all pairs: the bias of *each* pair is asked, (B,).")
def one_bias(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict((straight - turned) / 2, ((straight + turned) / 2).mean().expand_as(straight))


@judgement.mutant("you ask the same question twice: exchange first and second the second time.")
def same_order(ask, prompts, first, second):
    straight = ask(prompts, first, second)
    return _verdict((straight - straight) / 2, (straight + straight) / 2)


@judgement.mutant("the sign is turned round: a positive judgement says that `first` is better.")
def sign_turned(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict((turned - straight) / 2, (straight + turned) / 2)
