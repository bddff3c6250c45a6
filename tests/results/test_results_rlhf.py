"""The grids of RLHF: rewards in one unit, what a run records, and what the stored runs must show for lesson 04."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from prefcourse.evaluate import Estimate
from prefcourse.results import load, look, rlhf

SMALL = {"lr": 1e-3, "steps": 3, "max_new_tokens": 8}


@pytest.fixture
def world(tiny_gpt2, tokenizer, pairs, monkeypatch):
    """A world of 36 pairs in which the true reward counts the letter o, and grids small enough for it."""
    for name, value in {"MANY": 32, "PROBE": 8, "SHOWN": 3, "EVERY": 1}.items():
        monkeypatch.setattr(rlhf, name, value)
    monkeypatch.setattr(rlhf, "RLOO", SMALL | {"batch_size": 2, "k": 4})
    monkeypatch.setattr(rlhf, "PPO", SMALL | {"batch_size": 8})
    monkeypatch.setattr(rlhf, "LONG", rlhf.LONG | SMALL)
    for module, name in ((rlhf, "generate"), (look, "generate"), (look, "evaluate")):
        monkeypatch.setattr(module, name, partial(getattr(module, name), max_new_tokens=8))
    gold = lambda prompts, texts: torch.tensor([3 + 2.0 * text.count("o") for text in texts])  # noqa: E731
    rows = [{"prompt": f"{row['prompt']} {i}"} for i in (1, 2) for row in pairs][:40]
    return SimpleNamespace(
        name="tiny", sft=tiny_gpt2(), base=tiny_gpt2(1), words=None, tokenizer=tokenizer, gold=gold,
        prompts={"test": rows, "train": rows},
        pairs={"train": pairs},
    )  # fmt: skip


def test_standardised_rewards_know_neither_unit_nor_origin(world):
    texts = ["o", "ooo", "", "no"]
    other = lambda prompts, texts: 7 - 0.1 * world.gold(prompts, texts)  # noqa: E731
    one, same = (rlhf.to_train_on(reward, world, seed=0)([""] * 4, texts) for reward in (world.gold, other))
    torch.testing.assert_close(one, -same, atol=1e-4, rtol=0)
    found = rlhf.standardised(world.gold, [""] * 4, texts)([""] * 4, texts)
    assert found.mean().abs() < 1e-6 and found.std().item() == pytest.approx(1)


@pytest.mark.parametrize("method", ["rloo", "ppo"])
@pytest.mark.parametrize("reward", ["gold", "learned"])
def test_a_run_of_gains_compares_with_sft_and_leaves_it_alone(world, method, reward):
    before = copy.deepcopy(world.sft.state_dict())
    found = rlhf.gains(world, method, reward, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), world.sft.state_dict().values(), strict=True))
    assert set(found["metrics"]) == {"gain", "gold_reward", "kl"} and found["steps"] == 3 and found["processor"] > 0
    assert found["metrics"]["kl"]["value"] != 0
    nothing = look.at_end(world, world.sft, seed=1)
    assert nothing["kl"] == Estimate(0, 0, 0) and nothing["gain"].low <= 0 <= nothing["gain"].high


def test_a_long_run_starts_at_sft_and_keeps_what_it_wrote(world):
    found = rlhf.over_optimisation(world, pairs=16, seed=0)
    path = found["path"]
    assert len(path) == len(found["texts"]) == 4 and [len(texts) for texts in found["texts"]] == [3] * 4
    assert path[0]["kl"] == path[0]["proxy"] == path[0]["gold"] == 0 and all(p["kl"] != 0 for p in path[1:])
    assert all(p[f"{name}_low"] <= p[name] <= p[f"{name}_high"] for p in path for name in ("proxy", "gold"))
    assert len(found["prompts"]) == 3 and found["texts"][0] != found["texts"][-1]


def test_a_reward_model_is_trained_once_for_a_seed(world, monkeypatch):
    calls = []
    real = rlhf.train_reward_model
    monkeypatch.setattr(rlhf, "train_reward_model", lambda *a, **k: calls.append(k["epochs"]) or real(*a, **k))
    first, again, other = (rlhf.proxy(world, pairs, 0) for pairs in (32, 32, 16))
    assert first is again and first is not other and calls == [128 // 32, 128 // 16]


# ------------------------------------------------------------------------------------------- what is stored


def test_both_methods_gain_at_less_than_10_nats_and_3_minutes():
    for run in load("rlhf-gains")["runs"]:
        found = run["metrics"]
        assert found["gain"]["low"] > 0.5 and found["kl"]["value"] <= 10 and run["processor"] < 180, run["setting"]


def test_the_learned_reward_of_few_pairs_rises_to_the_end_and_gold_falls_in_some_runs():
    fallen = []
    for run in load("over-optimisation")["runs"]:
        path = run["path"]
        peak, end = max(path, key=lambda point: point["gold"]), path[-1]
        assert end["proxy"] > 1 and end["kl"] > 10, run["setting"]
        assert run["setting"]["pairs"] == rlhf.MANY or end["proxy"] == max(point["proxy"] for point in path)
        if end["gold_high"] < peak["gold_low"] and end["proxy"] > peak["proxy"]:
            fallen.append(run["setting"])
    assert {"pairs": rlhf.FEW, "seed": 0} in fallen and len(fallen) >= 2
