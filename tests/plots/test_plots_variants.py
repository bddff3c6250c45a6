"""Figures of the losses beside DPO: scaled alike, stops marked, and titles that follow from the numbers."""

import math

import numpy as np
import pytest
from figures import titles

from prefcourse import plots

H = np.linspace(-20, 30, 101)


def dpo(beta=0.1):
    """Loss and pull of DPO at H."""
    return np.logaddexp(0, -beta * H), beta / (1 + np.exp(beta * H))


def ipo(tau=0.1):
    return (H - 1 / (2 * tau)) ** 2, 2 * (1 / (2 * tau) - H)


def curves_of(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata()) == len(H)]


def test_all_losses_start_with_value_0_and_pull_1():
    fig = plots.loss_shapes(H, {"DPO": ("dpo", dpo()), "IPO": ("ipo", ipo())}, stops={"DPO": math.inf, "IPO": 5.0})
    loss, pull = fig.axes
    for axes, start in ((loss, 0.0), (pull, 1.0)):
        assert [np.interp(0, *line.get_data()) for line in curves_of(axes)] == pytest.approx([start] * 2)
    slopes = [np.interp(0.5, *line.get_data()) for line in curves_of(loss)]
    assert slopes == pytest.approx([-0.5] * 2, abs=0.06)  # downhill at the same rate


def test_a_ring_marks_where_a_loss_stops():
    fig = plots.loss_shapes(H, {"DPO": ("dpo", dpo()), "IPO": ("ipo", ipo())}, stops={"DPO": math.inf, "IPO": 5.0})
    rings = [line for line in fig.axes[1].get_lines() if len(line.get_xdata()) == 1]
    assert [ring.get_xdata()[0] for ring in rings] == [5.0]
    legend = [text.get_text() for text in fig.axes[1].get_legend().get_texts()]
    assert legend == ["DPO: never stops", "IPO: stops at 5.0"]
    assert titles(fig)[1] == "Rings: where the pull is gone (1 of 2)"
    assert fig.axes[1].get_ylim()[1] > 23 / 3  # the pull at h = -20 of IPO with a fifth of the labels flipped


def test_a_stop_beyond_the_axis_has_no_ring():
    fig = plots.loss_shapes(H, {"DPO": ("dpo", dpo())}, stops={"DPO": 300.0})
    assert not [line for line in fig.axes[1].get_lines() if len(line.get_xdata()) == 1]


def test_the_second_curve_of_a_loss_is_thin():
    fig = plots.loss_shapes(H, {"clean": ("ipo", ipo()), "flips": ("ipo", ipo(0.2))}, stops={})
    assert [line.get_linewidth() for line in curves_of(fig.axes[0])] == [2.0, 1.2]


def test_the_family_has_ktos_peak_where_z0_is():
    k = np.linspace(-60, 60, 121)
    bells = {z0: 4 / (2 + 2 * np.cosh((k - z0) / 10)) for z0 in (0.0, 10.0)}
    p = np.linspace(0.01, 0.99, 50)
    fig = plots.family_of_losses(H, {"DPO": ("dpo", dpo())}, k, bells, p, {"odds (ORPO)": p**2, "ratio": p * 0.1})
    marks = [line.get_data() for line in fig.axes[2].get_lines() if line.get_marker() == "^"]
    assert [float(np.ravel(x)[0]) for x, _ in marks] == [0.0, 10.0]
    assert len(titles(fig)) == 4
    assert [text.get_text() for text in fig.axes[3].get_legend().get_texts()] == ["odds (ORPO)", "ratio"]


def test_the_title_on_noise_says_what_the_most_robust_keeps():
    gain = {"dpo": {0.0: [1.0, 1.0], 0.4: [0.2, 0.4]}, "kto": {0.0: [0.8, 0.8], 0.4: [0.6, 0.6]}}
    fig = plots.noise_robustness(gain, gain)
    assert titles(fig)[0] == "At 40% flips the means keep 30 to 75% of the gain"
    [mean] = [line for line in fig.axes[0].get_lines() if line.get_label() == "DPO"]
    assert mean.get_ydata() == pytest.approx([1.0, 0.3])
    gain["cdpo"] = {0.4: [0.9, 0.9]}  # without flips it is DPO, which is drawn once
    fig = plots.noise_robustness(gain, gain)
    assert titles(fig)[0] == "At 40% flips the means keep 30 to 90% of the gain"
    [mean] = [line for line in fig.axes[0].get_lines() if line.get_label() == "cDPO"]
    assert mean.get_ydata() == pytest.approx([0.9]) and list(fig.axes[0].get_xticks()) == [0.0, 0.4]


@pytest.mark.parametrize(
    ("loss", "name"), [("dpo", "DPO"), ("cdpo", "cDPO"), ("kto", "KTO"), ("simpo", "SimPO"), ("sft", "SFT on chosen")]
)
def test_losses_are_written_as_in_their_papers(loss, name):
    assert plots.title_of(loss) == name
