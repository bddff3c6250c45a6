"""Checks of exercise notebook 01, exercises 1 to 3: annotators, agreement, what to buy. See also `ex01`."""

import math

import numpy as np
import torch

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.questions import choice

# ---------------------------------------------------------------------------------------------- a coin for each pair


def _clicks(draw: torch.Generator) -> list[Case]:
    def case(n: int, reliability: float, lapse: float) -> Case:
        difference = 2 * torch.randn(n, generator=draw, dtype=torch.float64)
        u = torch.rand(n, generator=draw, dtype=torch.float64)
        return {"difference": difference.numpy(), "reliability": reliability, "lapse": lapse, "u": u.numpy()}

    four = {"difference": np.array([2.0, -2.0, 1.0, 0.0]), "u": np.array([0.86, 0.2, 0.65, 0.4])}
    even = np.linspace(-2, 2, 40)
    many = {"difference": even, "u": (7 * np.arange(40) % 40 + 0.5) / 40}
    return [
        {"difference": four["difference"], "reliability": 1.0, "lapse": 0.4, "u": four["u"]},
        {"difference": many["difference"], "reliability": 2.0, "lapse": 0.4, "u": many["u"]},
        Limit("everybody lapses: lapse is 1", case(20, 1.0, 1.0)),
        case(200, 1.0, 0.2),
        case(200, 0.5, 0.6),
    ]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@exercise(
    cases=_clicks,
    points=1,
    where="Five annotators with habits",
    hint="first the probability of A for each pair, (1 - lapse) · σ(reliability · difference) + lapse / 2, then "
    "compare u with it.",
)
def annotator(difference, reliability, lapse, u):
    """The clicks of a simulated annotator: 1 for A, 0 for B."""
    return (u < (1 - lapse) * _sigmoid(reliability * difference) + lapse / 2).astype(int)


@annotator.mutant("your annotator always picks the better text. Bradley–Terry throws a coin: A where u < P(A).")
def always_right(difference, reliability, lapse, u):
    return (difference > 0).astype(int)


@annotator.mutant("a lapse of yours always says B. Who does not look says A half of the time: add lapse / 2.")
def lapse_says_b(difference, reliability, lapse, u):
    return (u < (1 - lapse) * _sigmoid(reliability * difference)).astype(int)


@annotator.mutant(
    "a lapse of yours always says A. Who does not look says A half of the time: add lapse / 2, not lapse."
)
def lapse_says_a(difference, reliability, lapse, u):
    return (u < (1 - lapse) * _sigmoid(reliability * difference) + lapse).astype(int)


@annotator.mutant("nobody lapses in your function: σ is weighted with 1 - lapse, and lapse / 2 is added.")
def no_lapse(difference, reliability, lapse, u):
    return (u < _sigmoid(reliability * difference)).astype(int)


@annotator.mutant("the reliability stands outside the sigmoid or is missing: it multiplies the difference.")
def no_reliability(difference, reliability, lapse, u):
    return (u < (1 - lapse) * _sigmoid(difference) + lapse / 2).astype(int)


@annotator.mutant("these are the probabilities of A, no clicks: compare u with them, and return 1 where u is smaller.")
def probabilities(difference, reliability, lapse, u):
    return (1 - lapse) * _sigmoid(reliability * difference) + lapse / 2


@annotator.mutant("your coin falls the wrong way: u lies below P(A) with probability P(A), so A is where u < P(A).")
def other_way(difference, reliability, lapse, u):
    return 1 - annotator.reference(difference, reliability, lapse, u)


# ---------------------------------------------------------------------------------------------- agreement with lapses


def _agreements(draw: torch.Generator) -> list[Case]:
    fixed = ((0.529, 0.4), (0.58, 0.0), (0.98, 0.5), (0.5, 0.3))  # the third is more than such people can agree
    drawn = torch.rand(3, 2, generator=draw, dtype=torch.float64).tolist()
    drawn = [(0.51 + 0.2 * x, 0.1 + 0.3 * y) for x, y in drawn]
    cases = [{"agreement": a, "lapse": lam} for a, lam in (*fixed, *drawn)]
    cases[2] = Limit("such people cannot agree so often", cases[2])
    cases[3] = Limit("they agree no more often than by chance", cases[3])
    return cases


@exercise(
    cases=_agreements,
    points=2,
    where="Step 4 · From the ceiling to agreement",
    hint="with q = (1 - λ) p + λ / 2 two annotators agree with probability 1/2 + 2 (q - 1/2)². Solve for |q - 1/2|, "
    "then for |p - 1/2|, and add 1/2.",
)
def ceiling_with_lapses(agreement, lapse):
    """The ceiling of equally hard pairs from the agreement of two annotators who lapse."""
    return min(1.0, (1 + math.sqrt(2 * agreement - 1) / (1 - lapse)) / 2)


@ceiling_with_lapses.mutant("you leave the lapses out: they lower the agreement, and not what a model can reach.")
def lapses_ignored(agreement, lapse):
    return (1 + math.sqrt(2 * agreement - 1)) / 2


@ceiling_with_lapses.mutant(
    "you divide by (1 - λ)². Both annotators lapse, so the square is under the root; outside it is 1 - λ."
)
def divided_twice(agreement, lapse):
    return min(1.0, (1 + math.sqrt(2 * agreement - 1) / (1 - lapse) ** 2) / 2)


@ceiling_with_lapses.mutant(
    "you multiply by 1 - λ, which gives the accuracy of a person who lapses twice. The way back is to divide."
)
def multiplied(agreement, lapse):
    return min(1.0, (1 + math.sqrt(2 * agreement - 1) * (1 - lapse)) / 2)


@ceiling_with_lapses.mutant("the square root is missing: the agreement goes with the square of |p - 1/2|.")
def no_root(agreement, lapse):
    return min(1.0, (1 + (2 * agreement - 1) / (1 - lapse) ** 2) / 2)


@ceiling_with_lapses.mutant(
    "an accuracy above 1: a measured agreement can be larger than such annotators can have. Return 1 at most."
)
def above_one(agreement, lapse):
    return (1 + math.sqrt(2 * agreement - 1) / (1 - lapse)) / 2


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=1)
def six_hundred_labels():
    """600 labels from people who lapse in 40 % of their clicks. Which reward model ranks fresh pairs better?"""
    return {
        "the one fitted to 600 pairs with one label each": None,
        "the one fitted to 200 pairs with the majority of three": "each of its labels is better, and there are a third "
        "as many. A majority also throws away how sure the three were.",
        "neither: both have seen 600 labels": "the number of labels is the same, what they say is not. Three labels "
        "of one pair repeat each other; a majority makes one bit of three.",
        "neither: with 40 % lapses both stay near a coin": "a label with 40 % lapses still points the right way more "
        "often than not, and a fit averages over hundreds of them.",
    }
