"""The quality report of preference pairs on one page (lesson 01)."""

import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefcourse.finite import counted
from prefcourse.plots.style import (
    AMBER,
    CHOSEN,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    REFERENCE,
    REJECTED,
    SKY,
    STYLE,
    _percent,
)

MARKS = {"ok": ("o", GREEN), "look": ("^", AMBER), "act": ("s", ORANGE)}  # verdict → marker and colour


def quality_report(report) -> Figure:
    """A `quality.QualityReport` on one page: the verdicts on the left, the distributions behind them on the right."""
    panels = [_lengths]
    panels += [_margins] if report.margin is not None else []
    panels += [_held_out] if report.noise is not None else []
    panels += [_types] if report.types else []
    rows = math.ceil(len(panels) / 2)
    with mpl.rc_context({**STYLE, "axes.titlesize": 10.5}):  # a title stays within its panel
        fig = plt.figure(figsize=(13.2, max(3.1 * rows, 0.5 * len(report) + 0.6)))
        grid = fig.add_gridspec(rows, 3, width_ratios=(1.35, 1, 1))
        _verdicts(fig.add_subplot(grid[:, 0]), report)
        for number, draw in enumerate(panels):
            whole_row = len(panels) == number + 1 and number % 2 == 0
            place = grid[number // 2, 1:] if whole_row else grid[number // 2, 1 + number % 2]
            draw(fig.add_subplot(place), report)
        title = f"{counted(report.pairs, 'pair')} on {counted(report.prompts, 'prompt')}. {report.summary()}"
        fig.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
    return fig


def _verdicts(axes, report) -> None:
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(len(report) - 0.4, -0.6))
    for place, finding in enumerate(report.values()):
        marker, colour = MARKS[finding.verdict]
        axes.plot(0.02, place, marker=marker, color=colour, markersize=9, clip_on=False)
        weight = "normal" if finding.verdict == "ok" else "bold"
        axes.text(0.08, place, finding.name, va="center", fontsize=10, fontweight=weight)
        shown = finding.shown.split("; ")[0] if len(finding.shown) > 50 else finding.shown
        axes.text(0.08, place + 0.4, f"{finding.verdict} · {shown}", va="center", fontsize=8.5, color=INK)


def _lengths(axes, report) -> None:
    gap = np.asarray(report.length)
    edge = max(2, int(np.quantile(np.abs(gap), 0.99)))  # the largest hundredth is left out
    x = np.arange(-edge, edge + 1)
    counts = (gap[:, None] == x).mean(0)
    for side, look in ((x > 0, CHOSEN), (x < 0, REJECTED), (x == 0, dict(color=GREY))):
        axes.bar(x[side], counts[side], width=0.85, color=look["color"])
    longer, shorter = (gap > 0).mean(), (gap < 0).mean()
    axes.set_title(f"Chosen longer {longer:.0%}, shorter {shorter:.0%}")
    axes.set_xlabel(f"{report.unit} of chosen − of rejected")
    axes.set_ylabel("share of pairs")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _percent(axes.yaxis)


def _margins(axes, report) -> None:
    margin = np.asarray(report.margin)
    edge = np.quantile(np.abs(margin), 0.99)
    bins = np.linspace(-edge, edge, 41)
    shares = np.histogram(margin, bins)[0] / len(margin)
    middle = (bins[1:] + bins[:-1]) / 2
    for side, look in ((middle > 0, CHOSEN), (middle < 0, REJECTED)):
        axes.bar(middle[side], shares[side], width=bins[1] - bins[0], color=look["color"])
    both = shares + shares[::-1]  # how many pairs lie so far apart: a coin would deal them to the two sides by σ
    axes.plot(middle, both / (1 + np.exp(-middle)), color=INK, linewidth=1.6, label="expected of a coin")
    axes.set_title(f"Label against score: {((margin < 0) + 0.5 * (margin == 0)).mean():.0%}")
    axes.set_xlabel("score of chosen − of rejected (nats)")
    axes.set_ylabel("share of pairs")
    axes.set_ylim(top=1.25 * max(shares.max(), (both / (1 + np.exp(-middle))).max()))
    axes.legend(loc="upper left", handlelength=1.2, borderpad=0)
    _percent(axes.yaxis)


def _held_out(axes, report) -> None:
    noise = report.noise
    order = np.argsort(np.abs(noise.margins))
    groups = np.array_split(order, 12)
    x = [np.abs(noise.margins[group]).mean() for group in groups]
    agree = [(noise.margins[group] > 0).mean() + 0.5 * (noise.margins[group] == 0).mean() for group in groups]
    error = [1.96 * math.sqrt(p * (1 - p) / len(group)) for p, group in zip(agree, groups, strict=True)]
    axes.errorbar(x, agree, error, fmt="o", color=PURPLE, markersize=6, markeredgecolor="white", elinewidth=1.2)
    sure, flips = np.linspace(0, 1.4 * max(x), 100), noise.flips.value
    axes.plot(sure, flips + (1 - 2 * flips) / (1 + np.exp(-noise.slope * sure)), color=INK, linewidth=1.6)
    axes.axhspan(1 - noise.flips.high, 1 - noise.flips.low, color=FAINT, linewidth=0, zorder=0)
    axes.axhline(1 - flips, **REFERENCE)
    axes.annotate("its limit: 1 − flips", (0.03, 1 - noise.flips.high), (0, -3), va="top", color=GREY,
                  xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9)  # fmt: skip
    axes.set_title(f"Flipped labels: about {flips:.0%}")
    axes.set_xlabel("how sure a held-out model is (nats)")
    axes.set_ylabel("labels that agree with it")
    axes.set(xlim=(0, 1.4 * max(x)), ylim=(0.4, 1.02))
    _percent(axes.yaxis)


def _types(axes, report) -> None:
    names, counts = list(report.types), np.array(list(report.types.values()))
    shares = counts / counts.sum()
    axes.barh(range(len(names)), shares, color=SKY, height=0.62)
    for place, share in enumerate(shares):
        axes.text(0.02 * shares.max(), place, f"{share:.0%}", va="center", fontsize=9.5)
    axes.axvline(1 / len(names), **REFERENCE)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_title(f"Rarest type: {names[-1]}, {shares[-1]:.0%}")
    axes.set_xlabel("share of pairs (dotted: equal shares)")
    _percent(axes.xaxis)
