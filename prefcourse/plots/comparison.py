"""Figures of DPO against RLHF (lesson 11): cost and quality, wrong settings, the exact world, and a budget."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from prefcourse.plots.style import (
    AMBER,
    GREY,
    INK,
    KL_LABEL,
    LOOKS,
    PURPLE,
    REFERENCE,
    SKY,
    STYLE,
    Ends,
    _forests,
    _headline,
    _root_axis,
    look_of,
)


def cost_and_quality(
    paths: Mapping[str, Sequence[Sequence[Mapping]]], *, title: str, kl: float | None = None, gain: float | None = None
) -> Figure:
    """Gain in gold reward against KL and against work: pale lines are seeds, bold ones the means of their points.

    paths: method → one path for each seed, all of the same number of points: dicts with kl and gain, and with work
    (tokens) where the method was trained. kl, gain: where the axes end; a run that goes further leaves the figure.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.8, 4.9), sharey=True)
        for method, seeds in paths.items():
            colour, marker, line = look_of(method)
            for axes, name, unit in ((left, "kl", 1.0), (right, "work", 1e3)):
                if not all(name in point for seed in seeds for point in seed):
                    continue
                x, y = (np.array([[p[key] for p in seed] for seed in seeds], dtype=float) for key in (name, "gain"))
                x = x / unit
                axes.plot(x.T, y.T, color=colour, linestyle=line, linewidth=0.9, alpha=0.4)
                axes.plot(
                    x.mean(0), y.mean(0), color=colour, marker=marker, linestyle=line, markersize=8, label=method,
                    markeredgecolor="white", zorder=3,
                )  # fmt: skip
        for axes in (left, right):
            axes.axhline(0, **REFERENCE, zorder=1)
        left.annotate("reference", (1, 0), (-2, 4), xycoords=("axes fraction", "data"), ha="right", color=GREY,
                      textcoords="offset points", fontsize=9.5)  # fmt: skip
        left.set_title("What a nat of KL buys (pale: seeds, bold: means)")
        right.set_title("What a token of work buys")
        left.set_xlabel(KL_LABEL + ", by its root")
        right.set_xlabel("work (thousands of forward-token equivalents)")
        left.set_ylabel("gain in gold reward (nats of log-odds)")
        most = kl or max(p["kl"] for seeds in paths.values() for seed in seeds for p in seed)
        _root_axis(left.xaxis, most, marks=(0.1, 0.5, 1, 2, 3, 5, 10, 20, 40))
        right.set_xlim(left=0)
        left.set_ylim(-0.08, gain)
        right.legend(*left.get_legend_handles_labels(), loc="upper right")
        _headline(fig, title)
    return fig


def wrong_settings(rows: Sequence[tuple[str, str, Ends, Ends]], *, title: str) -> Figure:
    """What a setting three times too high or too low changes: the objective left, KL right.

    rows: (method, what is wrong, change of the objective, KL as a multiple of what it was), each as value, low, high;
    drawn in order. The intervals of the left panel are over seeds and prompts, those of the right one over seeds.
    """
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x", "axes.titleweight": "normal"}):
        looks, bars = [look_of(method)[:2] for method, *_ in rows], "over seeds and prompts (left), over seeds (right)"
        fig, panels = _forests(rows, looks, title=title, bars=bars)
        for axes, nothing in zip(panels, (0, 1), strict=True):  # no change: a difference of 0, a ratio of 1
            axes.axvline(nothing, **REFERENCE)
        panels[0].set_title("Change of the objective (nats)")
        panels[1].set_title("KL, as a multiple of what it was")
        panels[0].set_xlabel("wrong setting − tuned setting, same seeds")
        panels[1].set_xlabel("wrong setting ÷ tuned setting, same seeds (logarithmic)")
        return fig


def regret_by_pairs(panels: Mapping[str, tuple[Sequence[int], Mapping[str, np.ndarray]]], *, title: str) -> Figure:
    """How far each road stays below the best J, against the number of comparisons, on the exact world.

    panels: heading → (numbers of comparisons, road → regrets (numbers, draws)). Lines are means over the draws; bands
    hold the middle half of them.
    """
    looks = [LOOKS["dpo"], LOOKS["rloo"], LOOKS["ppo"]]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both", "axes.titleweight": "normal"}):
        fig, row = plt.subplots(1, len(panels), figsize=(10.8, 4.4), sharey=True)
        for axes, (heading, (numbers, roads)) in zip(row, panels.items(), strict=True):
            for (name, regret), (colour, marker, line) in zip(roads.items(), looks, strict=False):
                axes.fill_between(numbers, *np.quantile(regret, [0.25, 0.75], axis=1), color=colour, alpha=0.15, lw=0)
                axes.plot(numbers, regret.mean(1), color=colour, marker=marker, linestyle=line, label=name,
                          markersize=8, markeredgecolor="white")  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(list(numbers), [f"{n:,}" for n in numbers])
            axes.xaxis.minorticks_off()
            axes.set_title(heading)
            axes.set_xlabel("comparisons for each prompt (logarithmic)")
        row[0].set_ylabel(r"$J(\pi^*) - J(\pi)$ (nats, logarithmic)")
        row[0].legend(loc="lower left")
        _headline(fig, title)
    return fig


def budget(memory: Mapping[str, Mapping[str, float]], work: Mapping[str, Mapping[str, float]]) -> Figure:
    """Stacked bars: memory (GB) and work (forward-token equivalents) of each method, by what they are spent on."""
    colours = {
        "trained": INK,
        "frozen": SKY,
        "reward model": AMBER,
        "sampling": PURPLE,
        "scoring": SKY,
        "learning": INK,
    }
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x", "axes.titleweight": "normal"}):
        fig, panels = plt.subplots(1, 2, figsize=(10.8, 3.3))
        labels = ("GB, activations not counted", "work (forward-token equivalents)")
        for axes, table, label in zip(panels, (memory, work), labels, strict=True):
            seen: dict[str, None] = {}
            for y, (_, parts) in enumerate(table.items()):
                left = 0.0
                for part, value in parts.items():
                    axes.barh(y, value, left=left, color=colours[part], height=0.6, edgecolor="white",
                              label=None if part in seen else part)  # fmt: skip
                    seen[part] = None
                    left += value
                text = _gb(left) if table is memory else _count(left)
                axes.annotate(text, (left, y), (4, 0), textcoords="offset points", va="center", fontsize=9.5)
            axes.set_yticks(range(len(table)), list(table))
            axes.invert_yaxis()
            axes.margins(x=0.18)
            axes.set_xlabel(label)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, columnspacing=1.2)
        panels[1].xaxis.set_major_locator(MaxNLocator(5))
        panels[1].xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: _count(tokens)))
        totals = {name: sum(parts.values()) for name, parts in work.items()}
        first, *_, last = totals
        panels[0].set_title("Memory for weights, gradients and Adam")
        panels[1].set_title(f"{last} does {totals[last] / totals[first]:.1f} times the work of {first}")
    return fig


def memory_bars(plans: Mapping[str, Mapping[str, float]], sizes: Mapping[str, float], *, title: str) -> Figure:
    """Stacked bars, one a plan: GB by what they hold, if any does. sizes: a GPU → its GB, a dotted line each."""
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        fig, axes = plt.subplots(figsize=(9.6, 1.7 + 0.5 * len(plans)))
        left = np.zeros(len(plans))
        for part, colour in zip(next(iter(plans.values())), (INK, SKY, GREY, AMBER, PURPLE), strict=True):
            values = np.array([plan[part] for plan in plans.values()])
            if not values.any():
                continue
            axes.barh(list(plans), values, left=left, color=colour, height=0.6, edgecolor="white", label=part)
            left += values
        for y, total in enumerate(left):
            axes.annotate(_gb(total), (total, y), (4, 0), textcoords="offset points", va="center", fontsize=9.5)
        shown = {name: size for name, size in sizes.items() if size < 4 * left.max()}
        for name, size in shown.items():
            axes.axvline(size, **REFERENCE)
            axes.annotate(name, (size, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                          ha="center", fontsize=9.5, color=GREY)  # fmt: skip
        axes.set_xlim(0, 1.15 * max([left.max(), *shown.values()]))
        axes.invert_yaxis()
        axes.set_xlabel("GB")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=5, columnspacing=1.2)
        _headline(fig, title)
    return fig


def _gb(size: float) -> str:
    return f"{size:,.0f} GB" if size >= 1000 else f"{size:.3g} GB"


def _count(tokens: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g} {name}"
    return f"{tokens:.0f}"
