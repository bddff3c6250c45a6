"""One label out of many: by counting, by confidence, and by models that recover who was reliable."""

import numpy as np
import pytest

from prefcourse.annotation.aggregation import bradley_terry, confident, dawid_skene, majority, vote_share
from prefcourse.annotation.agreement import MISSING, A, B
from prefcourse.annotation.annotators import Annotator, Questions, panel

VOTES = np.array([[A, A, B], [B, B, MISSING], [A, B, MISSING], [MISSING, MISSING, A]])


def test_vote_share_and_majority():
    assert vote_share(VOTES) == pytest.approx([2 / 3, 0, 0.5, 1])
    assert majority(VOTES).tolist() == [A, B, MISSING, A]
    assert majority(VOTES, ties="coin").tolist()[:2] == [A, B]
    ties = np.tile([[A, B]], (4_000, 1))
    assert (majority(ties) == MISSING).all()
    assert majority(ties, ties="coin", seed=1).mean() == pytest.approx(0.5, abs=0.03)


def test_confident_keeps_the_sure_and_says_how_many():
    labels, coverage = confident([0.95, 0.2, 0.5, 0.55], 0.8)
    assert labels.tolist() == [A, B, MISSING, MISSING]
    assert coverage == 0.5
    assert confident([0.5, 0.51], 0.5)[0].tolist() == [MISSING, A]
    assert confident(vote_share(VOTES), 2 / 3)[1] == 0.75


def test_confidence_buys_accuracy_with_coverage():
    asked = Questions(np.random.default_rng(0).normal(0, 1, 4_000))
    found = bradley_terry(panel([Annotator()] * 5, asked).labels)
    better, accuracy, coverage = np.where(asked.difference > 0, A, B), [], []
    for threshold in (0.5, 0.7, 0.9):
        labels, share = confident(found.probability, threshold)
        accuracy.append((labels == better)[labels != MISSING].mean())
        coverage.append(share)
    assert accuracy == sorted(accuracy) and accuracy[2] > accuracy[0] + 0.1
    assert coverage == sorted(coverage, reverse=True) and 0 < coverage[2] < coverage[0]


# ------------------------------------------------------------------------------------------------ Dawid–Skene


def with_accuracies(accuracy, items=1_000, missing=0.2, seed=0):
    """Labels of annotators who are right with a probability of their own, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, items)
    labels = np.where(rng.random((items, len(accuracy))) < accuracy, truth[:, None], 1 - truth[:, None])
    labels[rng.random(labels.shape) < missing] = MISSING
    seen = (labels != MISSING).any(1)
    return labels[seen], truth[seen]


@pytest.mark.parametrize("seed", range(5))
def test_dawid_skene_recovers_planted_reliabilities(seed):
    # 1,000 items, each annotator labels 80 % of them. Over 100 seeds the root mean square error of an accuracy is
    # 0.023 to 0.027 and the largest error 0.07; the labels beat the majority's in every one, by 0.07 on average.
    planted = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    labels, truth = with_accuracies(planted, seed=seed)
    found = dawid_skene(labels)
    assert found.accuracy == pytest.approx(planted, abs=0.08)
    agrees = ((found.probability > 0.5) == truth).mean()
    assert agrees > (majority(labels, ties="coin") == truth).mean()  # it weighs the good ones more
    assert agrees == pytest.approx(np.maximum(found.probability, 1 - found.probability).mean(), abs=0.06)


def test_dawid_skene_finds_one_who_always_says_a():
    labels, truth = with_accuracies([0.8, 0.8, 0.8, 0.8], missing=0.0)
    labels[:, 3] = A
    found = dawid_skene(labels)
    assert found.confusion[3] == pytest.approx(np.array([[0, 1], [0, 1]]), abs=1e-9)
    assert found.prior == pytest.approx(truth.mean(), abs=0.05)


def test_the_likelihood_never_falls():
    steps = np.array(dawid_skene(with_accuracies([0.7, 0.6, 0.55, 0.5])[0]).log_likelihood)
    assert len(steps) > 5
    assert (np.diff(steps) > -1e-9).all()


def test_dawid_skene_equals_crowd_kit():
    # crowdkit.aggregation.DawidSkene(n_iter=2000, tol=1e-13) of crowd-kit 1.4.2 on these 24 items, rounded to 4
    # decimals. crowd-kit itself is not needed here: it would bring scikit-learn, scipy and nltk along.
    items = (
        "ABB. ..AA BBAB ABAB BBBB A... AA.B BBBB AAAA BABA BABA BBB. "
        ".AAB .BBB BBBA BBBA .BAB BAB. .AB. AA.. ABAB AAAA AB.A .BB."
    )
    labels = [[{"A": A, "B": B, ".": MISSING}[letter] for letter in item] for item in items.split(" ")]
    found = dawid_skene(labels, tolerance=1e-14)
    expected = [0, 0.8363, 0, 0.9603, 0, 0.7978, 0.8933, 0, 0.9822, 0, 0, 0,
                0.9266, 0, 0, 0, 0.8061, 0, 0, 0.88, 0.9603, 0.9822, 0.6749, 0]  # fmt: skip
    assert found.probability == pytest.approx(expected, abs=1e-4)
    assert found.prior == pytest.approx(0.4042, abs=1e-4)
    errors = [[[0.8280, 0.1720], [0, 1]], [[0.6888, 0.3112], [0.4217, 0.5783]], [[0.8859, 0.1141], [0, 1]],
              [[0.4961, 0.5039], [0.5667, 0.4333]]]  # fmt: skip
    assert found.confusion == pytest.approx(np.array(errors), abs=1e-4)


# ------------------------------------------------------------------------------------------------ Bradley–Terry

PLANTED = np.array([0.0, 0.5, 1.0, 2.0, 4.0])


@pytest.fixture(scope="module")
def judged():
    asked = Questions(np.random.default_rng(0).normal(0, 1, 6_000))
    return asked, panel([Annotator(reliability=r) for r in PLANTED], asked, seed=1).labels


def test_bradley_terry_recovers_planted_reliabilities(judged):
    # 6,000 items. Over 20 seeds the root mean square errors are 0.03, 0.04, 0.05, 0.12, 0.53, the means off by < 0.04.
    found = bradley_terry(judged[1])
    assert found.reliability[:3] == pytest.approx(PLANTED[:3], abs=0.12)
    assert found.reliability[3:] == pytest.approx(PLANTED[3:], rel=0.25)


def test_bradley_terry_recovers_them_from_three_labels_an_item(judged):
    asked = judged[0]
    labels = panel([Annotator(reliability=r) for r in PLANTED], asked, per_item=3, seed=1).labels
    found = bradley_terry(labels).reliability  # root mean square errors 0.04, 0.08, 0.08, 0.18; 1.9 for the best one
    assert found[:4] == pytest.approx(PLANTED[:4], abs=0.35)
    assert found[4] > 3


def test_bradley_terry_knows_how_sure_it_is_and_dawid_skene_is_too_sure(judged):
    asked, labels = judged
    right, surer = asked.difference > 0, []
    for fit in (bradley_terry(labels), dawid_skene(labels)):
        sure = fit.probability > 0.9
        surer.append(fit.probability[sure].mean() - right[sure].mean())
    assert abs(surer[0]) < 0.015
    assert surer[1] > 0.03  # where close pairs are coins for all, a common truth explains too much


def test_expected_differences_are_on_the_line(judged):
    asked, labels = judged
    found = bradley_terry(labels)
    slope = np.polyfit(found.difference, asked.difference, 1)[0]  # the mean of the truth, given what was expected
    assert slope == pytest.approx(1, abs=0.04)


def test_one_who_clicks_the_worse_side_gets_a_negative_reliability():
    asked = Questions(np.random.default_rng(0).normal(0, 1.5, 2_000))
    found = bradley_terry(panel([Annotator(), Annotator(), Annotator(2), Annotator(-1)], asked).labels)
    assert found.reliability[3] < -1
    assert (found.reliability[:3] > 1).all()


def test_perfect_agreement_stays_finite():
    found = bradley_terry(np.repeat([[A], [B]], 3, axis=1).repeat(50, axis=0))
    assert np.isfinite(found.reliability).all()
    assert found.probability[0] > 0.9 and found.probability[-1] < 0.1


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("fit", [dawid_skene, bradley_terry])
def test_two_annotators_cannot_be_told_apart(fit):
    with pytest.raises(ValueError, match="at least 3 annotators, got 2"):
        fit([[A, B], [B, B]])


@pytest.mark.parametrize("aggregate", [vote_share, majority, dawid_skene, bradley_terry])
def test_every_item_needs_a_label(aggregate):
    with pytest.raises(ValueError, match=r"item 1 has no label \(2 of 3 items without one\)"):
        aggregate([[A, B, A], [MISSING] * 3, [np.nan] * 3])
    with pytest.raises(ValueError, match="item 0, annotator 2: 2 is not a label"):
        aggregate([[A, B, 2]])
    with pytest.raises(ValueError, match="there are no labels"):
        aggregate([])


def test_settings_out_of_range():
    with pytest.raises(ValueError, match='"undecided" or "coin"'):
        majority(VOTES, ties="A")
    for threshold in (0.4, 1.1):
        with pytest.raises(ValueError, match=r"from 0\.5 to 1"):
            confident([0.7], threshold)
    for probability in ([], [1.2], [[0.5]]):
        with pytest.raises(ValueError, match="probability"):
            confident(probability, 0.7)
