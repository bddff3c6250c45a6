"""The grid of lesson 12: its data and losses do what they say, and the stored runs show what the lesson tells."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from prefcourse import losses
from prefcourse.quality.findings import length_gaps
from prefcourse.results import failures, load
from prefcourse.results.failures import ARMS
from prefcourse.results.look import SHOWN


@pytest.fixture
def world(tiny_gpt2, tokenizer, pairs, monkeypatch):
    """A world of 36 pairs in which the true reward counts the letter o, and runs small enough for it."""
    for name, value in {
        "PAIRS": 32,
        "FEW": 8,
        "NOISY": 20,
        "STEPS": 3,
        "BATCH": 4,
        "PROBE": 40,
        "SCORED": 6,
    }.items():
        monkeypatch.setattr(failures, name, value)
    gold = lambda prompts, texts: torch.tensor([2.0 * text.count("o") for text in texts])  # noqa: E731
    rows = [{"prompt": f"{row['prompt']} {i}"} for i in (1, 2) for row in pairs][:40]
    scored = [{**row, "chosen_score": 1.0, "rejected_score": 0.0} for row in pairs]
    return SimpleNamespace(
        name="tiny", sft=tiny_gpt2(), base=tiny_gpt2(1), words={"film"}, tokenizer=tokenizer, gold=gold,
        prompts={"validation": rows, "test": rows},
        pairs={"train": scored, "validation": scored},
    )  # fmt: skip


def test_without_a_bias_the_offset_loss_is_dpo_and_with_one_it_moves_the_margin():
    logps = [torch.randn(50, generator=torch.Generator().manual_seed(k)) * 9 - 40 for k in range(4)]
    lengths = {"chosen_lengths": torch.full((50,), 12.0), "rejected_lengths": torch.full((50,), 7.0)}
    found = failures.offset_loss(*logps, beta=0.3, bias=0.0, **lengths)
    torch.testing.assert_close(found, losses.dpo_loss(*logps, beta=0.3))
    moved = failures.offset_loss(*logps, beta=0.3, bias=0.2, **lengths)  # 5 tokens · 0.2 / 0.3 nats of h
    torch.testing.assert_close(moved, losses.dpo_loss(logps[0] + 1 / 0.3, *logps[1:], beta=0.3))


def test_a_judge_of_length_is_found_out_from_the_labels_alone(tokenizer):
    rng = random.Random(0)
    words = lambda: " " + " ".join(["good"] * rng.randint(1, 12))  # noqa: E731
    rows = [
        {"prompt": "a", "chosen": words(), "rejected": words(), "chosen_score": 0.0, "rejected_score": 0.0}
        for _ in range(800)
    ]
    assert abs(failures.length_bias(rows, tokenizer)) < 0.05
    biased = failures.relabelled(rows, tokenizer, seed=0, bias=0.3)
    assert failures.length_bias(biased, tokenizer) == pytest.approx(0.3, abs=0.06)
    assert sum(length_gaps(biased, tokenizer)) > 0


def test_noise_turns_the_stated_share_and_tells_the_flips_apart(world):
    rows, probes, facts = failures.data_of(world, "noise", seed=0)
    turned = [row["chosen_score"] < row["rejected_score"] for row in rows]
    assert sum(turned) == failures.FLIPS * len(rows) and facts == {"pairs": 20}
    assert all(row["chosen_score"] < row["rejected_score"] for row in probes["flips_"])
    assert all(row["chosen_score"] > row["rejected_score"] for row in probes[""]) and len(probes["flips_"]) == 6


def test_controls_change_one_thing():
    """Against the arm that fails: the loss with its parameter, or the rate, or the data, or how often it is read."""
    fails = {"displacement": "dpo", "over-optimisation": "β = 0.02", "length": "dpo", "noise": "dpo",
             "rate": "lr × 10"}  # fmt: skip
    loss = {"loss", "beta", "alpha", "lam", "eps", "tau"}
    for name, controls in failures.CONTROLS.items():
        base = ARMS[name][fails[name]]
        for arm, settings in controls.items():
            changed = {k for k in base.keys() | settings.keys() if base.get(k) != settings.get(k)} - {"every"}
            assert len(changed) == 1 or changed <= loss, (arm, changed)
            assert not ARMS[name].keys() & controls.keys()


def test_the_data_of_a_control(world, monkeypatch):
    rows, probes, facts = failures.data_of(world, "noise", seed=0, flips=0.0)
    assert all(row["chosen_score"] > row["rejected_score"] for row in rows) and set(probes) == {"", "held_"}
    same, _, _ = failures.data_of(world, "noise", seed=0)
    assert [row["prompt"] for row in same] == [row["prompt"] for row in rows], "the same pairs, other labels"
    more, _, facts = failures.data_of(world, "noise", seed=0, pairs=30)
    assert len(more) == facts["pairs"] == 30
    monkeypatch.setitem(failures.CONTROLS["noise"], "more", {"pairs": 30, "every": 32})
    found = failures.failure(world, "noise", "more", seed=0)
    assert found["pairs"]["pairs"] == 30 and [len(row) for row in found["by_prompt"]["gain"]] == [40]


@pytest.mark.parametrize(("name", "arm"), [(name, list(arms)[-1]) for name, arms in ARMS.items()])
def test_a_run_starts_at_sft_and_keeps_path_metrics_and_texts(world, name, arm):
    found = failures.failure(world, name, arm, seed=0)
    first, last = found["path"][0], found["path"][-1]
    assert set(failures.MEASURED) == set(found["metrics"]) and len(found["texts"]) == SHOWN
    assert first["step"] == first["kl"] == first["chosen"] == 0 and first["ranked"] == first["held_ranked"] == 0.5
    assert last["step"] == found["steps"] > 0 and last["kl"] != 0 and ("flips_ranked" in last) == (name == "noise")
    assert ("longer_chosen" in found["pairs"]) == (name == "length")


def test_a_budget_of_kl_stops_the_run(world, monkeypatch):
    monkeypatch.setitem(ARMS["rate"], "stop", {"lr": 0.05, "max_kl": 0.01, "every": 1, "steps": 30})
    with pytest.warns(UserWarning, match="42 times"):  # the trainer says so before it starts
        found = failures.failure(world, "rate", "stop", seed=0)
    assert 0 < found["steps"] < 30


def test_a_run_can_be_shortened_for_a_lesson(world):
    rows, probes, _ = failures.data_of(world, "displacement", seed=1)
    policy, look, history = failures.train_arm(world, "displacement", "dpo", 1, rows, probes, steps=2, every=1)
    assert [math.isnan(kl) for kl in history["kl"]] == [False] * 3 and "held_chosen" in look.names
    assert not torch.equal(policy.lm_head.weight, world.sft.lm_head.weight)


# ------------------------------------------------------------------------------------------- what is stored


def ends(failure, arm, metric):
    """One number a seed."""
    runs = [
        run for run in load("failures")["runs"] if run["setting"] | {"failure": failure, "arm": arm} == run["setting"]
    ]
    assert len(runs) == 3
    return [run["metrics"][metric]["value"] if metric in run["metrics"] else run["path"][-1][metric] for run in runs]


def test_dpo_lowers_chosen_texts_and_the_fixes_raise_those_they_train_on():
    assert max(ends("displacement", "dpo", "held_chosen")) < -1 and min(ends("displacement", "dpo", "kl")) > 1
    for arm in ("dpo_nll", "dpop"):
        assert min(ends("displacement", arm, "chosen")) > 0


def test_few_pairs_are_learned_by_heart_at_a_kl_that_a_larger_beta_cuts():
    assert min(ends("over-optimisation", "β = 0.02", "ranked")) > 0.97
    assert max(ends("over-optimisation", "β = 0.5", "kl")) < 0.5 * min(ends("over-optimisation", "β = 0.02", "kl"))


def test_only_the_offset_shortens_the_texts_of_a_judge_who_likes_length():
    found = zip(*(ends("length", arm, "length") for arm in ("offset", "dpo", "dpo_norm")), strict=True)
    assert all(offset < 0.6 * dpo < dpo < norm for offset, dpo, norm in found)


def test_on_labels_learned_by_heart_bounded_losses_stop_where_the_theory_says():
    for arm, h in (("cdpo", math.log((1 - failures.FLIPS) / failures.FLIPS) / failures.BETA), ("ipo", 1 / (2 * 0.1))):
        moved = [a - b for a, b in zip(ends("noise", arm, "chosen"), ends("noise", arm, "rejected"), strict=True)]
        assert moved == pytest.approx([h] * 3, rel=0.25)
        assert min(ends("noise", arm, "flips_ranked")) > 0.8


def test_a_high_rate_explodes_with_warm_up_too_and_a_stop_comes_at_the_first_step_beyond():
    for arm in ("lr × 10", "lr × 10, long warm-up"):
        assert min(ends("rate", arm, "kl")) > 40
    for run in load("failures")["runs"]:
        if "stop" in run["setting"]["arm"]:
            *before, last = (point["kl"] for point in run["path"])
            assert max(before) <= 5 < last and run["steps"] <= 5
