"""Figures of A/B tests (lesson 10): how often an interval covers, what a test can see, and the forest plot."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefcourse.comparison.ab_tests import power, sample_size
from prefcourse.evaluate import Estimate
from prefcourse.finite import counted, number, numbers, whole
from prefcourse.plots.style import AMBER, BLUE, GREEN, GREY, INK, REFERENCE, STYLE, _headline, _percent

LOOKS = [(BLUE, "o", "-"), (AMBER, "^", "--"), (GREEN, "s", "-.")]  # of intervals, and of runs in a forest plot


def coverage(shares: Sequence[float], covered: Mapping[str, Sequence[float]], *, n: int, level: float = 0.95) -> Figure:
    """How often intervals from n prompts contain the true win rate, for each true rate in `shares` (S,).

    covered: name of the interval → a share for each of `shares`. The title gives the means over `shares`.
    Raises ValueError for another number of shares, or one outside 0 to 1.
    """
    n, level = whole("n", n), number("level", level, above=0, below=1)
    for name, values in {"shares": shares, **covered}.items():
        if len(numbers(name, values, low=0, high=1)) != len(shares):
            raise ValueError(f"{name}: {counted(len(values), 'share')} for {len(shares)} true rates; give one for each")
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.2))
        axes.axhline(level, label=f"promised: {level:.0%}", **REFERENCE)
        for (name, values), (colour, _, line) in zip(covered.items(), LOOKS, strict=False):
            axes.plot(shares, values, color=colour, linestyle=line, linewidth=1.5, label=name)
        means = ", ".join(f"{name} {np.mean(values):.1%}" for name, values in covered.items())
        axes.set_title(f"Mean coverage at n = {n}: {means}")
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(max(min(0.6, level - 0.1, *(min(v) - 0.03 for v in covered.values())), -0.01), 1.005),
        )
        _percent(axes.xaxis, axes.yaxis)
        axes.set_xlabel("true win rate")
        axes.set_ylabel("intervals that contain it")
        axes.legend(loc="lower center")
    return fig


def forest(
    panels: Mapping[str, tuple[str, float, Mapping[str, Mapping[str, Estimate]]]], *, title: str, total: str = ""
) -> Figure:
    """A forest plot: one row for each group, one point with its interval for each run, a panel for each measure.

    panels: heading → (label of the axis, where "no difference" lies, group → run → Estimate); every panel has the same
    groups and the same runs, at most three. total: the group that stands below a line, such as all prompts together.
    Raises ValueError where the panels have different groups, or there are more than three runs.
    """
    rows = list(next(iter(panels.values()))[2])
    runs = list(next(iter(panels.values()))[2][rows[0]])
    for heading, (_, _, groups) in panels.items():
        if list(groups) != rows or any(list(found) != runs for found in groups.values()):
            raise ValueError(f"panel {heading!r} has other groups or runs than the first; give all panels the same")
    if len(runs) > len(LOOKS):
        raise ValueError(f"got {len(runs)} runs; at most {len(LOOKS)} can be told apart in a forest plot")
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x", "axes.titleweight": "normal"}):
        fig, row = plt.subplots(
            1,
            len(panels),
            figsize=(min(10.8, 4.2 + 3.3 * len(panels)), 1.7 + 0.46 * len(rows)),
            sharey=True,
            squeeze=False,
        )
        for axes, (heading, (label, null, groups)) in zip(row[0], panels.items(), strict=True):
            axes.axvline(null, **REFERENCE)
            for k, (run, (colour, marker, _)) in enumerate(zip(runs, LOOKS, strict=False)):
                found = [groups[name][run] for name in rows]
                y = np.arange(len(rows)) + 0.24 * (k - (len(runs) - 1) / 2)
                values, low, high = (np.array([getattr(e, side) for e in found]) for side in ("value", "low", "high"))
                axes.errorbar(
                    values, y, xerr=[values - low, high - values], color=colour, marker=marker, linestyle="none",
                    markersize=8, markeredgecolor="white", elinewidth=1.8, label=run,
                )  # fmt: skip
            if total in rows:
                axes.axhline(rows.index(total) - 0.5, color=GREY, linewidth=0.8)
            axes.set_title(heading)
            axes.set_xlabel(label)
            axes.tick_params(axis="y", length=0)
            if len(panels) > 2:  # narrow ones
                axes.xaxis.set_major_locator(MaxNLocator(4))
        row[0][0].set_yticks(range(len(rows)), rows)
        row[0][0].set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
        if len(runs) > 1:
            points = [drawn[0] for drawn in row[0][0].containers]  # without their intervals
            fig.legend(points, runs, loc="outside lower center", ncols=len(runs))
        _headline(fig, title)
    return fig


def power_curve(rate: float, n: int, *, ties: float = 0.0, alpha: float = 0.05) -> Figure:
    """What a test on n prompts can see if the true win rate is `rate`, and how many prompts it takes. For sliders.

    Left: measured win rates if the policies are the same and if they are not, with the part that is called a
    difference filled. Right: power against the number of prompts. Both by the normal approximation of `power`.
    Raises ValueError as `power` does.
    """
    reached = power(rate, n, ties, alpha)
    null_sd = 0.5 * math.sqrt((1 - ties) / n)
    real_sd = math.sqrt(max(rate - ties / 4 - rate**2, 1e-9) / n)  # win + ties/4 - rate², with win = rate - ties/2
    limit = NormalDist().inv_cdf(1 - alpha / 2) * null_sd
    with mpl.rc_context({**STYLE, "axes.titleweight": "normal", "axes.titlesize": 10.5}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.0))
        edge = min(0.5, max(4 * null_sd, abs(rate - 0.5) + 4 * real_sd))
        x = np.linspace(0.5 - edge, 0.5 + edge, 801)
        called = np.abs(x - 0.5) > limit
        for centre, sd, colour, line, name in (
            (0.5, null_sd, GREY, ":", "no difference"), (rate, real_sd, BLUE, "-", f"true win rate {rate:.0%}"),
        ):  # fmt: skip
            density = np.exp(-0.5 * ((x - centre) / sd) ** 2) / sd
            left.plot(x, density, color=colour, linestyle=line, label=name)
            left.fill_between(x, density, where=called, color=colour, alpha=0.22, linewidth=0)
        left.set_title(f"n = {n}: the test sees it in {reached:.0%} of experiments")
        left.set_ylim(bottom=0)
        left.set_yticks([])
        left.spines["left"].set_visible(False)
        _percent(left.xaxis)
        left.set_xlabel("measured win rate; filled: called a difference")
        left.legend(loc="upper left")

        sizes = np.unique(np.geomspace(5, 5_000, 200).round().astype(int))
        right.axhline(0.8, **REFERENCE)
        right.plot(sizes, [power(rate, int(size), ties, alpha) for size in sizes], color=BLUE)
        right.plot([n], [reached], "o", color=INK, markersize=9, markeredgecolor="white", clip_on=False, zorder=3)
        right.set_title("No number of prompts is enough: there is nothing to see" if rate == 0.5 else
                        f"80% power takes {counted(sample_size(rate, ties, alpha), 'prompt')}")  # fmt: skip
        right.set_xscale("log")
        right.set_xticks([10, 100, 1000], ["10", "100", "1,000"])
        right.set(xlim=(5, 5_000), ylim=(0, 1.02))
        _percent(right.yaxis)
        right.set_xlabel("prompts (logarithmic)")
        right.set_ylabel("power")
    return fig
