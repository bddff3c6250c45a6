"""Reward against KL: who is on the front, and what is gained at the same KL."""

import math

import pytest

from prefcourse.comparison import frontier
from prefcourse.evaluate import Estimate


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
