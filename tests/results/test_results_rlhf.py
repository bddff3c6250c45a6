"""The grids of RLHF: rewards in one unit, what a run records, and what the stored runs must show for lesson 04."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from prefcourse.comparison.ab_tests import holm
from prefcourse.evaluate import Estimate
from prefcourse.results import column, load, look, rlhf
from prefcourse.results.answers import over, seeds_of

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


def test_both_methods_gain_and_gain_more_and_go_further_by_the_true_reward():
    stored, apart = load("rlhf-gains"), {}
    assert len(stored["runs"]) == 4 * stored["protocol"]["seeds"]
    for run in stored["runs"]:
        found = run["metrics"]
        assert found["gain"]["low"] > 0.5 and found["kl"]["value"] <= 12 and run["processor"] < 180, run["setting"]
    for what in ("gain", "kl"):
        learned, gold = (column(stored, what, "method", reward=reward) for reward in ("learned", "gold"))
        for method in ("rloo", "ppo"):
            apart[method, what] = over([a - b for a, b in zip(gold[method], learned[method], strict=True)])
    assert all(difference.low > 0 for difference in apart.values())
    assert max(holm({name: difference.p for name, difference in apart.items()}).values()) < 0.05


def test_what_lesson_03_says_of_rates_and_passes():
    stored, apart = load("reward-model-rates"), {}
    for what in ("nll", "gold_order"):
        found = seeds_of(stored, what, "training")
        for name in set(found) - {"defaults"}:
            apart[what, name] = over([found[name][seed] - found["defaults"][seed] for seed in found[name]])
    p = holm({name: difference.p for name, difference in apart.items()})
    told = {name for name in apart if p[name] < 0.05}
    assert len(apart) == 10 and told == {("nll", "half the rate"), ("nll", "a quarter of the rate")}
    assert all(apart[name].low > 0 for name in told)
    found = seeds_of(stored, "accuracy", "training")  # looked at afterwards
    more = over([found["twice the rate"][seed] - found["defaults"][seed] for seed in found["defaults"]])
    assert f"{100 * more.value:.1f} [{100 * more.low:.1f}, {100 * more.high:.1f}]" == "0.8 [0.4, 1.2]"


def test_what_lesson_04_says_of_over_optimisation():
    runs, lead, fallen = load("over-optimisation")["runs"], {}, {}
    for pairs in (rlhf.FEW, rlhf.MANY):
        paths = [run["path"] for run in runs if run["setting"]["pairs"] == pairs]
        assert len(paths) == 8
        lead[pairs] = over([path[-1]["proxy"] - path[-1]["gold"] for path in paths])
        fallen[pairs] = sum(max(point["gold"] for point in path) - path[-1]["gold"] > 0.5 for path in paths)
        if pairs == rlhf.FEW:  # every judge is happiest at the end; gold is low in some runs, high in others
            assert all(path[-1]["proxy"] == max(point["proxy"] for point in path) for path in paths)
            gold = sorted(path[-1]["gold"] for path in paths)
            assert gold[2] < 0.3 and gold[3] > 1.5 and gold[-1] > 5
    assert lead[rlhf.FEW].low > 0 > lead[rlhf.MANY].high
    assert max(holm({str(pairs): found.p for pairs, found in lead.items()}).values()) < 0.05
    assert fallen == {rlhf.FEW: 0, rlhf.MANY: 3}


def test_gold_is_fooled_by_a_word_that_is_repeated():
    (run,) = [run for run in load("over-optimisation")["runs"] if run["setting"] == {"pairs": rlhf.FEW, "seed": 2}]
    assert sum(text.count("love") >= 5 for text in run["texts"][-1]) >= 5 and run["path"][-1]["gold"] > 2
