"""Agreement: every measure against published worked examples, the closed forms against counting."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest

from prefcourse.annotation.agreement import (
    MISSING,
    A,
    B,
    accuracy_bounds,
    ceiling,
    check_labels,
    cohen_kappa,
    expected_agreement,
    fleiss_kappa,
    krippendorff_alpha,
    majority_accuracy,
    matrix,
    percent_agreement,
    with_interval,
)
from prefcourse.annotation.annotators import Annotator, Questions, panel

# Fleiss (1971), "Measuring nominal scale agreement among many raters", Psychological Bulletin 76(5), Table 1:
# 30 patients, 6 psychiatrists, 5 diagnoses. A string is a patient's six diagnoses.
FLEISS = [
    "444444", "222555", "233335", "555555", "222444", "113333", "333355", "113334", "114444", "555555",
    "144444", "124444", "222333", "144444", "224445", "333335", "111455", "111112", "224444", "133555",
    "555555", "244444", "224555", "114444", "144445", "222224", "111155", "224444", "133333", "555555",
]  # fmt: skip

# The example in Wikipedia's article "Fleiss' kappa": 10 subjects, 14 raters; how many gave each of 5 categories.
FOURTEEN = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]  # fmt: skip

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: 4 observers (rows), 12 units.
KRIPPENDORFF = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]

# The example in Wikipedia's article "Krippendorff's alpha": 3 coders, 15 units.
THREE_CODERS = [".....34121133.3", "1.213343.......", "..21344.21133.4"]


def coded(observers):
    """Observers as strings, a dot for no label → the matrix (units, observers)."""
    return np.array([[MISSING if c == "." else int(c) for c in line] for line in observers]).T


def two_by_two(both_a, only_first, only_second, both_b):
    counts = [both_a, only_first, only_second, both_b]
    return np.repeat([A, A, B, B], counts), np.repeat([A, B, A, B], counts)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ((20, 5, 10, 15), 0.400),  # 50 grant proposals, two readers (Wikipedia, "Cohen's kappa", simple example)
        ((45, 15, 25, 15), 0.1304),  # the same article, "same percentage but different numbers"
        ((25, 35, 5, 35), 0.2593),
    ],
)
def test_cohen_kappa_of_published_tables(table, kappa):
    first, second = two_by_two(*table)
    assert cohen_kappa(first, second) == pytest.approx(kappa, abs=5e-5)
    assert cohen_kappa(second, first) == pytest.approx(kappa, abs=5e-5)


def test_cohen_kappa_of_three_categories():
    # SAS/STAT example, printed as 0.4842: table [[0, 4, 1], [0, 8, 0], [0, 1, 5]].
    first, second = np.repeat([0, 0, 1, 2, 2], [4, 1, 8, 1, 5]), np.repeat([1, 2, 1, 1, 2], [4, 1, 8, 1, 5])
    assert cohen_kappa(first, second) == pytest.approx(0.4842, abs=5e-5)


def test_fleiss_kappa_of_the_psychiatric_diagnoses():
    labels = np.array([[int(c) for c in patient] for patient in FLEISS])
    assert labels.shape == (30, 6)
    assert percent_agreement(labels) == pytest.approx(0.5556, abs=1e-4)  # p. 380: "P̄ = .5556"
    assert fleiss_kappa(labels) == pytest.approx(0.430, abs=5e-4)


def test_fleiss_kappa_of_fourteen_raters():
    labels = np.array([np.repeat(np.arange(5), counts) for counts in FOURTEEN])
    assert fleiss_kappa(labels) == pytest.approx(0.210, abs=5e-4)
    shuffled = np.array([np.random.default_rng(i).permutation(row) for i, row in enumerate(labels)])
    assert fleiss_kappa(shuffled) == pytest.approx(fleiss_kappa(labels))  # who said it does not matter


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorff_alpha_of_his_own_example(level, alpha):
    labels = coded(KRIPPENDORFF)
    assert labels.shape == (12, 4)
    assert krippendorff_alpha(labels, level) == pytest.approx(alpha, abs=5e-4)
    gaps = np.where(labels == MISSING, np.nan, labels)
    assert krippendorff_alpha(gaps, level) == krippendorff_alpha(labels, level)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.691), ("interval", 0.811)])
def test_krippendorff_alpha_of_three_coders(level, alpha):
    assert krippendorff_alpha(coded(THREE_CODERS), level) == pytest.approx(alpha, abs=5e-4)


def test_measures_at_their_ends():
    same = np.array([[A, A, A], [B, B, B], [A, A, A]])
    assert percent_agreement(same) == fleiss_kappa(same) == krippendorff_alpha(same) == 1
    assert cohen_kappa(same[:, 0], same[:, 1]) == 1
    assert cohen_kappa([A, B, A, B], [B, A, B, A]) == -1
    clickers = panel([Annotator(lapse=1)] * 3, Questions(np.zeros(20_000))).labels
    for measure in (fleiss_kappa, krippendorff_alpha, lambda m: 2 * percent_agreement(m) - 1):
        assert measure(clickers) == pytest.approx(0, abs=0.02)


def test_percent_agreement_counts_pairs_of_annotators():
    labels = np.array([[A, A, B, MISSING], [A, MISSING, MISSING, MISSING], [B, B, B, B]])
    pairs = [[x == y for x, y in combinations([v for v in row if v >= 0], 2)] for row in labels]
    assert percent_agreement(labels) == pytest.approx(np.mean([np.mean(p) for p in pairs if p]))


def test_intervals_cover_the_truth():
    asked, found = Questions(np.random.default_rng(0).normal(0, 2, 20_000)), []
    truth = krippendorff_alpha(panel([Annotator()] * 3, asked, seed=99).labels)
    for seed in range(40):
        some = Questions(np.random.default_rng(seed).choice(asked.difference, 150))
        interval = with_interval(krippendorff_alpha, panel([Annotator()] * 3, some, seed=seed).labels, resamples=100)
        found.append(interval.low <= truth <= interval.high)
        assert interval.low < interval.value < interval.high
    assert sum(found) >= 33  # 38 expected; fewer than 33 happens in 1 of 300 times


# ------------------------------------------------------------------------------------------------ closed forms


def test_expected_agreement_is_what_panels_show():
    asked = Questions(np.random.default_rng(1).normal(0, 1.5, 30_000))
    who = [Annotator(), Annotator(reliability=4), Annotator(lapse=0.5)]
    expected = expected_agreement(np.stack([w.probability(asked) for w in who], axis=-1))
    assert percent_agreement(panel(who, asked).labels) == pytest.approx(expected, abs=0.006)
    p = who[0].probability(asked)
    assert expected_agreement(p) == pytest.approx((p**2 + (1 - p) ** 2).mean())


def test_nobody_beats_the_ceiling_and_the_truth_reaches_it():
    asked = Questions(np.random.default_rng(2).normal(0, 1.5, 40_000))
    labels = Annotator(reliability=0.7).label(asked)
    right = (labels == np.where(asked.difference > 0, A, B)).mean()
    assert ceiling(asked.difference, 0.7) == pytest.approx(right, abs=0.01)
    assert ceiling([0.0]) == 0.5
    assert ceiling([800.0, -800.0]) == 1


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_the_ceiling_lies_within_the_bounds_of_its_agreement(spread):
    difference = np.random.default_rng(3).normal(0, spread, 5_000)
    low, high = accuracy_bounds(expected_agreement(Annotator().probability(Questions(difference))))
    assert low < ceiling(difference) < high


def test_the_bounds_are_reached():
    equally_hard = Questions(np.full(10, 1.3))
    assert accuracy_bounds(expected_agreement(Annotator().probability(equally_hard)))[1] == pytest.approx(
        ceiling([1.3])
    )
    certain_or_coin = expected_agreement(np.array([1.0, 1.0, 0.5]))
    assert accuracy_bounds(certain_or_coin)[0] == pytest.approx((1 + 1 + 0.5) / 3)
    low, high = accuracy_bounds(np.array([0.5, 1.0]))
    assert low.tolist() == high.tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"agree on 0\.5 to 1"):
        accuracy_bounds(0.4)


def test_majority_accuracy_by_hand_and_by_counting():
    assert majority_accuracy(0.7, 1) == pytest.approx(0.7)
    assert majority_accuracy(0.7, 3) == pytest.approx(0.7**3 + 3 * 0.7**2 * 0.3)  # 0.784
    assert majority_accuracy(0.7, 5) == pytest.approx(0.83692)
    assert majority_accuracy(0.7, 4) == pytest.approx(majority_accuracy(0.7, 3))  # a coin decides: the fourth is no use
    right = np.random.default_rng(0).random((100_000, 7)) < 0.6
    assert majority_accuracy(0.6, 7) == pytest.approx((right.sum(1) > 3).mean(), abs=0.006)
    assert majority_accuracy(np.array([0.0, 0.5, 1.0]), 6) == pytest.approx([0, 0.5, 1])
    assert majority_accuracy(0.55, 999) > 0.999


@pytest.mark.parametrize(
    ("p", "n", "message"), [(0.7, 0, "1 to 1,000"), (0.7, 2.5, "whole number"), (1.2, 3, "outside 0 to 1")]
)
def test_majority_accuracy_of_nonsense(p, n, message):
    with pytest.raises(ValueError, match=message):
        majority_accuracy(p, n)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "there are no labels"),
        (np.zeros((0, 3)), "there are no labels"),
        ([A, B, A], r"matrix \(items, annotators\), got shape \(3,\)"),
        ([[A, 2], [B, A]], "item 0, annotator 1: 2 is not a label"),
        ([[A, B], [0.5, A]], r"item 1, annotator 0: 0\.5 is not a label"),
        ([[A, B], [A, -2]], "item 1, annotator 1: -2 is not a label"),
        ([["A", "B"]], "labels must be numbers.*`matrix`"),
        ([[A, B], [A]], "labels must be numbers"),
    ],
)
def test_what_is_no_matrix_of_a_and_b(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, categories=2)


@pytest.mark.parametrize("number", [np.inf, 10**6])
def test_ids_are_not_categories(number):
    with pytest.raises(ValueError, match=r"annotator 0: .* is not a label"):
        percent_agreement([[number, 1.0]])


@pytest.mark.parametrize(
    "measure", [percent_agreement, fleiss_kappa, krippendorff_alpha, partial(with_interval, krippendorff_alpha)]
)
def test_one_annotator_cannot_agree(measure):
    with pytest.raises(ValueError, match="at least 2 annotators, got 1"):
        measure([[A], [B]])


@pytest.mark.parametrize("measure", [percent_agreement, krippendorff_alpha])
def test_annotators_must_share_items(measure):
    with pytest.raises(ValueError, match="no item has two labels"):
        measure([[A, MISSING], [MISSING, B]])


def test_cohen_kappa_needs_two_equal_columns():
    with pytest.raises(ValueError, match="got 3 and 2"):
        cohen_kappa([A, B, A], [A, B])
    with pytest.raises(ValueError, match="share no item"):
        cohen_kappa([A, np.nan], [np.nan, B])


def test_fleiss_kappa_needs_equal_numbers():
    with pytest.raises(ValueError, match=r"items have 2 to 3.*α takes any"):
        fleiss_kappa([[A, B, A], [A, B, MISSING]])


def test_one_category_only_is_undefined():
    same = [[A, A], [A, A]]
    for measure, name in ((fleiss_kappa, "Fleiss' κ"), (krippendorff_alpha, "Krippendorff's α")):
        with pytest.raises(ValueError, match=f"{name} is 0/0"):
            measure(same)
    with pytest.raises(ValueError, match="Cohen's κ is 0/0"):
        cohen_kappa([A, A], [A, A])
    assert percent_agreement(same) == 1


def test_unknown_level():
    with pytest.raises(ValueError, match="nominal, ordinal, interval"):
        krippendorff_alpha([[A, B]], "ratio")


def test_matrix_of_records():
    records = [("x", "Ann", "A"), ("x", "Bob", "B"), ("y", "Bob", "tie"), ("z", "Ann", "B"), ("z", "Cy", "skip")]
    labels, items, annotators = matrix(records)
    assert (items, annotators) == (["x", "y", "z"], ["Ann", "Bob", "Cy"])
    assert labels.tolist() == [[A, B, MISSING], [MISSING, MISSING, MISSING], [B, MISSING, MISSING]]
    with pytest.raises(ValueError, match="item 'y', annotator 'Bob': 'left' is none of A, B, tie, skip"):
        matrix([("x", "Bob", "A"), ("y", "Bob", "left")])
    with pytest.raises(ValueError, match="annotator 'Ann' labels item 'x' twice"):
        matrix([("x", "Ann", "A"), ("x", "Ann", "A")])
    with pytest.raises(ValueError, match="no labels"):
        percent_agreement(matrix([])[0])
