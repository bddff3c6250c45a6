"""Numbers that are none, and shapes that do not fit, are refused by every public function of numbers.

Each kind of call of `soak_fuzz` is made once here; the cases that once went wrong stand below, one by one.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soak_fuzz import FUNCTIONS, call, every_spoilt, run

from prefcourse import finite, tabular
from prefcourse.annotation import agreement
from prefcourse.annotation.aggregation import confident, dawid_skene, majority
from prefcourse.annotation.annotators import Annotator, Questions, forecast, resolve
from prefcourse.comparison import ab_tests, frontier
from prefcourse.evaluate import bootstrap, over_seeds, points, repetition, win_rate
from prefcourse.logprobs import kl_k1, kl_k3
from prefcourse.loss_inputs import trusted
from prefcourse.losses import LOSSES, dpo_loss
from prefcourse.quality.duplicates import jaccard, near_duplicates
from prefcourse.rewards import GoldReward, bradley_terry_loss
from prefcourse.rlhf import advantages, calibration
from prefcourse.rlhf.table_gradients import exact_gradient, ppo_path

NAN, INF = float("nan"), float("inf")
ROWS = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=8)


def test_every_kind_of_call_ends_in_a_clear_result_or_a_clear_error():
    counts, faults = run(len(every_spoilt()))
    assert faults == [] and counts["clear result"] > 2_000 and counts["clear error"] > 5_000, counts


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__.lstrip("_"))
def test_good_arguments_give_a_result(function):
    assert Counter(call(function, np.random.default_rng(k))[0] for k in range(3)) == {"clear result": 3}


@given(ROWS, ROWS)
@settings(max_examples=150, deadline=None)
def test_two_rows_are_taken_as_they_are_or_refused(a, b):
    good = len(a) == len(b) and np.isfinite([*a, *b]).all()
    if good and len(a) >= 2:
        x, y = finite.same_shape(least=2, a=a, b=b)
        assert x.tolist() == a and y.tolist() == b and 0 <= win_rate(a, b).value <= 1
    else:
        with pytest.raises(ValueError, match=r"a|b"):
            finite.same_shape(least=2, a=a, b=b)
        with pytest.raises(ValueError):
            win_rate(a, b)


# ------------------------------------------------------------------------------------------------ the messages


def test_a_message_says_which_argument_how_many_and_what_to_do():
    values = torch.zeros(400)
    values[7] = NAN
    with pytest.raises(
        ValueError, match=r"a: 1 of 400 values is not finite, the first is nan at 7; .*Mend what made it"
    ):
        ab_tests.p_value(values, torch.zeros(400))
    values[9] = INF
    with pytest.raises(ValueError, match="b: 2 of 400 values are not finite"):
        ab_tests.difference(torch.zeros(400), values)
    with pytest.raises(ValueError, match=r"the shapes differ: rewards \(400,\), others \(1,\); .*nothing is repeated"):
        win_rate(torch.zeros(400), torch.ones(1))
    with pytest.raises(ValueError, match=r"values is 'abc'; allowed are real numbers"):
        bootstrap("abc")


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ({}, "a finite number"),
        ({"above": 0}, "a finite number above 0"),
        ({"least": 0}, "a finite number, 0 or more"),
        ({"above": 0, "below": 1}, "a finite number above 0 and below 1"),
        ({"least": 0, "most": 1}, "a finite number from 0 to 1"),
        ({"least": 1, "most": INF}, "a number, 1 or more"),
    ],
)
def test_a_number_is_refused_in_words(limits, allowed):
    for value in (NAN, None, "1", [1.0], -INF, 1j, torch.ones(2)):
        with pytest.raises(ValueError) as error:
            finite.number("x", value, **limits)
        assert str(error.value).startswith("x is ") and str(error.value).endswith(f"; allowed is {allowed}")


def test_numbers_come_out_as_they_went_in():
    assert finite.number("x", 3) == 3 and type(finite.number("x", 3)) is int
    assert finite.number("x", np.float32(0.5)) == finite.number("x", torch.tensor(0.5)) == 0.5
    assert finite.number("x", INF, least=1, most=INF) == INF
    assert finite.whole("k", 3.0) == 3 and type(finite.whole("k", np.int64(3))) is int
    for wrong in (2.5, NAN, INF, "3", None, 10**400):
        with pytest.raises(ValueError, match=r"k is .*a whole number, 1 or more"):
            finite.whole("k", wrong)


def test_one_is_singular():
    assert [finite.counted(n, "prompt") for n in (0, 1, 2, 1_000)] == [
        "0 prompts",
        "1 prompt",
        "2 prompts",
        "1,000 prompts",
    ]
    assert [finite.counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]
    with pytest.raises(ValueError, match="got 1 seed; allowed"):
        over_seeds([1.0])
    with pytest.raises(ValueError, match="got 1 value and 2 groups;"):
        ab_tests.by_group([1.0], ["a", "b"])
    with pytest.raises(ValueError, match="got 1 pair for 2 bins"):
        calibration.ece([0.5], [1.0], bins=2)


def test_arguments_stay_as_they_were():
    a, b = torch.randn(50), np.random.default_rng(0).normal(size=50)
    before = a.clone(), b.copy()
    ab_tests.p_value(a, b), ab_tests.at_equal_length(a, b), calibration.fit_temperature(a + 1), points(a, b)
    assert torch.equal(a, before[0]) and np.array_equal(b, before[1])


# ------------------------------------------------------------------------------------------------ what once went wrong


SPOILT = torch.tensor([0.3, NAN, -0.1, 0.8])
GOOD = torch.tensor([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    "refused",
    [
        lambda: ab_tests.p_value(SPOILT, GOOD),
        lambda: ab_tests.shuffle_p_value(GOOD, SPOILT),
        lambda: ab_tests.preference(SPOILT, GOOD),
        lambda: ab_tests.by_group(SPOILT, list("aabb")),
        lambda: ab_tests.wilson(3, INF),
        lambda: points(SPOILT, 0.0),
        lambda: points(GOOD, NAN),
        lambda: frontier.on_front([(1.0, NAN), (2.0, 1.0)]),
        lambda: frontier.fit_gain([(4.0, 1.0)]),
        lambda: over_seeds([1.0, NAN]),
        lambda: repetition("a b c", n=0),
        lambda: agreement.accuracy_bounds(NAN),
        lambda: agreement.majority_accuracy(NAN, 3),
        lambda: agreement.expected_agreement([0.5, 1.5]),
        lambda: agreement.check_labels([["1", "0"]]),
        lambda: confident([0.9, NAN], 0.8),
        lambda: majority([[1, 0]], ties="undecided", seed=NAN),
        lambda: dawid_skene([[1, 0, 1]] * 4, steps=0),
        lambda: Annotator(tie=NAN),
        lambda: Questions(SPOILT.numpy()),
        lambda: Questions(GOOD.numpy(), length=np.ones(3)),
        lambda: forecast(Annotator(), Questions(np.zeros(3)), [1]),
        lambda: near_duplicates([frozenset()]),
        lambda: GoldReward({"good": NAN}),
        lambda: bradley_terry_loss(SPOILT, GOOD),
        lambda: tabular.optimal_policy(torch.full((1, 2), 0.5).double(), torch.tensor([[1e5, 0.0]]).double(), 1e-300),
        lambda: tabular.gradient_ascent(
            torch.full((1, 2), 0.5).double(), torch.tensor([[9.0, 0.0]]).double(), 1.0, lr=1e308
        ),
        lambda: exact_gradient(*torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]], [[1.0, 0.0]]]).double(), 1.0),
        lambda: advantages.grpo_advantages(torch.ones(3), eps=0),
        lambda: advantages.masked_mean(GOOD, torch.zeros(4, dtype=torch.bool)),
        lambda: advantages.kl_penalty(GOOD[:1], GOOD[None], GOOD[None], torch.zeros(1, 4, dtype=torch.bool), 0.1),
        lambda: advantages.gae(GOOD, GOOD[:1], torch.ones(4, dtype=torch.bool)),
        lambda: advantages.ppo_clip_loss(GOOD, GOOD - 1e4, GOOD),
        lambda: advantages.adapt_coefficient(0.1, NAN, 1.0),
        lambda: kl_k1(GOOD, GOOD[:1]),
        lambda: kl_k3(torch.tensor([-1e3]), torch.tensor([0.0])),
        lambda: dpo_loss(GOOD, GOOD, GOOD, GOOD, beta=10**400),
        lambda: dpo_loss(GOOD.to_sparse(), GOOD, GOOD, GOOD),
    ],
)
def test_what_came_out_as_nan_or_as_a_wrong_number_is_refused(refused):
    with pytest.raises(ValueError):
        refused()


def test_a_label_that_is_none_makes_no_row():
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2
    asked = Questions(np.ones(2), a_is_chosen=np.ones(2, dtype=bool))
    assert len(resolve(rows, asked, [1, np.nan])) == 1
    with pytest.raises(ValueError, match="7 is not a label"):
        resolve(rows, asked, [1, 7])


def test_two_empty_sets_are_equal():
    assert jaccard(frozenset(), frozenset()) == 1.0


def test_the_unit_of_lengths_and_of_margins_does_not_matter():
    g = torch.Generator().manual_seed(0)
    longer, noise = torch.randn(2, 300, generator=g)
    value = 0.3 * longer + 0.1 * noise
    for unit in (1e-9, 1.0, 1e9):
        assert ab_tests.at_equal_length(value, unit * longer).value == pytest.approx(
            ab_tests.at_equal_length(value, longer).value, abs=1e-6
        )
        margins = torch.tensor([3.0, 2.0, -1.0, 0.5])
        assert calibration.fit_temperature(unit * margins.double()) == pytest.approx(
            unit * calibration.fit_temperature(margins), rel=1e-6
        )


def test_where_all_scores_tie_there_is_no_order_to_agree_with():
    rows = [{"prompt": p, "chosen_score": 1.0, "rejected_score": 1.0} for p in "aabbcc"]
    found = calibration.assess(torch.linspace(-1, 2, 6), rows, bins=2)
    assert "gold_order" not in found and "ceiling" in found


def test_the_training_loop_looks_itself():
    spoilt = torch.tensor([0.5, NAN], requires_grad=True)
    with trusted():
        assert advantages.rloo_advantages(spoilt).isnan().all() and kl_k1(spoilt, spoilt).isnan().any()
        with pytest.raises(ValueError, match="the shapes differ"):
            kl_k1(spoilt, spoilt[:1])
    with pytest.raises(ValueError, match="rewards: 1 of 2 values is not finite"):
        advantages.rloo_advantages(spoilt)


def test_a_clip_range_may_be_so_large_that_nothing_is_clipped():
    logps = torch.tensor([-1.0, -2.0, -9.0])
    loss = advantages.ppo_clip_loss(logps, logps - 5, torch.ones(3), eps=1e9)
    assert loss.tolist() == pytest.approx([-np.exp(5)] * 3)
    reference, reward = torch.full((1, 4), 0.25).double(), torch.tensor([[9.0, 0.0, 1.0, 3.0]]).double()
    path = ppo_path(reference, reward, 0.5, eps=1e9, samples=16, epochs=20, lr=2.0, steps=30, vocabulary=2)
    assert path.shape == (31, 1, 4) and bool(path.isfinite().all())


def test_gradients_and_kinds_pass_through():
    logps = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages.ppo_clip_loss(logps, logps.detach(), torch.ones(2)).sum().backward()
    assert logps.grad.tolist() == [-1.0, -1.0]
    assert advantages.rloo_advantages(torch.tensor([1, 0, 0])).tolist() == pytest.approx([1.0, -0.5, -0.5])
    assert advantages.rloo_advantages(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert advantages.whiten(torch.ones(2, dtype=torch.float64), torch.tensor([1, 1])).dtype == torch.float64


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_far_out(name):
    loss = LOSSES[name]
    for far in (1e4, -1e4):
        given = {n: torch.full((3,), 20.0) if n.endswith("lengths") else torch.full((3,), -2e4) for n in loss.inputs()}
        given |= {"desirable": torch.tensor([True, False, True])} if "desirable" in given else {}
        given |= {"delta": 0.0} if "delta" in given else {}
        first = next(iter(given))
        given[first] = given[first] + far
        assert bool(loss.function(**given).isfinite().all())
