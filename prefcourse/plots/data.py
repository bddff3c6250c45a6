"""Figures about preference data (lesson 01): agreement, panels, noise, how many pairs, diversity.

Several show runs over seeds: `values` maps a setting to one number per seed, as `results.column` returns it. Each seed
is a pale dot, the line runs through the means, and the bars are the 95 % intervals of `seed_means`.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from prefcourse.finite import counted, number, numbers
from prefcourse.plots.style import (
    GREEN,
    GREY,
    INK,
    KL_LABEL,
    METHODS,
    PURPLE,
    REFERENCE,
    STYLE,
    _percent,
    _write_labels,
)

BAND = "#DCEBF5"  # a pale SKY
WIN_RATE = "win rate against SFT"


# ------------------------------------------------------------------------------------------------ annotators


def agreement_and_accuracy(points: Sequence[tuple], *, at: float = 0.65) -> Figure:
    """What a perfect model can reach (y) where two like annotators agree on a share of the pairs (x): a band.

    points: (agreement, accuracy) or (agreement, accuracy, label) of worlds in which both are known.
    The band's edges are exact, see `agreement.accuracy_bounds`; the title reads them at the agreement `at`.
    """
    at = number("at", at, least=0.5, most=1)
    x = 0.5 + 0.5 * np.linspace(0, 1, 201) ** 2  # dense where the edge is steep
    top = (1 + np.sqrt(2 * x - 1)) / 2
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.4, 4.8))
        axes.fill_between(x, x, top, color=BAND, linewidth=0)
        axes.plot(x, top, color=INK, linewidth=1.6)
        axes.plot(x, x, color=INK, linewidth=1.6, linestyle="--")
        near = dict(textcoords="offset points", fontsize=9.5, color=INK)
        axes.annotate("every pair equally hard", (0.8, (1 + math.sqrt(0.6)) / 2), (-8, 6), ha="right", **near)
        axes.annotate("each pair sure or a toss-up", (0.8, 0.8), (8, -8), va="top", **near)
        best = (1 + math.sqrt(2 * at - 1)) / 2
        axes.plot([at, at], [0.5, best], **REFERENCE)
        for y in (at, best):
            axes.plot([0.5, at], [y, y], **REFERENCE)
            axes.annotate(f"{y:.0%}", (0.5, y), (4, 3), color=GREY, fontsize=9.5, textcoords="offset points")
        dots = np.array([point[:2] for point in points], dtype=float).reshape(-1, 2)
        if len(dots):
            axes.plot(*dots.T, "o", color=GREEN, markersize=8, markeredgecolor="white", clip_on=False, zorder=4)
        axes.set_title(f"Where two agree on {at:.0%}, a perfect model is right on {at:.0%} to {best:.0%}")
        axes.set(xlim=(0.5, 1), ylim=(0.5, 1.005))
        _percent(axes.xaxis, axes.yaxis)
        axes.set_xlabel("share of pairs on which two annotators agree")
        axes.set_ylabel("accuracy of a perfect model on one label")
        names = [(*point[:2], point[2]) for point in points if len(point) > 2]
        guides = [
            np.array([[at, 0.5], [at, best]]),
            np.array([[0.5, at], [at, at]]),
            np.array([[0.5, best], [at, best]]),
        ]
        _write_labels(axes, names, [np.stack([x, top], -1), np.stack([x, x], -1), *guides, *dots[:, None]])
    return fig


def majority_by_panel(
    sizes: Sequence[int], right: Mapping[str, Sequence[float]], *, expected: Mapping[str, Sequence[float]] | None = None
) -> Figure:
    """How often the majority picks the better text against the number of annotators; a curve for each kind of them.

    right: kind → a share for each size. expected: kind → what the formula says, drawn as a line; then `right` are dots.
    """
    expected = expected or {}
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.6))
        for (name, values), (colour, marker) in zip(right.items(), METHODS, strict=False):
            line = dict(color=colour, marker=marker, markersize=8, markeredgecolor="white", label=name, clip_on=False)
            axes.plot(sizes, values, linestyle="none" if name in expected else "-", zorder=3, **line)
            if name in expected:
                axes.plot(sizes, expected[name], color=colour, linewidth=1.6)
        name, values = next(iter(right.items()))
        axes.set_title(f"{_capital(name)}: {values[0]:.0%} right alone, {values[-1]:.0%} as a majority of {sizes[-1]}")
        axes.axhline(0.5, **REFERENCE)
        lowest = min([0.5, *(min(some) for some in right.values())])
        axes.set(xlim=(0, max(sizes) * 1.02), ylim=(lowest - 0.01, 1))
        axes.set_xticks(sizes)
        _percent(axes.yaxis)
        axes.set_xlabel("annotators for each pair")
        axes.set_ylabel("majority picks the better text")
        axes.legend(loc="upper left", ncols=2) if max(map(max, right.values())) < 0.86 else axes.legend(
            loc="lower right"
        )
    return fig


def panel_forecast(
    sizes: Sequence[int], right: Sequence[float], *, agreement: float, size: int, without: Sequence[float] | None = None
) -> Figure:
    """For sliders: what a panel of like annotators reaches at each size, with the chosen `size` marked.

    right: how often the majority is right for each of `sizes`; agreement: of two of them, both from
    `annotators.forecast`. without: the same curve for other annotators, to compare with, as a dotted line.
    Raises ValueError for a size that is none of `sizes`, and for shares outside 0 to 1.
    """
    if size not in list(sizes) or len(numbers("right", right, low=0, high=1)) != len(sizes):
        raise ValueError(f"size is {size}, of {list(sizes)}; allowed is one of these, and `right` for each of them")
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.2))
        if without is not None:
            axes.plot(sizes, without, label="annotators like the bundled labels", **REFERENCE)
        axes.plot(
            sizes, right, color=GREEN, marker="o", markersize=6, markeredgecolor="white", label="these annotators"
        )
        now = right[list(sizes).index(size)]
        axes.plot([size, size, 0], [0.45, now, now], color=INK, linewidth=1.2)
        axes.plot(size, now, "o", color=INK, markersize=10, markeredgecolor="white", zorder=4)
        axes.set_title(f"Two agree on {agreement:.0%}; the majority of {size} is right on {now:.0%}")
        axes.set(xlim=(0, max(sizes) * 1.02), ylim=(0.45, 1.0))
        axes.set_xticks(sizes)
        _percent(axes.yaxis)
        axes.set_xlabel("annotators for each pair")
        axes.set_ylabel("majority picks the better text")
        axes.legend(loc="upper left")
    return fig


# ------------------------------------------------------------------------------------------------ runs over seeds


def seed_means(values: Mapping[float, Sequence[float]]) -> dict[float, tuple[float, float, float]]:
    """The mean over seeds of each setting with its 95 % interval: setting → (mean, low, high).

    Student's t, with the variance pooled over the settings: three seeds alone say little about their own spread. With
    one seed for each setting there is no interval: low and high are nan. Raises ValueError unless all are finite.
    """
    values = {number("a setting", x): numbers(f"the values at {x}", seeds).numpy() for x, seeds in values.items()}
    free = sum(len(seeds) - 1 for seeds in values.values())
    spread = sum(((np.asarray(seeds) - np.mean(seeds)) ** 2).sum() for seeds in values.values())
    half = _student(free) * math.sqrt(spread / free) if free else math.nan
    found = {}
    for x in sorted(values):
        mean, error = float(np.mean(values[x])), half / math.sqrt(len(values[x]))
        found[x] = (mean, mean - error, mean + error)
    return found


def noise_and_win_rate(values: Mapping[float, Sequence[float]]) -> Figure:
    """Win rate of the trained policy against the share of labels turned round."""
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.6))
        means = _seeds(axes, values, *METHODS[0])
        (few, first), *_, (many, last) = means.items()
        _no_better(axes, means)
        axes.set_title(f"Win rate {first[0]:.0%} with {few:.0%} of the labels turned, {last[0]:.0%} with {many:.0%}")
        axes.set_xticks(sorted(values))
        _percent(axes.xaxis, axes.yaxis)
        axes.set_xlabel("share of labels turned round at random")
        axes.set_ylabel(WIN_RATE)
    return fig


def pairs_needed(
    values: Mapping[int, Sequence[float]], kl: Mapping[int, Sequence[float]] | None = None, *,
    target: float | None = None, enough: int | None = None, doubling: float | None = None,
) -> Figure:  # fmt: skip
    """Win rate of the trained policy against the number of pairs, on a logarithmic axis; with `kl` its KL beside it.

    The KL comes without intervals: its spread over seeds differs too much between the settings to be pooled.
    target: a win rate to reach, as a line; then `enough`, the number of pairs that reaches it, is marked and stands in
    the title, None for "none does". doubling: the slope of a line through all runs, in win rate per doubling of pairs.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(1, 1 if kl is None else 2, figsize=_size(kl), squeeze=False)
        left, right = panels[0, 0], panels[0, -1]
        means = _seeds(left, values, *METHODS[0])
        (few, first), *_, (many, last) = means.items()
        _no_better(left, means)
        left.set_title(f"Win rate {first[0]:.0%} with {counted(few, 'pair')}, {last[0]:.0%} with {many:,}")
        left.set_ylabel(WIN_RATE)
        if doubling is not None:
            x, y = np.array([(math.log2(n), win) for n, wins in values.items() for win in wins]).T
            at = np.array([few, many])
            line = dict(color=PURPLE, linewidth=1.6, zorder=2, label=f"{doubling:+.3f} for each doubling")
            left.plot(at, y.mean() + doubling * (np.log2(at) - x.mean()), "--", **line)
        if target is not None:
            found = f"from {counted(enough, 'pair')} on" if enough else f"at no size up to {counted(many, 'pair')}"
            left.set_title(f"The whole interval is above {target:.0%} {found}")
            left.axhline(target, color=INK, linewidth=1.2, label=f"target {target:.0%}")
        if enough is not None:
            left.plot(enough, means[enough][0], "o", color="none", markersize=17, markeredgecolor=INK, zorder=4)
        if target is not None or doubling is not None:
            left.legend(loc="upper left")
        _percent(left.yaxis)
        if kl is not None:
            (_, first), *_, (_, last) = _seeds(right, kl, *METHODS[1], bars=False).items()
            right.set_title(f"KL {first[0]:.1f} nats with {counted(few, 'pair')}, {last[0]:.1f} with {many:,}")
            right.set_ylabel(KL_LABEL)
            right.set_ylim(bottom=0)
        for axes in panels.flat:
            axes.set_xscale("log")
            axes.set_xticks(sorted(values), [f"{n:,}" for n in sorted(values)])
            axes.xaxis.minorticks_off()
            axes.set_xlabel("different pairs (logarithmic)")
    return fig


def diversity_by_temperature(
    distinct: Mapping[float, Sequence[float]], different: Mapping[float, float],
    wins: Mapping[float, Sequence[float]] | None = None,
) -> Figure:  # fmt: skip
    """How varied responses are at each sampling temperature, and with `wins` what a policy trained on them is worth.

    distinct: temperature → (value, low, high) of distinct-2. different: temperature → share of the pairs whose two
    responses are different texts. wins: temperature → a win rate for each seed.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(1, 1 if wins is None else 2, figsize=_size(wins), squeeze=False)
        left, right = panels[0, 0], panels[0, -1]
        at = sorted(distinct)
        value, low, high = np.array([distinct[t] for t in at], dtype=float).T
        shares = [different[t] for t in at]
        look = dict(markersize=8, markeredgecolor="white")
        left.plot(at, shares, color=INK, marker="v", label="pairs of two different texts", **look)
        left.errorbar(
            at, value, [value - low, high - value], color=PURPLE, marker="s", elinewidth=1.4,
            label="distinct-2: new among neighbouring words", **look,
        )  # fmt: skip
        left.set_title(f"Same text twice: {1 - shares[0]:.0%} at {at[0]:g}, {1 - shares[-1]:.0%} at {at[-1]:g}")
        left.set_ylabel("share")
        left.set_ylim(min(low.min(), *shares) - 0.06, 1.005)
        left.legend(loc="lower right")
        if wins is not None:
            means = _seeds(right, wins, *METHODS[0])
            best = max(means, key=lambda t: means[t][0])
            _no_better(right, means)
            right.set_title(f"The highest mean, {means[best][0]:.0%}, at temperature {best:g}")
            right.set_ylabel(WIN_RATE)
        for axes in panels.flat:
            _percent(axes.yaxis)
            axes.set_xticks(at)
            axes.set_xlabel("sampling temperature")
    return fig


def _seeds(axes, values: Mapping[float, Sequence[float]], colour: str, marker: str, bars: bool = True) -> dict:
    """Pale dots for the seeds, beside a line through the means with their intervals; returns `seed_means`."""
    means = seed_means(values)
    beside = axes.transData + ScaledTranslation(-8 / 72, 0, axes.figure.dpi_scale_trans)
    for x, seeds in values.items():
        dots = dict(color=colour, alpha=0.45, markersize=5, markeredgewidth=0, transform=beside)
        axes.plot([x] * len(seeds), seeds, "o", **dots)
        axes.update_datalim([(x, seed) for seed in seeds])  # what is drawn beside its place does not count by itself
    mean, low, high = np.array(list(means.values())).T
    known = bars and np.isfinite(low).all()
    look = dict(color=colour, marker=marker, markersize=8.5, markeredgecolor="white", elinewidth=1.4, zorder=3)
    axes.errorbar(list(means), mean, [mean - low, high - mean] if known else None, **look)
    return means


def _no_better(axes, means: Mapping[float, Sequence[float]]) -> None:
    """The line at one half, and what it means, on the side where the curve is higher."""
    ends = [means[min(means)][0], means[max(means)][0]]
    x, side = (0, "left") if ends[0] > ends[1] else (1, "right")
    axes.axhline(0.5, **REFERENCE)
    axes.annotate(
        "no better than SFT", (x, 0.5), (4 if side == "left" else 0, 3), xycoords=("axes fraction", "data"), ha=side,
        textcoords="offset points", color=GREY, fontsize=9.5,
    )  # fmt: skip
    axes.set_ylim(bottom=min(axes.get_ylim()[0], 0.48))


def _size(second) -> tuple[float, float]:
    """Width and height of a figure with one panel, or with two where there is something for the second."""
    return (7.4, 4.6) if second is None else (10.4, 4.6)


def _student(free: int) -> float:
    """The 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5; within 0.3 % from four degrees of freedom)."""
    z = NormalDist().inv_cdf(0.975)
    return (
        (z + (z**3 + z) / (4 * free))
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
