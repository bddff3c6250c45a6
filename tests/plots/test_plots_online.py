"""Figures of lesson 13 on its tables: every line is drawn, ends in a dot, and keeps its look from panel to panel."""

from figures import titles

from prefcourse import plots


def test_lines_end_in_a_dot_and_keep_their_look():
    a, b = ([0.0, 1.0], [2.0, 3.0]), ([0.0, 2.0], [1.0, 0.0])
    fig = plots.exact_curves([("One", "x", "y", {"a": a, "b": b}), ("Two", "s", "t", {"b": b})])
    assert titles(fig) == ["One", "Two"] and [axes.get_xlabel() for axes in fig.axes] == ["x", "s"]
    left, right = (
        {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"} for axes in fig.axes
    )
    assert left["a"].get_xydata().tolist() == [[0.0, 2.0], [1.0, 3.0]] and set(right) == {"b"}
    assert left["b"].get_color() == right["b"].get_color() != left["a"].get_color()
    assert left["b"].get_linestyle() == right["b"].get_linestyle() != left["a"].get_linestyle()
    dots = [line.get_xydata().tolist() for line in fig.axes[0].get_lines() if line.get_marker() == "o"]
    assert dots == [[[1.0, 3.0]], [[2.0, 0.0]]]


def test_a_point_is_a_mark_and_a_legend_says_each_name_once():
    a, b, mark = ([0.0, 1.0], [2.0, 3.0]), ([0.0, 2.0], [1.0, 0.0]), ([0.5], [2.5])
    fig = plots.exact_curves([("One", "x", "y", {"a": a, "mark": mark}), ("Two", "s", "t", {"a": b})])
    left, right = fig.axes
    (star,) = (line for line in left.get_lines() if line.get_label() == "mark")
    assert star.get_xydata().tolist() == [[0.5, 2.5]] and (star.get_marker(), star.get_linestyle()) == ("*", "None")
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["a", "mark"] and right.get_legend() is None
    other = plots.exact_curves([("One", "x", "y", {"a": a}), ("Two", "s", "t", {"a": b, "b": b})]).axes[1]
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["a", "b"]
