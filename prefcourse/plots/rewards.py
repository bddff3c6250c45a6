"""Figures about rewards (lesson 03): win probabilities, calibration, accuracy against data and noise, learnt words."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from prefcourse.finite import counted, number, numbers
from prefcourse.plots.data import _seeds
from prefcourse.plots.style import BLUE, GREEN, GREY, INK, METHODS, ORANGE, PURPLE, REFERENCE, STYLE, _percent, _signed


def win_probabilities(reward: Sequence[float], names: Sequence[str], shift: float = 0.0) -> Figure:
    """Rewards in nats, each plus `shift`, and the table σ(r_row - r_column) of who beats whom, which knows no shift."""
    reward, at, shift = numbers("reward", reward).numpy(), np.arange(len(names)), number("shift", shift)
    if len(reward) != len(names):
        raise ValueError(f"got {counted(len(reward), 'reward')} and {counted(len(names), 'name')}; give one for each")
    chance = 1 / (1 + np.exp(-(reward[:, None] - reward[None, :])))  # (Y, Y)
    with mpl.rc_context(STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=(1, 1.15))
        bars = left.barh(at, reward + shift, color=[BLUE if r >= 0 else ORANGE for r in reward + shift], height=0.6)
        left.bar_label(bars, [_signed(r) for r in reward + shift], padding=4, fontsize=9.5)
        left.axvline(0, color=GREY, linewidth=0.8)
        left.set_yticks(at, names)
        left.invert_yaxis()
        left.grid(False)
        left.margins(x=0.22)
        left.set_xlabel("reward r (nats)")
        best, worst = reward.argmax(), reward.argmin()
        gap = _signed(reward[best] - reward[worst], 1, plus=False)
        left.set_title(f"From {names[best]} to {names[worst]}: {gap} nats")
        right.imshow(chance, cmap="PuOr", vmin=0, vmax=1)
        right.grid(False)
        for i in at:
            for j in at:
                far = abs(chance[i, j] - 0.5) > 0.25
                text = "–" if i == j else f"{chance[i, j]:.0%}"
                right.text(j, i, text, ha="center", va="center", color="white" if far else INK, fontsize=10)
        right.set_xticks(at, names, rotation=25, ha="right")
        right.set_yticks(at, names)
        right.set_ylabel("how often this one …")
        right.set_xlabel("… beats this one")
        right.tick_params(length=0)
        right.spines[:].set_visible(False)
        right.set_title(f"{names[best]} beats {names[worst]} in {chance[best, worst]:.0%}")
    return fig


def calibration(curves: Mapping[str, Sequence], exact: Mapping[str, Sequence], errors: Mapping[str, float]) -> Figure:
    """Reliability curves side by side: how often the model is right, against how sure it is, with 95 % intervals.

    curves: title → bins as `calibration.reliability` returns them, on the labels that were drawn. exact: the same bins
    with the chance of each label in place of the label. errors: the ECE of each with those chances, so without luck.
    """
    with mpl.rc_context(STYLE):
        fig, panels = plt.subplots(1, len(curves), figsize=(5.2 * len(curves), 4.8), squeeze=False, sharey=True)
        ends = [end for bins in curves.values() for b in bins for end in (b.right.low, b.right.high)]
        widest = max(b.confidence for bins in curves.values() for b in bins) + 0.03
        for axes, (name, bins) in zip(panels[0], curves.items(), strict=True):
            sure = np.array([b.confidence for b in bins])
            right, low, high = np.array([[b.right.value, b.right.low, b.right.high] for b in bins]).T
            axes.plot([0.5, widest], [0.5, widest], **REFERENCE, label="as sure as right")
            axes.errorbar(
                sure, right, [right - low, high - right], color=BLUE, linestyle="", marker="o", markersize=8,
                markeredgecolor="white", elinewidth=1.4,
                label=f"labels as drawn, each dot {_share(len(bins))} of the pairs",
            )  # fmt: skip
            chance = [b.right.value for b in exact[name]]
            axes.plot(sure, chance, color=GREEN, marker="D", markersize=5.5, markeredgecolor="white", zorder=4,
                      label="the chance of those labels")  # fmt: skip
            axes.set_xlim(0.49, widest)
            axes.set_ylim(min(0.45, min(ends) - 0.02), max(*ends, widest) + 0.02)
            axes.set_title(f"{name}: off by {100 * errors[name]:.1f} points without coins")
            axes.set_xlabel("how sure: σ(|Δ|)")
            _percent(axes.xaxis, axes.yaxis)
        panels[0, 0].set_ylabel("how often right")
        fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)  # off the data
    return fig


def _share(parts: int) -> str:
    return {4: "a quarter", 5: "a fifth", 10: "a tenth", 20: "a twentieth"}.get(parts, f"1/{parts}")


def reward_accuracy(
    pairs: Mapping[int, Sequence[float]], flips: Mapping[float, Sequence[float]], *, ceiling: float
) -> Figure:
    """Accuracy on test labels against the number of pairs and against the share of flipped labels, one dot a seed.

    ceiling: that of the test pairs that the accuracies were measured on.
    """
    with mpl.rc_context(STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.6), sharey=True)
        few, many = min(pairs), max(pairs)
        grown = _seeds(left, pairs, *METHODS[0])
        left.set_title(f"{grown[few][0]:.1%} with {counted(few, 'pair')}, {grown[many][0]:.1%} with {many:,}")
        left.set_xscale("log")
        left.set_xticks(sorted(pairs), [f"{n:,}" for n in sorted(pairs)])
        left.xaxis.minorticks_off()
        left.set_xlabel("training pairs (logarithmic)")
        left.set_ylabel("test labels ranked right")
        lost = _seeds(right, flips, *METHODS[1])
        right.set_title(f"{lost[min(flips)][0]:.1%} without flips, {lost[max(flips)][0]:.1%} with {max(flips):.0%}")
        right.set_xticks(sorted(flips))
        right.set_xlabel("share of training labels flipped")
        _percent(right.xaxis)
        for axes in (left, right):
            axes.axhline(ceiling, color=INK, linestyle="--", linewidth=1.4)
            axes.axhline(0.5, **REFERENCE)
            _percent(axes.yaxis)
        for height, text in ((ceiling, f"the ceiling of these pairs: {ceiling:.1%}"), (0.5, "a coin")):
            left.annotate(text, (0, height), (4, 4), xycoords=("axes fraction", "data"), textcoords="offset points",
                          color=GREY, fontsize=9.5)  # fmt: skip
        left.set_ylim(0.485, ceiling + 0.02)
        left.yaxis.set_major_locator(MultipleLocator(0.05))
    return fig


def word_weights(words: Sequence[str], gold: Sequence[float], learnt: Sequence[float], *, labelled: int = 12) -> Figure:
    """What each word is worth to the learnt reward against what it is worth to the gold reward, in nats."""
    gold, learnt = np.asarray(gold, dtype=float), np.asarray(learnt, dtype=float)
    agree = float(np.corrcoef(gold, learnt)[0, 1])
    order = np.argsort(np.abs(gold) + np.abs(learnt))[::-1]
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(8.4, 6.0))
        axes.grid(True, axis="both")
        reach = 1.12 * max(np.abs(gold).max(), np.abs(learnt).max())
        axes.plot([-reach, reach], [-reach, reach], **REFERENCE, label="the same worth, y = x")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
        slope = float(gold @ learnt / (gold @ gold))
        axes.plot(
            [-reach, reach],
            [-slope * reach, slope * reach],
            color=INK,
            linewidth=1.4,
            linestyle="--",
            label=f"best line, slope {slope:.2f}",
        )
        same = gold * learnt > 0
        for some, colour, marker, name in ((same, GREEN, "o", "same sign"), (~same, PURPLE, "s", "opposite signs")):
            look = dict(s=26, edgecolors="white", linewidths=0.6, zorder=3)
            axes.scatter(gold[some], learnt[some], color=colour, marker=marker, label=name, **look)
        tall = 1.15 * np.abs(learnt).max()
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-tall, tall)
        axes.set_xlabel("gold reward: what one more of this word adds (nats)")
        axes.set_ylabel("learnt reward: what it adds (nats)")
        axes.set_title(f"Learnt and gold worth of {counted(len(words), 'word')}: correlation {agree:.2f}")
        axes.legend(loc="lower right")
        fig.draw_without_rendering()  # the layout, which says where there is room
        _name(axes, [words[i] for i in order], np.column_stack([gold, learnt])[order], labelled)
    return fig


def _name(axes, words: Sequence[str], at: np.ndarray, most: int) -> None:
    """Write up to `most` of the words, the first ones first, beside their marks `at`, where they cover no other."""
    scale = 72 / axes.figure.dpi  # all lengths in points
    marks, (right, top) = scale * axes.transData.transform(at), scale * axes.get_window_extent().max
    boxes: list[tuple[float, float, float, float]] = []
    for word, (x, y), place in zip(words, marks, at, strict=True):
        wide, tall, gap = 6.0 * len(word), 11.0, 6.0
        for side, dy in itertools.product((1, -1), (5, 0, -5)):
            left, low = x + gap if side > 0 else x - gap - wide, y + dy - tall / 2
            inside = left + wide < right and low + tall < top
            beside = (marks > (left - 3, low - 3)) & (marks < (left + wide + 3, low + tall + 3))
            over = any(left < c and a < left + wide and low < d and b < low + tall for a, b, c, d in boxes)
            if inside and not beside.all(1).any() and not over:
                boxes.append((left, low, left + wide, low + tall))
                axes.annotate(word, place, (gap * side, dy), textcoords="offset points", fontsize=9.5, color=INK,
                              ha="left" if side > 0 else "right", va="center",
                              path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")])  # fmt: skip
                break
        if len(boxes) == most:
            return
