"""A/B tests: intervals that cover, tests that keep their level, sample sizes that reach the power they promise."""

import itertools
import math

import pytest
import torch

from prefcourse.comparison import ab_tests as ab
from prefcourse.evaluate import Estimate


def test_wilson_is_that_of_the_textbook():
    found = ab.wilson(8, 10)  # Newcombe 1998 and every calculator: 0.490 to 0.943
    assert (found.value, round(found.low, 3), round(found.high, 3)) == (0.8, 0.49, 0.943)
    nothing = ab.wilson(0, 20)
    assert nothing.low == 0 and nothing.high == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4)


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.9])
def test_wilson_covers_about_19_times_in_20(share):
    n = 60
    chance = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    covered = sum(p for k, p in enumerate(chance) if ab.wilson(k, n).low <= share <= ab.wilson(k, n).high)
    assert 0.92 < covered < 0.99


def test_pairing_narrows_the_interval_by_what_both_share():
    g = torch.Generator().manual_seed(0)
    prompt, a, b = torch.randn(3, 400, generator=g) * torch.tensor([[3.0], [0.5], [0.5]])
    paired, alone = ab.difference(prompt + a + 0.2, prompt + b), ab.difference(prompt + a + 0.2, (prompt + b).roll(1))
    assert paired.low < 0.2 < paired.high
    assert (alone.high - alone.low) / (paired.high - paired.low) == pytest.approx(math.sqrt(9.25 / 0.25), rel=0.15)


def test_a_tie_is_half_a_win():
    found = ab.preference(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 2.0, 0.0, 1.0]))
    assert found == ab.wilson(2.5, 4) and found.value == 0.625


def test_the_p_value_is_that_of_all_sign_flips():
    d = torch.tensor([1.0, 2.0, 3.0, 4.0, -0.5, 2.5])
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6)
    exact = ((signs @ d).abs() >= d.sum().abs()).double().mean().item()
    assert ab.p_value(d, torch.zeros(6)) == pytest.approx(exact, abs=0.008)


def test_shuffling_is_that_of_all_ways_to_deal():
    a, b = torch.tensor([3.0, 1.0, 4.0]), torch.tensor([1.5, 0.0, 0.5, 2.0])
    both, found = torch.cat([a, b]), (a.mean() - b.mean()).abs()
    deals = [(both[list(rows)].sum() / 3 - (both.sum() - both[list(rows)].sum()) / 4).abs() >= found - 1e-6
             for rows in itertools.combinations(range(7), 3)]  # fmt: skip
    assert ab.shuffle_p_value(a, b) == pytest.approx(sum(deals).item() / len(deals), abs=0.012)
    assert ab.shuffle_p_value(a + 100, b) == pytest.approx(1 / 35, abs=0.006)  # this one deal of 35, none as extreme


def test_the_test_keeps_its_level_and_reaches_its_power():
    g = torch.Generator().manual_seed(0)
    shift = (1.96 + 0.8416) / math.sqrt(50)  # 80 % power at n = 50 and spread 1
    low = [[ab.p_value(torch.randn(50, generator=g) + s, torch.zeros(50), seed=i) < 0.05 for i in range(150)]
           for s in (0.0, shift)]  # fmt: skip
    assert sum(low[0]) <= 17 and 105 <= sum(low[1]) <= 135


@pytest.mark.parametrize("rate, ties", [(0.55, 0.0), (0.6, 0.2), (0.35, 0.1)])
def test_the_sample_size_reaches_its_power_and_one_less_does_not(rate, ties):
    n = ab.sample_size(rate, ties)
    assert ab.power(rate, n, ties) >= 0.8 > ab.power(rate, n - 1, ties)
    g = torch.Generator().manual_seed(0)
    points = torch.multinomial(torch.tensor([1 - rate - ties / 2, ties, rate - ties / 2]), n * 2000, True, generator=g)
    z = (points.view(2000, n).double() / 2 - 0.5).mean(-1) / (0.5 * math.sqrt(1 - ties) / math.sqrt(n))
    assert (z.abs() > 1.96).double().mean() == pytest.approx(0.8, abs=0.04)


def test_the_textbook_sample_size_and_ties_that_help():
    assert ab.sample_size(0.55) == 783
    assert ab.sample_size(0.55, ties=0.5) < 783
    assert ab.power(0.5, 100) == pytest.approx(0.05)
    assert ab.power(1.0, 10) == 1.0 and ab.sample_size(1.0) == 4


def test_holm_is_worked_by_hand():
    assert ab.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert ab.holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0} and ab.holm({}) == {}


def test_groups_have_their_own_means():
    found = ab.by_group(torch.tensor([1.0, 2.0, 3.0, 5.0]), ["b", "a", "b", "a"])
    assert list(found) == ["a", "b"] and found["a"].value == 3.5 and found["b"].value == 2.0


def test_length_is_taken_out():
    g = torch.Generator().manual_seed(0)
    longer, noise = torch.randn(2, 500, generator=g)
    longer = 4 * longer + 6
    only_length, more = ab.at_equal_length(0.3 * longer + noise, longer), ab.at_equal_length(longer + 1 + noise, longer)
    assert only_length.low < 0 < only_length.high and more.low < 1 < more.high and more.low > 0
    assert ab.at_equal_length(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0])).value == 1.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ab.wilson(3, 2), "allowed are 0 <= wins <= n"),
        (lambda: ab.wilson(0, 0), "n >= 1"),
        (lambda: ab.sample_size(0.5), "a rate other than 0.5"),
        (lambda: ab.power(0.9, 10, ties=0.5), "is impossible"),
        (lambda: ab.power(0.6, 0), "n is 0; allowed is a finite number, 1 or more"),
        (lambda: ab.holm({"a": 1.2}), "the p-value of 'a' is 1.2"),
        (lambda: ab.by_group(torch.ones(3), ["a", "a", "b"]), "group 'b' has one value"),
        (lambda: ab.by_group(torch.ones(3), ["a"]), "3 values and 1 group;"),
        (lambda: ab.difference(torch.ones(3), torch.ones(2)), "the shapes differ: a .3,., b .2,."),
        (lambda: ab.shuffle_p_value(torch.ones(3), torch.ones(1)), "b has shape .1,.; allowed is one row"),
    ],
)
def test_bad_input_says_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_estimate_is_returned_everywhere():
    a, b = torch.arange(4.0), torch.zeros(4)
    assert all(isinstance(f(a, b), Estimate) for f in (ab.preference, ab.difference, ab.at_equal_length))
