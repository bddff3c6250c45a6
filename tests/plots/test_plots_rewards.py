"""Figures about rewards: they draw what they are given, and their titles follow from it."""

import math

import numpy as np
import pytest
from figures import titles

from prefcourse import plots
from prefcourse.evaluate import Estimate
from prefcourse.rlhf.calibration import Bin


def test_the_table_of_wins_knows_no_shift():
    reward, names = [2.0, 0.5, -1.0], ["lovely", "fine", "dull"]
    plain, moved = (plots.win_probabilities(reward, names, shift=f) for f in (0.0, 3.0))
    tables = [fig.axes[1].images[0].get_array() for fig in (plain, moved)]
    assert np.array_equal(*tables) and tables[0][0, 2] == pytest.approx(1 / (1 + math.exp(-3)))
    assert np.allclose(tables[0] + tables[0].T, 1)
    assert titles(plain) == titles(moved) == ["From lovely to dull: 3.0 nats", "lovely beats dull in 95%"]
    widths = [[bar.get_width() for bar in fig.axes[0].patches] for fig in (plain, moved)]
    assert widths[0] == reward and widths[1] == [5.0, 3.5, 2.0]


def bins(*points):
    return [Bin(sure, Estimate(right, right - 0.05, right + 0.05), 100) for sure, right in points]


def test_calibration_draws_the_bins_of_each_stage():
    sharp, soft = bins((0.6, 0.55), (0.9, 0.7)), bins((0.55, 0.55), (0.7, 0.7))
    exact = {"Before": bins((0.6, 0.56), (0.9, 0.71)), "After": soft}
    fig = plots.calibration({"Before": sharp, "After": soft}, exact, {"Before": 0.125, "After": 0.0})
    assert titles(fig) == [
        "Before: off by 12.5 points without coins",
        "After: off by 0.0 points without coins",
    ]
    for axes, seen, true in zip(fig.axes, (sharp, soft), exact.values(), strict=True):
        _, drawn, chance = axes.get_lines()
        assert list(drawn.get_xdata()) == [b.confidence for b in seen]
        assert list(drawn.get_ydata()) == [b.right.value for b in seen]
        assert list(chance.get_ydata()) == [b.right.value for b in true]
        low, high = axes.get_xlim()
        assert low < 0.5 and high > 0.9


def test_accuracy_has_its_ceiling_and_the_coin():
    pairs = {100: [0.56, 0.58], 1000: [0.60, 0.62]}
    flips = {0.0: [0.61, 0.61], 0.4: [0.53, 0.55]}
    fig = plots.reward_accuracy(pairs, flips, ceiling=0.67)
    assert titles(fig) == ["57.0% with 100 pairs, 61.0% with 1,000", "61.0% without flips, 54.0% with 40%"]
    one = plots.reward_accuracy({1: [0.5, 0.52], 1000: [0.60, 0.62]}, flips, ceiling=0.67)
    assert titles(one)[0] == "51.0% with 1 pair, 61.0% with 1,000"
    for axes in fig.axes:
        level = [line.get_ydata()[0] for line in axes.get_lines() if len(set(line.get_ydata())) == 1]
        assert {0.67, 0.5} <= set(level)
        low, high = axes.get_ylim()
        assert low < 0.5 and high > 0.67


def test_words_are_placed_by_their_worth():
    words, gold, learnt = ["great", "bad", "film"], [0.6, -0.8, 0.05], [0.3, -0.4, 0.025]
    fig = plots.word_weights(words, gold, learnt)
    axes = fig.axes[0]
    assert titles(fig) == ["Learnt and gold worth of 3 words: correlation 1.00"]
    alike, opposite = (dots.get_offsets().tolist() for dots in axes.collections)
    assert alike == [list(point) for point in zip(gold, learnt, strict=True)] and not opposite
    assert {text.get_text() for text in axes.texts} == set(words)
    assert "best line, slope 0.50" in [line.get_label() for line in axes.get_lines()]


def test_the_names_of_words_cover_no_mark():
    draw = np.random.default_rng(0)
    gold = draw.normal(0, 0.4, 200)
    fig = plots.word_weights([f"word{i}" for i in range(200)], gold, 0.3 * gold + draw.normal(0, 0.1, 200))
    axes, _ = fig.axes[0], fig.draw_without_rendering()
    marks = axes.transData.transform(np.concatenate([dots.get_offsets() for dots in axes.collections]))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 12 and not any(box.count_contains(marks) for box in boxes)
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # itself
