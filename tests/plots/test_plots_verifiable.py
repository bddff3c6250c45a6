"""Figures of lesson 15: every curve is drawn with its intervals, and titles list what data found."""

import pytest
from figures import titles

from prefcourse import plots


def test_a_line_a_policy_with_its_intervals():
    points = {1: (0.1, 0.08, 0.12), 8: (0.5, 0.4, 0.6), 32: (0.8, 0.7, 0.9)}
    better = {k: (min(v + 0.1, 1), low, 1.0) for k, (v, low, _) in points.items()}
    fig = plots.pass_curves({"Toy": {"SFT": points, "Dr. GRPO": better}, "GPT-2": {"SFT": points}}, title="Found")
    assert titles(fig) == ["Toy", "GPT-2"] and fig.get_suptitle() == "Found"
    left = fig.axes[0]
    assert left.get_xscale() == "log" and [t.get_text() for t in left.get_legend().get_texts()] == ["SFT", "Dr. GRPO"]
    lines = [container.lines[0] for container in left.containers]
    assert lines[0].get_ydata().tolist() == [0.1, 0.5, 0.8]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 2


@pytest.mark.parametrize(("rows", "said"), [([], "none"), (["a"], "a"), (["a", "b"], "a and b"),
                                            (["a", "b", "c"], "a, b and c")])  # fmt: skip
def test_what_was_found_in_words(rows, said):
    assert plots.labels_of(rows) == said
