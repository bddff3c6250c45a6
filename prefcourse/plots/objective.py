"""Figures of the RLHF objective on the exactly solvable world (lesson 02)."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefcourse.plots.style import (
    GREEN,
    GREY,
    INK,
    METHODS,
    REFERENCE,
    STYLE,
)

TERRAIN = mpl.colors.LinearSegmentedColormap.from_list("terrain", ["#4B7AA3", "#A5C4D6", "#E6ECDC", "#FAE29C"])
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])  # of the simplex, as points of the page


def simplex_landscapes(panels: Sequence[Mapping], names: Sequence[str], reference: Sequence[float]) -> Figure:
    """Heights above the triangle of all policies over three responses, one map per panel; light is high.

    A panel is a dict with `title`, `height` (a function from policies (N, 3) to (N,)), and optionally `best` (the
    highest policy, a star), `path` (policies (K, 3), a line), `marks` (label -> policy, dots on that line) and `names`
    (its own texts for the corners).
    """
    with mpl.rc_context({**STYLE, "axes.titlelocation": "center"}):
        size = (3.1 * len(panels), 3.3) if len(panels) > 1 else (5.2, 5.0)
        fig, row = plt.subplots(1, len(panels), figsize=size, squeeze=False)
        fig.get_layout_engine().set(w_pad=0.05, h_pad=0.12)
        for axes, panel in zip(row[0], panels, strict=True):
            _simplex(axes, panel, panel.get("names", names), np.asarray(reference, dtype=float))
    return fig


def _simplex(axes, panel: Mapping, names: Sequence[str], reference: np.ndarray) -> None:
    n = 80
    grid = np.array([(n - i - j, i, j) for i in range(n + 1) for j in range(n + 1 - i)]) / n  # (N, 3)
    x, y = (grid @ CORNERS).T
    height = np.asarray(panel["height"](grid), dtype=float)
    levels = MaxNLocator(9).tick_values(height.min(), height.max())
    axes.tricontourf(x, y, height, levels=levels, cmap=TERRAIN)
    lines = axes.tricontour(x, y, height, levels=levels, colors="white", linewidths=1.0, linestyles="solid")
    crowded = [reference[None], *(np.atleast_2d(panel[key]) for key in ("path", "best") if key in panel)]
    crowded = np.concatenate(crowded) @ CORNERS  # where no number may stand, (C, 2)
    places = []
    for line in lines.get_paths()[1:-1:2]:
        if len(points := line.vertices):
            edge = np.linalg.solve(np.c_[CORNERS, np.ones(3)].T, np.c_[points, np.ones(len(points))].T).min(axis=0)
            free = np.linalg.norm(points[:, None] - crowded, axis=-1).min(axis=-1)
            room = np.minimum(1.6 * edge, free)  # (points,)
            if room.max() > 0.08:
                places.append(tuple(points[room.argmax()]))
    # All levels are offered: with a choice of levels, `manual` fails in matplotlib 3.10, which is Colab's.
    axes.clabel(lines, manual=places, fontsize=8, colors=INK, inline_spacing=2)
    axes.plot(*CORNERS[[0, 1, 2, 0]].T, color=GREY, linewidth=1.0, zorder=3, clip_on=False)
    halo = [mpl.patheffects.withStroke(linewidth=3, foreground="white")]
    if "path" in panel:
        axes.plot(*(np.asarray(panel["path"]) @ CORNERS).T, color=INK, linewidth=2, path_effects=halo, zorder=4)
    for label, policy in panel.get("marks", {}).items():
        point = np.asarray(policy) @ CORNERS
        axes.plot(*point, "o", color=INK, markersize=6.5, markeredgecolor="white", zorder=5, clip_on=False)
        axes.annotate(
            label, point, xytext=(8, -9), textcoords="offset points", fontsize=8.5, path_effects=halo, zorder=6
        )
    axes.plot(*(reference @ CORNERS), "s", color=GREY, markersize=8, markeredgecolor="white", zorder=5)
    axes.annotate(
        r"$\pi_{\mathrm{ref}}$", reference @ CORNERS, xytext=(-7, -4), textcoords="offset points", ha="right", va="top",
        path_effects=halo, zorder=6,
    )  # fmt: skip
    if "best" in panel:
        best = np.asarray(panel["best"]) @ CORNERS
        axes.plot(*best, "*", color=GREEN, markersize=15, markeredgecolor="white", zorder=7, clip_on=False)
    for name, corner, (dy, va) in zip(names, CORNERS, ((-0.05, "top"), (-0.05, "top"), (0.04, "bottom")), strict=True):
        axes.text(corner[0], corner[1] + dy, name, ha="center", va=va, fontsize=9.5)
    axes.set_title(panel["title"], pad=8)
    axes.set_xlim(-0.06, 1.06)
    lines = max(name.count("\n") for name in names)
    axes.set_ylim(-0.16 - 0.08 * lines, 1.0 + 0.09 * lines)
    axes.set_aspect("equal")
    axes.axis("off")


def price_of_a_nat(
    frontier: np.ndarray, marks: Mapping[float, tuple[float, float]], cloud: np.ndarray, *, title: str
) -> Figure:
    """Random policies as dots (N, 2), the best policies as a curve (K, 2), and its slope at some β.

    Points are (KL, expected reward). `marks` maps β to the point of π_β; the line through it has the slope β.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.0, 4.5))
        axes.scatter(*cloud.T, s=8, color="#B9DDF3", linewidths=0, zorder=1)
        axes.plot(*frontier.T, color=INK, zorder=3)
        for (beta, (x, y)), (colour, marker) in zip(marks.items(), METHODS, strict=False):
            run = 0.42 / math.sqrt(1 + beta**2)
            axes.plot([x - run, x + run], [y - beta * run, y + beta * run], color=colour, linewidth=2.2, zorder=4)
            axes.plot(x, y, marker, color=colour, markersize=10, markeredgecolor="white", zorder=5)
            axes.annotate(
                rf"$\beta$ = {beta:g}: slope {beta:g} a nat", (x, y), xytext=(12, -13),
                textcoords="offset points", zorder=6, bbox=dict(facecolor="white", edgecolor="none", pad=1, alpha=0.85),
            )  # fmt: skip
        for text, (x, y), offset, ha in (
            (r"$\pi_{\mathrm{ref}}$", frontier[0], (8, -14), "left"),
            ("all on the best response", frontier[-1], (0, 9), "right"),
        ):
            axes.plot(x, y, "s", color=GREY, markersize=8, markeredgecolor="white", zorder=5, clip_on=False)
            axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", ha=ha, color=INK, zorder=6)
        axes.set_xlim(0, frontier[:, 0].max() * 1.04)
        axes.set_ylim(cloud[:, 1].min() - 0.1, frontier[:, 1].max() + 0.3)
        axes.set_title(title)
        axes.set_xlabel(r"KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ (nats)")
        axes.set_ylabel(r"expected reward E$_\pi[r]$")
    return fig


def estimator_spread(kl: Sequence[float], spread: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Standard deviation (nats) of one sample of each KL estimator, against the KL that it estimates (nats)."""
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.0, 3.8))
        kl = np.asarray(kl, dtype=float)
        marked = [int(np.abs(kl - at).argmin()) for at in np.linspace(kl.min(), kl.max(), 8)[1:-1]]
        for (name, values), (colour, marker), line in zip(spread.items(), METHODS, ("-", "--", "-."), strict=False):
            axes.plot(
                kl, values, label=name, color=colour, linestyle=line, marker=marker, markevery=marked, markersize=7.5,
                markeredgecolor="white",
            )  # fmt: skip
        axes.plot(kl, kl, **REFERENCE, label="the KL itself")
        axes.set_yscale("log")
        axes.set_xlim(kl.min(), kl.max())
        axes.set_title(title)
        axes.set_xlabel(r"KL$(\pi_\beta\,\|\,\pi_{\mathrm{ref}})$ (nats)")
        axes.set_ylabel("standard deviation\nof one sample (nats)")
        axes.legend(loc="upper left")
    return fig
