"""The runs of lessons 08 and 09: what a run is, what the seeds share, and what the stored results show."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from prefcourse.comparison import equal_kl
from prefcourse.comparison.ab_tests import holm
from prefcourse.comparison.crossed import crossed, paired, verdicts
from prefcourse.comparison.equal_kl import measured
from prefcourse.results import PROTOCOL, by_prompt, forest, load, look, table, variants
from prefcourse.results.answers import over
from prefcourse.results.methods import METHODS
from prefcourse.results.variants import CORRECTED, NOISY


@pytest.fixture
def world(tiny_gpt2, tokenizer, pairs, monkeypatch):
    """A world of 36 pairs in which the true reward counts the letter o, and runs of a few steps."""
    sizes = {"PAIRS": 32, "BATCH": 4, "PROBE": 6, "EARLY": (2, 4), "STEPS": 5}
    for name, value in sizes.items():
        monkeypatch.setattr(variants, name, value)
    for name in ("generate", "evaluate"):
        monkeypatch.setattr(look, name, partial(getattr(look, name), max_new_tokens=8))
    gold = lambda prompts, texts: torch.tensor([float(text.count("o")) for text in texts])  # noqa: E731
    starts = [f"{a} {b}" for a in ("This", "That", "The old", "Is the", "We know the")
              for b in ("movie", "film", "story", "cast", "ending", "is", "was", "never")]  # fmt: skip
    rows = [{"prompt": prompt} for prompt in starts]
    return SimpleNamespace(
        name="tiny", sft=tiny_gpt2(), base=tiny_gpt2(1), words={"film"}, tokenizer=tokenizer, gold=gold,
        prompts={"test": rows, "train": rows}, pairs={"train": pairs, "test": pairs},
    )  # fmt: skip


def test_noise_turns_a_share_of_the_labels_the_same_for_all_losses(world, monkeypatch):
    seen = {}

    def learn(world, method, rows, settings, seed, look):
        seen[method.loss] = (rows, settings)
        return world.sft, 1, {}

    monkeypatch.setattr(variants, "learn", learn)
    for method in ("dpo", "rdpo"):
        variants.noise(world, method, 0.25, seed=0)
    rows, clean = seen["dpo"][0], variants.draw_pairs(world, 0)
    assert sum(a["chosen"] != b["chosen"] for a, b in zip(rows, clean, strict=True)) == 8
    assert seen["rdpo"][0] == rows and seen["rdpo"][1]["eps"] == 0.25 and "eps" not in seen["dpo"][1]


def test_a_run_on_noisy_labels_is_measured_at_its_end_only(world):
    run = variants.noise(world, "ipo", 0.25, seed=0)
    assert [point["step"] for point in run["path"]] == [8] and run["path"][0]["kl"] == run["metrics"]["kl"]["value"]
    assert [len(row) for row in run["by_prompt"]["gain"]] == [40], "and on every prompt"


def test_a_beta_sweep_looks_early_and_at_the_end(world):
    run = variants.beta_sweep(world, beta=0.1, lr=1e-3, seed=0)
    assert [point["step"] for point in run["path"]] == [2, 4, 5] and 0 <= run["train_accuracy"] <= 1


def test_a_sweep_by_prompt_has_all_prompts_at_every_point(world):
    run = variants.beta_sweep(world, beta=0.1, lr=1e-3, seed=0, by_prompt=True)
    found = run["by_prompt"]
    assert [len(row) for row in found["gain"]] == [40] * 3 == [len(row) for row in found["kl"]]
    ends = [sum(found[name][-1]) / 40 for name in ("kl", "gain")]
    assert ends == pytest.approx([run["metrics"][name]["value"] for name in ("kl", "gain")], abs=2e-3)
    assert [point["gain"] for point in run["path"]] == pytest.approx([sum(r) / 40 for r in found["gain"]], abs=2e-3)
    (end,) = variants.beta_sweep(world, beta=0.1, lr=1e-3, seed=0, by_prompt=True, on_the_way=False)["path"]
    assert end == run["path"][-1]


def test_more_pairs_a_step_are_fewer_steps_on_as_many_pairs(world):
    run = variants.beta_sweep(world, beta=0.1, lr=1e-3, seed=0, batch=8)
    assert [point["step"] for point in run["path"]] == [1, 2]


def test_ordered_labels_choose_the_better_text_and_change_nothing_else(world, monkeypatch):
    seen, scores = [], {"chosen_score": 0.0, "rejected_score": 1.0}
    world.pairs["train"] = [
        row | (scores if number % 2 else dict(zip(scores, (1.0, 0.0), strict=True)))
        for number, row in enumerate(world.pairs["train"])
    ]

    def train(_, rows, *__, **settings):
        seen.append((rows, settings | {"measure": None}))
        return {"rewards/accuracies": [0.5]}

    monkeypatch.setattr(variants, "train", train)
    monkeypatch.setattr(variants, "finish", lambda *_: {})
    for labels in ("drawn", "ordered"):
        variants.beta_sweep(world, beta=0.1, lr=1e-3, seed=0, labels=labels)
    (drawn, usual), (ordered, same) = seen
    assert usual == same and drawn == world.pairs["train"]
    assert all(row["chosen_score"] >= row["rejected_score"] for row in ordered)
    assert [{a["chosen"], a["rejected"]} for a in drawn] == [{b["chosen"], b["rejected"]} for b in ordered]
    assert any(a["chosen"] != b["chosen"] for a, b in zip(drawn, ordered, strict=True))


def test_adams_second_constant_is_changed_for_one_run_only(world, monkeypatch):
    seen = []

    def train(*_, **__):
        seen.append(variants.stepping.BETAS)
        return {"rewards/accuracies": [0.5]}

    monkeypatch.setattr(variants, "train", train)
    monkeypatch.setattr(variants, "finish", lambda *_: {})
    variants.beta_sweep(world, beta=0.1, lr=1e-3, seed=0, beta2=0.9)
    variants.beta_sweep(world, beta=0.1, lr=1e-3, seed=0)
    assert seen == [(0.9, 0.9), (0.9, 0.99)] and variants.stepping.BETAS == (0.9, 0.99)
    with pytest.raises(RuntimeError), variants.adam(0.5):
        raise RuntimeError
    assert variants.stepping.BETAS == (0.9, 0.99)


def test_the_stored_sweep_goes_less_far_with_a_larger_beta():
    runs = [run for run in load("beta-sweep")["runs"] if run["setting"]["lr"] == 2e-4]
    ends = {}
    for run in runs:
        ends.setdefault(run["setting"]["beta"], []).append(run["metrics"]["kl"]["value"])
    assert all(len(found) == 8 for found in ends.values())
    means = [sum(ends[beta]) / 8 for beta in variants.BETAS]
    assert means == sorted(means, reverse=True) and means[0] > 15


def test_at_one_kl_beta_up_to_one_gains_what_a_tenth_does_and_no_interval_is_wider_than_the_margin():
    rows = forest("beta-sweep", "beta", 0.1, lr=2e-4)
    assert {row.says for (beta, _), row in rows.items() if beta <= 1} == {"the same"} and len(rows) == 10
    assert {beta for beta, kl in rows if kl == 3.0} == {0.02, 0.05, 0.2, 0.5}, "larger ones do not go so far"
    assert rows[5.0, 1.5].says == "differs" and rows[5.0, 1.5].at.square_root.high < -0.05
    assert max(row.at.square_root.half for row in rows.values()) < 0.15


def test_every_method_is_stored_at_its_own_settings_with_eight_seeds():
    stored, found = load("methods"), {}
    for run in stored["runs"]:
        name = run["setting"]["method"]
        found.setdefault(name, []).append(run["setting"]["seed"])
        assert run["chosen"] == stored["chosen"][f"method={name}"]["settings"]
    assert set(found) == set(METHODS) and len(found) >= 16
    assert all(sorted(seeds) == list(range(8)) for seeds in found.values())
    assert all(choice["within"] for choice in stored["chosen"].values()), "within the limit of KL on validation prompts"
    tried = {run["setting"]["seed"] for run in stored["tried"]}
    assert tried.isdisjoint(range(8)), "no seed is chosen by and reported on"


@pytest.fixture(scope="module")
def at_equal_kl():
    """(method, KL) → its gain less DPO's there, with best-of-n: the family of lesson 09."""
    each, pool = by_prompt("methods"), by_prompt("best-of-n")
    found = {method: measured(each, method=method) for method in METHODS}
    found |= {f"best-of-n ({judge})": measured(pool, judge=judge) for judge in ("learned", "gold")}
    return equal_kl.forest(found, "dpo", PROTOCOL.budgets, PROTOCOL.margin)


ALIKE = {"cdpo", "rdpo", "hinge", "ipo", "ipo (mean)", "simpo", "kto", "apo_zero", "bco", "nca", "exo"}


def test_at_3_nats_eleven_methods_gain_what_dpo_gains_and_four_differ(at_equal_kl):
    said = {}
    for (method, nats), row in at_equal_kl.items():
        if nats == 3:
            said.setdefault(row.says, set()).add(method)
    assert said["the same"] == ALIKE
    assert said["differs"] == {"sft", "dpo_nll", "best-of-n (learned)", "best-of-n (gold)"}
    less = {method for method in said["differs"] if at_equal_kl[method, 3.0].at.square_root.value < 0}
    assert less == {"sft", "dpo_nll"} and len(at_equal_kl) == 36
    without = set(METHODS) - {method for method, _ in at_equal_kl} - {"dpo"}
    assert without == {"orpo (from base)", "cpo", "dpo_norm", "dpop", "apo_down"}


def test_at_3_nats_the_intervals_of_losses_on_pairs_are_narrower_than_the_margin(at_equal_kl):
    half = {method: row.at.square_root.half for (method, nats), row in at_equal_kl.items() if nats == 3}
    assert max(half[method] for method in ALIKE) < 0.1 and max(half[m] for m in ("dpo_nll", "kto (unbalanced)")) < 0.15


def test_orpo_and_simpo_gain_and_orpo_more_than_fine_tuning_on_the_chosen_texts():
    gains = {name: table(by_prompt("methods"), "gain", method=name) for name in ("orpo (from base)", "simpo", "sft")}
    assert all(crossed(values).low > 0 for values in gains.values())
    assert paired(gains["orpo (from base)"], gains["sft"]).low > 0


def test_no_loss_is_told_from_dpo_on_noisy_labels_and_all_keep_a_third_at_most():
    """Lesson 09, label noise: Holm over 18 leads; eight are the same to within the margin, none differs."""
    runs, shares = by_prompt("noise"), (0.0, 0.1, 0.2, 0.3, 0.4)
    gains = {(m, f): table(runs, "gain", method=m, flips=f) for m in NOISY for f in shares if f or m not in CORRECTED}
    said = verdicts({k: paired(x, gains["dpo", k[1]]) for k, x in gains.items() if k[0] != "dpo"}, PROTOCOL.margin)
    assert [lead.says for lead in said.values()].count("the same") == 8 and len(said) == 18
    assert not any(lead.says == "differs" for lead in said.values())
    kept = {m: gains[m, 0.4].mean() / gains["dpo" if m in CORRECTED else m, 0.0].mean() for m in NOISY}
    assert max(kept, key=kept.get) == "rdpo" and 0.3 < kept["rdpo"] < 0.34
    for method in NOISY:
        means = [gains[method, f].mean().item() for f in shares if (method, f) in gains]
        assert means == sorted(means, reverse=True)


def test_neither_memory_nor_labels_explain_what_slows_a_large_beta_lesson_08():
    """β = 0.1 goes many times as far in each arm, at most memories of Adam's and on both kinds of labels."""
    sweep, others, far = by_prompt("beta-sweep"), by_prompt("optimiser"), {}
    for beta in (0.1, 5.0):
        far[beta, "drawn", 0.99] = table(sweep, "kl", beta=beta, lr=2e-4).mean(1)
        for labels, memory in (("drawn", 0.9), ("drawn", 0.999), ("ordered", 0.9), ("ordered", 0.99)):
            arm = table(others, "kl", beta=beta, labels=labels, beta2=memory, batch=16)
            far[beta, labels, memory] = arm.mean(1)
    for arm in {key[1:] for key in far}:
        ratio = over((far[0.1, *arm] / far[5.0, *arm]).log().tolist())
        assert ratio.low > math.log(4)
    usual = far[5.0, "drawn", 0.99]
    by_memory = [over((far[5.0, "drawn", m] / usual).log().tolist()) for m in (0.9, 0.999)]
    by_labels = [over((far[5.0, "ordered", m] / usual).log().tolist()) for m in (0.9, 0.99)]
    assert all(math.log(0.85) < d.low < 0 < d.high < math.log(1.15) for d in by_memory)
    assert max(holm({m: d.p for m, d in enumerate(by_labels)}).values()) < 0.05 and min(d.low for d in by_labels) > 0
