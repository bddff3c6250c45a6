"""Checks of exercise notebook 14: AI labels, an average of two policies, and the price on other text.

Exercise 1, the adapters, stands in `ex14_adapters`, a verifier in `ex14_verifier`, and exercise 5, a judge with a
favourite place, in `ex14_judgement`.
"""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex14_adapters import gpt2_shapes, lora_plan
from prefcourse.checks.ex14_judgement import judgement
from prefcourse.checks.ex14_verifier import verifier
from prefcourse.checks.questions import choice

__all__ = ["ai_labels", "gpt2_shapes", "judgement", "lora_plan", "price", "soup", "verifier"]

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
    chance = Limit("the constitution is not reliable at all, 0", fixed | {"reliability": 0.0})
    one = {"first": fixed["first"][:, :1], "second": fixed["second"][:, :1], "weights": fixed["weights"][:1]}
    alone = Limit("there is one rule alone", fixed | one)
    return [fixed, chance, alone, case(40, 4, 1.0), case(40, 5, 0.3), case(40, 3, 3.0)]


def _labels(p: Tensor, coin: Tensor) -> dict[str, Tensor]:
    return {"probability": p, "first_wins": coin < p}


@exercise(
    cases=_judgements,
    points=3,
    where="A small constitution",
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


@ai_labels.mutant("first and second are exchanged: the probability is that the *first* text wins.")
def sides_exchanged(first, second, weights, reliability, coin):
    return ai_labels.reference(second, first, weights, reliability, coin)


@ai_labels.mutant("scores are divided by the number of rules in yours: a constitution adds them up.")
def mean_of_rules(first, second, weights, reliability, coin):
    return ai_labels.reference(first, second, weights / len(weights), reliability, coin)


@ai_labels.mutant("the reliability multiplies the probability in yours: it belongs inside the sigmoid.")
def reliability_outside(first, second, weights, reliability, coin):
    p = reliability * (first @ weights - second @ weights).sigmoid()
    return _labels(p, coin)


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
def soup():
    """π₁ is the best policy for r₁ at β, π₂ for r₂ at β, from one reference. For what is π ∝ √(π₁ π₂) the best one?"""
    return {
        "for the mean (r₁ + r₂) / 2 at β": None,
        "for the sum r₁ + r₂ at β": "each exponent comes with a half: r₁ / 2β + r₂ / 2β. The sum at β is what rules of "
        "a constitution do, whose tilts multiply whole.",
        "for the mean (r₁ + r₂) / 2 at 2β: mixing halves every tilt": "it halves both, and there are two of them. With "
        "SFT in place of π₂, whose tilt is 0, the mix would be the best for r₁ at 2β.",
        "for the larger of r₁ and r₂, response by response, at β": "exponents are added and not compared: a response "
        "that one of the two rewards finds poor loses, however well the other likes it.",
    }


# ---------------------------------------------------------------------------------------------- the price on other text


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
    longer = torch.tensor([[False, False, True, True], [False, True, True, True]])
    full = Limit("texts reach the last column", fixed | {"mask": longer})
    paid_back = {"reference": fixed["policy"], "policy": fixed["reference"]}
    better = Limit(
        "the policy finds the texts likelier than the reference, so that the price is below 0", fixed | paid_back
    )
    return [fixed, full, better, case(4, 6), case(7, 9)]


def _price(reference, policy, mask, sign=1.0) -> dict[str, Tensor]:
    lost = sign * (reference - policy) * mask
    return {"per_text": lost.sum(-1).mean(), "per_token": lost.sum() / mask.sum()}


@exercise(
    cases=_held_out,
    points=3,
    where="The maths: who pays",
    hint="(reference - policy) · mask is what each token lost, (N, T). Per text: sum over a row, then the mean over "
    "rows. Per token: the sum over all of it, divided by the number of tokens that count.",
)
def price(reference, policy, mask):
    """The price on other text in nats, per text and per token."""
    return _price(reference, policy, mask)


@price.mutant(
    "the sign is turned round: a price is what the policy lost, log π_ref - log π, above 0 where texts grew unlikelier."
)
def gain(reference, policy, mask):
    return _price(reference, policy, mask, sign=-1.0)


@price.mutant("prompt and padding are in your price: multiply by the mask, and count only tokens that it marks.")
def mask_ignored(reference, policy, mask):
    return _price(reference, policy, torch.ones_like(mask))


@price.mutant(
    "per token you average the texts' own averages, so tokens of short texts count for more. Divide the sum over all "
    "by the number of all."
)
def mean_of_means(reference, policy, mask):
    lost = (reference - policy) * mask
    return _price(reference, policy, mask) | {"per_token": (lost.sum(-1) / mask.sum(-1)).mean()}


@price.mutant("you divide by all places of the table: padding is no token. Divide by mask.sum().")
def padding_in_the_count(reference, policy, mask):
    return _price(reference, policy, mask) | {"per_token": ((reference - policy) * mask).mean()}


@price.mutant("per text you return the price of a token, or the other way round: the two names are exchanged.")
def names_exchanged(reference, policy, mask):
    found = _price(reference, policy, mask)
    return {"per_text": found["per_token"], "per_token": found["per_text"]}


@price.mutant("absolute values: some tokens grow likelier, and they pay back.")
def absolute(reference, policy, mask):
    return _price((reference - policy).abs(), torch.zeros_like(policy), mask)


@price.mutant("per text you divide by all places of the table: sum over the tokens first, then average over texts.")
def mean_over_the_table(reference, policy, mask):
    return _price(reference, policy, mask) | {"per_text": ((reference - policy) * mask).mean()}


@price.mutant("you divide probabilities or take their difference: the price is a difference of log-probs.")
def of_probabilities(reference, policy, mask):
    return _price(reference.exp(), policy.exp(), mask)


@price.mutant("per text you add up all texts. Sum over the tokens of a text, then take the mean over the texts.")
def sum_over_texts(reference, policy, mask):
    return _price(reference, policy, mask) | {"per_text": ((reference - policy) * mask).sum()}
