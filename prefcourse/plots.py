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
    last panel shows the gradient norm in a run without it.
    """
    step = np.asarray(history["step"], dtype=float)
    with mpl.rc_context(STYLE):
        fig = plt.figure(figsize=(10.4, 7.2))
        grid = fig.add_gridspec(4, 2)
        loss, logps, kl = (fig.add_subplot(place) for place in (grid[:2, 0], grid[2:, 0], grid[2:, 1]))
        margin = fig.add_subplot(grid[0, 1])
        accuracy = fig.add_subplot(grid[1, 1], sharex=margin)
        known = np.isfinite(_column(history, "loss"))  # the last row may hold a measurement after the last step, alone
        trained = {name: _column(history, name)[known] for name in history}
        _loss_panel(loss, step[known], trained["loss"])
        _margin_panels(margin, accuracy, step[known], trained)
        _logps_panel(logps, step[known], trained, beta)
        if np.isfinite(_column(history, "kl")).any():
            _kl_panel(kl, step, _column(history, "kl"))
        else:
            _gradient_panel(kl, step[known], trained["grad_norm"])
        for axes in fig.axes:
            axes.set_xlim(step[0], step[-1] if len(step) > 1 else step[0] + 1)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in (loss, accuracy, logps, kl):
            axes.set_xlabel("optimiser step")
        fig.align_ylabels()
    return fig


def _loss_panel(axes, step, values) -> None:
    smooth = _curve(axes, step, values, color=INK)
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
        if beta:
            values = _column(history, f"rewards/{name}") / beta
        else:
            values = _column(history, f"logps/{name}")
            values = values - np.nanmean(values[: max(1, len(values) // 20)])
        ends.append(_curve(axes, step, values, label=name, **look)[-1])
    axes.axhline(0, **REFERENCE, label="reference" if beta else "start")
    chosen, rejected = ("rises" if end > 0 else "falls" for end in ends)
    if chosen == rejected:
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
