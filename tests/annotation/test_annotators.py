"""Simulated annotators do what their formula says, and a panel's labels find their way back into rows."""

import math
from dataclasses import replace

import numpy as np
import pytest

from prefcourse.annotation.aggregation import majority
from prefcourse.annotation.agreement import MISSING, A, B, percent_agreement
from prefcourse.annotation.annotators import (
    Annotator,
    Questions,
    exchanged,
    flipped,
    forecast,
    panel,
    questions,
    resolve,
)

MANY = 40_000  # a share of so many coins lies within 4 standard errors, 0.01, of its probability


def sigma(x):
    return 1 / (1 + math.exp(-x))


def one(difference, length=0.0, count=MANY):
    return Questions(np.full(count, float(difference)), np.full(count, float(length)))


@pytest.mark.parametrize(
    ("who", "difference", "length", "a_first", "expected"),
    [
        (Annotator(), 1.2, 0, True, sigma(1.2)),
        (Annotator(reliability=3), 0.5, 0, False, sigma(1.5)),
        (Annotator(reliability=0), 5.0, 0, True, 0.5),
        (Annotator(reliability=-1), 1.2, 0, True, 1 - sigma(1.2)),
        (Annotator(length_bias=0.2), 1.0, -4, True, sigma(1.0 - 0.8)),
        (Annotator(position_bias=0.7), 0.3, 0, True, sigma(1.0)),
        (Annotator(position_bias=0.7), 0.3, 0, False, sigma(-0.4)),
        (Annotator(lapse=1), 9.0, 0, True, 0.5),
        (Annotator(lapse=0.2), 2.0, 0, True, 0.8 * sigma(2.0) + 0.1),
    ],
)
def test_clicks_follow_the_formula(who, difference, length, a_first, expected):
    asked = one(difference, length)
    assert who.probability(asked, a_first) == pytest.approx(expected)
    clicks = who.label(asked, a_first, seed=3)
    assert set(np.unique(clicks)) <= {A, B}
    assert (clicks == A).mean() == pytest.approx(expected, abs=0.01)


def test_without_an_order_both_are_equally_likely():
    who, asked = Annotator(position_bias=2.0), one(0.5)
    expected = (sigma(2.5) + sigma(-1.5)) / 2
    assert who.probability(asked) == pytest.approx(expected)
    assert (who.label(asked, seed=1) == A).mean() == pytest.approx(expected, abs=0.01)


def test_a_tie_is_no_label_unless_the_annotator_lapses():
    close, clear = one(0.2), one(0.8)
    assert (Annotator(tie=0.5).label(close) == MISSING).all()
    assert (Annotator(tie=0.5).label(clear) != MISSING).all()
    assert (Annotator(tie=0.5, lapse=0.3).label(close) == MISSING).mean() == pytest.approx(0.7, abs=0.01)


def test_the_same_seed_gives_the_same_clicks():
    asked, who = one(0.4, count=200), Annotator()
    assert (who.label(asked, seed=7) == who.label(asked, seed=7)).all()
    assert (who.label(asked, seed=7) != who.label(asked, seed=8)).any()


def test_accuracy_is_the_share_of_better_sides():
    rng = np.random.default_rng(0)
    asked = Questions(rng.normal(size=MANY))
    for who in (Annotator(), Annotator(reliability=3, lapse=0.1), Annotator(position_bias=1.0)):
        right = who.label(asked, seed=1) == np.where(asked.difference > 0, A, B)
        assert who.accuracy(asked) == pytest.approx(right.mean(), abs=0.01)
    assert Annotator(lapse=1).accuracy(asked) == pytest.approx(0.5)
    assert Annotator().accuracy(Questions(np.zeros(3))) == 0.5


def test_a_forecast_is_what_panels_do():
    asked = Questions(np.random.default_rng(0).normal(0, 1.5, 8_000))
    who = Annotator(reliability=1.5, lapse=0.2, position_bias=0.5)
    agreement, right = forecast(who, asked, [1, 3, 4, 9])
    labels = panel([who] * 9, asked).labels
    assert agreement == pytest.approx(percent_agreement(labels), abs=0.01)
    better = np.where(asked.difference > 0, A, B)
    for n, expected in zip([1, 3, 4, 9], right, strict=True):
        assert (majority(labels[:, :n], ties="coin") == better).mean() == pytest.approx(expected, abs=0.02)
    assert right[0] == pytest.approx(who.accuracy(asked)) and right[2] == pytest.approx(right[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lapse": 1.5}, "lapse is 1.5; allowed is a finite number from 0 to 1"),
        ({"tie": -1}, "tie is -1"),
        ({"reliability": math.inf}, "finite"),
    ],
)
def test_impossible_annotators(settings, message):
    with pytest.raises(ValueError, match=message):
        Annotator(**settings)


# ------------------------------------------------------------------------------------------------ questions


@pytest.fixture
def rows():
    return [
        {"prompt": f"p{i // 3}", "chosen": " a b c", "rejected": " d", "chosen_score": i / 10, "rejected_score": 0.5,
         "probability": sigma(i / 10 - 0.5)}
        for i in range(400)
    ]  # fmt: skip


def test_sides_are_dealt_by_a_fair_coin(rows):
    asked = questions(rows, seed=2)
    assert len(asked) == len(rows)
    assert 0.4 < asked.a_is_chosen.mean() < 0.6
    scores = np.array([row["chosen_score"] - row["rejected_score"] for row in rows])
    assert asked.difference == pytest.approx(np.where(asked.a_is_chosen, scores, -scores))
    assert (asked.length == np.where(asked.a_is_chosen, 2, -2)).all()


def test_any_function_can_be_the_true_reward(rows):
    asked = questions(rows, lambda prompts, texts: [float(len(text)) for text in texts])
    assert (asked.difference == np.where(asked.a_is_chosen, 4, -4)).all()


def test_questions_need_rows_and_scores(rows):
    with pytest.raises(ValueError, match="no pairs"):
        questions([])
    del rows[4]["rejected_score"]
    with pytest.raises(ValueError, match="row 5 has no chosen_score and rejected_score"):
        questions(rows)


# ------------------------------------------------------------------------------------------------ panels


def test_each_item_is_seen_by_k_of_n(rows):
    asked = questions(rows)
    found = panel([Annotator()] * 5, asked, per_item=2, seed=1)
    assert found.labels.shape == found.a_first.shape == (400, 5)
    assert ((found.labels != MISSING).sum(1) == 2).all()
    load = (found.labels != MISSING).sum(0)
    assert load.min() > 120 and load.max() < 200  # 160 each on average
    assert ((panel([Annotator()] * 3, asked).labels) != MISSING).all()


def test_annotators_of_a_panel_click_and_see_their_own(rows):
    found = panel([Annotator(lapse=1)] * 2, questions(rows), seed=0)
    assert 0.4 < (found.labels[:, 0] == found.labels[:, 1]).mean() < 0.6
    assert 0.4 < (found.a_first[:, 0] == found.a_first[:, 1]).mean() < 0.6


def test_position_bias_shows_in_the_order(rows):
    found = panel([Annotator(reliability=0, position_bias=2.0)], questions(rows), seed=0)
    first_wins = ((found.labels == A) == found.a_first).mean()
    assert first_wins == pytest.approx(sigma(2.0), abs=0.06)


@pytest.mark.parametrize("per_item", [0, 4])
def test_a_panel_has_enough_annotators(rows, per_item):
    with pytest.raises(ValueError, match="allowed is a whole number, 1 to 3"):
        panel([Annotator()] * 3, questions(rows), per_item=per_item)
    with pytest.raises(ValueError, match="the panel is empty"):
        panel([], questions(rows))


# ------------------------------------------------------------------------------------------------ back to rows


def test_resolve_turns_labels_into_rows(rows):
    asked = questions(rows)
    kept = resolve(rows, asked, np.where(asked.a_is_chosen, A, B))
    assert kept == rows
    turned = resolve(rows, asked, np.where(asked.a_is_chosen, B, A))
    assert turned == [exchanged(row) for row in rows]
    labels = np.full(len(rows), MISSING)
    labels[7] = A
    assert len(resolve(rows, asked, labels)) == 1


def test_a_sure_annotator_chooses_the_higher_score(rows):
    asked = questions(rows)
    found = panel([Annotator(reliability=1000)], asked)
    judged = resolve(rows, asked, found.labels[:, 0])
    assert all(row["chosen_score"] >= row["rejected_score"] for row in judged)


def test_resolve_wants_what_belongs_together(rows):
    asked = questions(rows)
    with pytest.raises(ValueError, match="400 rows, 400 questions, 3 labels"):
        resolve(rows, asked, [A, B, A])
    with pytest.raises(ValueError, match="questions made from these rows"):
        resolve(rows, replace(asked, a_is_chosen=None), [A] * 400)


def test_exchanged_turns_everything_and_twice_is_nothing():
    row = {
        "prompt": "x",
        "chosen": " a",
        "rejected": " b",
        "chosen_score": 1.0,
        "rejected_score": 2.0,
        "probability": 0.25,
    }
    other = {"chosen": " b", "rejected": " a", "chosen_score": 2.0, "rejected_score": 1.0, "probability": 0.75}
    assert exchanged(row) == {"prompt": "x", **other}
    assert exchanged(exchanged(row)) == row


def test_flipped_turns_exactly_the_share(rows):
    some, turned = flipped(rows, 0.3, seed=4)
    assert turned.sum() == 120
    assert all(
        (row == exchanged(old)) if turn else (row is old) for row, old, turn in zip(some, rows, turned, strict=True)
    )
    assert (flipped(rows, 0.3, seed=5)[1] != turned).any()
    with pytest.raises(ValueError, match="from 0 to 1"):
        flipped(rows, 1.2)
