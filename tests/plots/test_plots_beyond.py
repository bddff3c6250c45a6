"""Figures of lessons 13 and 14: they draw what they are given, and titles follow from the numbers."""

import numpy as np
import pytest
from figures import titles

from prefcourse import plots
from prefcourse.plots.style import BLUE, GREY, INK, ORANGE

PATH = [{"step": 16, "kl": 1.0, "gain": 0.2}, {"step": 32, "kl": 3.0, "gain": 0.6}]
FARTHER = [{"step": 16, "kl": 3.0, "gain": 0.4}, {"step": 32, "kl": 5.0, "gain": 1.0}]


def lines(axes):
    """label → (x, y) of the lines with a name."""
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines() if line.get_label()[0] != "_"}


def test_the_regret_of_writers_is_compared_with_the_first():
    regrets = {"offline": [4.0, 9.0], "online": [2.0, 3.0]}
    fig = plots.sampler_regret([0.1, 1.0], regrets, {"offline": [0.8, 0.8], "online": [0.1, 0.7]})
    assert titles(fig)[0] == "Offline: 2.0 to 3.0 times online's labels"
    assert lines(fig.axes[0])["offline"] == [[0.1, 4.0], [1.0, 9.0]] and fig.axes[0].get_xscale() == "log"
    assert lines(fig.axes[1])["online"] == [[0.1, 0.1], [1.0, 0.7]]


def test_online_runs_stand_against_kl_and_against_labels():
    fig = plots.online_frontier({"online": [PATH, FARTHER], "offline": [PATH]}, labels=16, title="Found")
    left, right = fig.axes
    assert fig.get_suptitle() == "Found"
    assert np.allclose(lines(left)["online"], [[2.0, 0.3], [4.0, 0.8]])
    assert np.allclose(lines(right)["online"], [[256, 0.3], [512, 0.8]]) and len(left.get_lines()) == 3 + 2 + 1
    near = plots.online_frontier({"online": [PATH, FARTHER]}, labels=16, title="Found", kl=3).axes[0]
    assert near.get_xlim() == (0, 3) and 0.6 < near.get_ylim()[1] < 1


def test_properties_that_no_rule_names_are_hollow():
    effects = {"tone": (0.5, 0.4, 0.6), "gold": (0.2, 0.1, 0.3)}
    fig = plots.what_labels_ask(effects, ["tone"], title="Found")
    assert titles(fig) == ["Found"]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["tone (judged)", "gold"]
    dots = [line for line in fig.axes[0].get_lines() if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots] == [BLUE, "white"]
    assert fig.axes[0].get_xlim() == (-1, 1)  # that of other figures, so that they can be compared
    wide = plots.what_labels_ask({"tone": (1.5, 1.0, 2.0)}, ["tone"], title="Found")
    assert wide.axes[0].get_xlim() == pytest.approx((-2.1, 2.1))


def test_an_interval_says_its_sign_by_its_colour():
    row = {"a": (1.0, 0.5, 1.5, 0.8, 1.2), "b": (-1.0, -1.5, -0.5), "c": (0.1, -0.5, 0.7)}
    fig = plots.feedback_effects({"gold": row, "tone": row}, units={"gold": "nats", "tone": "points"}, title="Found")
    assert titles(fig) == ["gold", "tone"] and [axes.get_xlabel() for axes in fig.axes] == ["nats", "points"]
    dots = [line for line in fig.axes[0].get_lines() if line.get_marker() not in ("None", "|")]
    assert [dot.get_color() for dot in dots if dot.get_alpha() is None] == [BLUE, ORANGE, INK]
    assert dots[0].get_xdata().tolist() == [0.8, 1.2] and dots[0].get_alpha() == 0.5


def test_the_price_is_drawn_by_run_and_by_third():
    runs = {"DPO": [(0.5, 4.0), (0.7, 6.0)], "SFT": [(0.1, -0.5), (0.3, -0.1)]}
    fig = plots.price_by_third(runs, {"DPO": [7.0, 4.0, 3.0], "SFT": [-0.4, -0.3, -0.2]}, title="Found")
    left, right = fig.axes
    assert titles(fig)[1] == "Negative texts pay most: 1 of 2 methods"
    big = [line.get_xydata().tolist() for line in left.get_lines() if line.get_zorder() == 3]
    assert big == [[pytest.approx([0.6, 5.0])], [pytest.approx([0.2, -0.3])]]
    assert lines(right)["SFT"] == [[0, -0.4], [1, -0.3], [2, -0.2]]
    colours = {line.get_label(): line.get_color() for line in right.get_lines() if line.get_label()[0] != "_"}
    assert colours == {"DPO": BLUE, "SFT": GREY}  # those that they have in the whole course
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["DPO", "SFT"]


def test_averages_stand_beside_the_methods_and_dpos_own_runs():
    ends = {"DPO": [(20.0, 2.0, 0.9)], "averaged": [(1.0, 0.4, 0.1), (4.0, 0.8, 0.3)]}
    sweep = [(k, 0.5 * k**0.5) for k in (0.5, 1.0, 4.0, 30.0)]
    shares = {0.5: (2.0, 0.5, 0.2), 0.25: (0.5, 0.3, 0.1)}
    fig = plots.averages_at_kl(ends, sweep, shares, kl=6, title="Found")
    left, right = fig.axes
    assert fig.get_suptitle() == "Found" and left.get_xlim()[1] == right.get_xlim()[1] == 6
    assert lines(left)["averaged"] == [[1.0, 0.4], [4.0, 0.8]]
    assert lines(right)["averaged"] == [[1.0, 0.1], [4.0, 0.3]]
    assert lines(right)["one run, averaged with SFT"] == [[0.5, 0.1], [2.0, 0.2]]  # in the order of w
    x, y = np.array(lines(left)["DPO at every β: runs, and a curve"]).T
    np.testing.assert_allclose(y, 0.5 * np.sqrt(x), atol=1e-9)  # points beyond the axis do not bend it
    assert left.get_ylim()[1] == pytest.approx(1.15 * 1.0) and right.get_ylim()[1] == pytest.approx(1.15 * 0.3)
    bare = plots.averages_at_kl(ends, sweep, {}, kl=6, title="Found")
    assert [text.get_text() for text in bare.legends[0].get_texts()] == ["DPO at every β: runs, and a curve", *ends]
