"""Checks of exercise notebook 10: an A/B test of DPO against SFT, by type of prompt. Here from the sample size on.

Exercise 1, the win rate, stands in `ex10_win_rate`, exercise 3, the interval of a gain, in `ex10_gain`.
"""

import math

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex10_gain import gain
from prefcourse.checks.ex10_win_rate import Z90, Z, win_rate
from prefcourse.checks.questions import choice

__all__ = ["by_type", "gain", "sample_size", "two_faults", "win_rate"]

Z80 = 0.8416212335729143  # 80 % power

# ---------------------------------------------------------------------------------------------- sample size with ties


def _plans(draw: torch.Generator) -> list[Case]:
    def case(low: float, high: float) -> Case:
        rate = low + (high - low) * torch.rand((), generator=draw).item()
        most = 2 * min(rate, 1 - rate)
        return {"rate": rate, "ties": (0.2 + 0.6 * torch.rand((), generator=draw).item()) * most}

    fixed = [{"rate": 0.55, "ties": 0.0}, {"rate": 0.55, "ties": 0.5}, {"rate": 0.6, "ties": 0.3}]
    below = Limit("A loses, so that the rate is below ½", {"rate": 0.42, "ties": 0.2})
    return [*fixed, below, case(0.54, 0.7), case(0.3, 0.45)]


def _prompts(rate: float, null: float, real: float, z: float = Z, z80: float = Z80) -> float:
    return ((z * null + z80 * real) / (rate - 0.5)) ** 2


def _spread(rate: float, ties: float) -> float:
    return math.sqrt(rate - ties / 4 - rate**2)


@exercise(
    cases=_plans,
    points=2,
    where="Step 2 · Power",
    hint="with ties the standard deviation of a point is √(p - t/4 - p²). Put it into both places of step 2: at p = ½ "
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


@sample_size.mutant("your plan is for 90 % power, z = 1.28. Here it is 80 %, Z80.")
def ninety_power(rate, ties):
    return math.ceil(_prompts(rate, _spread(0.5, ties), _spread(rate, ties), z80=1.2815515655446004))


@sample_size.mutant("you round to the nearest: the smallest whole number that is enough lies above. Round up.")
def rounded(rate, ties):
    return round(_prompts(rate, _spread(0.5, ties), _spread(rate, ties)))


@sample_size.mutant("you do not round: prompts are whole, and the smallest whole number that is enough lies above.")
def not_rounded(rate, ties):
    return _prompts(rate, _spread(0.5, ties), _spread(rate, ties))


@sample_size.mutant("the square is missing: the number of prompts goes with one over the *square* of the effect.")
def not_squared(rate, ties):
    return math.ceil(math.sqrt(_prompts(rate, _spread(0.5, ties), _spread(rate, ties))))


@sample_size.mutant("a point varies by p - t/4 - p²; you subtract t/2, or all of t.")
def too_much_of_ties(rate, ties):
    null, real = 0.25 - ties / 2, rate - ties / 2 - rate**2
    return math.ceil(_prompts(rate, math.sqrt(max(null, 0)), math.sqrt(max(real, 0))))


@sample_size.mutant("both spreads are those of one half in yours: what is measured varies as it does at `rate`.")
def real_at_half(rate, ties):
    return math.ceil(_prompts(rate, _spread(0.5, ties), _spread(0.5, ties)))


@sample_size.mutant("you round down, and stay below the power that you promise. Round up.")
def rounded_down(rate, ties):
    return math.floor(_prompts(rate, _spread(0.5, ties), _spread(rate, ties)))


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
        Limit(
            "one type loses clearly",
            {"d": torch.tensor([1.0, -1.0, 0.5, -0.8, 1.2, -1.1, -0.3, -0.9]).double(), "types": ["won", "lost"] * 4},
        ),
        Limit("there is one type alone", {"d": torch.tensor(nothing).double(), "types": ["neutral"] * 8}),
        case("abc", 0.6), case("abcde", 0.9), case("abcd", -0.7),
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
    where="Step 4 · Many tests",
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


@by_type.mutant("z has lost its absolute value: a type that clearly loses is as far from chance as one that gains.")
def signed(d, types):
    def p(d: Tensor) -> float:
        return torch.special.erfc(d.sum() / d.square().sum().sqrt() / math.sqrt(2)).item()

    return _holm(_by_type(d, types, p))


@by_type.mutant("√2 is missing: the two-sided p-value is erfc(z / √2).")
def no_root_of_two(d, types):
    return _holm(_by_type(d, types, lambda d: torch.special.erfc(d.sum().abs() / d.square().sum().sqrt()).item()))


@by_type.mutant("that is 1 - p: small where nothing was found.")
def complement(d, types):
    return _holm(_by_type(d, types, lambda d: 1 - _p(d)))


@by_type.mutant("your factors rise: the *smallest* p is multiplied by m, the largest by 1.")
def factors_turned(d, types):
    found = _by_type(d, types)
    order = sorted(found, key=found.__getitem__)
    return {name: min((k + 1) * found[name], 1.0) for k, name in enumerate(order)}


@by_type.mutant("that is Benjamini and Hochberg's, m / rank. Holm multiplies by m, m - 1, … and holds for any test.")
def false_discovery(d, types):
    found, least = _by_type(d, types), 1.0
    order, adjusted = sorted(found, key=found.__getitem__), {}
    for k in reversed(range(len(order))):
        least = min(least, found[order[k]] * len(order) / (k + 1))
        adjusted[order[k]] = least
    return adjusted


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
