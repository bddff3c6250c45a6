"""Figures of lesson 01: titles follow the data, and what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from prefcourse import plots
from prefcourse.agreement import accuracy_bounds


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def titles(fig):
    return [axes.get_title(loc="left") for axes in fig.axes]


def test_the_band_is_that_of_the_formula():
    fig = plots.agreement_and_accuracy([(0.6, 0.66), (0.8, 0.85)])
    high, low, *_ = fig.axes[0].get_lines()
    for a in (0.5, 0.65, 0.9, 1.0):
        bounds = accuracy_bounds(a)
        assert np.interp(a, *low.get_data()) == pytest.approx(bounds[0], abs=1e-9)
        assert np.interp(a, *high.get_data()) == pytest.approx(bounds[1], abs=1e-3)
    assert titles(fig) == ["Where two agree on 65%, a perfect model reaches 65% to 77%"]


def test_the_title_of_the_panel_figure_quotes_the_first_curve():
    fig = plots.majority_by_panel((1, 3, 5), {"careful": [0.7, 0.78, 0.84], "lapses": [0.6, 0.65, 0.68]})
    assert titles(fig) == ["careful: 70% right alone, 84% as the majority of 5"]
    assert [line.get_label() for line in fig.axes[0].get_lines()] == ["careful", "lapses"]


def test_noise_draws_every_seed_and_the_mean():
    fig = plots.noise_and_win_rate({0.4: [0.5, 0.6], 0.0: [0.7, 0.8]})
    assert titles(fig) == ["Win rate 75% with 0% of the labels turned, 55% with 40%"]
    dots = [tuple(line.get_ydata()) for line in fig.axes[0].get_lines()]
    assert (0.5, 0.6) in dots and (0.7, 0.8) in dots
    assert any(np.allclose(d, (0.75, 0.55)) for d in dots if len(d) == 2)  # the line of means, by growing noise


def test_pairs_needed_has_two_panels_with_units():
    fig = plots.pairs_needed({50: [0.55, 0.6], 1600: [0.7, 0.74]}, {50: [12.0, 14.0], 1600: [2.0, 3.0]})
    assert titles(fig) == ["Win rate: 57% with 50 pairs, 72% with 1,600", "KL: 13 nats with 50 pairs, 2 with 1,600"]
    assert all("logarithmic" in axes.get_xlabel() for axes in fig.axes) and "nats" in fig.axes[1].get_ylabel()
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["50", "1,600"]
