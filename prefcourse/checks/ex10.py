"""Checks of exercise notebook 10: an A/B test of DPO against SFT, by type of prompt. Here from the sample size on.

Exercise 1, the win rate, stands in `ex10_win_rate`.
"""

import math

import torch
from torch import Tensor

from prefcourse.checks.core import Case, exercise
from prefcourse.checks.ex10_win_rate import Z90, Z, win_rate
from prefcourse.checks.questions import choice

__all__ = ["by_type", "gain", "sample_size", "two_faults", "win_rate"]

Z80 = 0.8416212335729143  # 80 % power
RESAMPLES = 2_000

# ---------------------------------------------------------------------------------------------- sample size with ties


def _plans(draw: torch.Generator) -> list[Case]:
    def case(low: float, high: float) -> Case:
        rate = low + (high - low) * torch.rand((), generator=draw).item()
        most = 2 * min(rate, 1 - rate)
        return {"rate": rate, "ties": (0.2 + 0.6 * torch.rand((), generator=draw).item()) * most}

    fixed = [{"rate": 0.55, "ties": 0.0}, {"rate": 0.55, "ties": 0.5}, {"rate": 0.6, "ties": 0.3}]
    return [*fixed, case(0.54, 0.7), case(0.3, 0.45)]


def _prompts(rate: float, null: float, real: float, z: float = Z, z80: float = Z80) -> float:
    return ((z * null + z80 * real) / (rate - 0.5)) ** 2


def _spread(rate: float, ties: float) -> float:
    return math.sqrt(rate - ties / 4 - rate**2)


@exercise(
    cases=_plans,
    points=2,
    hint="with ties the standard deviation of a point is √(p - t/4 - p²). Put it into both places of step 3: at p = ½ "
    "for the limit of the test, at `rate` for the spread of what is measured. Then solve for n and round up.",
)
def sample_size(rate, ties):
    """Prompts to see a win rate with 80 % power at level 5 %, when a share of the prompts ties."""
    return math.ceil(_prompts(rate, _spread(0.5, ties), _spread(rate, ties)))


@sample_size.mutant("the ties have no effect in your formula. A half point varies less: the variance loses t/4.")
def ties_ignored(rate, ties):
    return math.ceil(_prompts(rate, 0.5, math.sqrt(rate * (1 - rate))))


@sample_size.mutant(
    "you divide the number without ties by 1 - t, as if ties were lost prompts. They are half points that vary less, "
    "so with ties you need fewer prompts at the same win rate, not more."
)
def ties_as_lost_prompts(rate, ties):
    return math.ceil(_prompts(rate, 0.5, math.sqrt(rate * (1 - rate))) / (1 - ties))


@sample_size.mutant(
    "the limit of your test has the spread at `rate`. The test is made for equal policies: there p is one half, "
    "and the variance (1 - t)/4."
)
def null_at_rate(rate, ties):
    return math.ceil(_prompts(rate, _spread(rate, ties), _spread(rate, ties)))


@sample_size.mutant(
    "z for the power is missing: where the measured rate lies at the limit on average, every second experiment misses."
)
def half_power(rate, ties):
    return math.ceil(_prompts(rate, _spread(0.5, ties), _spread(rate, ties), z80=0.0))


@sample_size.mutant("your test is one-sided (z = 1.645). We would also call a policy that is worse: take z = 1.96.")
def one_sided(rate, ties):
    return math.ceil(_prompts(rate, _spread(0.5, ties), _spread(rate, ties), z=Z90))


@sample_size.mutant("you round down, and stay below the power that you promise. Round up.")
def rounded_down(rate, ties):
    return math.floor(_prompts(rate, _spread(0.5, ties), _spread(rate, ties)))


# ---------------------------------------------------------------------------------------------- the narrow interval


def _reviews(draw: torch.Generator) -> list[Case]:
    """Rewards (N, K) of two policies: a prompt moves both, and its own gain."""

    def case(n: int, k: int) -> Case:
        prompt, gain = torch.randn(2, n, 1, generator=draw, dtype=torch.float64)
        dice = torch.randn(2, n, k, generator=draw, dtype=torch.float64)
        return {"a": 2 * prompt + 0.5 + gain + dice[0], "b": 2 * prompt + dice[1]}

    a = torch.tensor([[2.0, 3.0], [-1.0, 0.0], [4.0, 4.5], [0.5, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0], [-1.5, 0.5], [1.0, 2.0], [1.0, 1.5]], dtype=torch.float64)
    return [{"a": a, "b": b}, case(10, 4), case(16, 3)]


def _resampled(d: Tensor, draws: int = 1) -> list[Tensor]:
    """Numbers of the rows that each resample takes, (RESAMPLES, N), as the exercise says how to draw them."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(len(d), (RESAMPLES, len(d)), generator=generator) for _ in range(draws)]


def _interval(mean: Tensor, means: Tensor, low: float = 0.025) -> tuple[float, float, float]:
    ends = means.quantile(torch.tensor([low, 1 - low], dtype=means.dtype))
    return mean.item(), *ends.tolist()


@exercise(
    cases=_reviews,
    points=3,
    hint="go in three steps: d (N,) = mean of a over reviews - mean of b over reviews; draw (2000, N) row numbers as "
    "given; means of d over each draw, and their quantiles 0.025 and 0.975.",
)
def gain(a, b):
    """Mean gain of A over B with its paired bootstrap interval, from K reviews of each prompt."""
    d = a.mean(1) - b.mean(1)
    return _interval(d.mean(), d[_resampled(d)[0]].mean(1))


@gain.mutant(
    "you draw reviews, not prompts: the interval forgets that the gain differs between prompts (τ² of step 2). Average "
    "over the K reviews first, then draw from N prompts."
)
def reviews_as_prompts(a, b):
    d = (a - b).flatten()
    return _interval(d.mean(), d[_resampled(d)[0]].mean(1))


@gain.mutant(
    "you draw the prompts of A and of B separately. That throws the pairs away: draw once, and let a prompt bring both "
    "of its rewards along."
)
def unpaired(a, b):
    one, other = _resampled(a, 2)
    return _interval((a.mean(1) - b.mean(1)).mean(), a.mean(1)[one].mean(1) - b.mean(1)[other].mean(1))


@gain.mutant("only the first review of each prompt is used. Average over all K: it shrinks the dice.")
def first_review(a, b):
    return gain.reference(a[:, :1], b[:, :1])


@gain.mutant("your ends are the quantiles of d itself: that says how prompts differ. We ask how the *mean* varies.")
def spread_of_prompts(a, b):
    d = a.mean(1) - b.mean(1)
    return _interval(d.mean(), d)


@gain.mutant("your ends are the quantiles 0.05 and 0.95, which leave 10 % outside. For 95 % take 0.025 and 0.975.")
def ninety(a, b):
    d = a.mean(1) - b.mean(1)
    return _interval(d.mean(), d[_resampled(d)[0]].mean(1), 0.05)


@gain.mutant("the sign is turned round: a gain of A over B is a - b.")
def b_minus_a(a, b):
    return gain.reference(b, a)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def two_faults():
    """A judge likes what stands first AND what is longer. Which reading of its votes puts the fraud at one half?"""
    return {
        "both orders, at equal length; the other two stay above": None,
        "both orders without length control; that alone is enough": "both orders remove what depends on the order. The "
        "liking for length sits in s, which is the same in both orders, and the fraud is longer.",
        "one order, at equal length; that alone is enough": "the straight line takes away what goes along with length. "
        "Being shown first is the same on every question, so it stays in the line's value at zero.",
        "none of the three; two faults at once cannot be repaired": "each remedy removes its own fault whatever the "
        "other does: the mean of both orders is symmetric, and then the line takes out the length.",
    }


# ---------------------------------------------------------------------------------------------- tests by type


def _typed(draw: torch.Generator) -> list[Case]:
    def case(types: str, shift: float) -> Case:
        d = torch.randn(6 * len(types), generator=draw, dtype=torch.float64) + shift
        return {"d": d, "types": [types[i % len(types)] for i in range(len(d))]}

    close = [0.9, 1.1, 1.0, 1.2, -0.2, 0.8, 1.0, 1.1, 0.9, -0.1, 0.1, -0.3, 0.2, -0.1, 0.3]
    nothing = [0.5, -0.4, 0.1, -0.1, -0.6, 0.5, 0.3, -0.3]
    return [
        {"d": torch.tensor(close, dtype=torch.float64), "types": ["question"] * 5 + ["neutral"] * 5 + ["positive"] * 5},
        {"d": torch.tensor(nothing, dtype=torch.float64), "types": ["neutral", "positive"] * 4},
        case("abc", 0.6), case("abcde", 0.9),
    ]  # fmt: skip


def _p(d: Tensor) -> float:
    """Two-sided p of the sign-flip test in its normal form."""
    return torch.special.erfc(d.sum().abs() / d.square().sum().sqrt() / math.sqrt(2)).item()


def _by_type(d: Tensor, types: list[str], p=_p) -> dict[str, float]:
    return {kind: p(d[[kind == other for other in types]]) for kind in sorted(set(types))}


def _holm(p_values: dict[str, float], cap: bool = True, climb: bool = True) -> dict[str, float]:
    found, worst, m = {}, 0.0, len(p_values)
    for k, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        value = (m - k) * p_values[name]
        value = min(value, 1.0) if cap else value
        worst = max(worst, value) if climb else value
        found[name] = worst
    return found


@exercise(
    cases=_typed,
    points=3,
    hint="print the plain p-values by type first. Then sort them: the smallest times m, the next times m - 1, …; none "
    "above 1, none below the one before it.",
)
def by_type(d, types):
    """Does each type gain? Two-sided p-values of the sign-flip test by type, adjusted by Holm."""
    return _holm(_by_type(d, types))


@by_type.mutant("these are the plain p-values. With five of them one in four or five experiments finds what is not.")
def unadjusted(d, types):
    return _by_type(d, types)


@by_type.mutant("that is Bonferroni, every p times m. Holm multiplies the smallest by m, the next by m - 1, and so on.")
def bonferroni(d, types):
    found = _by_type(d, types)
    return {name: min(len(found) * p, 1.0) for name, p in found.items()}


@by_type.mutant("an adjusted p-value of yours lies below that of a smaller p: take the largest so far at each step.")
def not_climbing(d, types):
    return _holm(_by_type(d, types), climb=False)


@by_type.mutant("an adjusted p-value of yours is above 1: cut off there.")
def above_one(d, types):
    return _holm(_by_type(d, types), cap=False)


@by_type.mutant("your p-values are one-sided, half of what they should be: a type could also have lost.")
def one_tail(d, types):
    return _holm(_by_type(d, types, lambda d: _p(d) / 2))


@by_type.mutant(
    "your z divides by the spread around the mean. The sign-flip test supposes that nothing was gained, so its spread "
    "is around zero: √Σd²."
)
def spread_around_the_mean(d, types):
    def p(d: Tensor) -> float:
        z = d.mean().abs() / (d.std() / math.sqrt(len(d)))
        return torch.special.erfc(z / math.sqrt(2)).item()

    return _holm(_by_type(d, types, p))
