"""Figures of A/B tests: they draw what they are given, and their titles follow from it."""

import numpy as np
import pytest
from figures import titles
from test_plots_data import fits, words

from prefcourse import plots
from prefcourse.comparison.ab_tests import power, sample_size
from prefcourse.evaluate import Estimate

GROUPS = {
    "negative": {"seed 0": Estimate(1.0, 0.8, 1.2), "seed 1": Estimate(0.7, 0.5, 0.9)},
    "question": {"seed 0": Estimate(0.4, 0.3, 0.5), "seed 1": Estimate(-0.1, -0.3, 0.1)},
}


def test_coverage_draws_each_interval_and_gives_the_means():
    fig = plots.coverage([0.1, 0.5, 0.9], {"Wilson": [0.95, 0.96, 0.94], "Wald": [0.8, 0.9, 0.7]}, n=20)
    drawn = {line.get_label(): list(line.get_ydata()) for line in fig.axes[0].get_lines()}
    assert titles(fig) == ["Mean coverage at n = 20: Wilson 95.0%, Wald 80.0%"] and fits(fig)
    assert drawn["Wald"] == [0.8, 0.9, 0.7] and set(drawn["promised: 95%"]) == {0.95}


def test_a_forest_has_a_row_for_each_group_and_a_point_with_its_interval_for_each_run():
    fig = plots.forest({"Gain": ("nats", 0.0, GROUPS), "Again": ("nats", 0.5, GROUPS)}, title="Found", total="question")
    assert fig.get_suptitle() == "Found" and titles(fig) == ["Gain", "Again"] and fits(fig)
    axes = fig.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(GROUPS)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top
    for bars, run in zip(axes.containers, ("seed 0", "seed 1"), strict=True):
        point, _, (ends,) = bars
        assert bars.get_label() == run
        assert list(point.get_xdata()) == [found[run].value for found in GROUPS.values()]
        low_high = [[end[0][0], end[1][0]] for end in ends.get_segments()]
        assert np.allclose(low_high, [[found[run].low, found[run].high] for found in GROUPS.values()])
    assert [set(axes.get_lines()[0].get_xdata()) for axes in fig.axes] == [{0.0}, {0.5}]


def test_a_forest_refuses_panels_that_do_not_match():
    other = {"Gain": ("nats", 0.0, GROUPS), "Again": ("nats", 0.0, {"negative": GROUPS["negative"]})}
    with pytest.raises(ValueError, match="panel 'Again' has other groups"):
        plots.forest(other, title="Found")
    many = {"all": {f"seed {k}": Estimate(0.0, -1.0, 1.0) for k in range(4)}}
    with pytest.raises(ValueError, match="got 4 runs"):
        plots.forest({"Gain": ("nats", 0.0, many)}, title="Found")


@pytest.mark.parametrize(("rate", "n", "ties"), [(0.6, 100, 0.0), (0.55, 400, 0.3), (0.95, 5, 0.1), (1.0, 20, 0.0)])
def test_the_power_curve_says_what_the_functions_say(rate, n, ties):
    fig = plots.power_curve(rate, n, ties=ties)
    assert titles(fig) == [
        f"n = {n}: the test sees it in {power(rate, n, ties):.0%} of experiments",
        f"80% power takes {sample_size(rate, ties):,} prompts",
    ]
    marked = fig.axes[1].get_lines()[-1]
    assert (list(marked.get_xdata()), list(marked.get_ydata())) == ([n], [power(rate, n, ties)])
    assert not words(fig) and fits(fig)


def test_nothing_to_see_needs_no_number_of_prompts():
    assert titles(plots.power_curve(0.5, 50))[1] == "No number of prompts is enough: there is nothing to see"
