"""Reward against KL: who is on the front, and what is gained at the same KL."""

import math

import pytest

from prefcourse.comparison import frontier
from prefcourse.evaluate import Estimate, over_seeds


def test_the_front_has_whom_nobody_beats():
    points = [(0.0, 0.0), (2.0, 1.0), (3.0, 0.9), (2.5, 1.0), (5.0, 1.5), (2.0, 1.0)]
    assert frontier.on_front(points) == [True, True, False, False, True, True]


def test_curves_gather_the_runs_of_a_seed_in_order_of_kl():
    def run(method, seed, *points):
        path = [{"kl": kl, "gain": gain, "step": 1} for kl, gain in points]
        return {"setting": {"method": method, "seed": seed}, "path": path}

    stored = {"runs": [run("dpo", 0, (4, 1), (6, 2)), run("dpo", 0, (5, 3)), run("ipo", 1, (1, 1))]}
    assert frontier.curves(stored) == {"dpo": {0: [(4, 1), (5, 3), (6, 2)]}, "ipo": {1: [(1, 1)]}}


def made(a, b, *kls):
    return [(kl, a * math.sqrt(kl) - b * kl) for kl in kls]


def test_a_gain_is_read_from_the_fitted_curve_and_compared_seed_by_seed():
    one = {seed: made(1 + seed, 0.1, 1, 3, 7) for seed in range(3)}
    less = {seed: made(0.5 + seed, 0.1, 1, 3, 9) for seed in range(3)}
    assert frontier.fit_gain(one[2]) == pytest.approx((3, 0.1))
    found = frontier.gain_at(one, 4.0)
    expected = over_seeds([2 * (1 + seed) - 0.4 for seed in range(3)])
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    apart = frontier.gain_at(one, 4.0, less=less)
    assert (apart.value, apart.low, apart.high) == pytest.approx((1, 1, 1)), "what the seeds share drops out"


def test_a_gain_far_away_changes_nothing_and_nothing_is_extrapolated():
    near = {seed: made(1, 0.1, 1, 2, 4) for seed in range(3)}
    far = {seed: [*points, (40.0, -5.0)] for seed, points in near.items()}
    assert frontier.gain_at(near, 4.0) == frontier.gain_at(far, 4.0)
    with pytest.raises(ValueError, match="0 seeds have a point at 5 nats"):
        frontier.gain_at(near, 5.0)


def test_a_table_of_gains_is_one_family_and_has_only_what_three_seeds_reach():
    noise = (0.0, 0.1, -0.1, 0.05)
    flat = {seed: made(1, 0.1, 1, 3, 5) for seed in range(4)}
    far = {seed: made(2 + noise[seed], 0.1, 1, 3, 9) for seed in range(4)}
    near = {seed: made(1 + noise[seed], 0.1, 1, 3) for seed in range(3)}
    rows = frontier.gains_over({"flat": flat, "far": far, "near": near}, "flat", (2.0, 4.0, 7.0))
    assert list(rows) == [("far", 2.0), ("far", 4.0), ("near", 2.0)], "flat ends at 5 nats and near at 3"
    gap, p = rows["far", 4.0]
    assert gap.value == pytest.approx(frontier.gain_at(far, 4.0, less=flat).value) and gap.value > 1.9
    assert p < 0.01 < 0.5 < rows["near", 2.0][1]
    (alone,) = frontier.gains_over({"flat": flat, "far": far}, "flat", (4.0,)).values()
    assert p == pytest.approx(3 * alone[1]), "Holm over the three rows: both rows of far are alike"
    assert frontier.gains_over({"flat": flat}, "flat", (2.0,)) == {}


def test_a_point_of_each_seed_is_compared_with_its_own_curve_at_its_own_kl():
    curve = {seed: made(1 + seed, 0.1, 1, 3, 7, 9) for seed in range(3)}
    points = {seed: (kl, made(1 + seed, 0.1, kl)[0][1] + 0.1 * seed) for seed, kl in ((0, 2), (1, 5), (2, 8.5))}
    assert frontier.ahead_of(points, curve) == pytest.approx([0, 0.1, 0.2])
    for strange in ({0: (10, 1)}, {7: (2, 1)}):
        with pytest.raises(ValueError, match="the curve has no point as far as"):
            frontier.ahead_of(strange, curve)
    with pytest.raises(ValueError, match="kl"):
        frontier.ahead_of({0: (0, 1)}, curve)


def test_policies_are_measured_on_the_same_prompts_and_sorted(monkeypatch):
    asked = []

    class Found(dict):
        def __init__(self, kl, reward):
            super().__init__(kl=Estimate(kl, kl, kl), gold_reward=Estimate(reward, reward, reward))
            self.baseline = ["kept"]

    def evaluate(policy, world, *, baseline, **settings):
        asked.append(baseline)
        return Found(*policy)

    monkeypatch.setattr(frontier, "evaluate", evaluate)
    points = frontier.frontier({"far": (9.0, 1.0), "sft": (0.0, 0.0), "good": (3.0, 1.5)}, world=None)
    assert [(p.name, p.best) for p in points] == [("sft", True), ("good", True), ("far", False)]
    assert asked == [None, ["kept"], ["kept"]]
    with pytest.raises(ValueError, match="policies is empty"):
        frontier.frontier({}, world=None)
