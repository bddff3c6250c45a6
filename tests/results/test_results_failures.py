"""The grid of lesson 12: its data and losses do what they say, and the stored runs show what the lesson tells."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from prefcourse import losses
from prefcourse.comparison.ab_tests import holm
from prefcourse.comparison.crossed import paired, verdicts
from prefcourse.quality.findings import length_gaps
from prefcourse.results import PROTOCOL, by_prompt, failures, table
from prefcourse.results.answers import over
from prefcourse.results.failures import ARMS
from prefcourse.results.failures_table import arms, compare, ends, kind, mean, paths, runs
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


def test_every_arm_has_every_seed():
    for name in ARMS:
        for arm in arms(name):
            assert [run["setting"]["seed"] for run in runs(name, arm)] == list(range(PROTOCOL.seeds))
    assert [kind("rate", arm) for arm in arms("rate")] == ["failing run", "fix", "fix", "control", "control"]


def test_a_table_is_holm_over_all_that_it_shows():
    each, others = by_prompt("failures"), ["β = 0.5", "β = 0.02, fresh pairs"]
    found = compare("over-optimisation", "held_ranked", also={"β = 0.5": others[1:]})
    pairs = [(others[0], "β = 0.02"), (others[1], "β = 0.02"), (others[1], others[0])]
    family = {}
    for arm, other in pairs:
        a, b = (table(each, "gain", failure="over-optimisation", arm=x) for x in (arm, other))
        family[arm, "gain", other] = paired(a, b)
        a, b = ([run["metrics"]["kl"]["value"] for run in runs("over-optimisation", x)] for x in (arm, other))
        family[arm, "kl", other] = over([math.log(x / y) for x, y in zip(a, b, strict=True)])
        a, b = ([run["path"][-1]["held_ranked"] for run in runs("over-optimisation", x)] for x in (arm, other))
        family[arm, "held_ranked", other] = over([x - y for x, y in zip(a, b, strict=True)])
    p = holm({key: difference.p for key, difference in family.items()})
    assert found.p == pytest.approx(p) and len(p) == 9
    said = {key: found.says(*key) for key in family}
    for key, difference in family.items():
        if said[key] != "=":
            assert said[key] == ("" if p[key] >= 0.05 else "+" if difference.value > 0 else "-")
    gains = verdicts({key: d for key, d in family.items() if key[1] == "gain"}, PROTOCOL.margin)
    assert {key for key, v in gains.items() if v.says == "the same"} == {key for key in said if said[key] == "="}
    shown = str(found).splitlines()
    assert len(shown) == 1 + 3 + 1 + 2 + 1 + 1 and shown[4] == "less β = 0.02:" and shown[7] == "less β = 0.5:"
    assert str(found).count("*") == sum(mark in ("+", "-") for mark in said.values())
    assert str(found).count("]=") == sum(mark == "=" for mark in said.values())


def told(found, column, other=""):
    """arm → + or - or =, where the table has a mark."""
    keys = [key for key in found.apart if key[1] == column and key[2] == (other or found.base)]
    return {key[0]: mark for key in keys if (mark := found.says(*key))}


def test_fixes_and_a_larger_beta_lift_chosen_texts_and_the_fixes_more():
    fixes, control = ["dpo_nll", "dpop"], "dpo, β = 0.5"
    found = compare("displacement", "chosen", "held_chosen", also={control: fixes})
    for column, mark in (("chosen", "+"), ("held_chosen", "+"), ("gain", "-"), ("kl", "-")):
        assert told(found, column) == dict.fromkeys([*fixes, control], mark)
        assert told(found, column, control) == dict.fromkeys(fixes, mark)
    assert all(found.means[arm, "chosen"].low > 0 for arm in [*fixes, control])
    assert all(found.means[arm, "held_chosen"].high < 0 for arm in arms("displacement"))
    assert all(ends("displacement", arm, "chosen").min() > 0 for arm in fixes)


def test_fresh_pairs_gain_where_few_pairs_only_pay():
    found = compare("over-optimisation", "held_ranked")
    assert told(found, "gain") == {"β = 0.5": "+", "β = 0.02, fresh pairs": "+"}
    assert told(found, "kl") == {"β = 0.5": "-"} and told(found, "held_ranked") == {}
    few = [path for arm in ("β = 0.02", "β = 0.5") for path in paths("over-optimisation")[arm]]
    assert all(path[-1]["ranked"] > 0.97 and path[-1]["held_ranked"] < 0.65 for path in few)


def test_the_offset_shortens_texts_further_than_distance_does():
    half = "dpo, half the rate"
    found = compare("length", "length", also={half: ["offset", "dpo_norm, β = 10"]})
    assert told(found, "length") == dict.fromkeys(["offset", "dpo_norm, β = 10", half], "-")
    assert told(found, "kl") == told(found, "gain") == told(found, "length")
    assert [found.says("offset", column, half) for column in ("length", "gain", "kl")] == ["-", "+", "+"]
    assert found.says("dpo_norm, β = 10", "length", half) == found.says("dpo_norm, β = 10", "kl", half) == ""


def test_on_labels_learned_by_heart_bounded_losses_stop_where_the_theory_says_and_better_labels_gain():
    for arm, h in (("cdpo", math.log((1 - failures.FLIPS) / failures.FLIPS) / failures.BETA), ("ipo", 1 / (2 * 0.1))):
        moved = ends("noise", arm, "chosen") - ends("noise", arm, "rejected")
        assert moved.tolist() == pytest.approx([h] * PROTOCOL.seeds, rel=0.25)
        assert ends("noise", arm, "flips_ranked").min() > 0.8
    found = compare("noise", "held_ranked", also={"dpo, half the rate": ["cdpo", "ipo"]})
    better, same = ["dpo, four times the labels", "dpo, no flips"], ["rdpo", "dpo, half the rate"]
    assert told(found, "gain") == dict.fromkeys(better, "+") | dict.fromkeys(same, "=")
    less = ["cdpo", "ipo", "dpo, half the rate", "dpo, read once"]
    assert told(found, "kl") == dict.fromkeys(less, "-") | {"rdpo": "+"}
    assert told(found, "kl", "dpo, half the rate") == dict.fromkeys(["cdpo", "ipo"], "+")


def test_a_high_rate_explodes_with_warm_up_too_and_a_stop_comes_at_the_first_step_beyond():
    for arm in ("lr × 10", "lr × 10, long warm-up", "lr × 10, clipped at 0.1"):
        assert ends("rate", arm, "kl").min() > 40
    found = compare("rate", "eos_rate")
    assert told(found, "kl") == {"lr": "-", "lr × 10, stop at 5 nats": "-"} and told(found, "gain") == {}
    assert told(found, "eos_rate") == {"lr": "+", "lr × 10, stop at 5 nats": "+"}
    for run in runs("rate", "lr × 10, stop at 5 nats"):
        *before, last = (point["kl"] for point in run["path"])
        assert max(before) <= 5 < last


def test_in_gain_what_helps_is_mostly_the_data():
    """The figure of all fixes: one family of twenty."""
    family = {(name, arm): mean(name, arm, "gain", arms(name)[0]) for name in ARMS for arm in arms(name)[1:]}
    said = {key: v for key, v in verdicts(family, PROTOCOL.margin).items() if v.says == "differs"}
    more = {key for key, v in said.items() if v.difference.value > 0}
    data = {("noise", "dpo, four times the labels"), ("noise", "dpo, no flips")}
    assert more == data | {("over-optimisation", "β = 0.02, fresh pairs"), ("over-optimisation", "β = 0.5")}
    less = said.keys() - more
    assert len(less) == 6 and all(mean(name, arm, "kl", arms(name)[0]).high < 0 for name, arm in less)
