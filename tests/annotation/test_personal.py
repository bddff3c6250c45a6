"""Training on one's own labels: what goes in, what is kept back, and the simulated learners."""

from types import SimpleNamespace

import pytest
import torch

from prefcourse.annotation import personal
from prefcourse.annotation.labels import LabelFile
from prefcourse.annotation.personal import TASTES, agrees, label_by_taste, train_on_my_labels

ROWS = [
    {"prompt": f"{start} {thing}", "chosen": " is wonderful.", "rejected": " was a waste of time."}
    for start in ("This", "That", "The old", "I think the", "Is the", "We know the")
    for thing in ("movie", "film", "story", "ending", "cast")
]


@pytest.fixture
def world(tiny_gpt2, tokenizer):
    test = [{"prompt": text} for text in ("This movie", "The cast", "The story", "I like the film")]
    return SimpleNamespace(sft=tiny_gpt2(), tokenizer=tokenizer, prompts={"test": test}, pairs={"train": ROWS})


def test_the_policy_learns_the_labels_and_says_what_it_did(world, tmp_path):
    with LabelFile(tmp_path / "l.jsonl") as file:
        for row in ROWS:
            file.append(
                {"prompt": row["prompt"], "response_a": row["chosen"], "response_b": row["rejected"], "label": "A"}
            )
        file.append({"prompt": "x", "response_a": "a", "response_b": "b", "label": "tie"})
    before = {name: weight.clone() for name, weight in world.sft.state_dict().items()}
    mine = train_on_my_labels(tmp_path / "l.jsonl", world, lr=1e-3, progress=False)
    assert mine.used == 24 and mine.counts["tie"] == 1 and len(mine.history["loss"]) == personal.STEPS
    first, *_, last = mine.history["loss"]
    assert first == pytest.approx(0.6931, abs=1e-3) and last < first
    assert agrees(mine.policy, world, ROWS).mean() > 0.9 and mine.held_out.value > 0.8
    assert "trained on 24 labels; 1 tie or skip is no pair" in str(mine) and "KL" in str(mine)
    assert mine.prompts == ["The cast", "The story", "I like the film"]  # "This movie" was labelled
    assert len(mine.before) == len(mine.after) == 3 and mine.kl.low <= mine.kl.value <= mine.kl.high
    assert all(torch.equal(before[name], weight) for name, weight in world.sft.state_dict().items())


def test_the_same_seed_gives_the_same_policy(world):
    settings = dict(steps=5, progress=False)
    one, two, three = (train_on_my_labels(ROWS, world, seed=seed, **settings) for seed in (1, 1, 2))
    assert one.history == two.history != three.history
    assert str(one).startswith("trained on 24 labels\n")  # no word on ties and skips where there are none
    assert [c.ids for c in one.after] == [c.ids for c in two.after]


def test_labels_kept_back_are_not_trained_on(world, monkeypatch):
    seen = {}

    def spy(policy, rows, *args, **settings):
        seen["rows"] = rows
        return {"loss": [0.0]}

    monkeypatch.setattr(personal, "train", spy)
    monkeypatch.setattr(personal, "agrees", lambda policy, world, rows: seen.update(kept=rows) or torch.ones(len(rows)))
    train_on_my_labels(ROWS, world, progress=False)
    assert len(seen["rows"]) == 24 and len(seen["kept"]) == 6
    assert not {row["prompt"] for row in seen["rows"]} & {row["prompt"] for row in seen["kept"]}


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (ROWS[:19], "19 labels say which text is better .* training needs at least 20, and 50 are better"),
        ([], "labels: no rows"),
        ([{"prompt": "p", "chosen": "a"}], "labels, line 1: no column 'rejected'"),
        ([*ROWS, {"prompt": "p", "chosen": "a", "rejected": "a"}], "labels, line 31: chosen and rejected are the same"),
    ],
)
def test_too_few_or_bad_labels_are_named(world, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        train_on_my_labels(labels, world)


def test_a_missing_file_is_named(world, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of labels"):
        train_on_my_labels(tmp_path / "none.jsonl", world)


def test_tastes_prefer_what_they_say():
    assert TASTES["shorter reviews"](" Good.") > TASTES["shorter reviews"](" A very good film.")
    assert TASTES["no exclamation marks"](" Good.") > TASTES["no exclamation marks"](" Good!")
    likes = TASTES["mentions acting"]
    assert likes(" The acting is bad.") == likes(" Great performances.") == 1 > likes(" An exact story.") == 0


def test_a_learner_skips_what_the_taste_cannot_tell():
    rows = [{"prompt": f"{i}", "chosen": " Good!" if i % 2 else " Bad.", "rejected": " Fine."} for i in range(20)]
    found, skipped = label_by_taste(rows, TASTES["no exclamation marks"], count=10, seed=0)
    assert len(found) == 10 and all(row["chosen"] == " Fine." for row in found) and skipped <= 10
    with pytest.raises(ValueError, match="only 10 of 20 pairs differ for this taste, 11 needed"):
        label_by_taste(rows, TASTES["no exclamation marks"], count=11, seed=0)
