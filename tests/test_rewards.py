"""The gold reward: n-grams, a sum of weights that can be read, and plain sentences on the bundled weights."""

import json
import re
from pathlib import Path

import pytest
import torch

from prefcourse.rewards import GoldReward, ngrams

DATA = Path(__file__).resolve().parents[1] / "data"
TOY = GoldReward({"great": 2.0, "not great": -3.0, "film": 0.25, "dull": -1.5}, bias=0.5)


@pytest.fixture(scope="module")
def gold():
    return GoldReward.load(DATA / "gold.json")


# ------------------------------------------------------------------------------------------- the function


@pytest.mark.parametrize(("text", "expected"), [
    ("Great film", ["great", "film", "great film"]),
    ("Great. Film!", ["great", "film"]),  # punctuation parts neighbours
    ("so, so dull", ["so", "so", "dull", "so dull"]),
    ("I don't know", ["i", "don't", "know", "i don't", "don't know"]),
    ("It's 10 out of 10 -- GREAT", ["it's", "out", "of", "great", "it's out", "out of", "of great"]),
    ("", []),
    (" ... ", []),
])  # fmt: skip
def test_ngrams(text, expected):
    assert ngrams(text) == expected


def test_the_score_is_the_bias_plus_the_weights_as_often_as_they_occur():
    assert TOY.score("") == TOY.score("Unknown words") == 0.5
    assert TOY.score("A great, great film") == 0.5 + 2 * 2.0 + 0.25
    assert TOY.score("Not great") == 0.5 + 2.0 - 3.0
    assert TOY.score("Not. Great") == 0.5 + 2.0


def test_explain_adds_up_to_the_score():
    text = "A film that is not great, a dull film"
    parts = TOY.explain(text)
    assert parts == [("not great", -3.0), ("great", 2.0), ("dull", -1.5), ("film", 0.25), ("film", 0.25)]
    assert TOY.bias + sum(weight for _, weight in parts) == TOY.score(text)


def test_strongest():
    assert TOY.strongest(2) == ([("great", 2.0), ("film", 0.25)], [("not great", -3.0), ("dull", -1.5)])


def test_a_call_scores_prompt_and_completion_as_one_text():
    found = TOY(["This is not", "A dull"], [" great.", " film."])
    assert found.dtype == torch.float32
    assert found.tolist() == [0.5 - 1.0, 0.5 - 1.25]  # "not great" lies across the border
    with pytest.raises(ValueError, match="2 prompts and 1 completions"):
        TOY(["a", "b"], ["c"])


def test_no_rows_make_an_empty_tensor():
    assert TOY([], []).shape == (0,)


def test_loading(tmp_path):
    path = tmp_path / "gold.json"
    path.write_text(json.dumps({"bias": -0.5, "weights": {"fine": 1.0}}))
    assert GoldReward.load(path).score("Fine") == 0.5


# ------------------------------------------------------------------------------------------- the bundled weights

POSITIVE = (
    "This movie is wonderful.",
    "A great film with excellent acting.",
    "I loved every minute of it.",
    "One of the best movies I have ever seen.",
    "It is a beautiful story and well acted.",
    "The performances are superb.",
    "My favorite film of all time.",
    "Highly recommended.",
    "It is funny, touching and perfect for the whole family.",
)
NEGATIVE = (
    "A waste of time.",
    "This is the worst movie I have ever seen.",
    "The acting is terrible and the plot is awful.",
    "I was bored from the start.",
    "It is dull, stupid and badly written.",
    "Avoid this one.",
    "What a disappointment.",
    "The script is poor and nothing makes sense.",
    "Save your money.",
)


@pytest.mark.parametrize("text", POSITIVE)
def test_praise_scores_above_zero(gold, text):
    assert gold.score(text) > 0, gold.explain(text)


@pytest.mark.parametrize("text", NEGATIVE)
def test_blame_scores_below_zero(gold, text):
    assert gold.score(text) < 0, gold.explain(text)


def test_the_strongest_words_make_sense(gold):
    best, worst = ({n for n, _ in side} for side in gold.strongest(20))
    assert {"excellent", "perfect"} <= best and {"worst", "awful"} <= worst
    assert not best & {"bad", "boring", "dull", "poor"} and not worst & {"good", "great", "best", "love"}
    assert -2 < gold.bias < 2


def test_the_card_states_what_gold_says_of_negations(gold):
    """The reward gets some negations wrong. The card lists them with their scores, and these are the scores."""
    rows = re.findall(r"^\| ([A-Z][^|]*\.) \| ([+-]\d+\.\d\d) \|$", (DATA / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 4
    assert [score for _, score in rows] == [f"{gold.score(text):+.2f}" for text, _ in rows]
    good = {"It is not bad at all.": True, "I did not like this film.": False, "It isn't boring.": True}
    wrong = [text for text, score in rows if text in good and (float(score) > 0) != good[text]]
    assert set(good) <= {text for text, _ in rows}
    assert wrong, "no negation is wrong any more: the card says some are"
