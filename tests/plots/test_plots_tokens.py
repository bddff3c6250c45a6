"""Figures of lesson 00: boxes carry their tokens and numbers, sums are sums over the mask, bars are a softmax."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from figures import titles
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from prefcourse import plots

TEXT = (["The", " film", " ends", ".", "EOS"], [np.nan, -5.0, -2.5, -0.25, -0.05], [False, False, True, True, True])


def words(axes):
    return [text.get_text() for text in axes.texts]


def boxes(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_tokens_have_their_numbers_and_the_sum_leaves_out_the_prompt():
    fig = plots.coloured_tokens({"a review": TEXT}, title="Found")
    axes = fig.axes[0]
    assert titles(fig) == ["Found"]
    assert words(axes) == ["a review", "The", "␣film", "−2.50", "␣ends", "−0.25", ".", "−0.05", "EOS", "sum −2.80"]
    assert [bool(box.get_hatch()) for box in boxes(axes)] == [True, True, False, False, False]
    lightness = [sum(box.get_facecolor()[:3]) for box in boxes(axes)[2:]]
    assert lightness == sorted(lightness)  # the less likely, the darker


def test_boxes_stand_side_by_side_in_one_row_a_text():
    fig = plots.coloured_tokens({"a": TEXT, "b": ([" " + "x" * 20, "EOS"], [-9.0, -30.0], [True, True])}, title="Found")
    axes = fig.axes[0]
    first, second = boxes(axes)[:5], boxes(axes)[5:]
    assert len({box.get_y() for box in first}) == len({box.get_y() for box in second}) == 1
    for row in (first, second):
        for left, right in pairwise(row):
            assert left.get_x() + left.get_width() < right.get_x()
    assert second[0].get_facecolor() == second[1].get_facecolor()  # both below the lowest colour
    assert "sum −39.00" in words(axes)


@pytest.mark.parametrize("text", [([], [], []), (["a"], [-1.0, -2.0], [True]), (["a", "b"], [-1.0, -2.0], [True])])
def test_a_text_of_uneven_parts_is_refused(text):
    with pytest.raises(ValueError, match=r"'x': .* tokens?, .* log-probs? and a mask"):
        plots.coloured_tokens({"x": text}, title="Found")


def test_no_text_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        plots.coloured_tokens({}, title="Found")


def test_bars_are_the_softmax_at_each_temperature():
    p = np.array([0.1, 0.5, 0.3, 0.1])
    fig = plots.next_token_bars(np.log(p) + 7, {1: " good", 2: "\n"}, [0.5, 1.0])
    cold, plain = ([bar.get_width() for bar in axes.patches] for axes in fig.axes)
    square = p**2 / (p**2).sum()
    assert cold == pytest.approx([square[1], square[2], square[0] + square[3]])
    assert plain == pytest.approx([0.5, 0.3, 0.2])
    assert titles(fig) == ["T = 0.5: ␣good has 69%, others 6%", "T = 1: ␣good has 50%, others 20%"]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["␣good", "↵", "2 others"]
    for axes in fig.axes:
        assert axes.get_lines()[0].get_xdata() == pytest.approx([0.5, 0.3, 0.2])  # T = 1, marked in both
    assert fig.axes[0].patches[0].get_facecolor() == to_rgba(plots.GREEN)


def test_a_cold_softmax_does_not_overflow():
    fig = plots.next_token_bars([900.0, 0.0, -900.0], {0: "a", 1: "b"}, [0.01, 50.0])
    assert [bar.get_width() for bar in fig.axes[0].patches] == pytest.approx([1.0, 0.0, 0.0])


@pytest.mark.parametrize(("names", "temperatures", "message"), [({0: "a"}, [0.0], "above 0"), ({0: "a"}, [], "above 0"),
                         ({3: "a"}, [1.0], "ids from 0 to 2"), ({}, [1.0], "ids from 0 to 2")])  # fmt: skip
def test_bad_bars_are_refused(names, temperatures, message):
    with pytest.raises(ValueError, match=message):
        plots.next_token_bars([0.0, 1.0, 2.0], names, temperatures)


def test_rows_of_a_batch_lose_their_filling_and_name_their_end():
    names = [["The", " film", " ends", "<e>"], ["The", " end", "<e>", "<e>"]]
    terms = torch.tensor([[0.0, -2.5, -0.05], [0.0, -1.0, 0.0]])  # (N, T - 1); the second row's completion is EOS
    mask = torch.tensor([[False, False, True, True], [False, False, True, False]])
    rows = plots.batch_tokens(["a", "b"], names, terms, mask)
    assert rows["a"][0] == ["The", " film", " ends", "EOS"] and rows["a"][2] == [False, False, True, True]
    assert rows["b"][0] == ["The", " end", "EOS"] and rows["b"][2] == [False, False, True]
    assert rows["a"][1][2:] == pytest.approx([-2.5, -0.05]) and rows["b"][1][2] == pytest.approx(-1.0)
    fig = plots.coloured_tokens(rows, title="Found")
    assert "sum −2.55" in words(fig.axes[0]) and "sum −1.00" in words(fig.axes[0])


def test_the_legend_of_the_bars_lies_off_the_data():
    fig = plots.next_token_bars([0.0, 1.0, 2.0], {0: "a", 1: "b"}, [0.5, 1.0])
    fig.canvas.draw()
    (legend,) = fig.legends
    assert not any(axes.get_legend() for axes in fig.axes)
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in fig.axes)
