"""Gains at a KL over seeds and prompts by two forms, and the KL of best-of-n against its exact value on a table."""

import math

import numpy as np
import pytest
import torch

from prefcourse.comparison import equal_kl, frontier
from prefcourse.comparison.crossed import half_width, student_quantile
from prefcourse.comparison.equal_kl import best_of_n_kl_measured, gain_at_kl, measured
from prefcourse.rlhf.best_of_n import best_of_n_kl, best_of_n_policy

KLS = (1.0, 2.0, 4.0, 7.0)


def curve(a, b, form, kls=KLS):
    return frontier.basis(np.array(kls), form) @ np.array([a, b])


def runs(a, b, form="square root", seeds=8, prompts=100, spread=(0.0, 0.0, 0.0), shared=None, rng=None):
    """seed → (kl, gain), (K, P) each: a curve, and noise of seeds, prompts and rest on top of its gain."""
    rng = rng or np.random.default_rng(0)
    prompt = (spread[1] * rng.normal(size=prompts)) if shared is None else shared
    found = {}
    for seed in range(seeds):
        gain = curve(a, b, form)[:, None] + spread[0] * rng.normal() * np.sqrt(KLS)[:, None] / 2 + prompt
        gain = gain + spread[2] * rng.normal(size=(len(KLS), prompts))
        kl = np.array(KLS)[:, None] + 0.5 * rng.normal(size=(len(KLS), prompts)) * bool(sum(spread))
        found[seed] = torch.tensor(kl), torch.tensor(gain)
    return found


def test_both_forms_by_hand():
    """At 4 nats d = 2: 2 (a - 2b), and 2 (a - b log 2)."""
    assert frontier.basis(np.array(4.0)) @ [1.5, 0.2] == pytest.approx(2 * (1.5 - 0.4))
    assert frontier.basis(np.array(4.0), "rl") @ [1.5, 0.2] == pytest.approx(2 * (1.5 - 0.2 * math.log(2)))
    for form in frontier.FORMS:
        assert (frontier.basis(np.array([0.0, -1.0]), form) == 0).all()
        points = list(zip(KLS, curve(1.2, 0.1, form), strict=True))
        assert frontier.fit_gain(points, form) == pytest.approx((1.2, 0.1))
    with pytest.raises(ValueError, match="allowed are 'square root' and 'rl'"):
        frontier.basis(np.array(1.0), "cubic")


def test_without_noise_a_form_reads_its_own_curve_and_the_other_says_how_far_off_it_is():
    for form, right in (("square root", "square_root"), ("rl", "rl")):
        found = gain_at_kl(runs(1.5, 0.2, form), 3.0)
        assert getattr(found, right).value == pytest.approx(curve(1.5, 0.2, form, (3.0,))[0])
        assert getattr(found, right).half == pytest.approx(0, abs=1e-9)
        assert found.apart.value == pytest.approx(found.square_root.value - found.rl.value) != 0


def test_it_is_the_mean_over_seeds_of_what_each_curve_reads():
    ours = runs(1.5, 0.2, spread=(0.3, 0.0, 0.0))
    for form, name in (("square root", "square_root"), ("rl", "rl")):
        fits = [
            frontier.fit_gain(list(zip(kl.mean(1).tolist(), gain.mean(1).tolist(), strict=True)), form)
            for kl, gain in ours.values()
        ]
        read = [float(frontier.basis(np.array(3.0), form) @ np.array(fit)) for fit in fits]
        assert getattr(gain_at_kl(ours, 3.0), name).value == pytest.approx(np.mean(read))


def test_the_interval_at_a_kl_holds_the_truth():
    rng, inside, widths, truth = np.random.default_rng(0), 0, [], curve(1.5, 0.2, "square root", (3.0,))[0]
    for _ in range(120):
        found = gain_at_kl(runs(1.5, 0.2, spread=(0.2, 1.0, 1.0), rng=rng), 3.0).square_root
        inside += found.low <= truth <= found.high
        widths.append(found.half)
    assert inside / 120 >= 0.89, inside / 120  # 95 % less three standard errors
    assert 0.15 < np.mean(widths) < 0.45


def test_a_difference_on_the_same_prompts_is_narrower_than_either():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=100)
    ours, theirs = (runs(a, 0.2, spread=(0.05, 0, 0.3), shared=shared, rng=rng) for a in (1.6, 1.5))
    apart = gain_at_kl(ours, 3.0, less=theirs)
    assert apart.square_root.value == pytest.approx(0.1 * math.sqrt(3), abs=0.1)
    assert apart.square_root.half < gain_at_kl(ours, 3.0).square_root.half
    assert apart.square_root.seeds == 8 and apart.square_root.prompts == 100 and not apart.disagree


def test_forms_that_disagree_are_said_to():
    low = equal_kl.interval(0.2, 0.05, 20, 8, 100)
    none = equal_kl.interval(0.05, 0.05, 20, 8, 100)
    assert equal_kl.AtKL(low, none, none, {}).disagree and not equal_kl.AtKL(low, low, none, {}).disagree


def test_the_account_says_what_would_narrow_the_interval():
    found = gain_at_kl(runs(1.5, 0.2, spread=(0.3, 0.5, 0.5), rng=np.random.default_rng(3)), 3.0)
    now, more = (half_width(found.parts, seeds, 100) for seeds in (8, 32))
    assert found.square_root.half == pytest.approx(now * student_quantile(0.975, found.square_root.df) / 1.96, rel=0.1)
    assert more < 0.7 * now and half_width(found.parts, 8, 400) > 0.8 * now, "here the seeds are what is few"


def test_a_forest_is_one_family_over_methods_and_budgets():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=100)
    make = lambda a: runs(a, 0.2, spread=(0.02, 0, 0.2), shared=shared, rng=rng)  # noqa: E731
    methods = {"dpo": make(1.5), "same": make(1.5), "better": make(2.2), "short": runs(1.5, 0.2)}
    methods["short"] = {seed: (kl[:1], gain[:1]) for seed, (kl, gain) in methods["short"].items()}
    found = equal_kl.forest(methods, "dpo", budgets=(1.5, 3.0), margin=0.15)
    assert set(found) == {(name, kl) for name in ("same", "better") for kl in (1.5, 3.0)}, "short does not reach them"
    assert {key: row.says for key, row in found.items()} == {
        (name, kl): {"same": "the same", "better": "differs"}[name] for name in ("same", "better") for kl in (1.5, 3.0)
    }
    least = min(row.at.square_root.p for row in found.values())
    assert min(row.square_root.p for row in found.values()) == pytest.approx(4 * least)


def test_nothing_is_extrapolated():
    with pytest.raises(ValueError, match="0 seeds have points on both sides of 9 nats"):
        gain_at_kl(runs(1, 0.1), 9.0)
    with pytest.raises(ValueError, match="2 seeds have"):
        gain_at_kl(runs(1, 0.1, seeds=2), 3.0)
    one_point = {seed: (kl[2:3], gain[2:3]) for seed, (kl, gain) in runs(1, 0.1).items()}
    with pytest.raises(ValueError, match="0 seeds have points on both sides of 3 nats"):
        gain_at_kl(one_point, 3.0)
    beyond = {seed: (kl[-2:], gain[-2:]) for seed, (kl, gain) in runs(1, 0.1).items()}
    with pytest.raises(ValueError, match="0 seeds have points on both sides of"):
        gain_at_kl(beyond, 0.5 * min(kl[-2].mean().item() for kl, _ in runs(1, 0.1).values()))
    with pytest.raises(ValueError, match="got 5 prompts; allowed are 20 and more"):
        gain_at_kl(runs(1, 0.1, prompts=5), 3.0)


def test_runs_of_a_seed_are_put_together():
    one = {"setting": {"method": "dpo", "seed": 0}, "kl": torch.ones(2, 30), "gain": torch.ones(2, 30)}
    stored = [one, one | {"setting": {"method": "dpo", "seed": 0, "beta": 1}}, one | {"setting": {"method": "ipo"}}]
    found = measured(stored, method="dpo")
    assert set(found) == {0} and found[0][0].shape == (4, 30)
    with pytest.raises(ValueError, match=r"no run has the setting \{'method': 'kto'\}"):
        measured(stored, method="kto")


# ------------------------------------------------------------------------------------------- best of n


def pools(probabilities, rewards, N, B, seed=0):
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(probabilities), size=(B, N), p=probabilities)
    logps = torch.tensor(np.log(probabilities))[torch.tensor(drawn)]
    return [[str(i) for i in row] for row in drawn], logps, torch.tensor(rewards)[torch.tensor(drawn)]


@pytest.mark.parametrize(("n", "concentration"), [(2, 0.3), (4, 0.3), (8, 0.3), (8, 3.0)])
def test_the_kl_of_best_of_n_is_the_exact_one_of_a_table(n, concentration):
    rng = np.random.default_rng(1)
    p, r = rng.dirichlet([concentration] * 12), rng.normal(size=12)
    exact = best_of_n_policy(torch.tensor(p)[None], torch.tensor(r)[None], n)[0]
    kl = (exact * (exact / torch.tensor(p)).clamp(min=1e-300).log()).sum().item()
    found = best_of_n_kl_measured(*pools(p, r, N=64, B=400), n)
    assert found.mean().item() == pytest.approx(kl, abs=0.02)
    assert kl < best_of_n_kl(n) - 0.03, "here the bound is not the KL"


def test_where_no_text_is_likely_the_kl_is_the_bound():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(3, 32, generator=generator, dtype=torch.float64)
    texts = [[f"{b} {i}" for i in range(32)] for b in range(3)]
    for n in (1, 2, 8, 32):
        found = best_of_n_kl_measured(texts, torch.full((3, 32), -60.0), rewards, n)
        assert found.tolist() == pytest.approx([best_of_n_kl(n)] * 3, abs=1e-6)


def test_a_coin_by_hand():
    """Two texts of probability ½: the better one wins 3 of 4 times. KL = ¾ log (3/2) + ¼ log ½ = 0.1308."""
    found = best_of_n_kl_measured([["a", "b"] * 4], torch.full((1, 8), 0.5).log(), torch.tensor([[0.0, 1.0] * 4]), 2)
    assert found.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5)) == pytest.approx(0.1308, abs=1e-4)


def test_a_prompt_with_one_answer_costs_nothing():
    found = best_of_n_kl_measured([["a"] * 8], torch.zeros(1, 8), torch.ones(1, 8), 4)
    assert found.item() == pytest.approx(0, abs=1e-9)


def test_what_best_of_n_refuses():
    with pytest.raises(ValueError, match="n is 9"):
        best_of_n_kl_measured([["a"] * 8], torch.zeros(1, 8), torch.ones(1, 8), 9)
    with pytest.raises(ValueError, match="texts are 1 row"):
        best_of_n_kl_measured([["a"]], torch.zeros(1, 8), torch.ones(1, 8), 2)
