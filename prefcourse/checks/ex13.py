"""Checks of exercise notebook 13: AI labels, the alignment tax, a judge with a favourite place.

Exercise 1, the adapters, stands in `ex13_adapters`; the judge of exercise 5 in `made_up_judge`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from prefcourse.checks.core import Case, exercise
from prefcourse.checks.ex13_adapters import gpt2_shapes, lora_plan
from prefcourse.checks.made_up_judge import PlacedJudge, placed_judge
from prefcourse.checks.questions import choice

__all__ = ["ai_labels", "beta_doubles", "gpt2_shapes", "judgement", "lora_plan", "tax"]

# ---------------------------------------------------------------------------------------------- labels from rules


def _judgements(draw: torch.Generator) -> list[Case]:
    def case(pairs: int, rules: int, reliability: float) -> Case:
        rand = {"generator": draw, "dtype": torch.float64}
        return {
            "first": torch.rand(pairs, rules, **rand).mul(4).round() / 4,
            "second": torch.rand(pairs, rules, **rand).mul(4).round() / 4,
            "weights": torch.rand(rules, **rand) * 3 + 0.2,
            "reliability": reliability,
            "coin": torch.rand(pairs, **rand),
        }

    fixed = {
        "first": torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 1.0]], dtype=torch.float64),
        "second": torch.tensor([[0.0, 1.0, 1.0], [0.5, 0.5, 1.0]], dtype=torch.float64),
        "weights": torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64),
        "reliability": 1.0,
        "coin": torch.tensor([0.8, 0.6], dtype=torch.float64),
    }
    return [fixed, case(40, 4, 1.0), case(40, 5, 0.3), case(40, 3, 3.0)]


def _labels(p: Tensor, coin: Tensor) -> dict[str, Tensor]:
    return {"probability": p, "first_wins": coin < p}


@exercise(
    cases=_judgements,
    points=3,
    hint="scores first: first @ weights and second @ weights, (B,) nats. The probability is the sigmoid of reliability "
    "times their difference, and the first text wins where the coin is below it.",
)
def ai_labels(first, second, weights, reliability, coin):
    """Labels of pairs by a constitution: weighted scores, then Bradley and Terry's coin."""
    return _labels((reliability * (first @ weights - second @ weights)).sigmoid(), coin)


@ai_labels.mutant(
    "you let the rules vote. A constitution adds scores up: how far a rule is kept counts, and its weight."
)
def majority(first, second, weights, reliability, coin):
    votes = (first - second).sign().sum(-1)
    return _labels(0.5 + 0.5 * votes.sign(), coin)


@ai_labels.mutant("the weights are missing: each rule's score counts as often as its weight says.")
def unweighted(first, second, weights, reliability, coin):
    return ai_labels.reference(first, second, torch.ones_like(weights), reliability, coin)


@ai_labels.mutant("you take the share s_a / (s_a + s_b). Scores are in nats, log-odds: Bradley–Terry is σ(s_a - s_b).")
def share_of_scores(first, second, weights, reliability, coin):
    a, b = first @ weights, second @ weights
    return _labels(a / (a + b), coin)


@ai_labels.mutant("the reliability is missing, or stands outside: it multiplies the difference inside the sigmoid.")
def no_reliability(first, second, weights, reliability, coin):
    return ai_labels.reference(first, second, weights, 1.0, coin)


@ai_labels.mutant("the better score always wins in your labels. It wins with a probability: compare the coin with it.")
def no_coin(first, second, weights, reliability, coin):
    p = ai_labels.reference(first, second, weights, reliability, coin)["probability"]
    return {"probability": p, "first_wins": p > 0.5}


@ai_labels.mutant(
    "your coin is turned round: a number below the probability p happens with probability p, so coin < p."
)
def coin_turned(first, second, weights, reliability, coin):
    p = ai_labels.reference(first, second, weights, reliability, coin)["probability"]
    return {"probability": p, "first_wins": coin > p}


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def beta_doubles():
    """The reference moves along, and β doubles with every round. Where is the policy after very many rounds?"""
    return {
        "near the best policy for β / 2, and it stays there": None,
        "at a policy without any brake: each round moves it as far as the first": "that is true if β stays as it is. "
        "Here round t adds r / (2ᵗ⁻¹ β) to the exponent, half of what the round before it added.",
        "at the best policy for β: only the first round counts": "later rounds move less, but they move: add up the "
        "exponents r/β + r/(2β) + r/(4β) + …",
        "back at SFT: in the end β is very large": "a large β holds the policy near the reference of *its* round, and "
        "that is where the round before it ended.",
    }


# ---------------------------------------------------------------------------------------------- the tax


def _held_out(draw: torch.Generator) -> list[Case]:
    def case(rows: int, width: int) -> Case:
        lengths = torch.randint(1, width, (rows,), generator=draw)
        reference = -3 * torch.rand(rows, width, generator=draw, dtype=torch.float64)
        moved = torch.randn(rows, width, generator=draw, dtype=torch.float64)
        mask = (torch.arange(width) < lengths[:, None]).roll(1, -1)  # the first place belongs to the prompt
        mask[:, 0] = False
        return {"reference": reference, "policy": reference - 0.3 + 0.5 * moved, "mask": mask}

    fixed = {
        "reference": torch.tensor([[-1.0, -1.0, -1.0, -1.0], [-1.0, -2.0, -3.0, -3.0]], dtype=torch.float64),
        "policy": torch.tensor([[-3.0, -1.5, -1.5, -1.0], [-2.0, -5.0, -1.0, -9.0]], dtype=torch.float64),
        "mask": torch.tensor([[False, True, True, True], [False, True, False, False]]),
    }
    return [fixed, case(4, 6), case(7, 9)]


def _tax(reference, policy, mask, sign=1.0) -> dict[str, Tensor]:
    lost = sign * (reference - policy) * mask
    return {"per_text": lost.sum(-1).mean(), "per_token": lost.sum() / mask.sum()}


@exercise(
    cases=_held_out,
    points=3,
    hint="(reference - policy) · mask is what each token lost, (N, T). Per text: sum over a row, then the mean over "
    "rows. Per token: the sum over all of it, divided by the number of tokens that count.",
)
def tax(reference, policy, mask):
    """The alignment tax in nats, per text and per token."""
    return _tax(reference, policy, mask)


@tax.mutant(
    "the sign is turned round: a tax is what the policy lost, log π_ref - log π, above 0 where texts grew unlikelier."
)
def gain(reference, policy, mask):
    return _tax(reference, policy, mask, sign=-1.0)


@tax.mutant("prompt and padding are in your tax: multiply by the mask, and count only tokens that it marks.")
def mask_ignored(reference, policy, mask):
    return _tax(reference, policy, torch.ones_like(mask))


@tax.mutant(
    "per token you average the texts' own averages, so tokens of short texts count for more. Divide the sum over all "
    "by the number of all."
)
def mean_of_means(reference, policy, mask):
    lost = (reference - policy) * mask
    return _tax(reference, policy, mask) | {"per_token": (lost.sum(-1) / mask.sum(-1)).mean()}


@tax.mutant("you divide by all places of the table: padding is no token. Divide by mask.sum().")
def padding_in_the_count(reference, policy, mask):
    return _tax(reference, policy, mask) | {"per_token": ((reference - policy) * mask).mean()}


@tax.mutant("per text you add up all texts. Sum over the tokens of a text, then take the mean over the texts.")
def sum_over_texts(reference, policy, mask):
    return _tax(reference, policy, mask) | {"per_text": ((reference - policy) * mask).sum()}


# ---------------------------------------------------------------------------------------------- the bug


def _placed(draw: torch.Generator) -> list[Case]:
    worth, place = {"good": 1.0, "poor": -1.0}, {"x": 0.5, "z": 2.5}
    fixed = {
        "ask": PlacedJudge(worth, place),
        "prompts": ["x", "z"],
        "first": ["good", "poor"],
        "second": ["poor", "good"],
    }
    return [fixed, placed_judge(draw, 5, 1.5), placed_judge(draw, 9, -2.0)]


def _both_orders(ask: Callable, prompts, first, second) -> tuple[Tensor, Tensor]:
    return ask(prompts, first, second), ask(prompts, second, first)


def _verdict(judgement: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"judgement": judgement, "bias": bias}


@exercise(
    cases=_placed,
    points=3,
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


@judgement.mutant("you ask the same question twice: exchange first and second the second time.")
def same_order(ask, prompts, first, second):
    straight = ask(prompts, first, second)
    return _verdict((straight - straight) / 2, (straight + straight) / 2)


@judgement.mutant("the sign is turned round: a positive judgement says that `first` is better.")
def sign_turned(ask, prompts, first, second):
    straight, turned = _both_orders(ask, prompts, first, second)
    return _verdict((turned - straight) / 2, (straight + turned) / 2)
