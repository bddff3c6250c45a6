"""Checks of exercise notebook 10, exercise 1: a win rate with ties and its interval. See also `ex10`."""

import math

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise

Z = 1.959963984540054  # two-sided 95 %
Z90 = 1.6448536269514722  # two-sided 90 %, which is also one-sided 95 %

# ---------------------------------------------------------------------------------------------- win rate and interval


def _duels(draw: torch.Generator) -> list[Case]:
    """Rewards of two policies on the same prompts, on a coarse grid, so that some tie."""

    def case(n: int) -> Case:
        a, b = (torch.randint(0, 5, (2, n), generator=draw) / 2).double()
        a[:4], b[:4] = torch.tensor([1.0, 0.5, 2.0, 1.5]), torch.tensor([1.0, 0.5, 0.0, 1.0])  # two ties, two wins
        return {"a": a, "b": b}

    decided = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    tied = torch.tensor([0.9, 0.4, 1.2, 0.3, 0.8, 0.0, 0.5, 1.1, 0.2, 0.7], dtype=torch.float64)
    other = torch.tensor([0.1, 0.4, 0.6, 0.5, 0.2, 0.0, 0.1, 0.3, 0.4, 0.6], dtype=torch.float64)
    won = torch.ones(20, dtype=torch.float64)
    return [
        {"a": decided, "b": torch.zeros_like(decided)},
        {"a": tied, "b": other},
        Limit("A wins every prompt", {"a": won, "b": 0 * won}),
        Limit("every prompt is a tie", {"a": won, "b": won}),
        case(12),
        case(40),
    ]


def _points(a: Tensor, b: Tensor, tie: float = 0.5) -> Tensor:
    return (a > b).double() + tie * (a == b).double()


def _wilson(share: float, n: int, z: float = Z) -> tuple[float, float, float]:
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, centre - half, centre + half


@exercise(
    cases=_duels,
    points=2,
    where="An interval for a win rate",
    hint="give each prompt 1, ½ or 0, take the mean over all N prompts, then solve "
    "(1 + z²/n) p² - (2p̂ + z²/n) p + p̂² = 0 for the two ends.",
)
def win_rate(a, b):
    """A's win rate against B, ties one half, with Wilson's interval."""
    return _wilson(_points(a, b).mean().item(), len(a))


@win_rate.mutant("your ties count as losses: compared with itself a policy would win 0 %. A tie is half a point.")
def ties_lost(a, b):
    return _wilson(_points(a, b, 0.0).mean().item(), len(a))


@win_rate.mutant("your ties are thrown away. They are prompts too: half a point each, and n stays the number of all.")
def ties_dropped(a, b):
    decided = a != b
    return win_rate.reference(a[decided], b[decided])


@win_rate.mutant(
    "that is Wald's interval, p̂ ± z √(p̂(1 - p̂)/n): it leaves 0 to 1, and has no width after 20 wins of 20. Take the "
    "spread at the candidate p, not at p̂."
)
def wald(a, b):
    share = _points(a, b).mean().item()
    half = Z * math.sqrt(share * (1 - share) / len(a))
    return share, share - half, share + half


@win_rate.mutant(
    "that is Wald's interval, cut off at 0 and 1. The cut hides that it promises too much; solve Wilson's quadratic."
)
def wald_cut(a, b):
    share, low, high = wald(a, b)
    return share, max(low, 0.0), min(high, 1.0)


@win_rate.mutant("z is 1.645 in your interval, which covers 90 %. Two-sided 95 % leaves 2.5 % at each end: z = 1.96.")
def ninety_percent(a, b):
    return _wilson(_points(a, b).mean().item(), len(a), Z90)


@win_rate.mutant("your ties count as wins: compared with itself a policy would win 100 %. A tie is half a point.")
def ties_won(a, b):
    return _wilson(_points(a, b, 1.0).mean().item(), len(a))


@win_rate.mutant("your interval is centred at p̂. Wilson's centre lies nearer to one half: (p̂ + z²/2n) / (1 + z²/n).")
def centre_not_moved(a, b):
    share = _points(a, b).mean().item()
    _, low, high = _wilson(share, len(a))
    return share, share - (high - low) / 2, share + (high - low) / 2


@win_rate.mutant("the first number is the centre of the interval: asked is the win rate itself.")
def centre_for_share(a, b):
    _, low, high = win_rate.reference(a, b)
    return (low + high) / 2, low, high


@win_rate.mutant("you divide by 1 + z²/n nowhere, or once too little: both ends are divided by it.")
def not_divided(a, b):
    share, low, high = win_rate.reference(a, b)
    return share, low * (1 + Z**2 / len(a)), high * (1 + Z**2 / len(a))


@win_rate.mutant("you count B's wins: A wins a prompt where a is larger than b.")
def swapped(a, b):
    return win_rate.reference(b, a)
