"""Figures about preference data: annotators, votes, and what the data do to the policy (lesson 01)."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from prefcourse.plots.style import BLUE, FAINT, GREY, INK, METHODS, PURPLE, REFERENCE, STYLE

PERCENT = PercentFormatter(1, decimals=0)


def agreement_and_accuracy(points: Sequence[tuple[float, float]]) -> Figure:
    """The accuracy that a perfect model can reach against the agreement of two like annotators, as a band.

    points: (agreement, accuracy) of simulated worlds. The band is exact: below, all pairs have the same odds
    ((1 + √(2a − 1)) / 2 is its upper edge); above it nothing can be, below a mixture of sure pairs and toss-ups lies.
    """
    agreement = np.linspace(0.5, 1, 201)
    same, mixed = (1 + np.sqrt(2 * agreement - 1)) / 2, agreement  # all pairs alike; sure pairs and toss-ups
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.6))
        axes.fill_between(agreement, mixed, same, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(agreement, same, color=BLUE, label="all pairs equally hard")
        axes.plot(agreement, mixed, color=BLUE, linestyle="--", label="sure pairs and toss-ups")
        axes.plot(*np.array(points).T, "o", color=INK, markersize=7, markeredgecolor="white", label="simulated worlds")
        at = 0.65
        low, high = at, (1 + np.sqrt(2 * at - 1)) / 2
        axes.plot([at, at], [0.5, high], **REFERENCE)
        axes.set_title(f"Where two agree on {at:.0%}, a perfect model reaches {low:.0%} to {high:.0%}")
        axes.set_xlim(0.5, 1)
        axes.set_ylim(0.5, 1.01)
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("agreement of two annotators (share of pairs)")
        axes.set_ylabel("accuracy of a perfect model")
        axes.legend(loc="lower right")
    return fig


def majority_by_panel(sizes: Sequence[int], right: Mapping[str, Sequence[float]]) -> Figure:
    """Share of pairs on which the majority picks the better text, against the size of the panel; a curve a kind."""
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        for (name, values), (colour, marker) in zip(right.items(), METHODS, strict=False):
            axes.plot(sizes, values, color=colour, marker=marker, markersize=7.5, markeredgecolor="white", label=name)
        name, values = next(iter(right.items()))
        axes.set_title(f"{name}: {values[0]:.0%} right alone, {values[-1]:.0%} as the majority of {sizes[-1]}")
        axes.set_xticks(sizes)
        axes.set_ylim(0.5, 1)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("annotators in the panel")
        axes.set_ylabel("majority picks the better text")
        axes.legend(loc="lower right")
    return fig


def noise_and_win_rate(wins: Mapping[float, Sequence[float]]) -> Figure:
    """Win rate of the trained policy against the share of labels turned round: a dot a seed, a line through means."""
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        means = _dots_and_means(axes, wins, BLUE, "o")
        axes.axhline(0.5, **REFERENCE)
        axes.text(0, 0.503, "no better than SFT", color=GREY, fontsize=9.5, va="bottom")
        few, many = min(wins), max(wins)
        axes.set_title(
            f"Win rate {means[few]:.0%} with {few:.0%} of the labels turned, {means[many]:.0%} with {many:.0%}"
        )
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("labels turned round (share)")
        axes.set_ylabel("win rate against SFT")
    return fig


def pairs_needed(wins: Mapping[int, Sequence[float]], kl: Mapping[int, Sequence[float]]) -> Figure:
    """Win rate and KL of the trained policy against the number of pairs: a dot a seed, a line through means."""
    with mpl.rc_context(STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.4))
        won = _dots_and_means(left, wins, BLUE, "o")
        moved = _dots_and_means(right, kl, PURPLE, "s")
        few, many = min(wins), max(wins)
        left.axhline(0.5, **REFERENCE)
        left.set_title(f"Win rate: {won[few]:.0%} with {few} pairs, {won[many]:.0%} with {many:,}")
        left.set_ylabel("win rate against SFT")
        left.yaxis.set_major_formatter(PERCENT)
        right.set_title(f"KL: {moved[few]:.0f} nats with {few} pairs, {moved[many]:.0f} with {many:,}")
        right.set_ylabel(r"KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ (nats per completion)")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks(sorted(wins), [f"{n:,}" for n in sorted(wins)])
            axes.xaxis.minorticks_off()
            axes.set_xlabel("pairs (logarithmic); 1,600 labels seen in all")
    return fig


def _dots_and_means(axes, values: Mapping[float, Sequence[float]], colour: str, marker: str) -> dict[float, float]:
    """A pale dot for every seed and a line through the means, which are returned by x."""
    means = {x: float(np.mean(values[x])) for x in sorted(values)}
    for x, dots in values.items():
        axes.plot([x] * len(dots), dots, marker, color=colour, alpha=0.35, markersize=5.5, markeredgewidth=0)
    axes.plot(means.keys(), means.values(), color=colour, marker=marker, markersize=8, markeredgecolor="white")
    axes.grid(color=FAINT)
    return means
