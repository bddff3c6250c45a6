"""Figures of reward against KL: DPO by β (lesson 08), the frontier of all methods and their gains at equal KL (09)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from prefcourse.comparison.equal_kl import Row
from prefcourse.comparison.frontier import fit_gain
from prefcourse.plots.style import (
    BLUE,
    FAINT,
    GAIN,
    GREY,
    INK,
    KL_LABEL,
    ORANGE,
    REFERENCE,
    STYLE,
    Ends,
    _headline,
    _root_axis,
    title_of,
)

Curve = Mapping[int, Sequence[tuple[float, float]]]  # seed → (kl, gain), by KL
VERDICTS = {  # colour, marker, and how to read them
    "above": (BLUE, "o", "blue: above"),
    "below": (ORANGE, "X", "orange: below"),
    "the same": (INK, "D", "black: the same, to within the shading"),
    "not told apart": (GREY, "o", "grey: not told apart"),
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


def beta_paths(
    paths: Mapping[float, Sequence[Sequence[Mapping]]], *, title: str, name: str = "β", kl: float | None = None,
    yardsticks: Mapping[str, Sequence[Mapping]] = MappingProxyType({}), gain: str = GAIN,
) -> Figure:  # fmt: skip
    """Runs at several β: gain against KL, with yardsticks such as best-of-n, and KL against the step.

    paths: β (or what `name` says) → for each seed the points of its run, dicts with step, kl and gain. Pale lines are
    seeds, bold ones their means. yardsticks: name → points with kl and gain. gain: what its axis says. KL axes go by
    √KL, to `kl` or to the furthest point.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.8), width_ratios=(1.25, 1))
        colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.6, len(paths)))  # further on it is too pale on white
        far = kl or max(p["kl"] for seeds in paths.values() for seed in seeds for p in seed)
        for (value, seeds), colour, marker in zip(paths.items(), colours, MARKERS, strict=False):
            step, x, y = (np.array([[p[key] for p in seed] for seed in seeds], float) for key in ("step", "kl", "gain"))
            for axes, across, up in ((left, x, y), (right, step, x)):
                axes.plot(across.T, up.T, color=colour, linewidth=0.9, alpha=0.4)
                axes.plot(across.mean(0), up.mean(0), color=colour, marker=marker, markersize=7, linewidth=1.8,
                          markeredgecolor="white", label=f"{name} {value:g}", zorder=3,
                          clip_on=bool((x.mean(0) > far).any()))  # a marker at the edge is not cut  # fmt: skip
        for (label, points), (colour, line) in zip(yardsticks.items(), ((ORANGE, "--"), (INK, ":")), strict=False):
            left.plot([p["kl"] for p in points], [p["gain"] for p in points], color=colour, linestyle=line,
                      linewidth=2, label=label, zorder=2)  # fmt: skip
        left.axhline(0, **REFERENCE, zorder=1)
        _root_axis(left.xaxis, far)
        _root_axis(right.yaxis, far)
        left.set_xlabel(KL_LABEL + ", by its root")
        left.set_ylabel(gain)
        several = max(map(len, paths.values())) > 1
        left.set_title("What a nat of KL buys" + (" (pale: seeds, bold: means)" if several else ""))
        right.set_xlabel("training step")
        right.set_ylabel(KL_LABEL.replace(" (nats", "\n(nats") + ", by its root")
        right.set_title("How far a run goes")
        fig.legend(
            *left.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(paths) + len(yardsticks), 5)
        )
        _headline(fig, title)
    return fig


def frontier_panels(
    ends: Mapping[str, Sequence[tuple[float, Ends]]], curves: Mapping[str, Curve], *, title: str, compare: str = "dpo",
    kl: float = 18.0, columns: int = 6,
) -> Figure:  # fmt: skip
    """One panel a method: its runs with intervals, its points on the way, and what `compare` gains, as a grey line.

    ends: method → (kl, gain with its 95 % interval over prompts) of every run. curves: method → seed → (kl, gain), the
    points on the way included. The line is gain = d (a - b d), d = √KL, fitted to all points of `compare` inside the
    axes. Every panel has the same axes, KL by its root; a run beyond `kl` or below -1.2 stands
    at the edge, as a triangle.
    """
    every = [gain for runs in ends.values() for _, gain in runs]
    low, high = max(min(min(g[1] for g in every), 0) - 0.1, -1.2), max(g[2] for g in every) + 0.1
    rows, grid = -(-len(ends) // columns), np.linspace(0, kl, 100)
    a, b = fit_gain([point for points in curves[compare].values() for point in points if point[0] <= kl])
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titlesize": 10.5, "axes.titlepad": 5}):
        fig, panels = plt.subplots(
            rows, columns, figsize=(11.7, 0.9 + 1.95 * rows), sharex=True, sharey=True, squeeze=False
        )
        for axes, (method, runs) in zip(panels.flat, ends.items(), strict=False):
            colour = BLUE if method == compare else ORANGE
            axes.patch.set_visible(False)  # it would cut the triangles of the panel to the left
            axes.axhline(0, **REFERENCE, zorder=1)
            axes.plot(grid, a * np.sqrt(grid) - b * grid, color=GREY, linewidth=1.6, zorder=1)
            for points in curves.get(method, {}).values():
                x, y = np.array(points, dtype=float).T
                axes.plot(x, y, color=colour, linestyle="none", marker="o", markersize=3.5, alpha=0.45, zorder=2)
            for x, (value, bottom, top) in runs:
                bar = [[value - bottom], [top - value]] if value >= low else None
                axes.errorbar(min(x, kl), max(value, low), bar, color=colour, markersize=6, markeredgecolor="white",
                              marker=">" if x > kl else "o" if bar else "v", elinewidth=1, clip_on=False,
                              zorder=4)  # fmt: skip
            axes.set_title(title_of(method))
            _root_axis(axes.xaxis, kl, gap=0.2)
        for axes in list(panels.flat)[len(ends) :]:
            axes.set_visible(False)
        panels[0, 0].set_ylim(low, high)
        reading = (
            f"grey: the curve fitted to {title_of(compare)}; bars: 95 % intervals over prompts; pale: on the way; "
            "triangles: beyond"
        )
        fig.supxlabel(f"{KL_LABEL}, by its root\n{reading} {kl:g} nats", fontsize=10)
        fig.supylabel(GAIN, fontsize=10.5)
        _headline(fig, title)
    return fig


def gains_at_kl(rows: Mapping[tuple[str, float], Row], *, margin: float, title: str, label: str) -> Figure:
    """What each method gains over another at the same KL, and what may be said: a panel a KL, methods in one order.

    rows: (method, kl) → a row of `equal_kl.forest`; a method without points on both sides of a KL has none there, and
    the panel says so. margin: within which two are called the same; it is shaded. Methods stand in the order of the
    first panel, then of the next ones. Blue is above and orange below by Holm's rule, black the same, grey not told
    apart; the line below says which of them occur. A wide interval runs out of its panel.
    """
    kls, order = sorted({kl for _, kl in rows}), []
    for kl in kls:
        found = sorted((-row.at.square_root.value, name) for (name, at), row in rows.items() if at == kl)
        order += [name for _, name in found if name not in order]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x", "axes.titleweight": "normal"}):
        fig, panels = plt.subplots(
            1, len(kls), figsize=(10.8, 1.5 + 0.27 * len(order)), sharey=True, sharex=True, squeeze=False
        )
        for axes, kl in zip(panels[0], kls, strict=True):
            axes.axvspan(-margin, margin, color=FAINT, alpha=0.35, linewidth=0, zorder=0)
            axes.axvline(0, **REFERENCE)
            for y, name in enumerate(order):
                if (name, kl) in rows:
                    _verdict(axes, y, rows[name, kl])
                else:
                    axes.annotate(
                        "none", (0, y), (4, 0), textcoords="offset points", va="center", color=GREY, fontsize=8.5
                    )
            axes.set_title(f"at {kl:g} nats")
        panels[0][0].set_yticks(range(len(order)), [title_of(name) for name in order])
        panels[0][0].set_ylim(len(order) - 0.5, -0.5)
        values = [row.at.square_root.value for row in rows.values()]
        panels[0][0].set_xlim(min(*values, -margin) - 0.2, max(*values, margin) + 0.2)
        seen = {_kind(row) for row in rows.values()}
        reading = ["95 % intervals", *(words for kind, (*_, words) in VERDICTS.items() if kind in seen)]
        reading += ["none: no points on both sides"] if len(rows) < len(order) * len(kls) else []
        fig.supxlabel(f"{label}\n{' · '.join(reading)}", fontsize=10)
        _headline(fig, title)
    return fig


def _kind(row: Row) -> str:
    """Which of VERDICTS holds for a row of a forest."""
    if row.says == "differs":
        return "above" if row.at.square_root.value > 0 else "below"
    return "the same" if row.says == "the same" else "not told apart"


def _verdict(axes, y: float, row: Row) -> None:
    """A row of a forest at height `y`; colour and marker say what may be said of it."""
    at, (colour, marker, _) = row.at.square_root, VERDICTS[_kind(row)]
    axes.plot(at.value, y, color=colour, marker=marker, markersize=6.5, markeredgecolor="white")
    axes.plot([at.low, at.high], [y, y], color=colour, linewidth=1.4, marker="|", markersize=8)


def kl_against_beta(panels: Mapping[str, Mapping[str, Mapping[float, Ends]]], *, title: str) -> Figure:
    """KL against β on logarithmic axes: what β does in a run that is short, long, or at its optimum.

    panels: heading → name of a curve → β → KL with the ends of its interval (three equal numbers: no interval). All
    must be above 0. Each panel has its own axes.
    """
    looks = [(GREY, "o", ":"), (BLUE, "s", "--"), (ORANGE, "^", "-"), (INK, "D", "-.")]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, row = plt.subplots(1, len(panels), figsize=(1.2 + 4.8 * len(panels), 4.6), squeeze=False)
        for axes, (heading, found) in zip(row[0], panels.items(), strict=True):
            for (name, by_beta), (colour, marker, line) in zip(found.items(), looks, strict=False):
                betas = sorted(by_beta)
                value, low, high = np.array([by_beta[b] for b in betas], dtype=float).T
                axes.fill_between(betas, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(betas, value, color=colour, marker=marker, linestyle=line, linewidth=1.8, markersize=7,
                          markeredgecolor="white", label=name)  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("β (logarithmic)")
            axes.set_title(heading)
            axes.legend(loc="best")
        row[0][0].set_ylabel(KL_LABEL)
        _headline(fig, title)
    return fig
