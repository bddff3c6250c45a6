"""Collecting pairs: different answers, reproducible, labelled in the terminal, resumed where it stopped."""

import io

import pytest

from prefcourse.__main__ import main
from prefcourse.annotation.collector import (
    PreferenceDataCollector,
    agreement_with,
    fingerprint,
    label_in_terminal,
    still_open,
    to_label,
)  # fmt: skip
from prefcourse.annotation.labels import LabelFile, preference_rows, read_labels
from prefcourse.rewards import GoldReward
from prefcourse.world import load_world

PROMPTS = ["This movie", "The old film", "I think the story"]
PAIRS = [{"prompt": p, "chosen": f" is good {i}.", "rejected": f" is bad {i}."} for i, p in enumerate(PROMPTS)]
GOLD = GoldReward({"good": 1.0, "bad": -1.0})


@pytest.fixture(scope="module")
def collector(tiny_gpt2, tokenizer):
    return PreferenceDataCollector(tiny_gpt2(), tokenizer, name="tiny", seed=3)


def test_a_pair_says_how_it_was_made(collector):
    found = collector.collect_pair(PROMPTS[0], temperature=0.9, max_new_tokens=8)
    assert set(found) == {"prompt", "responses", "metadata"} and len(set(found["responses"])) == 2
    about = found["metadata"]
    assert about["model"] == "tiny" and about["seed"] == 3 and about["temperature"] == 0.9 and about["hash"]
    assert about["max_new_tokens"] == 8 and about["timestamp"].startswith("20")
    assert collector.collect_pair(PROMPTS[0], temperature=0.9, max_new_tokens=8)["responses"] == found["responses"]


def test_the_hash_is_of_the_weights(tiny_gpt2):
    assert fingerprint(tiny_gpt2(0)) == fingerprint(tiny_gpt2(0)) != fingerprint(tiny_gpt2(1))


def test_identical_answers_are_drawn_again_and_counted(collector):
    found = collector.collect(PROMPTS, num_samples=3, temperature=0, max_new_tokens=4)  # greedy: always the same
    assert [len(pair["responses"]) for pair in found] == [1, 1, 1]
    assert all(pair["metadata"]["duplicates"] >= 5 for pair in found)
    warm = collector.collect(PROMPTS, num_samples=3, temperature=1.0, max_new_tokens=8)
    assert [len(set(pair["responses"])) for pair in warm] == [3, 3, 3]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda c: c.collect_pair("I", num_samples=1), "at least two answers, got num_samples=1"),
        (lambda c: c.collect("one text"), "prompts must be a list of texts"),
        (lambda c: c.collect(["", "b"]), "prompt 0 is ''"),
        (lambda c: c.label_preference("p", "a", "b", "C"), "'label' must be one of A, B, tie, skip, got 'C'"),
        (lambda c: c.label_preference("p", "a", "b", None), "'label' must be one of"),
        (lambda c: c.label_preference("p", "a", "a", "A"), "both responses are 'a'"),
        (lambda c: c.label_preference("p", "", "b", "A"), "'response_a' must be text that is not empty"),
        (lambda c: c.label_preference("", "a", "b", "A"), "'prompt' must be text that is not empty"),
    ],
)
def test_bad_calls_are_named(collector, call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call(collector)


def test_a_choice_becomes_a_row(collector):
    row = {"prompt": "p", "chosen": "b", "rejected": "a"}
    assert collector.label_preference("p", "a", "b", "B") == row
    assert collector.label_preference("p", "b", "a", "A") == row
    assert collector.label_preference("p", "a", "b", "tie") is collector.label_preference("p", "a", "b", "skip") is None


def test_which_text_is_a_is_left_to_chance():
    many = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(1000)]
    items = to_label(many, seed=1)
    assert 430 < sum(item["response_a"] == "good" for item in items) < 570
    assert items == to_label(many, seed=1) != to_label(many, seed=2)


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        ([], "there is nothing to label"),
        ([{"prompt": "p", "text": "t"}], "row 1: needs chosen and rejected, or responses; it has prompt, text"),
        ([PAIRS[0], {"chosen": "a", "rejected": "b"}], "row 2: 'prompt' must be text"),
        ([{"prompt": "p", "chosen": "a", "rejected": "a"}], "row 1: both responses are 'a'"),
        ([{"prompt": "p", "chosen": "a", "rejected": 3}], "row 1: 'response_[ab]' must be text"),
    ],
)
def test_what_cannot_be_labelled_is_named(pairs, complaint):
    with pytest.raises(ValueError, match=complaint):
        to_label(pairs)


def test_a_prompt_with_one_answer_is_left_out():
    collected = [{"prompt": "p", "responses": ["a"]}, {"prompt": "q", "responses": ["a", "b", "c"]}]
    assert [item["prompt"] for item in to_label(collected)] == ["q"]


def session(file, answers, **settings):
    """Answer in a made-up terminal; returns what it said. Running out of answers is the end of input."""
    waiting, said = list(answers), []

    def ask(question):
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    label_in_terminal(PAIRS, file, ask=ask, say=said.append, **settings)
    return "\n".join(said)


def test_a_session_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        said = session(file, ["a", "x", "u", "b", "q"])
        assert "'x' is none of a, b, t, s, u, q" in said and "Undone" in said and "1 label in" in said
    with LabelFile(path) as file:
        said = session(file, ["t", "a"], gold=GOLD)
        assert "1 of 3 are labelled already" in said and "[2/3]" in said and "agree with the true reward on" in said
    assert [r["label"] == "tie" for r in read_labels(path)] == [False, True, False]
    assert {r["prompt"] for r in read_labels(path)} == set(PROMPTS) and still_open(
        to_label(PAIRS), read_labels(path)
    ) == []


def test_a_is_the_answer_shown_first(tmp_path):
    with LabelFile(tmp_path / "l.jsonl") as file:
        said = session(file, ["a", "a", "a"])
    shown = [line.strip()[1:].strip() for line in said.splitlines() if line.startswith("  a")]
    assert [row["chosen"].strip() for row in preference_rows(file.records)[0]] == shown


def test_agreement_counts_labels_that_the_reward_can_judge():
    records = [
        {"prompt": "p", "response_a": " good", "response_b": " bad", "label": label} for label in ("A", "A", "B", "tie")
    ] + [{"prompt": "p", "response_a": "x", "response_b": "y", "label": "A"}]
    assert agreement_with(GOLD, records) == (2, 3)


def test_collect_from_the_command_line(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "my.jsonl", tmp_path / "pairs.jsonl"
    command = ["collect", "--file", str(path), "--count", "4", "--export", str(out)]
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\nt\n"))
    assert main(command) == 0
    assert "3 labels in" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "3 of 4 are labelled already" in said and "3 pairs in" in said and "(1 tie and 0 skips make none)" in said
    known = {row["prompt"] for row in load_world().prompts["train"][:4]}
    assert {r["prompt"] for r in read_labels(path)} == known
    with LabelFile(path):
        assert main(command) == 2
    assert "is open in another window or process" in capsys.readouterr().err
