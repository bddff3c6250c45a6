"""Intervals over seeds and prompts, families of tests, equivalence: golden numbers, and levels found by simulation."""

import math

import numpy as np
import pytest
import torch

from prefcourse.comparison import crossed as c
from prefcourse.evaluate import T975

TABLE = {1: 12.7062, 5: 2.5706, 10: 2.2281, 30: 2.0423, 120: 1.9799}  # of any book, two-sided 5 %


@pytest.mark.parametrize(("df", "t"), TABLE.items())
def test_students_t_is_that_of_the_tables(df, t):
    assert c.student_quantile(0.975, df) == pytest.approx(t, abs=6e-5)


def test_students_t_is_the_one_that_intervals_over_seeds_use():
    assert {df: round(c.student_quantile(0.975, df), 3) for df in T975} == T975


def test_tails_in_closed_form():
    for t in (0.0, 0.3, 2.0, 15.0):
        assert c.student_tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, rel=1e-9)  # Cauchy
        assert c.student_tail(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), rel=1e-9, abs=1e-12)
    assert c.student_tail(-2.0, 2) == pytest.approx(1 - c.student_tail(2.0, 2))
    assert c.student_tail(1.96, 1e6) == pytest.approx(0.0249979, abs=1e-7)
    assert c.student_tail(1.96, 9e4) == pytest.approx(c.student_tail(1.96, 1e6), rel=1e-3), "no step where t ends"


def test_a_table_by_hand():
    """Seeds (1, 2), prompts (0, 4): values 1, 5 and 4, 6. Means 3 and 5, 2.5 and 5.5; MS 4, 9 and 1."""
    found = c.crossed([[1.0, 5.0], [4.0, 6.0]])
    assert found.value == 4 and found.se == pytest.approx(math.sqrt((4 + 9 - 1) / 4))
    assert found.df == pytest.approx(12**2 / (16 + 81 + 1)) and (found.seeds, found.prompts) == (2, 2)
    assert found.high - found.value == pytest.approx(c.student_quantile(0.975, found.df) * found.se) == found.half
    assert c.parts([[1.0, 5.0], [4.0, 6.0]]) == {"seeds": 1.5, "prompts": 4.0, "rest": 1.0}


def test_one_source_alone_is_the_usual_interval():
    seeds = np.random.default_rng(0).normal(size=8)
    found = c.crossed(np.repeat(seeds[:, None], 50, axis=1))
    half = T975[7] * seeds.std(ddof=1) / math.sqrt(8)
    assert found.half == pytest.approx(half, rel=3e-4) and found.df == pytest.approx(7)
    prompts = np.random.default_rng(1).normal(size=300)
    found = c.crossed(np.repeat(prompts[None], 8, axis=0))
    assert found.se == pytest.approx(prompts.std(ddof=1) / math.sqrt(300)) and found.df == pytest.approx(299)


def drawn(rng, seeds, prompts, rest, S=8, P=60, mean=0.0):
    return mean + (seeds * rng.normal(size=(S, 1)) + prompts * rng.normal(size=(1, P)) + rest * rng.normal(size=(S, P)))


@pytest.mark.parametrize(("seeds", "prompts", "rest"), [(0.3, 1.0, 2.0), (0.0, 1.0, 2.0), (0.5, 0.0, 1.0), (0, 0, 1)])
def test_the_interval_holds_the_truth_19_times_in_20(seeds, prompts, rest):
    rng = np.random.default_rng(0)
    found = [c.crossed(drawn(rng, seeds, prompts, rest, mean=0.7)) for _ in range(600)]
    covered = sum(f.low <= 0.7 <= f.high for f in found) / 600
    assert covered >= 0.93, covered  # three standard errors of 600 coins are 0.027
    if seeds or prompts:
        assert covered <= 0.98, "and is no wider than it must be"


def test_seeds_alone_or_prompts_alone_hold_it_too_seldom():
    """What the crossing is for: an interval that holds one of both fixed is too narrow."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        values = drawn(rng, 0.2, 2.0, 1.0)
        means = values.mean(1)
        inside += abs(means.mean()) <= T975[7] * means.std(ddof=1) / math.sqrt(8)
    assert inside / 400 < 0.75


def test_pairing_takes_out_what_is_shared():
    rng = np.random.default_rng(2)
    shared = drawn(rng, 1.0, 3.0, 0.0)
    a, b = shared + drawn(rng, 0, 0, 0.1) + 0.2, shared + drawn(rng, 0, 0, 0.1)
    found = c.paired(a, b)
    assert found.value == pytest.approx(0.2, abs=0.03) and found.half < 0.03 < c.crossed(a).half
    assert found.p < 1e-6


def test_the_objective_is_gain_less_beta_times_kl():
    gain, kl = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[4.0, 6.0], [2.0, 8.0]])
    assert c.objective(gain, kl, 0.5).value == pytest.approx(2 - 0.5 * 5) and c.objective(gain, kl, 0).value == 2


def test_parts_and_the_width_they_foretell():
    rng = np.random.default_rng(3)
    found = c.parts(drawn(rng, 0.5, 1.0, 2.0, S=200, P=400))
    assert [math.sqrt(v) for v in found.values()] == pytest.approx([0.5, 1.0, 2.0], rel=0.1)
    assert c.half_width({"seeds": 0.25, "prompts": 1.0, "rest": 4.0}, 8, 800) == pytest.approx(
        1.959964 * math.sqrt(0.25 / 8 + 1 / 800 + 4 / 6400), rel=1e-6
    )


# ------------------------------------------------------------------------------------------- equivalence and families


def test_the_same_by_hand():
    """A difference of 0.05 ± 0.02 with 10 degrees of freedom, margin 0.1: t = 2.5, P(T > 2.5) = 0.01572."""
    d = c.interval(0.05, 0.02, 10, 8, 100)
    assert c.p_same(d, 0.1) == pytest.approx(0.01572, abs=1e-5)
    assert c.p_same(c.interval(-0.05, 0.02, 10, 8, 100), 0.1) == c.p_same(d, 0.1)
    assert c.p_same(c.interval(0.15, 0.02, 10, 8, 100), 0.1) > 0.95
    assert c.p_same(c.interval(0.05, 0.0, 10, 8, 9), 0.1) == 0 and c.interval(0.0, 0.0, 7, 8, 9).p == 1


def test_the_same_is_the_90_percent_interval_within_the_margin():
    for value in np.linspace(-0.2, 0.2, 41):
        d = c.interval(float(value), 0.03, 9.5, 8, 100)
        reach = abs(d.value) + c.student_quantile(0.95, 9.5) * 0.03
        assert (c.p_same(d, 0.15) < 0.05) == (reach < 0.15)


def test_the_same_is_said_wrongly_once_in_twenty_at_the_margin():
    rng = np.random.default_rng(4)
    said = sum(c.p_same(c.crossed(drawn(rng, 0.05, 0.2, 0.5, mean=0.15)), 0.15) < 0.05 for _ in range(800)) / 800
    assert 0.02 <= said <= 0.075, said
    found = sum(c.p_same(c.crossed(drawn(rng, 0.01, 0.1, 0.3)), 0.15) < 0.05 for _ in range(100))
    assert found > 80, "and where it is true and there are data enough, it is found"


def test_a_family_of_true_nulls_is_refused_once_in_twenty():
    rng, wrong, raw = np.random.default_rng(5), 0, 0
    for _ in range(300):
        shared = drawn(rng, 0.3, 0.5, 0.0)  # all are compared with one baseline, so they are dependent
        family = {str(k): c.crossed(shared + drawn(rng, 0.3, 0.5, 1.0)) for k in range(8)}
        found = c.verdicts(family, margin=0.01)
        wrong += any(v.says == "differs" for v in found.values())
        raw += any(d.p < 0.05 for d in family.values())
    assert wrong / 300 <= 0.09 and raw / 300 > 0.12, (wrong, raw)


def test_what_may_be_said():
    make = lambda value, se: c.interval(value, se, 30, 8, 100)  # noqa: E731
    found = c.verdicts({"far": make(1.0, 0.1), "near": make(0.01, 0.02), "who knows": make(0.3, 0.2)}, margin=0.15)
    assert {name: v.says for name, v in found.items()} == {
        "far": "differs", "near": "the same", "who knows": "not told apart"
    }  # fmt: skip
    assert found["far"].p == pytest.approx(3 * found["far"].difference.p), "the smallest of three counts three times"


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0], [2.0]], [1.0, 2.0], [[1.0, math.nan], [1.0, 2.0]]])
def test_what_is_no_table_is_refused(values):
    with pytest.raises(ValueError, match="values"):
        c.crossed(values)


def test_margins_and_shares_that_are_none():
    with pytest.raises(ValueError, match="margin"):
        c.p_same(c.interval(0.1, 0.1, 5, 8, 9), 0.0)
    with pytest.raises(ValueError, match="share"):
        c.student_quantile(1.0, 5)
