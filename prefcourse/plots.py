"""Every figure of the course, in one style. Each function takes plain numbers and returns the Figure; none shows it.

    fig = training_curves(history, beta=0.1)
    lesson.show(fig, alt="Four panels ...")     # in a notebook
    save(fig, "runs/dpo.png")                   # in a script

Chosen is a blue solid line with circles, rejected an orange dashed line with crosses, the reference a grey dotted line:
colour, line and marker each tell them apart, so the figures can be read without colour. A title states the finding, and
the numbers in it come from the data.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Okabe and Ito's palette, which readers with any colour vision can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY, FAINT = "#262626", "#767676", "#E6E6E6"

CHOSEN = dict(color=BLUE, linestyle="-", marker="o")
REJECTED = dict(color=ORANGE, linestyle="--", marker="X")
REFERENCE = dict(color=GREY, linestyle=":", linewidth=1.8)
METHODS = [(GREEN, "o"), (PURPLE, "s"), (AMBER, "^"), (SKY, "D"), (INK, "v"), (GREY, "P")]  # colour and marker in turn

KL_LABEL = r"KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ (nats per completion)"

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.figsize": (7.0, 4.2),
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 10.5,
    "text.color": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY]),
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "lines.solid_capstyle": "round",
    "axes.unicode_minus": True,
}


def use_style() -> None:
    """Make the course's style that of every figure drawn from now on."""
    mpl.rcParams.update(STYLE)


def save(fig: Figure, path: str | Path) -> Path:
    """Write `fig` as a PNG, making its folder where needed, and return the path. The figure stays open."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=2 * fig.dpi, metadata={"Software": None})
    return path


# ------------------------------------------------------------------------------------------------ one training run


def training_curves(history: Mapping[str, Sequence[float]], *, beta: float | None = None) -> Figure:
    """The four curves of a preference run: loss; margin and accuracy; log π of both completions; KL.

    `history` has the columns of `train`. With `beta`, log π is shown relative to the reference (implicit reward / β);
    without, relative to the first steps of the run. KL (nats) is drawn where the column `kl` holds a number, and the
    last panel shows the gradient norm in a run without it. A loss without a reference has no margin: the gradient norm
    stands in its place.
    """
    step = np.asarray(history["step"], dtype=float)
    with mpl.rc_context(STYLE):
        fig = plt.figure(figsize=(10.4, 7.2))
        grid = fig.add_gridspec(4, 2)
        loss, logps, kl = (fig.add_subplot(place) for place in (grid[:2, 0], grid[2:, 0], grid[2:, 1]))
        paired = "rewards/margins" in history
        margin = fig.add_subplot(grid[0, 1] if paired else grid[:2, 1])
        known = np.isfinite(_column(history, "loss"))  # the last row may hold a measurement after the last step, alone
        trained = {name: _column(history, name)[known] for name in history}
        _loss_panel(loss, step[known], trained["loss"], paired)
        if paired:
            _margin_panels(margin, fig.add_subplot(grid[1, 1], sharex=margin), step[known], trained)
        else:
            _gradient_panel(margin, step[known], trained["grad_norm"])
        _logps_panel(logps, step[known], trained, beta)
        if np.isfinite(_column(history, "kl")).any():
            _kl_panel(kl, step, _column(history, "kl"))
        else:
            _gradient_panel(kl, step[known], trained["grad_norm"])
        for axes in fig.axes:
            axes.set_xlim(step[0], step[-1] if len(step) > 1 else step[0] + 1)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in [axes for axes in fig.axes if not (paired and axes is margin)]:
            axes.set_xlabel("optimiser step")
        fig.align_ylabels()
    return fig


def _loss_panel(axes, step, values, paired: bool = True) -> None:
    smooth = _curve(axes, step, values, color=INK)
    if paired:
        axes.axhline(math.log(2), **REFERENCE)
        axes.annotate(
            "ln 2: no preference", (1, math.log(2)), xycoords=("axes fraction", "data"), xytext=(0, 4),
            textcoords="offset points", ha="right", va="bottom", color=GREY, fontsize=9.5,
        )  # fmt: skip
    axes.set_title(f"The loss {_moves(smooth, 2)}")
    axes.set_ylabel("loss (nats per pair)")


def _margin_panels(margin, accuracy, step, history) -> None:
    margins, ranked = _column(history, "rewards/margins"), _column(history, "rewards/accuracies")
    ties = np.abs(margins) < 1e-5  # before the first update a pair is ranked neither right nor wrong
    ranked = ranked if ties.all() else np.where(ties, np.nan, ranked)
    end = _curve(margin, step, margins, color=INK)[-1]
    margin.axhline(0, **REFERENCE)
    margin.set_ylabel("margin Δ (nats)")
    margin.tick_params(labelbottom=False)
    right = _curve(accuracy, step, ranked, color=INK)[-1]
    accuracy.axhline(0.5, **REFERENCE)
    accuracy.set_ylim(min(0.4, np.nanmin(ranked)), 1.0)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    accuracy.set_ylabel("ranked right")
    margin.set_title(f"{right:.0%} of pairs ranked right, margin {_signed(end, 1, plus=False)}")


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
        ends.append(_curve(axes, step, values, label=name, **look)[-1])
    axes.axhline(0, **REFERENCE, label="reference" if beta else "start")
    chosen, rejected = [*("rises" if end > 0 else "falls" for end in ends), None][:2]
    if rejected is None:
        axes.set_title(f"log π {chosen} for the text we train on")
    elif chosen == rejected:
        more = "chosen" if abs(ends[0]) > abs(ends[1]) else "rejected"
        axes.set_title(f"log π {chosen} for both, most for {more}")
    else:
        axes.set_title(f"log π {chosen} for chosen, {rejected} for rejected")
    axes.set_ylabel(r"$\log\,\pi/\pi_{\mathrm{ref}}$ (nats)" if beta else "log π minus its start (nats)")
    axes.legend(loc="lower left" if min(ends) < 0 else "upper left")


def _kl_panel(axes, step, values) -> None:
    known = np.isfinite(values)
    axes.plot(step[known], values[known], color=INK, marker="o", clip_on=False)
    axes.set_ylim(bottom=0)
    axes.set_title(f"The policy ends {values[known][-1]:.1f} nats from the reference")
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
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in grid[-1]:
            axes.set_xlabel("optimiser step")
        for axes in grid.flat[len(columns) :]:
            axes.remove()
        grid[0, 0].legend(loc="best")
        fig.suptitle(title, x=0.012, ha="left", fontsize=STYLE["axes.titlesize"], fontweight="bold")
        fig.align_ylabels()
    return fig


def log_ratio_paths(
    paths: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str], *, chosen: int, rejected: int
) -> Figure:
    """log π/π_ref of every response of a small world over the steps of a run, one panel a run: (steps + 1, Y) each.

    `names` are the Y responses; `chosen` and `rejected` say which two form the pair.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(1, len(paths), figsize=(4.7 * len(paths), 3.8), sharey=True, squeeze=False)
        gap = 0.06 * max(np.max(path) - np.min(path) for path in map(np.asarray, paths.values()))  # between labels
        for axes, (name, path) in zip(panels[0], paths.items(), strict=True):
            path = np.asarray(path, dtype=float)
            step, every, heights = np.arange(len(path)), max(1, len(path) // 8), _spread(path[-1], gap)
            axes.axhline(0, **REFERENCE)
            for i, response in enumerate(names):
                look = CHOSEN if i == chosen else REJECTED if i == rejected else dict(color=GREY, linewidth=1.2)
                axes.plot(step, path[:, i], markevery=(every // 2, every), markeredgecolor="white", **look)
                word = {chosen: " (chosen)", rejected: " (rejected)"}.get(i, "")
                axes.annotate(
                    response + word, (step[-1], heights[i]), xytext=(6, 0), textcoords="offset points",
                    va="center", color=look["color"], fontsize=9.5, annotation_clip=False,
                )  # fmt: skip
            moves = ["rises" if path[-1, i] > 0 else "falls" for i in (chosen, rejected)]
            both = moves[0] == moves[1]
            finding = f"log π {moves[0]} for both" if both else f"chosen {moves[0]}, rejected {moves[1]}"
            axes.set_title(f"{name}: {finding}")
            axes.set_xlim(0, step[-1])
            axes.set_xlabel("gradient step")
        panels[0, 0].set_ylabel(r"$\log\,\pi/\pi_{\mathrm{ref}}$ (nats)")
    return fig


def _spread(values: np.ndarray, gap: float) -> np.ndarray:
    """Heights for labels near `values`, no two closer than `gap`, groups centred on their values: (N,) -> (N,)"""
    order, heights = np.argsort(values, kind="stable"), values.astype(float).copy()
    for _ in range(50):  # push neighbours apart, half the missing distance each
        for low, high in pairwise(order):
            missing = max(0.0, gap - (heights[high] - heights[low]))
            heights[low], heights[high] = heights[low] - missing / 2, heights[high] + missing / 2
    return heights


# ------------------------------------------------------------------------------------------------ rewards


def reward_shift(before: Sequence[float], after: Sequence[float], *, names: tuple[str, str] = ("SFT", "DPO")) -> Figure:
    """Histograms of gold reward before (grey dotted outline) and after (blue) training, with both means.

    The few values beyond the drawn range are counted in the first and last bin.
    """
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
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(low, high)
    return fig


def reward_against_kl(points: Sequence[Mapping], *, reference: float | None = None, title: str | None = None) -> Figure:
    """What reward each run reached, and what it cost in KL. Points of one method are joined in the order of their KL.

    A point is a dict with `kl` and `reward` (nats), and optionally `label` (written beside it), `method` (its group),
    and the ends of intervals `reward_low`, `reward_high`, `kl_low`, `kl_high`. `reference` is the reference's reward.
    """
    if not points:
        raise ValueError("no points to draw")
    methods: dict[str, list[Mapping]] = {point.get("method", ""): [] for point in points}
    for point in sorted(points, key=lambda p: p["kl"]):
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
        axes.set_xlabel(KL_LABEL)
        axes.set_ylabel("mean gold reward (nats of log-odds)")
        axes.margins(x=0.1, y=0.1)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(
                loc="lower right",
                frameon=True,
                framealpha=1.0,
                edgecolor="none",
                borderpad=0.8,
                borderaxespad=0,
                bbox_to_anchor=(1, 0.015),
            )
        _write_labels(axes, [(p["kl"], p["reward"], p["label"]) for p in points if p.get("label")], curves)
    return fig


# ------------------------------------------------------------------------------------------------ the solvable world


def distance_by_step(
    curves: Mapping[str, Sequence[float]], *, title: str, ylabel: str, target: float, log_steps: bool = False
) -> Figure:
    """How far each run is from where it should land, on a logarithmic axis; below the grey line it has landed.

    A curve holds one distance per step, the start first, and is drawn until it lands. With `log_steps` the steps are
    on a logarithmic axis too, which begins at step 1.
    """
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        for i, ((name, values), (colour, marker)) in enumerate(zip(curves.items(), METHODS, strict=False)):
            values = np.asarray(values, dtype=float)
            landed = np.flatnonzero(values < target)
            values = values[: landed[0] + 1] if len(landed) else values  # beyond that it is rounding
            step = np.arange(len(values))
            marked = np.geomspace(1, step[-1], 7) if log_steps else np.linspace(i, step[-1], 7)
            axes.semilogy(
                step, values, label=name, color=colour, marker=marker, markersize=7.5, markeredgecolor="white",
                markevery=sorted({int(m) for m in marked}), clip_on=log_steps,
            )  # fmt: skip
        axes.axhline(target, **REFERENCE)
        axes.annotate(
            f"landed: below {_power(target)}", (0, target), xycoords=("axes fraction", "data"), xytext=(6, -4),
            textcoords="offset points", ha="left", va="top", color=GREY, fontsize=9.5,
        )  # fmt: skip
        axes.set_ylim(bottom=target / 30)
        if log_steps:
            axes.set_xscale("log")
        axes.set_xlim(left=1 if log_steps else 0)
        axes.set_title(title)
        axes.set_xlabel("step (logarithmic)" if log_steps else "step")
        axes.set_ylabel(ylabel)
        axes.legend(loc="upper right", frameon=True, framealpha=1.0, edgecolor="none")
    return fig


def under_the_line(
    kl: Sequence[float], reward: Sequence[float], *, frontier: np.ndarray, best: tuple[float, float], beta: float
) -> Figure:
    """Random policies as dots (kl, reward), the optima of all β as a curve (N, 2), and the line E[r] = J* + β KL.

    `best` is the point of π* for this β. The line meets the axis at J*: no policy reaches above it.
    """
    top = best[1] - beta * best[0]  # J*
    reference = frontier[np.argmin(frontier[:, 0])]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, axes = plt.subplots(figsize=(7.4, 4.8))
        dots = dict(color="#A6D5F0", markersize=1.3, markeredgewidth=0, antialiased=False)  # two colours: a small file
        axes.plot(kl, reward, "s", zorder=1, label="random policies", **dots)
        axes.plot(*frontier.T, color=INK, zorder=3, label=r"$\pi^*$ for every $\beta$")
        ends = np.array([0, max(np.max(kl), frontier[:, 0].max()) * 1.03])
        axes.plot(ends, top + beta * ends, color=BLUE, zorder=4, label=r"$J = J^*$, slope $\beta$ = " + f"{beta:g}")
        axes.plot(*best, "o", color=BLUE, markersize=10, markeredgecolor="white", zorder=5)
        axes.plot(*reference, "s", color=GREY, markersize=8, markeredgecolor="white", zorder=5, clip_on=False)
        for text, point, offset in (
            (rf"$\pi^*$ at $\beta$ = {beta:g}", best, (8, -16)),
            (r"$\pi_{\mathrm{ref}}$", reference, (9, -14)),
            (rf"$J^*$ = {top:.2f}", (0, top), (8, 20)),
        ):
            axes.annotate(
                text, point, xytext=offset, textcoords="offset points", fontweight="bold", zorder=6, color=INK,
                bbox=dict(facecolor="white", edgecolor="none", pad=1.0, alpha=0.85),
            )  # fmt: skip
        axes.plot(0, top, "_", color=BLUE, markersize=14, markeredgewidth=3, zorder=5, clip_on=False)
        axes.set_xlim(0, ends[1])
        axes.set_ylim(min(reward) - 0.15, top + beta * ends[1] + 0.15)
        axes.set_title(f"All {len(kl):,} random policies lie below the line that touches π*")
        axes.set_xlabel(r"KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ (nats)")
        axes.set_ylabel(r"expected reward E$_\pi[r]$ (nats)")
        axes.legend(loc="center right", frameon=True, framealpha=1.0, edgecolor="none", markerscale=5)
    return fig


def optimum_against_beta(
    betas: Sequence[float], policies: np.ndarray, reference: Sequence[float], names: Sequence[str], *,
    beta: float, best: Sequence[float],
) -> Figure:  # fmt: skip
    """Left: `best`, which is π* at `beta`, beside π_ref. Right: the optimum of every β, (len(betas), Y)."""
    betas, policies, here = (np.asarray(values, dtype=float) for values in (betas, policies, best))
    looks = list(zip(names, reference, here, policies.T, METHODS, strict=False))
    with mpl.rc_context(STYLE):
        fig, (bars, lines) = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=[1, 1.35])
        for i, (_, before, now, curve, (colour, marker)) in enumerate(looks):
            bars.barh(i, now, height=0.62, color=colour, alpha=0.85)
            bars.barh(i, before, height=0.62, fill=False, edgecolor=INK, linestyle=":", linewidth=1.6)
            bars.annotate(
                f"{now:.2f}",
                (max(now, before), i),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
            )
            lines.plot(
                betas, curve, color=colour, marker=marker, markevery=(i * 3, max(1, len(betas) // 8)), markersize=7.5,
                markeredgecolor="white", label=names[i],
            )  # fmt: skip
        bars.set_yticks(range(len(looks)), names, fontsize=10.5)
        bars.invert_yaxis()
        bars.tick_params(left=False)
        bars.grid(axis="y", visible=False)
        bars.set_xlim(0, 1.12)
        bars.set_xlabel("probability (dotted: reference)")
        bars.set_title(f"At β = {beta:.3g} the likeliest is “{names[int(here.argmax())]}”")
        lines.axvline(beta, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        lines.set_xscale("log")
        lines.set_xlim(betas[0], betas[-1])
        lines.set_ylim(0, 1.02)
        lines.set_xlabel("β (nats of reward per nat of KL, logarithmic)")
        lines.set_ylabel(r"$\pi^*(y \mid x)$")
        winners = [names[k] for k in dict.fromkeys(policies.argmax(-1).tolist())]
        lines.set_title(f"As β grows: {', then '.join(winners)}")
        lines.legend(loc="upper right", ncols=2, frameon=True, framealpha=1.0, edgecolor="none")
    return fig


def samples_for_z(betas: Sequence[float], needed: Mapping[int, Sequence[float]], *, error: float) -> Figure:
    """How many samples of the reference estimate Z to a relative `error`, against β; one curve per length in tokens."""
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        for i, ((length, values), (colour, marker)) in enumerate(zip(needed.items(), METHODS, strict=False)):
            axes.loglog(
                betas, values, color=colour, marker=marker, markevery=(i, max(1, len(betas) // 7)), markersize=7.5,
                markeredgecolor="white", label=f"{length} tokens",
            )  # fmt: skip
        longest = max(needed)
        few, many = (f"{_power(end(needed[longest]))} samples" for end in (min, max))
        axes.set_title(
            f"{longest} tokens, {error:.0%} error: {few} at β = {max(betas):.2g}, {many} at β = {min(betas):.2g}"
        )
        axes.set_xlim(min(betas), max(betas))
        axes.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
        axes.xaxis.minorticks_off()
        axes.set_xlabel("β (nats of reward per nat of KL, logarithmic)")
        axes.set_ylabel(f"samples for {error:.0%} error (logarithmic)")
        axes.legend(loc="upper right")
    return fig


def loss_and_slope(betas: Sequence[float], *, width: float = 25.0, at: float | None = None) -> Figure:
    """DPO's loss and its slope against h, one curve per β; with `at`, a point of the first β is marked and read off."""
    h = np.linspace(-width, width, 401)
    with mpl.rc_context(STYLE):
        fig, (loss, slope) = plt.subplots(1, 2, figsize=(10.4, 4.3))
        for i, (beta, (colour, marker)) in enumerate(zip(betas, METHODS, strict=False)):
            look = dict(color=colour, marker=marker, markersize=7.5, markeredgecolor="white", label=f"β = {beta:g}")
            look["markevery"] = (20 + 14 * i, 60)
            loss.plot(h, np.logaddexp(0, -beta * h), **look)
            slope.plot(h, beta / (1 + np.exp(beta * h)), **look)
        if at is not None:
            beta, here = betas[0], f"at h = {_signed(at, 1)}"
            value, weight = np.logaddexp(0, -beta * at), 1 / (1 + math.exp(beta * at))
            for axes, y, text, height in (
                (loss, value, f"{here}: loss {value:.3f}", 0.66),
                (slope, beta * weight, f"{here}:\n{beta:.3g} × {weight:.3f} = {beta * weight:.4f}", 0.96),
            ):
                axes.plot(at, y, "o", color=BLUE, markersize=11, markeredgecolor="white", zorder=5)
                axes.annotate(
                    text, (0.98, height), xycoords="axes fraction", ha="right", va="top", color=BLUE, fontweight="bold"
                )
        loss.axhline(math.log(2), **REFERENCE)
        loss.annotate(
            "ln 2",
            (width, math.log(2)),
            xytext=(-4, 4),
            textcoords="offset points",
            color=GREY,
            ha="right",
            fontsize=9.5,
        )
        for axes in (loss, slope):
            axes.axvline(0, color=FAINT, linewidth=1.2, zorder=0)
            axes.set_xlim(-width, width)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("log-ratio difference h (nats): wrong order | right order")
        loss.set_title("The loss is ln 2 at h = 0, whatever β is")
        loss.set_ylabel("loss −log σ(βh) (nats)")
        slope.set_title("β is the steepest slope, 1/β the reach")
        slope.set_ylabel("size of the slope βσ(−βh)")
        loss.legend(loc="upper right")
    return fig


def kl_by_step(
    step: Sequence[int],
    runs: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    limits: Mapping[str, Mapping],
    early: int,
) -> Figure:
    """KL against the step, one panel per kind of label, one curve per β; grey dotted: where each curve ends.

    `runs[labels][beta]` holds KL (nats) at every `step`, `limits[labels][beta]` its limit. A line marks step `early`.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(1, len(runs), figsize=(10.4, 4.6), sharey=True)
        for axes, (labels, curves) in zip(np.atleast_1d(panels), runs.items(), strict=True):
            for i, ((beta, values), (colour, marker)) in enumerate(zip(curves.items(), METHODS, strict=False)):
                axes.semilogx(
                    step, values, color=colour, marker=marker, markevery=(2 * i, max(1, len(step) // 7)),
                    markersize=7.5, markeredgecolor="white", label=f"β = {beta:g}",
                )  # fmt: skip
                axes.plot(
                    [step[-1], step[-1] * 1.9], [limits[labels][beta]] * 2, color=colour, linestyle=":", clip_on=False
                )
            spread = max(limits[labels].values()) - min(limits[labels].values())
            ending = "ends lower for larger β" if spread > 1e-3 else "ends the same for every β"
            axes.set_title(f"{labels[0].upper()}{labels[1:]} labels: KL {ending}")
            axes.axvline(early, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
            axes.set_xlim(step[0], step[-1] * 1.9)
            axes.set_xlabel("gradient step (logarithmic)")
        first = np.atleast_1d(panels)[0]
        first.set_ylim(bottom=0)
        first.set_ylabel(r"KL$(\pi\,\|\,\pi_{\mathrm{ref}})$ (nats)")
        first.annotate(
            f"step {early}", (early, 1), xycoords=("data", "axes fraction"), xytext=(5, -4), textcoords="offset points",
            color=GREY, va="top", fontsize=9.5,
        )  # fmt: skip
        first.legend(loc="upper left", bbox_to_anchor=(0, 0.92))
    return fig


def logps_by_step(chosen: Sequence[float], rejected: Sequence[float], others: Mapping[str, Sequence[float]]) -> Figure:
    """log π minus log π_ref of the chosen text, the rejected one and the `others` that no pair mentions, by step."""
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(7.4, 4.4))
        curves = [("chosen", chosen, CHOSEN), ("rejected", rejected, REJECTED)]
        curves += [
            (name, values, dict(color=colour, marker=marker, linestyle="-."))
            for (name, values), (colour, marker) in zip(others.items(), METHODS[1:], strict=False)
        ]
        for name, values, look in curves:
            every = max(1, len(values) // 7)
            axes.plot(values, label=name, markevery=every, markersize=8, markeredgecolor="white", **look)
        axes.axhline(0, **REFERENCE, label="reference")
        fallen = max(chosen[-1], rejected[-1]) < 0
        axes.set_title(
            f"Chosen and rejected {'both fall' if fallen else 'part'}: "
            f"{_signed(chosen[-1], 1)} and {_signed(rejected[-1], 1)} nats"
        )
        axes.set_xlim(0, len(chosen) - 1)
        axes.set_xlabel("gradient step")
        axes.set_ylabel(r"$\log\,\pi/\pi_{\mathrm{ref}}$ (nats)")
        axes.legend(loc="lower left")
    return fig


# ------------------------------------------------------------------------------------------------ shared


def _column(history: Mapping[str, Sequence[float]], name: str) -> np.ndarray:
    """A column as floats, nan where it says None; all nan where the run did not record it."""
    values = history.get(name)
    if values is None:
        return np.full(len(history["step"]), np.nan)
    return np.array([math.nan if v is None else float(v) for v in values])


def smoothed(values: Sequence[float], window: int | None = None) -> np.ndarray:
    """Moving average, centred, with weights that fall to zero at the window's ends; nan is left out. (N,) -> (N,)

    The window is an eighth of the run unless given. It narrows towards the first value, which is exact (a DPO run
    starts at ln 2), and is cut off at the last, which is noisy.
    """
    values = np.asarray(values, dtype=float)
    widest = (window or max(1, len(values) // 8)) // 2
    averages = np.full(len(values), np.nan)
    for i in range(len(values)):
        half = min(widest, i)
        seen = values[i - half : i + half + 1]
        weights = np.hanning(2 * half + 3)[1 : 1 + len(seen)] * np.isfinite(seen)
        if weights.any():
            averages[i] = np.nansum(weights * seen) / weights.sum()
    return averages


def _curve(axes, step, values, *, marker: str | None = None, **style) -> np.ndarray:
    """Every step faintly and the moving average boldly, with a marker here and there; returns the average."""
    smooth = smoothed(values)
    axes.plot(step, values, color=style["color"], linewidth=0.8, alpha=0.22)
    every = max(1, len(step) // 8)
    axes.plot(
        step, smooth, marker=marker, markevery=(every // 2, every), markersize=8, markeredgecolor="white", **style
    )
    return smooth


def _write_labels(axes, labels: Sequence[tuple[float, float, str]], curves: Sequence[np.ndarray]) -> None:
    """Write each (x, y, text) beside its point, on the side where it covers least of the curves (N, 2) and labels."""
    axes.figure.draw_without_rendering()  # settles the layout, and with it the pixels of a point
    pixel, point = axes.transData.transform, axes.figure.dpi / 72
    taken = [pixel(curve) for curve in curves]
    taken += [np.linspace(a, b, 60) for curve in list(taken) for a, b in pairwise(curve)]
    sides = [(1, -1), (-1, 1), (1, 1), (-1, -1), (1, 0), (-1, 0), (0, -1), (0, 1)]  # in order of preference
    for x, y, text in labels:
        size = np.array([5.8 * len(text), 10.0]) * point  # about what the letters take

        def corner(side, x=x, y=y, size=size):
            """The lower left corner of the text on that side of the point, in pixels."""
            return pixel((x, y)) + 8 * point * np.array(side) + size * (np.array(side) - 1) / 2

        def covered(side, size=size, corner=corner):
            low, high = corner(side), corner(side) + size
            outside = (low < axes.bbox.min).any() or (high > axes.bbox.max).any()
            return 1000 * outside + sum(((low - 2 <= p) & (p <= high + 2)).all(axis=1).sum() for p in taken)

        side = min(sides, key=covered)
        axes.annotate(
            text, (x, y), xytext=8 * np.array(side), textcoords="offset points", fontsize=9, color=INK, zorder=4,
            ha={-1: "right", 0: "center", 1: "left"}[side[0]], va={-1: "top", 0: "center", 1: "bottom"}[side[1]],
        )  # fmt: skip
        rows = np.linspace(corner(side), corner(side) + size, 12)  # (12, 2)
        taken.append(np.stack(np.meshgrid(*rows.T), axis=-1).reshape(-1, 2))


def _moves(values: np.ndarray, decimals: int) -> str:
    """In words: falls from 0.69 to 0.52, grows from 0.0 to 2.1, or stays at 0.69."""
    first, last = (_signed(v, decimals, plus=False) for v in (values[0], values[-1]))
    if first == last:
        return f"stays at {last}"
    return f"{'grows' if values[-1] > values[0] else 'falls'} from {first} to {last}"


def _power(value: float) -> str:
    """A number as the nearest power of ten: 10⁻¹⁰, 10⁴."""
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _signed(value: float, decimals: int = 2, plus: bool = True) -> str:
    """A number with a real minus sign, and a plus where it matters; never minus zero."""
    text = f"{value:+.{decimals}f}" if plus else f"{value:.{decimals}f}"
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "−")


def _bars(group: Sequence[Mapping], name: str) -> np.ndarray | None:
    """Error bars (2, N) from the interval ends `name_low` and `name_high`, or None where no point has them."""
    if not any(f"{name}_low" in point for point in group):
        return None
    ends = [(p[name] - p.get(f"{name}_low", p[name]), p.get(f"{name}_high", p[name]) - p[name]) for p in group]
    return np.array(ends, dtype=float).T


# ------------------------------------------------------------------------------------------------ lesson 02: objective

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
    for level, line in zip(lines.levels[1:-1:2], lines.get_paths()[1:-1:2], strict=True):
        if len(points := line.vertices):
            edge = np.linalg.solve(np.c_[CORNERS, np.ones(3)].T, np.c_[points, np.ones(len(points))].T).min(axis=0)
            free = np.linalg.norm(points[:, None] - crowded, axis=-1).min(axis=-1)
            room = np.minimum(1.6 * edge, free)  # (points,)
            if room.max() > 0.08:
                place = [tuple(points[room.argmax()])]
                axes.clabel(lines, [level], manual=place, fontsize=8, colors=INK, inline_spacing=2)
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
                rf"$\beta$ = {beta:g}: the next nat buys {beta:g}", (x, y), xytext=(12, -13),
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
