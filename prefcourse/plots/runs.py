"""Figures of training runs: the curves of one, several side by side, and what a run did to the rewards."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefcourse.finite import counted
from prefcourse.plots.style import (
    AMBER,
    BLUE,
    CHOSEN,
    GREY,
    INK,
    KL_LABEL,
    METHODS,
    REFERENCE,
    REJECTED,
    STYLE,
    _bars,
    _column,
    _curve,
    _moves,
    _percent,
    _signed,
    _write_labels,
)
from prefcourse.terminal import TIED


def training_curves(history: Mapping[str, Sequence[float]], *, beta: float | None = None) -> Figure:
    """The four curves of a preference run: loss; margin and accuracy; log π of both completions; KL.

    `history` has the columns of `train`. With `beta`, log π is shown relative to the reference (implicit reward / β);
    without, relative to the first steps of the run. KL (nats) is drawn where the column `kl` holds a number, and the
    last panel shows the gradient norm in a run without it; so does that of the margin, where a loss has none. Columns
    `held_loss` and `held_margin`, from pairs that the run does not train on, are drawn as diamonds.
    """
    step = np.asarray(history["step"], dtype=float)
    with mpl.rc_context(STYLE):
        fig = plt.figure(figsize=(10.4, 7.2))
        grid = fig.add_gridspec(4, 2)
        loss, logps, kl = (fig.add_subplot(place) for place in (grid[:2, 0], grid[2:, 0], grid[2:, 1]))
        ranked = "rewards/accuracies" in history  # no pairs, no ranking
        rewards = np.isfinite(_column(history, "rewards/margins")).any() if "rewards/margins" in history else False
        margin = fig.add_subplot(grid[0, 1] if ranked else grid[:2, 1])
        known = np.isfinite(_column(history, "loss"))  # the last row may hold a measurement after the last step, alone
        trained = {name: _column(history, name)[known] for name in history}
        _loss_panel(loss, step[known], trained["loss"])
        if ranked:
            _margin_panels(margin, fig.add_subplot(grid[1, 1], sharex=margin), step[known], trained)
        elif rewards:
            end = _margin_panel(margin, *_known(step[known], trained["rewards/margins"]))
            margin.set_title(f"The margin ends at {_signed(end, 1, plus=False)} nats")
        else:
            _gradient_panel(margin, step[known], trained["grad_norm"])
        _logps_panel(logps, step[known], trained, beta)
        for axes, name in ((loss, "held_loss"), (margin, "held_margin")):
            if name in history:
                look = dict(color=AMBER, label="held-out pairs", zorder=4, clip_on=False)  # the last stands at the edge
                axes.plot(*_known(step, _column(history, name)), "D", **look)
                axes.legend(loc="lower left" if axes is loss else "upper left")
        if np.isfinite(_column(history, "kl")).any():
            _kl_panel(kl, step, _column(history, "kl"))
        else:
            _gradient_panel(kl, step[known], trained["grad_norm"])
        for axes in fig.axes:
            axes.set_xlim(step[0], step[-1] if len(step) > 1 else step[0] + 1)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel("" if ranked and axes is margin else "optimiser step")
        fig.align_ylabels()
    return fig


def _loss_panel(axes, step, values) -> None:
    _curve(axes, step, values, color=INK)
    logistic = abs(values[0] - math.log(2)) < 0.01  # other losses begin elsewhere, and are not in nats
    if logistic:
        axes.axhline(math.log(2), **REFERENCE)
        halo = [patheffects.withStroke(linewidth=3, foreground="white")]
        _above(axes, math.log(2), "ln 2: no preference", path_effects=halo)
    axes.set_title(f"The loss {_moves(np.array([values[0], np.nanmean(values[-20:])]), 2)}")
    axes.set_ylabel("loss (nats per pair)" if logistic else "loss")


def _above(axes, height, text, **look) -> None:
    """The name of a horizontal line, above its right end."""
    axes.annotate(
        text, (1, height), xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points", ha="right",
        va="bottom", color=GREY, fontsize=9.5, **look,
    )  # fmt: skip


def _margin_panel(axes, step, margins) -> float:
    end = _curve(axes, step, margins, color=INK)[-1]
    axes.axhline(0, **REFERENCE)
    axes.set_ylabel("margin Δ (nats)")
    return end


def _margin_panels(margin, accuracy, step, history) -> None:
    margins, ranked = _column(history, "rewards/margins"), _column(history, "rewards/accuracies")
    ties = np.abs(margins) < TIED
    ranked = ranked if ties.all() else np.where(ties, np.nan, ranked)
    _margin_panel(margin, step, margins)
    margin.tick_params(labelbottom=False)
    _curve(accuracy, step, ranked, color=INK)
    right, end = np.nanmean(ranked[-20:]), _signed(np.nanmean(margins[-20:]), 2, plus=False)
    accuracy.axhline(0.5, **REFERENCE)
    accuracy.set_ylim(min(0.4, np.nanmin(ranked)), 1.0)
    _percent(accuracy.yaxis)
    accuracy.set_ylabel("ranked right")
    margin.set_title(f"Last {counted(min(20, len(ranked)), 'step')}: {right:.1%} ranked right, margin {end}")


def _logps_panel(axes, step, history, beta) -> None:
    ends = []
    for name, look in (("chosen", CHOSEN), ("rejected", REJECTED)):
        if f"logps/{name}" not in history:
            continue
        if beta:
            values = _column(history, f"rewards/{name}") / beta
        else:
            values = _column(history, f"logps/{name}")
            values = values - np.nanmean(values[: max(1, len(values) // 20)])
        there, values = _known(step, values)
        if len(there):
            ends.append(_curve(axes, there, values, label=name, **look)[-1])
    axes.axhline(0, **REFERENCE, label="reference" if beta else "start")
    chosen, rejected = [*("rises" if end > 0 else "falls" for end in ends), None][:2]
    if rejected is None:
        axes.set_title(f"log π {chosen} for the text we train on")
    elif chosen == rejected:
        more = "chosen" if abs(ends[0]) > abs(ends[1]) else "rejected"
        axes.set_title(f"log π {chosen} for both, more for {more}")
    else:
        axes.set_title(f"log π {chosen} for chosen, {rejected} for rejected")
    axes.set_ylabel(r"$\log\,\pi/\pi_{\mathrm{ref}}$ (nats)" if beta else "log π minus its start (nats)")
    axes.legend(loc="lower left" if min(ends) < 0 else "upper left")


def _known(step, values):
    """Without the steps that have no number: a batch of single completions may have none of one label."""
    return step[known := np.isfinite(values)], values[known]


def _kl_panel(axes, step, values) -> None:
    step, values = _known(step, values)
    axes.plot(step, values, color=INK, marker="o", clip_on=False)
    axes.set_ylim(bottom=min(0, values.min()))  # a small KL may be estimated below 0
    axes.set_title(f"The policy ends {max(values[-1], 0):.1f} nats from the reference")
    axes.set_ylabel(KL_LABEL)


def _gradient_panel(axes, step, values) -> None:
    _curve(axes, step, values, color=INK)
    axes.set_ylim(bottom=0)
    axes.set_title(f"The gradient norm peaks at {np.nanmax(values):.1f}")
    axes.set_ylabel("gradient norm")


def compare_runs(
    runs: Mapping[str, Mapping[str, Sequence[float]]], columns: Mapping[str, str], *, title: str
) -> Figure:
    """Several runs in the same panels, one panel a column: `columns` maps a column of the histories to its axis label.

    A column that holds a number at every step is drawn as a moving average, one with gaps by its measured points.
    """
    with mpl.rc_context(STYLE):
        rows = math.ceil(len(columns) / 2)
        fig, grid = plt.subplots(rows, min(2, len(columns)), figsize=(9.4, 0.6 + 2.5 * rows), squeeze=False)
        for axes, (column, label) in zip(grid.flat, columns.items(), strict=False):
            for (name, history), (colour, marker) in zip(runs.items(), cycle(METHODS), strict=False):
                trained = np.isfinite(_column(history, "loss"))
                step, values = np.asarray(history["step"], dtype=float), _column(history, column)
                known = np.isfinite(values)
                if known[trained].all():
                    _curve(axes, step[known], values[known], color=colour, marker=marker, label=name)
                else:
                    axes.plot(step[known], values[known], color=colour, marker=marker, label=name)
            axes.set_ylabel(label)
            axes.set_xlabel("optimiser step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in grid.flat[len(columns) :]:
            axes.remove()
        grid[0, 0].legend(loc="best")
        fig.suptitle(title, x=0.012, ha="left", fontsize=STYLE["axes.titlesize"], fontweight="bold")
        fig.align_ylabels()
    return fig


def reward_shift(before: Sequence[float], after: Sequence[float], *, names: tuple[str, str] = ("SFT", "DPO")) -> Figure:
    """Histograms of gold reward before (grey dotted outline) and after (blue) training, with both means.

    The first and last bin hold what lies beyond."""
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    low, high = np.quantile(np.concatenate([before, after]), [0.002, 0.998])
    bins = np.linspace(low, high, 31)
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.2))
        for values, style in (
            (before, dict(histtype="step", color=GREY, linestyle=":", linewidth=1.8)),
            (after, dict(histtype="stepfilled", facecolor=BLUE + "40", edgecolor=BLUE, linewidth=1.8)),
        ):
            share = np.full(len(values), 1 / len(values))
            axes.hist(np.clip(values, low, high), bins=bins, weights=share, zorder=2, **style)
        top = axes.get_ylim()[1] * 1.16
        axes.set_ylim(0, top)
        order = 1 if after.mean() >= before.mean() else -1
        for values, name, colour, line, side in (
            (before, names[0], GREY, ":", -order), (after, names[1], BLUE, "-", order)
        ):  # fmt: skip
            axes.axvline(values.mean(), color=colour, linestyle=line, linewidth=2, zorder=3)
            axes.annotate(
                f"{name}\nmean {_signed(values.mean())}", (values.mean(), top), xytext=(6 * side, -2),
                textcoords="offset points", ha="left" if side > 0 else "right", va="top",
                color=INK if colour == GREY else colour, fontweight="bold", fontsize=9.5,
                bbox=dict(facecolor="white", edgecolor="none", pad=1.5),
            )  # fmt: skip
        verb = "raises" if order > 0 else "lowers"
        axes.set_title(
            f"{names[1]} {verb} the mean gold reward from {_signed(before.mean())} to {_signed(after.mean())}"
        )
        axes.set_xlabel("gold reward r*(x, y) of a completion (nats of log-odds)")
        axes.set_ylabel("share of completions")
        _percent(axes.yaxis)
        axes.set_xlim(low, high)
    return fig


def reward_against_kl(points: Sequence[Mapping], *, reference: float | None = None, title: str | None = None) -> Figure:
    """What reward each run reached, and what it cost in KL. Points of one method are joined in the order given.

    A point is a dict with `kl` and `reward` (nats), and optionally `label` (written beside it), `method` (its group),
    and ends of 95 % intervals `reward_low`, `reward_high`, `kl_low`, `kl_high`. `reference`: the reference's reward.
    """
    if not points:
        raise ValueError("no points to draw")
    methods: dict[str, list[Mapping]] = {point.get("method", ""): [] for point in points}
    for point in points:
        methods[point.get("method", "")].append(point)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.4, 4.8))
        curves = []
        for (name, group), (colour, marker) in zip(methods.items(), cycle(METHODS), strict=False):
            kl, reward = np.array([[p["kl"], p["reward"]] for p in group], dtype=float).T
            curves.append(np.stack([kl, reward], axis=-1))  # (points, 2)
            axes.errorbar(
                kl, reward, yerr=_bars(group, "reward"), xerr=_bars(group, "kl"), label=name or None, color=colour,
                marker=marker, markersize=8, markeredgecolor="white", linewidth=1.6, elinewidth=1.2, zorder=3,
            )  # fmt: skip
        if reference is not None:
            axes.axhline(reference, **REFERENCE, zorder=1, label="reference")
        best = max(points, key=lambda p: p["reward"])
        axes.set_title(title or f"The highest reward, {_signed(best['reward'])}, costs {best['kl']:.1f} nats of KL")
        bars = any(f"{name}_low" in point for point in points for name in ("kl", "reward"))
        axes.set_xlabel(KL_LABEL + ("\nbars: 95 % intervals" if bars else ""))
        axes.set_ylabel("mean gold reward (nats of log-odds)")
        axes.margins(x=0.1, y=0.1)
        if reference is not None and set(methods) == {""}:  # one line to name: beside it, where no box covers it
            _above(axes, reference, "reference")
        elif axes.get_legend_handles_labels()[1]:
            axes.legend(
                loc="lower right", frameon=True, framealpha=1.0, edgecolor="none", borderpad=0.8, borderaxespad=0,
                bbox_to_anchor=(1, 0.015),
            )  # fmt: skip
        _write_labels(axes, [(p["kl"], p["reward"], p["label"]) for p in points if p.get("label")], curves)
    return fig
