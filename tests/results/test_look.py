"""Looks at a policy in training: what is measured, when, and where it goes."""

import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from prefcourse.evaluate import evaluate
from prefcourse.results import look, store
from prefcourse.results.look import Look, at_end, ended, gain, gold, kl, length, sample, sft_sample, shown


@pytest.fixture
def world(tiny_gpt2, tokenizer, pairs, monkeypatch):
    """A world in which the true reward counts the letter o."""
    for name in ("generate", "evaluate"):
        monkeypatch.setattr(look, name, partial(getattr(look, name), max_new_tokens=8))
    count = lambda prompts, texts: torch.tensor([float(text.count("o")) for text in texts])  # noqa: E731
    rows = [{"prompt": f"{row['prompt']} {i}"} for i in (1, 2) for row in pairs]
    models = {"sft": tiny_gpt2(), "base": tiny_gpt2(1)}
    return SimpleNamespace(name="tiny", **models, tokenizer=tokenizer, gold=count, prompts={"test": rows}, words=None)


def test_columns_are_those_of_an_evaluation_with_the_same_seed(world, tiny_gpt2):
    seen, found = sample(world, tiny_gpt2(1), seed=3), at_end(world, tiny_gpt2(1), seed=3)
    whole = evaluate(tiny_gpt2(1), world, seed=3, max_new_tokens=8)
    assert found.completions == whole.completions == seen.completions and found.baseline == whole.baseline
    assert shown(found) == shown(seen) == {"prompts": seen.prompts[:4], "texts": seen.texts[:4]}
    for column, metric in ((kl, "kl"), (gold, "gold_reward"), (gain, "gain"), (length, "length"), (ended, "eos_rate")):
        assert list(column(seen).values()) == pytest.approx([found[metric].value], abs=1e-5)


def test_a_look_keeps_points_and_leaves_the_history_alone(world, tiny_gpt2):
    seen = Look(world, 0, (kl, partial(length, name="tokens")), count=5)
    assert seen(world.sft) == {} and seen(tiny_gpt2(1)) == {}
    first, second = seen.path
    assert list(first) == ["kl", "tokens"] and first["kl"] == 0 != second["kl"]
    assert second == store.rounded(seen.point(tiny_gpt2(1))) and seen.names == ("kl", "tokens")
    assert [len(texts) for texts in seen.texts] == [5, 5, 5] and len(seen.prompts) == 5


def test_a_look_at_some_steps_counts_its_calls(world):
    seen = Look(world, 0, (gold,), count=3)
    measure = seen.at((4, 8), every=2)
    assert [measure(world.sft) for _ in range(6)] == [{}] * 6  # steps 0, 2, 4, 6, 8 and the end
    assert [point["step"] for point in seen.path] == [4, 8]


def test_sft_writes_once_for_all_runs_of_a_seed(world):
    assert sft_sample(world, 0, count=4) is sft_sample(world, 0, count=4) is not sft_sample(world, 1, count=4)
    assert sft_sample(world, 0, count=4).completions != sample(world, world.sft, 0, count=4).completions


def test_turned_labels_are_an_exact_share():
    rows = [{"prompt": f"{i}", "chosen": "good", "rejected": "bad"} for i in range(40)]
    found, which = store.turned(rows, 0.3, random.Random(1))
    assert {i for i, row in enumerate(found) if row["chosen"] == "bad"} == which and len(which) == 12


def test_the_end_is_on_the_prompts_of_the_protocol_and_kept_by_prompt(world, tiny_gpt2, monkeypatch):
    monkeypatch.setattr(look, "PROTOCOL", SimpleNamespace(prompts=50))
    found, by_prompt = look.whole_end(world, tiny_gpt2(1), 3)
    assert found.prompts == look.prompts_of(world, "test", 50) and len(world.prompts["test"]) == 72
    for name in ("kl", "gain"):
        (row,) = by_prompt[name]
        assert len(row) == 50 and sum(row) / 50 == pytest.approx(found[name].value, abs=1e-3)
    seen = Look(world, 3, (kl,), count=50, by_prompt=True)
    seen.point(tiny_gpt2(1))
    assert seen.found["kl"] == [pytest.approx(by_prompt["kl"][0], abs=2e-3)]
    assert seen.found["gain"] == by_prompt["gain"]


def test_the_reference_scores_rows_once_for_all_runs_on_them(world, pairs):
    one = store.reference_of(world, pairs, "dpo")
    assert store.reference_of(world, list(pairs), "ipo") is one and one.logps.shape == (36, 2)
    assert store.reference_of(world, pairs[:5], "dpo") is not one
    assert store.reference_of(world, pairs, "simpo") is world.sft is store.reference_of(world, pairs, "kto")
