"""Figures of lesson 13, who should write the pairs, and of 14: what judges ask for, and the price on other text."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from prefcourse.comparison.frontier import fit_gain
from prefcourse.finite import counted
from prefcourse.plots.failures import Paths, _lines
from prefcourse.plots.style import (
    BLUE,
    GAIN,
    GREY,
    INK,
    KL_LABEL,
    LINES,
    LOOKS,
    METHODS,
    ORANGE,
    REFERENCE,
    SKY,
    STYLE,
    Ends,
    _headline,
    _interval,
    _percent,
    _root_axis,
    title_of,
)

PRICE = "price on held-out text (nats per token)"
SHOWN = [*METHODS[1:], (SKY, "X"), (ORANGE, "h")]  # of what is shown beside DPO


def _looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method; DPO and DPO + NLL have their own in the whole course."""
    methods = list(methods)
    titles = {name: title_of(name) for name in LOOKS} | {"sft": "SFT"}  # the start; more of it has no look of its own
    own = {title: LOOKS[name][:2] for name, title in titles.items() if title in methods}
    others = (look for look in SHOWN if look[0] not in {colour for colour, _ in own.values()})
    return {name: own.get(name) or next(others) for name in methods}


def sampler_regret(
    betas: Sequence[float], regrets: Mapping[str, Sequence[float]], shares: Mapping[str, Sequence[float]]
) -> Figure:
    """Left: regret times the number of labels, nats, against β. Right: the share of drawn pairs whose texts differ.

    regrets and shares: who writes the pairs → one number for each β. The first is the one that others are compared to.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.3))
        looks = list(zip([*METHODS[:3], (GREY, "P")], LINES[:4], strict=True))
        for axes, lines in ((left, regrets), (right, shares)):
            for (name, values), ((colour, marker), line) in zip(lines.items(), looks, strict=False):
                axes.plot(betas, values, color=colour, marker=marker, linestyle=line, markersize=7, label=name,
                          markevery=max(1, len(betas) // 8), markeredgecolor="white")  # fmt: skip
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("β (nats of reward per nat of KL)")
        first, other = list(regrets)[:2]
        times = np.array(regrets[first], float) / np.array(regrets[other], float)
        left.set_title(f"{first.capitalize()}: {times.min():.1f} to {times.max():.1f} times {other}'s labels")
        left.set_ylabel("regret × labels (nats)")
        left.legend(loc="best")
        right.set_title("But a sharp writer repeats itself")
        right.set_ylabel("drawn pairs with two different texts")
        _percent(right.yaxis)
        right.set_ylim(-0.03, 1.02)
    return fig


def online_frontier(paths: Paths, *, labels: int, title: str, kl: float | None = None) -> Figure:
    """Gain in gold reward against KL, and against the labels spent: pale lines are seeds, bold ones their means.

    paths: arm → one path a seed, points with step, kl and gain. labels: how many one step takes. kl: where its axis
    ends, by the root; a run that goes further leaves the panel.
    """
    spent = {
        arm: [[{**p, "labels": p["step"] * labels} for p in path] for path in seeds] for arm, seeds in paths.items()
    }
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.7))
        _lines(left, spent, "gain", x="kl")
        _lines(right, spent, "gain", x="labels")
        for axes in (left, right):
            axes.axhline(0, **REFERENCE, zorder=1)
        points = [p for seeds in paths.values() for path in seeds for p in path]
        far = kl or 1.02 * max(p["kl"] for p in points)
        _root_axis(left.xaxis, far)
        left.set_ylim(top=1.15 * max(p["gain"] for p in points if p["kl"] <= far))
        right.set_xlim(left=0)
        left.set_xlabel(KL_LABEL + ", by its root")
        left.set_ylabel(GAIN)
        left.set_title("What a nat of KL buys (pale: seeds, bold: means)")
        right.set_xlabel("labels spent")
        right.set_ylabel(GAIN)
        right.set_title("What a label buys")
        right.legend(loc="upper left")
        _headline(fig, title)
    return fig


def what_labels_ask(effects: Mapping[str, Ends], on: Sequence[str], *, title: str, reach: float = 1.0) -> Figure:
    """By how much the chosen texts exceed the rejected ones in each property, in standard deviations of that property.

    effects: property → value, low, high. on: the properties that the judge looks at; the others are drawn hollow. The
    axis goes to ±`reach`, so that two figures can be compared, or further where an interval does.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        fig, axes = plt.subplots(figsize=(7.6, 1.5 + 0.42 * len(effects)))
        axes.axvline(0, **REFERENCE)
        for y, (name, (value, low, high)) in enumerate(effects.items()):
            judged = name in on
            colour = BLUE if judged else GREY
            axes.plot([low, high], [y, y], color=colour, linewidth=1.8)
            axes.plot(value, y, marker="o", markersize=9, color=colour, markerfacecolor=BLUE if judged else "white")
        axes.set_yticks(
            range(len(effects)), [name + (" (judged)" if name in on else "") for name in effects]
        )  # fmt: skip
        axes.invert_yaxis()
        reach = max([reach, *(1.05 * abs(end) for _, *ends in effects.values() for end in ends)])
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(
            "chosen − rejected (standard deviations)\nfilled: what the judge looks at; open: what comes along"
        )
        axes.set_title(title)
    return fig


def feedback_effects(
    table: Mapping[str, Mapping[str, Sequence[float]]], *, units: Mapping[str, str], title: str
) -> Figure:
    """What runs with different judges changed, against SFT: a panel for each property, a row for each judge.

    table: property → judge → value, low, high, and then one number a seed, drawn pale. units: property → its axis.
    """
    order, rows = list(next(iter(table.values()))), -(-len(table) // 2)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x", "axes.titlesize": 10.5}):
        fig, panels = plt.subplots(
            rows, min(2, len(table)), figsize=(10.8, 0.9 + rows * (1.1 + 0.3 * len(order))), sharey=True, squeeze=False
        )
        for axes, (name, found) in zip(panels.flat, table.items(), strict=False):
            axes.axvline(0, **REFERENCE)
            for y, judge in enumerate(order):
                value, low, high, *seeds = found[judge]
                axes.plot(seeds, [y] * len(seeds), color=GREY, marker="o", markersize=5, alpha=0.5, linestyle="none")
                _interval(axes, y, value, low, high)
            axes.set_title(name)
            axes.set_xlabel(units[name], fontsize=9.5)
            axes.margins(x=0.15)
        for axes in list(panels.flat)[len(table) :]:
            axes.set_visible(False)
        panels[0][0].set_yticks(range(len(order)), order)
        panels[0][0].invert_yaxis()
        key = "bars: 95 % intervals over seeds (blue: above 0, orange: below, black: hold 0), pale dots: seeds"
        fig.supxlabel(f"change against SFT; {key}", fontsize=9.5, color=GREY)
        _headline(fig, title)
    return fig


def price_by_third(
    runs: Mapping[str, Sequence[tuple[float, float]]], thirds: Mapping[str, Sequence[float]], *, title: str
) -> Figure:
    """Left: what methods gained and their price on held-out text, a dot a run. Right: the price by kind of text.

    runs: method → (gain in nats, price in nats per token) of each seed. thirds: method → mean price of the negative,
    neutral, positive third.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.9), width_ratios=(1.2, 1))
        looks = _looks(runs)
        for method, points in runs.items():
            (colour, marker), points = looks[method], np.array(points, float)
            x, y = points.mean(0)
            left.plot(*points.T, color=colour, marker=marker, linestyle="none", markersize=4.5, alpha=0.45)
            left.plot(x, y, color=colour, marker=marker, markersize=10, markeredgecolor="white", zorder=3)
        left.axhline(0, **REFERENCE, zorder=1)
        left.margins(0.13)
        left.set_xlabel(GAIN)
        left.set_ylabel(PRICE)
        left.set_title("Gain and price, a small dot for each seed")
        for method, values in thirds.items():
            colour, marker = looks[method]
            right.plot(range(3), values, color=colour, marker=marker, markersize=8, markeredgecolor="white",
                       label=method, linewidth=1.6)  # fmt: skip
        right.axhline(0, **REFERENCE, zorder=1)
        right.set_xticks(range(3), ["negative", "neutral", "positive"])
        right.margins(x=0.15)
        right.set_xlabel("third of the held-out texts, by gold reward")
        falls = [method for method, values in thirds.items() if values[0] > values[-1]]
        right.set_title(f"Negative texts pay most: {len(falls)} of {counted(len(thirds), 'method')}")
        fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        _headline(fig, title)
    return fig


def averages_at_kl(
    ends: Mapping[str, Sequence[tuple[float, float, float]]], sweep: Sequence[tuple[float, float]],
    shares: Mapping[float, tuple[float, float, float]], *, kl: float, title: str,
) -> Figure:  # fmt: skip
    """Left: gain against KL, with DPO's own runs at every β behind. Right: the price on other text against KL.

    ends: method → (KL, gain, price) of each seed. sweep: (KL, gain) of the runs behind, which the grey line is fitted
    to. shares: share w of the policy's weights → (KL, gain, price) of that average, drawn as one line; with none there
    is no line. kl: where its axis ends, by the root; what goes further leaves the panel.
    """
    near = np.array([point for point in sweep if point[0] <= kl], float)
    a, b = fit_gain(near.tolist())
    grid, path = np.linspace(0, kl, 100), np.array([point for _, point in sorted(shares.items())], float).reshape(-1, 3)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.9))
        left.plot(*near.T, color=GREY, marker=".", markersize=5, alpha=0.4, linestyle="none")
        left.plot(grid, a * np.sqrt(grid) - b * grid, color=GREY, label="DPO at every β: runs, and a curve")
        looks = _looks(ends)
        for column, axes in ((1, left), (2, right)):
            axes.plot(path[:, 0], path[:, column], color=INK, linestyle="--", linewidth=1.4, zorder=2,
                      label="one run, averaged with SFT" if shares else None)  # fmt: skip
            for share, point in shares.items():
                axes.annotate(f"w = {share:g}", (point[0], point[column]), (-5, 5), textcoords="offset points",
                              ha="right", color=INK, fontsize=8.5, annotation_clip=True)  # fmt: skip
            axes.plot(path[:, 0], path[:, column], color=INK, marker="|", markersize=9, linestyle="none", zorder=2)
            for method, points in ends.items():
                (colour, marker), points = looks[method], np.array(points, float)
                axes.plot(points[:, 0], points[:, column], color=colour, marker=marker, linestyle="none", zorder=3,
                          markersize=7, markeredgecolor="white", label=method)  # fmt: skip
            axes.axhline(0, **REFERENCE, zorder=1)
            _root_axis(axes.xaxis, kl)
            axes.set_xlabel(KL_LABEL + ", by its root")
        left.set_ylim(top=1.15 * max([*near[:, 1], *(p[1] for points in ends.values() for p in points if p[0] <= kl)]))
        left.set_ylabel(GAIN)
        left.set_title("What a nat of KL buys, a marker for each seed")
        right.set_ylim(top=1.15 * max(p[2] for points in ends.values() for p in points if p[0] <= kl))
        right.set_ylabel(PRICE)
        right.set_title("What it costs on other text")
        fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        _headline(fig, title)
    return fig
