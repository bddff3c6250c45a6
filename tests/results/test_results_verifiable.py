"""The grids of lesson 15 on a tiny world: arms differ in what they say, and runs store what the lesson reads."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from prefcourse.results import running, verifiable
from prefcourse.results.store import Grid, grid
from prefcourse.rlhf.verifiers import two_sentences
from prefcourse.train import train

STARTS = ["This movie", "The old film", "I think the story", "We know the cast"]


@pytest.fixture(scope="module")
def writer(tiny_gpt2, tokenizer, pairs):
    """A model that has learnt to write one or two short sentences and to end them."""
    model = tiny_gpt2()
    more = [pair | {"chosen": pair["rejected"]} for pair in pairs]
    train(model, pairs + more, tokenizer, loss="sft", lr=1e-2, steps=60, batch_size=12, progress=False)
    return model


@pytest.fixture
def world(writer, tokenizer, pairs, monkeypatch):
    monkeypatch.setattr(verifiable, "SETTINGS", {"steps": 3, "batch_size": 4, "k": 4, "minibatches": 2, "lr": 1e-3,
                                                 "max_new_tokens": 16})  # fmt: skip
    for name, value in {"PROMPTS": 6, "SAMPLES": 8, "SCORED": 2, "KS": (1, 8)}.items():
        monkeypatch.setattr(verifiable, name, value)
    gold = lambda prompts, texts: torch.tensor([2.0 * text.count("o") for text in texts])  # noqa: E731
    rows = [{"prompt": p} for p in STARTS * 3]
    return SimpleNamespace(name="tiny", sft=writer, base=writer, words={"film"}, tokenizer=tokenizer, gold=gold,
                           pairs={"train": pairs}, prompts={"train": rows, "test": rows}, open_ended=False)  # fmt: skip


@pytest.mark.parametrize("arm", list(verifiable.ARMS))
def test_a_run_stores_what_the_lesson_reads(world, arm):
    found = verifiable.verifiable(world, arm, seed=0)
    assert {"pass_1", "pass_8", "kl", "length", "eos"} <= set(found["metrics"])
    assert [len(rows[0]) for rows in found["by_prompt"].values()] == [6] * 3
    assert len(found["path"]) == (0 if arm == "sft" else 3) and len(found["texts"]) == 4 == len(found["prompts"])
    assert all(set(point) == set(verifiable.PATH) for point in found["path"])
    json.loads(json.dumps(found), parse_constant=pytest.fail)  # JSON has no nan
    one, eight = (found["metrics"][name]["value"] for name in ("pass_1", "pass_8"))
    assert one <= eight + 1e-9


def test_an_arm_differs_from_its_baseline_in_one_thing():
    changes = {arm: set(switches) for arm, switches in verifiable.ARMS.items() if switches is not None}
    assert changes.pop("dr") == set() and changes.pop("grpo") == changes["length"] | changes["std"]
    assert all(len(change) == 1 for change in changes.values()) and set(verifiable.NAMES) == set(verifiable.ARMS)


def test_sft_is_examined_as_it_is(world):
    found = verifiable.verifiable(world, "sft", seed=1)
    assert found["metrics"]["kl"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    asked, written = verifiable.examined(world, world.sft, seed=1)
    right = two_sentences(asked, [c.text for c in written])
    assert found["metrics"]["pass_1"]["value"] == pytest.approx(right.mean().item(), abs=1e-4)
    assert len(asked) == 48 and asked[0] == asked[7] == STARTS[0]


@pytest.mark.parametrize("on", ["sft", "sloppy", "strict"])
def test_both_verifiers_judge_every_policy(world, on):
    found = verifiable.verifier(world, on, seed=0)
    assert {"sloppy", "strict", "kl", "parts", "gold", "length", "eos"} <= set(found["metrics"])
    assert found["metrics"]["strict"]["value"] <= found["metrics"]["sloppy"]["value"]


def test_runs_of_a_seed_repeat(world):
    first, second = (verifiable.verifiable(world, "grpo", seed=2) for _ in range(2))
    assert first == second


def test_the_grid_is_written_and_read_by_prompt(world, tmp_path, monkeypatch):
    one = Grid(what="tiny", settings=grid(2, arm=("sft", "dr")), run=verifiable.verifiable)
    monkeypatch.setattr(running, "check_splits", lambda world: None)
    path = running.complete(
        "verifiable", {"verifiable": one}, world, tmp_path, tmp_path / "work", lambda _: None, (1, 1)
    )
    stored, tensors = json.loads(path.read_text(encoding="utf-8")), load_file(path.with_suffix(".safetensors"))
    assert len(stored["runs"]) == 4 and tensors["0/pass_1"].shape == (1, 6)
