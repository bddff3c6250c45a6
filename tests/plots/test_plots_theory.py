"""Figures of the solvable world: they draw what they are given, and their titles follow from it."""

import math

import numpy as np
import pytest
from figures import titles

from prefcourse import plots

NAMES = ["dull", "fine", "lovely"]
REFERENCE = np.array([0.5, 0.3, 0.2])
BETAS = np.geomspace(0.1, 10, 25)


def optimum(beta, reward=(0.0, 1.0, 2.0)):
    """π* of the reference above for one β."""
    weight = REFERENCE * np.exp(np.array(reward) / beta)
    return weight / weight.sum()


def kl(policy):
    return float((policy * np.log(policy / REFERENCE)).sum())


@pytest.fixture
def frontier():
    policies = [optimum(beta) for beta in BETAS]
    return np.array([(kl(p), p @ np.array([0.0, 1.0, 2.0])) for p in policies])


def test_a_distance_is_drawn_until_it_lands():
    curve = 10.0 ** -np.arange(12)
    fig = plots.distance_by_step({"Adam": curve}, title="It lands", ylabel="distance", target=3e-6)
    drawn = fig.axes[0].get_lines()[0].get_ydata()
    assert drawn == pytest.approx(curve[:7])  # the step below the target is the last
    assert titles(fig) == ["It lands"]
    assert fig.axes[0].texts[0].get_text().startswith("landed: below")


@pytest.mark.parametrize(("beta", "winner"), [(0.2, "lovely"), (8.0, "dull")])
def test_the_title_names_the_likeliest_response(beta, winner):
    policies = np.array([optimum(b) for b in BETAS])
    fig = plots.optimum_against_beta(BETAS, policies, REFERENCE, NAMES, beta=beta, best=optimum(beta))
    assert titles(fig)[0] == f"At β = {beta:.3g} the likeliest is “{winner}”"
    assert (
        titles(fig)[1] == "As β grows: lovely, then dull"
        or titles(fig)[1] == "As β grows: lovely, then fine, then dull"
    )


def test_no_policy_is_drawn_above_the_line(frontier):
    beta, best = 1.0, optimum(1.0)
    point = (kl(best), float(best @ np.array([0.0, 1.0, 2.0])))
    cloud = np.random.default_rng(0).dirichlet([1, 1, 1], 50)
    rewards, kls = cloud @ np.array([0.0, 1.0, 2.0]), [kl(p) for p in cloud]
    fig = plots.under_the_line(kls, rewards, frontier=frontier, best=point, beta=beta)
    reach = point[1] - beta * point[0]  # J*, where the line meets the axis
    assert all(r <= reach + beta * k + 1e-12 for r, k in zip(rewards, kls, strict=True))
    straight = [line for line in fig.axes[0].get_lines() if len(line.get_xdata()) == 2]
    slopes = [np.diff(line.get_ydata())[0] / np.diff(line.get_xdata())[0] for line in straight]
    assert any(slope == pytest.approx(beta) for slope in slopes)


def test_the_loss_is_ln_2_at_zero_and_beta_is_the_steepest_slope():
    fig = plots.loss_and_slope([0.1, 0.5], width=25.0, at=-10.0)
    loss, slope = fig.axes
    for beta, curve, steep in zip((0.1, 0.5), loss.get_lines(), slope.get_lines(), strict=False):
        assert np.interp(0, *curve.get_data()) == pytest.approx(math.log(2), abs=1e-3)
        assert 0.9 * beta < max(steep.get_ydata()) < beta
    assert any("loss 1.313" in text.get_text() for text in loss.texts)  # log(1 + e)


def test_samples_for_z_quotes_the_longest_text():
    fig = plots.samples_for_z([0.2, 1.0, 5.0], {5: [1e3, 1e2, 1e1], 40: [1e9, 1e4, 1e2]}, error=0.1)
    assert "40 tokens, 10% error" in titles(fig)[0] and "10⁹ samples at β = 0.2" in titles(fig)[0]


@pytest.mark.parametrize(("limit", "ending"), [((1.0, 0.2), "ends lower for larger β"), ((1.0, 1.0), "the same")])
def test_kl_by_step_says_where_the_curves_end(limit, ending):
    step = np.unique(np.geomspace(1, 1000, 40).astype(int))
    curves = {beta: end * (1 - np.exp(-step / 100)) for beta, end in zip((0.1, 1.0), limit, strict=True)}
    limits = {"soft": dict(zip((0.1, 1.0), limit, strict=True))}
    fig = plots.kl_by_step(step, {"soft": curves}, limits=limits, early=30)
    assert ending in titles(fig)[0] and titles(fig)[0].startswith("Soft labels")


def test_logps_by_step_draws_chosen_and_rejected_in_their_styles():
    fig = plots.logps_by_step(np.linspace(0, -1, 30), np.linspace(0, -4, 30), {"others": np.linspace(0, 1, 30)})
    looks = {line.get_label(): line.get_color() for line in fig.axes[0].get_lines()}
    assert looks["chosen"] == plots.BLUE and looks["rejected"] == plots.ORANGE and "others" in looks


def test_a_landscape_has_its_star_at_the_best_policy():
    best = optimum(0.5)
    panel = {"title": "J", "height": lambda p: p @ np.array([0.0, 1.0, 2.0]), "best": best}
    fig = plots.simplex_landscapes([panel], NAMES, REFERENCE)
    corners = np.array([[0, 0], [1, 0], [0.5, math.sqrt(3) / 2]])
    [star] = [line for line in fig.axes[0].get_lines() if line.get_marker() == "*"]
    assert np.ravel(star.get_data()) == pytest.approx(best @ corners)
    assert fig.axes[0].get_title() == "J"


def test_the_price_of_a_nat_is_the_slope_of_its_line(frontier):
    marks = {beta: (kl(optimum(beta)), float(optimum(beta) @ np.array([0.0, 1.0, 2.0]))) for beta in (0.5, 1.0)}
    cloud = np.array([[0.1, 0.5], [0.4, 0.9]])
    fig = plots.price_of_a_nat(frontier, marks, cloud, title="β is a price")
    straight = [line for line in fig.axes[0].get_lines() if len(line.get_xdata()) == 2]
    slopes = [np.diff(line.get_ydata())[0] / np.diff(line.get_xdata())[0] for line in straight]
    assert sorted(slopes) == pytest.approx([0.5, 1.0])


def test_estimators_are_drawn_against_the_kl_they_estimate():
    fig = plots.estimator_spread([0.01, 0.1, 1.0], {"k1": [0.1, 0.4, 1.2], "k3": [0.02, 0.3, 2.0]}, title="k3 is calm")
    assert titles(fig) == ["k3 is calm"]
    assert {line.get_label() for line in fig.axes[0].get_lines()} >= {"k1", "k3"} or len(fig.axes[0].texts) >= 2


def test_runs_share_their_panels():
    runs = {"broken": {"step": [0, 1, 2], "loss": [1.0, 2, 3]}, "right": {"step": [0, 1, 2], "loss": [1.0, 0.5, 0.2]}}
    fig = plots.compare_runs(runs, {"loss": "loss (nats)"}, title="One falls")
    assert fig.axes[0].get_ylabel() == "loss (nats)"
    assert {line.get_label() for line in fig.axes[0].get_lines()} >= {"broken", "right"}


def test_paths_mark_the_pair():
    path = np.linspace([0, 0, 0], [-1, 0.5, 2], 20)
    fig = plots.log_ratio_paths({"DPO": path}, NAMES, chosen=2, rejected=0)
    colours = {line.get_color() for line in fig.axes[0].get_lines()}
    assert {plots.BLUE, plots.ORANGE} <= colours


def test_paths_that_end_together_share_a_label():
    path = np.linspace([0, 0, 0, 0], [-1, 0.5, 0.5, 0.5], 20)
    fig = plots.log_ratio_paths({"DPO": path}, ["a", "b", "c", "d"], chosen=3, rejected=0)
    written = {text.get_text(): text.xy[1] for text in fig.axes[0].texts}
    assert written.keys() == {"b, c", "a (rejected)", "d (chosen)"}
    assert written["b, c"] != written["d (chosen)"]


def test_samples_for_z_marks_how_many_texts_there_are_and_keeps_its_legend_off_the_data():
    fig = plots.samples_for_z([0.2, 5.0], {2: [1e3, 1e1], 5: [1e5, 1e1]}, error=0.1, vocabulary=3)
    (axes,) = fig.axes
    dotted = [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert dotted == [9.0, 243.0]
    fig.canvas.draw()
    legend = fig.legends[0].get_window_extent()
    assert not legend.overlaps(axes.get_window_extent()) and not legend.overlaps(axes.title.get_window_extent())


def test_the_legend_of_the_optimum_lies_off_its_curves():
    fig = plots.optimum_against_beta(
        BETAS, np.stack([optimum(b) for b in BETAS]), REFERENCE, NAMES, beta=1.0, best=optimum(1.0)
    )
    fig.canvas.draw()
    assert not any(fig.legends[0].get_window_extent().overlaps(axes.get_window_extent()) for axes in fig.axes)
