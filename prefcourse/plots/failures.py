"""Figures of what goes wrong: displacement (lessons 07, 12), over-optimisation, runs side by side, a fix's price."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from prefcourse.plots.style import (
    AMBER,
    BLUE,
    CHOSEN,
    GAIN,
    GREEN,
    GREY,
    INK,
    KL_LABEL,
    ORANGE,
    REFERENCE,
    REJECTED,
    STYLE,
    Ends,
    _forests,
    _percent,
    _root_axis,
    _spread,
    look_of,
    title_of,
)

KINDS = {"failing run": (ORANGE, "X"), "fix": (BLUE, "o"), "control": (INK, "D")}  # colour and marker of an arm
Paths = Mapping[str, Sequence[Sequence[Mapping]]]  # arm → one path for each seed; a path is a list of points


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
            step, every = np.arange(len(path)), max(1, len(path) // 8)
            together: dict[tuple, list[str]] = {}  # lines that end at one height share a label
            axes.axhline(0, **REFERENCE)
            for i, response in enumerate(names):
                look = CHOSEN if i == chosen else REJECTED if i == rejected else dict(color=GREY, linewidth=1.2)
                axes.plot(step, path[:, i], markevery=(every // 2, every), markeredgecolor="white", **look)
                word = {chosen: " (chosen)", rejected: " (rejected)"}.get(i, "")
                together.setdefault((round(path[-1, i], 6), look["color"]), []).append(response + word)
            heights = _spread(np.array([end for end, _ in together]), gap)
            for ((_, colour), words), height in zip(together.items(), heights, strict=True):
                axes.annotate(
                    ", ".join(words), (step[-1], height), xytext=(6, 0), textcoords="offset points", va="center",
                    color=colour, fontsize=9.5, annotation_clip=False,
                )  # fmt: skip
            moves = ["rises" if path[-1, i] > 0 else "falls" for i in (chosen, rejected)]
            both = moves[0] == moves[1]
            finding = f"log π {moves[0]} for both" if both else f"chosen {moves[0]}, rejected {moves[1]}"
            axes.set_title(f"{name}: {finding}")
            axes.set_xlim(0, step[-1])
            axes.set_xlabel("gradient step")
        panels[0, 0].set_ylabel(r"$\log\,\pi/\pi_{\mathrm{ref}}$ (nats)")
    return fig


def displacement(
    shares: Sequence[Sequence[float]], names: Sequence[str], paths: Paths, *, chosen: int, rejected: int, title: str
) -> Figure:
    """Left: the probability of each token of a small world against its margin. Right: log π/π_ref of chosen texts.

    shares: π of the Y tokens at every step, (steps + 1, Y). paths: points with step and chosen (nats). title: the right
    panel's.
    """
    shares = np.asarray(shares, dtype=float)
    margin = np.log(shares[:, chosen] / shares[:, rejected])
    margin = margin - margin[0]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.4))
        marked = [int(np.abs(margin - m).argmin()) for m in np.linspace(margin[0], margin[-1], 8)]
        for i, name in enumerate(names):
            look = {chosen: CHOSEN, rejected: REJECTED}.get(i, dict(color=GREEN, linestyle="-.", marker="s"))
            word = {chosen: " (chosen)", rejected: " (rejected)"}.get(i, " (in no pair)")
            left.plot(margin, shares[:, i], label=name + word, markevery=marked, markersize=8, markeredgecolor="white",
                      **look)  # fmt: skip
        first, last = shares[0, chosen], shares[-1, chosen]
        verb = "falls" if last < first else "rises"
        left.set_title(f"Three tokens: chosen {verb} from {first:.0%} to {last:.0%}")
        left.set_xlabel("growth of log π(chosen) − log π(rejected) (nats)")
        left.set_ylabel("probability")
        _percent(left.yaxis)
        left.set_ylim(-0.02, 1.02)
        left.legend(loc="center right")
        _lines(right, paths, "chosen")
        right.set_title(title)
        right.axhline(0, **REFERENCE)
        right.set_ylabel(r"$\log\,\pi/\pi_{\mathrm{ref}}$ of chosen texts (nats)")
        right.legend(loc="best")
    return fig


def proxy_and_gold(
    kl: Sequence[float], proxy: Sequence[float], gold: Sequence[float], paths: Paths, *, title: str
) -> Figure:
    """Left: E[proxy] and E[gold] on the exact world against KL, gold's peak marked. Right: gold against KL on GPT-2.

    paths: points with kl and gold (nats), joined in the order of their steps. KL goes by its root in both panels.
    """
    kl, proxy, gold = (np.asarray(x, dtype=float) for x in (kl, proxy, gold))
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.5))
        looks = ((proxy, BLUE, "s", "--", "proxy"), (gold, AMBER, "o", "-", "gold"))
        marked = [int(np.abs(kl - x).argmin()) for x in np.linspace(kl[0], kl[-1], 7)]
        for values, colour, marker, line, name in looks:
            left.plot(kl, values, color=colour, linestyle=line, marker=marker, markevery=marked, markersize=7,
                      markeredgecolor="white", label=name)  # fmt: skip
        top = int(gold.argmax())
        left.plot(kl[top], gold[top], "*", color=AMBER, markersize=17, markeredgecolor="white", zorder=4)
        left.annotate("gold's peak", (kl[top], gold[top]), (0, 12), textcoords="offset points", ha="center")
        left.set_title(f"Exact: gold peaks at {kl[top]:.2f} nats of KL")
        _root_axis(left.xaxis, 1.02 * kl.max())
        left.set_xlabel(KL_LABEL + ", by its root")
        left.set_ylabel("expected reward (nats)")
        left.legend(loc="upper left")
        _lines(right, paths, "gold", x="kl")
        _root_axis(right.xaxis, 1.02 * max(p["kl"] for seeds in paths.values() for path in seeds for p in path))
        right.set_title(title)
        right.set_xlabel(KL_LABEL + ", by its root")
        right.set_ylabel("gold reward (nats of log-odds)")
        right.legend(loc="best")
    return fig


def paths_by_step(
    panels: Sequence[tuple[str, str, str, Paths]], *, logarithmic: Sequence[str] = (), step: str = "optimiser step"
) -> Figure:
    """Runs side by side: thin lines are seeds, bold ones their means. At most two panels in a row.

    panels: (title, label of the axis, name of the number in a point, arm → paths). logarithmic: names drawn so above 1.
    step: what a step is, below the panels.
    """
    with mpl.rc_context(STYLE):
        rows = -(-len(panels) // 2)
        fig, grid = plt.subplots(rows, min(2, len(panels)), figsize=(10.8, 0.4 + 3.9 * rows), squeeze=False)
        for axes, (title, label, name, paths) in zip(grid.flat, panels, strict=False):
            _lines(axes, paths, name)
            axes.set_xlabel(step)
            axes.set_ylabel(label)
            if name in logarithmic:
                most = 1.3 * max(p[name] for seeds in paths.values() for path in seeds for p in path)
                axes.set_yscale("symlog", linthresh=1)
                _plain_ticks(axes.yaxis, [t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= most])
                axes.set_ylim(top=most)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.1)  # off the data
            axes.set_title(title, pad=44 if len(paths) > 2 else 28)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
    return fig


def price_of_fixes(rows: Sequence[tuple[str, str, str, Ends, Ends]], *, title: str) -> Figure:
    """What every arm earned and paid: gain over SFT left, KL right, means with intervals.

    rows: (failure, arm, kind, gain, KL), kind as in KINDS, each number as value, low, high; drawn in order.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x", "axes.titleweight": "normal"}):
        named = [(failure, _named(arm), *numbers) for failure, arm, _, *numbers in rows]
        note = "points: means, of KL geometric; bars: 95 % intervals over seeds, of gain over prompts too"
        fig, panels = _forests(named, [KINDS[kind] for _, _, kind, *_ in rows], title=title)
        fig.supxlabel(note, fontsize=9.5, color=GREY)
        panels[0].axvline(0, **REFERENCE)
        panels[0].set_title("What it earned")
        panels[0].set_xlabel(GAIN)
        panels[1].set_title("What it paid")
        panels[1].set_xlabel("KL to SFT (nats per completion, logarithmic)")
        for kind, (colour, marker) in KINDS.items():
            panels[1].plot([], [], color=colour, marker=marker, linestyle="", label=kind)
        panels[1].legend(loc="lower right", bbox_to_anchor=(1.02, 1.0), ncols=len(KINDS), borderaxespad=0.1,
                         handletextpad=0, columnspacing=0.8)  # fmt: skip
        return fig


def _named(arm: str) -> str:
    """How an arm is written: what stands before a comma is a method, as in "DPO, read once"."""
    method, comma, rest = arm.partition(",")
    return title_of(method) + comma + rest


def _lines(axes: plt.Axes, paths: Paths, name: str, x: str = "step") -> None:
    """One thin line a seed and one bold line an arm, the mean of the points that all seeds have."""
    for turn, (arm, seeds) in enumerate(paths.items()):
        colour, marker, line = look_of(arm, turn)
        for path in seeds:
            axes.plot([p[x] for p in path], [p[name] for p in path], color=colour, linewidth=1.0, alpha=0.45)
        common = min(map(len, seeds))
        middle = np.array([[[p[x], p[name]] for p in path[:common]] for path in seeds], dtype=float).mean(0)
        axes.plot(*middle.T, color=colour, marker=marker, linestyle=line, markersize=7.5, markeredgecolor="white",
                  label=_named(arm), zorder=3)  # fmt: skip
    if x == "step":
        axes.set_xlabel("optimiser step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _plain_ticks(axis: mpl.axis.Axis, ticks: Sequence[float]) -> None:
    """Ticks where we say, written as plain numbers."""
    axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
    axis.set_minor_formatter(NullFormatter())
