"""Figures of policy gradients: they draw what they are given, and their titles follow from it."""

import numpy as np
import pytest
from figures import titles

from prefcourse import plots


def test_variances_are_drawn_one_line_each():
    curves = {"no baseline": [2.0, 1.0, 2.0], "RLOO": [1.5, 1.5, 1.5]}
    fig = plots.variance_by_offset([-1, 0, 1], curves, title="Found")
    drawn = {line.get_label(): list(line.get_ydata()) for line in fig.axes[0].get_lines()}
    assert titles(fig) == ["Found"] and {name: drawn[name] for name in curves} == curves


def test_a_climb_counts_steps_from_1_and_shows_the_best():
    fig = plots.climb({"RLOO": [0.0, 0.5, 0.9], "PPO": [0.0, 0.8]}, 1.0, title="Found")
    rloo, ppo, best = fig.axes[0].get_lines()
    assert rloo.get_xdata().tolist() == [1, 2, 3] and ppo.get_ydata().tolist() == [0.0, 0.8]
    assert set(best.get_ydata()) == {1.0}


@pytest.mark.parametrize(("k", "title"), [(2, "K = 2: 100% more variance than without"),
                                          (6, "K = 6: 50% less variance than without")])  # fmt: skip
def test_the_clip_is_flat_on_one_side_and_the_group_is_compared(k, title):
    fig = plots.clip_and_group(0.2, k, {2: [2.0], 6: [0.1, 0.3]}, [[1.0], [0.4]])
    assert titles(fig) == ["ε = 0.20: flat above 1.20 or below 0.80", title]
    lines = {line.get_label(): line for line in fig.axes[0].get_lines()}
    for label, A in (("A = +1", 1), ("A = −1", -1)):
        ratio, loss = lines[label].get_xdata(), lines[label].get_ydata()
        flat = ratio > 1.2 if A > 0 else ratio < 0.8
        assert np.allclose(loss[flat], -1.2 if A > 0 else 0.8) and np.allclose(loss[~flat], -A * ratio[~flat])
    marked = fig.axes[1].get_lines()[-1]
    assert marked.get_xdata() == [k] and marked.get_ydata() == [pytest.approx({2: 2.0, 6: 0.2}[k])]


def test_over_optimisation_draws_every_seed_of_every_panel_against_the_root_of_kl():
    up = [{"kl": 0.0, "proxy": 0.0, "gold": 0.0}, {"kl": 4.0, "proxy": 1.0, "gold": 0.5}]
    down = [*up, {"kl": 25.0, "proxy": 3.0, "gold": -0.5}]
    fig = plots.over_optimisation({"16 pairs": [down, up], "2,000 pairs": [up]}, title="Found", unit="sd")
    assert titles(fig) == ["16 pairs", "2,000 pairs"] and fig.get_suptitle() == "Found"
    lines = [line for line in fig.axes[0].get_lines() if len(line.get_xdata()) > 2]
    assert [line.get_xdata().tolist() for line in lines] == [[0.0, 2.0, 5.0]] * 2
    assert sorted(line.get_ydata()[-1] for line in lines) == [-0.5, 3.0]
    assert [len(axes.get_lines()) for axes in fig.axes] == [5, 3]  # with the line of SFT
    assert "sd" in fig.axes[0].get_ylabel()


def test_the_marked_run_is_thick_in_both_rewards_and_the_legend_stands_outside():
    start = {"kl": 0.0, "proxy": 0.0, "gold": 0.0}
    far = [[start, {"kl": 100.0, "proxy": 3.0, "gold": gold}] for gold in (0.5, 0.51, -1.0)]
    near = [[start, {"kl": 9.0, "proxy": 1.0, "gold": 1.0}]]
    fig = plots.over_optimisation({"few": far, "many": near}, title="Found", unit="sd", marked=("few", 2))
    thick = [[line.get_ydata()[-1] for line in axes.get_lines() if line.get_linewidth() > 2] for axes in fig.axes]
    assert thick == [[3.0, -1.0], []]
    assert fig.axes[0].get_xlim() == fig.axes[1].get_xlim() and fig.axes[0].get_xlim()[1] > 10
    assert "thick" in fig.legends[0].get_title().get_text()
    plain = plots.over_optimisation({"few": far}, title="Found", unit="sd")
    assert "thick" not in plain.legends[0].get_title().get_text()
    fig.canvas.draw()
    assert not any(fig.legends[0].get_window_extent().overlaps(axes.get_window_extent()) for axes in fig.axes)
