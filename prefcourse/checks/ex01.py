"""Checks of exercise notebook 01: preference data. Here how many pairs are enough, the end of the project.

Exercises 1 to 3 stand in `ex01_annotators`, exercise 4 in `ex01_split`, the project's pipeline in `ex01_pipeline`.
"""

import math

import numpy as np
import torch

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex01_annotators import annotator, ceiling_with_lapses, six_hundred_labels
from prefcourse.checks.ex01_pipeline import Desk, pipeline, pipeline_report
from prefcourse.checks.ex01_split import key, split, split_report

__all__ = [
    "Desk", "annotator", "ceiling_with_lapses", "doubling", "key", "pairs_enough", "pipeline", "pipeline_report",
    "six_hundred_labels", "split", "split_report",
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- how many are enough


def _wins(draw: torch.Generator) -> list[Case]:
    rising = {50: [0.51, 0.65, 0.60], 200: [0.60, 0.64, 0.68], 800: [0.69, 0.70, 0.71], 1600: [0.70, 0.74, 0.78]}
    dips = {100: [0.66, 0.67, 0.68], 400: [0.52, 0.56, 0.60], 1600: [0.72, 0.73, 0.74]}
    never = {100: [0.52, 0.58], 200: [0.54, 0.60]}

    def case(seeds: int, target: float, t: float) -> Case:
        sizes = (50, 100, 200, 400, 800)
        noise = 0.02 * torch.randn(len(sizes), seeds, generator=draw, dtype=torch.float64)
        return {
            "wins": {n: (0.55 + 0.04 * i + noise[i]).tolist() for i, n in enumerate(sizes)}, "target": target, "t": t
        }  # fmt: skip

    return [
        {"wins": rising, "target": 0.6, "t": 2.306},
        {"wins": dips, "target": 0.6, "t": 2.447},
        {"wins": never, "target": 0.65, "t": 4.303},
        Limit(
            "a lower end is exactly at the target, which it reaches",
            {"wins": {100: [0.5, 0.5], 200: [0.625, 0.625], 400: [0.75, 0.75]}, "target": 0.625, "t": 4.303},
        ),
        Limit("the sizes do not come in order", {"wins": dict(reversed(dips.items())), "target": 0.6, "t": 2.447}),
        case(4, 0.6, 2.131),
        case(5, 0.65, 2.086),
    ]


def _enough(wins, target, t, ddof=1, pooled=True, root=True, every=True, means=False, last=None):
    spread = {n: np.std(w, ddof=ddof) for n, w in wins.items()}
    if pooled:
        spread = dict.fromkeys(wins, math.sqrt(np.mean([s**2 for s in spread.values()])))
    t = last or t
    low = {n: float(np.mean(w) - t * spread[n] / (math.sqrt(len(w)) if root else 1)) for n, w in wins.items()}
    reached = {n: (np.mean(wins[n]) if means else low[n]) >= target for n in wins}
    fits = [n for n in wins if (all(reached[m] for m in wins if m >= n) if every else reached[n])]
    return (min(fits) if fits else None), low


@exercise(
    cases=_wins,
    points=2,
    where="How many pairs are enough?",
    hint="first one spread for all sizes, the root of the mean of the variances (divided by seeds - 1); then the lower "
    "ends, mean - t · spread / √seeds; then go from the largest n down while the lower end reaches the target.",
)
def pairs_enough(wins, target, t):
    """The number of pairs from which on the win rate is above a target, and the lower ends that say so."""
    return _enough(wins, target, t)


@pairs_enough.mutant(
    "you compare the mean with the target. A mean of a few seeds is above it by luck often enough: take the lower end."
)
def means_only(wins, target, t):
    return _enough(wins, target, t, means=True)


@pairs_enough.mutant("your interval holds single runs. That of the mean is narrower: divide the spread by √seeds.")
def single_runs(wins, target, t):
    return _enough(wins, target, t, root=False)


@pairs_enough.mutant("a variance divided by the number of seeds is too small: divide by seeds - 1 (ddof=1).")
def biased_variance(wins, target, t):
    return _enough(wins, target, t, ddof=0)


@pairs_enough.mutant(
    "each size has its own spread in your answer. A few seeds say little about it: pool the variances."
)
def not_pooled(wins, target, t):
    return _enough(wins, target, t, pooled=False)


@pairs_enough.mutant("a larger number of pairs fails the target again. Ask for the n from which on all sizes reach it.")
def first_crossing(wins, target, t):
    return _enough(wins, target, t, every=False)


@pairs_enough.mutant("you take 1.96. With a few seeds the spread is itself uncertain: use the t that is given.")
def normal_interval(wins, target, t):
    return _enough(wins, target, t, last=1.96)


@pairs_enough.mutant(
    "you return the largest number of pairs that is enough. Asked is the smallest from which on all are."
)
def largest(wins, target, t):
    found, low = _enough(wins, target, t)
    return (None if found is None else max(n for n in wins if low[n] >= target)), low


@pairs_enough.mutant("your ends are the upper ones: mean minus t times the spread of the mean, not plus.")
def upper_ends(wins, target, t):
    return _enough(wins, target, -t)


def _curves(draw: torch.Generator) -> list[Case]:
    uneven = {50: [0.50, 0.52, 0.54], 100: [0.55], 400: [0.68, 0.60]}
    return [
        {"wins": {50: [0.50, 0.52], 100: [0.55, 0.57], 400: [0.68, 0.60]}},
        Limit("sizes have different numbers of runs", {"wins": uneven}),
        Limit("more pairs make it worse", {"wins": {50: [0.66, 0.60], 100: [0.58, 0.57], 400: [0.50, 0.52]}}),
        *({"wins": case["wins"]} for case in _wins(draw)[-2:]),
    ]


def _slope(wins, scale=math.log2, lost=2, on_means=False, divided=True):
    runs = [(scale(n), w) for n, some in wins.items() for w in ([np.mean(some)] if on_means else some)]
    x, y = np.array(runs).T
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    spread = math.sqrt(float(((y - slope * x) ** 2).sum()) / (len(x) - lost))
    return slope, spread / math.sqrt(float(x @ x)) if divided else spread


@exercise(
    cases=_curves,
    points=2,
    where="How many pairs are enough?",
    hint="x = log2 of the number of pairs, y = win rate, one point for each run, both minus their means: slope = Σxy / "
    "Σx², and its standard error √(Σ(y - slope · x)² / (runs - 2)) / √Σx².",
)
def doubling(wins):
    """The gain in win rate for each doubling of the pairs, with its standard error."""
    return _slope(wins)


@doubling.mutant("your slope is for each factor e: the gain for each doubling takes the logarithm to base 2.")
def natural_logarithm(wins):
    return _slope(wins, scale=math.log)


@doubling.mutant("your slope is for each pair. The curve is fitted against log2 n, where every doubling is one step.")
def linear_in_n(wins):
    return _slope(wins, scale=float)


@doubling.mutant("the slope is right. For its error two numbers were fitted, slope and height: divide by runs - 2.")
def divided_by_runs(wins):
    return _slope(wins, lost=0)


@doubling.mutant("your error divides by runs - 1. Two numbers were fitted, slope and height: divide by runs - 2.")
def divided_by_one_less(wins):
    return _slope(wins, lost=1)


@doubling.mutant("your logarithm has base 10: a doubling is one step of log2.")
def base_ten(wins):
    return _slope(wins, scale=math.log10)


@doubling.mutant("you fit the means of the sizes: each run is one point.")
def fitted_to_means(wins):
    return _slope(wins, on_means=True)


@doubling.mutant("the slope is right. Your second number is the spread of the runs; divide it by √Σx².")
def spread_of_runs(wins):
    return _slope(wins, divided=False)
