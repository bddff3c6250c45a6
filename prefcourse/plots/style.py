"""The one style of all figures: palette, rc settings, and the small things that several figures draw."""

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from prefcourse.finite import whole

# Eight colours that stand out from white and from each other, for any colour vision (tests/plots/test_palette.py).
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#01469E", "#C65B1D", "#207A4F", "#963184", "#289CB9", "#D18107"
INK, GREY, FAINT = "#262626", "#767676", "#E6E6E6"

CHOSEN = dict(color=BLUE, linestyle="-", marker="o")
REJECTED = dict(color=ORANGE, linestyle="--", marker="X")
REFERENCE = dict(color=GREY, linestyle=":", linewidth=1.8)
METHODS = [(BLUE, "o"), (AMBER, "s"), (GREEN, "^"), (PURPLE, "D"), (INK, "v"), (GREY, "P")]  # colour and marker in turn
LINES = ("-", "--", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))  # and a dash for each
LOOKS = {  # colour, marker and dash of a method, the same in every lesson
    "dpo": (BLUE, "o", "-"),
    "ipo": (AMBER, "s", "--"),
    "kto": (GREEN, "^", "-."),
    "orpo": (PURPLE, "D", (0, (5, 1))),
    "simpo": (SKY, "v", (0, (3, 1, 1, 1))),
    "cdpo": (INK, "P", (0, (1, 1))),
    "rdpo": (GREY, "X", (0, (6, 2))),
    "hinge": (ORANGE, "h", (0, (4, 1, 1, 1, 1, 1))),
    "sft": (GREY, "d", (0, (1, 1))),
    "dpo_nll": (GREEN, "s", "-."),
    "dpop": (AMBER, "D", "--"),
    "dpo_norm": (PURPLE, "s", "-."),
    "offset": (GREEN, "h", "--"),
    "rloo": (ORANGE, "s", "--"),
    "ppo": (PURPLE, "^", "-."),
    "best-of-n": (INK, "D", ":"),
    "rloo on the true reward": (GREY, "P", (0, (6, 2))),
    "dr. grpo": (BLUE, "s", "-"),
    "with 1/|o|": (AMBER, "o", "--"),
    "with /std": (GREEN, "D", "-."),
    "grpo (both)": (PURPLE, "v", (0, (5, 1))),
}
NAMES = {"cdpo": "cDPO", "rdpo": "rDPO", "simpo": "SimPO", "sppo_hard": "SPPO"}
NAMES |= {"dpo_nll": "DPO + NLL", "dpo_norm": "DPO-norm", "sft": "SFT on chosen"}  # more of it; SFT is the start
CAPITALS = {"dpo", "ipo", "kto", "orpo", "cpo", "dpop", "rloo", "ppo", "bco", "nca", "exo", "apo", "sppo"}

Ends = tuple[float, float, float]  # value, low, high

GAIN = "gain in gold reward over SFT (nats)"
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
    "axes.prop_cycle": mpl.cycler(color=[BLUE, AMBER, GREEN, PURPLE, ORANGE, SKY]),
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


def title_of(method: str) -> str:
    """How a method is written in text: KTO, cDPO, ORPO (from base), APO-zero, SFT on chosen."""
    name, _, rest = method.partition(" ")
    word = NAMES.get(name) or (name.upper() if name in CAPITALS else name.replace("apo_", "APO-"))
    return f"{word} {rest}" if rest else word


def look_of(method: str, turn: int = 0) -> tuple:
    """Colour, marker and dash of a method by its name; of anything else, the `turn`-th in turn."""
    found = LOOKS.get(method.lower())
    return found or (*METHODS[turn % len(METHODS)], LINES[turn % len(LINES)])


def _root_axis(axis, most: float, gap: float = 0.075, marks=(0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 100, 200)) -> None:
    """An axis from 0 to `most` nats with equal steps of √KL; ticks: 0 and of `marks` those a share `gap` apart."""

    def root(x):
        return np.sign(x) * np.sqrt(np.abs(x))

    def square(x):
        return np.sign(x) * x**2

    getattr(axis.axes, f"set_{axis.axis_name}scale")("function", functions=(root, square))
    ticks = [0.0]
    for t in marks:
        if t <= most and root(t) - root(ticks[-1]) >= gap * root(most):
            ticks.append(t)
    axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
    axis.set_minor_formatter(NullFormatter())
    getattr(axis.axes, f"set_{axis.axis_name}lim")(0, most)


def use_style() -> None:
    """Make the course's style that of every figure drawn from now on."""
    # matplotlib 3.10 reads formulas with names that pyparsing has replaced, and each would be a warning in a notebook.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(matplotlib|pyparsing)(\.|$)")
    mpl.rcParams.update(STYLE)


def save(fig: Figure, path: str | Path) -> Path:
    """Write `fig` as a PNG, making its folder where needed, and return the path. The figure stays open."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=2 * fig.dpi, metadata={"Software": None})
    return path


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
    window = window if window is None else whole("window", window)
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


def _forests(rows: Sequence[tuple], looks: Sequence[tuple], *, title: str, bars: str = "over seeds"):
    """Figure and two panels of points with intervals, a row each, a gap between groups; the right axis is logarithmic.

    rows: (group, what, left, right), the last two as value, low, high. looks: colour and marker of each row. bars: what
    the intervals are over. To be called inside the caller's rc_context.
    """
    fig, panels = plt.subplots(1, 2, figsize=(10.8, 1.4 + 0.31 * len(rows)), sharey=True)
    places, place = [], 0.0
    last = rows[0][0]
    for group, *_ in rows:
        place += 1.0 if group == last else 1.8
        last = group
        places.append(place)
    for axes, column in zip(panels, (2, 3), strict=True):
        for row, y, (colour, marker) in zip(rows, places, looks, strict=True):
            value, low, high = row[column]
            axes.errorbar(
                value, y, xerr=[[max(value - low, 0)], [max(high - value, 0)]], color=colour, marker=marker,
                markersize=7.5, markeredgecolor="white", elinewidth=1.6,
            )  # fmt: skip
    panels[0].set_yticks(places, [f"{group}: {what}" for group, what, *_ in rows])
    panels[0].invert_yaxis()
    panels[1].set_xscale("log")
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panels[1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    fig.supxlabel(f"points: means over seeds; bars: 95 % intervals {bars}", fontsize=9.5, color=GREY)
    _headline(fig, title)
    return fig, panels


def _interval(axes, y: float, value: float, low: float, high: float) -> None:
    """A point with its interval, at height `y`; colour and marker say whether it lies above 0, below, or holds it."""
    colour, marker = (BLUE, "o") if low > 0 else (ORANGE, "X") if high < 0 else (INK, "D")
    axes.plot(value, y, color=colour, marker=marker, markersize=6.5, markeredgecolor="white")
    axes.plot(
        [low, high], [y, y], color=colour, linewidth=1.4, marker="|", markersize=8
    )  # ends seen on the marker, too


def _headline(fig: Figure, title: str) -> None:
    """The title of a figure whose panels have titles of their own."""
    fig.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)


def _percent(*sides) -> None:
    """Ticks of these axes as whole per cent."""
    for side in sides:
        side.set_major_formatter(PercentFormatter(1.0, decimals=0))


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


def _spread(values: np.ndarray, gap: float) -> np.ndarray:
    """Heights for labels near `values`, no two closer than `gap`, groups centred on their values: (N,) -> (N,)"""
    order, heights = np.argsort(values, kind="stable"), values.astype(float).copy()
    for _ in range(50):  # push neighbours apart, half the missing distance each
        for low, high in pairwise(order):
            missing = max(0.0, gap - (heights[high] - heights[low]))
            heights[low], heights[high] = heights[low] - missing / 2, heights[high] + missing / 2
    return heights
