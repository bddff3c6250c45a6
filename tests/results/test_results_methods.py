"""Every method of the tuned grid trains and is measured on all prompts; best-of-n is charged what it really spends."""

import copy
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from prefcourse import results
from prefcourse.comparison import equal_kl
from prefcourse.comparison.crossed import crossed, objective, paired, verdicts
from prefcourse.results import coverage, look, methods, paper, store, variants
from prefcourse.rlhf.best_of_n import best_of_n_kl

STARTS = [f"{a} {b}" for a in ("This", "That", "The old", "Is the")
          for b in ("movie", "film", "cast", "ending", "is", "story", "was", "never", "I", "great")]  # fmt: skip


@pytest.fixture
def world(tiny_gpt2, tokenizer, pairs, monkeypatch):
    """A world of 36 pairs in which the true reward counts the letter o, and runs of a few steps."""
    for name, value in {"PAIRS": 32, "BATCH": 8, "STEPS": 4}.items():
        monkeypatch.setattr(variants, name, value)
    for name, value in {"PAIRS": 32, "BATCH": 8, "N": 4}.items():
        monkeypatch.setattr(methods, name, value)
    for module in (variants, look, methods, paper):
        for name in {"generate", "evaluate", "rloo", "ppo"} & set(vars(module)):
            monkeypatch.setattr(module, name, partial(getattr(module, name), max_new_tokens=6))
    for name in ("rloo", "ppo"):
        fixed = {**methods.METHODS[name].fixed, "steps": 4, "batch_size": 4}
        monkeypatch.setitem(methods.METHODS, name, variants.Method(name, "beta", (0.1,), fixed))
    gold = lambda prompts, texts: torch.tensor([float(text.count("o")) for text in texts])  # noqa: E731
    rows = [{"prompt": prompt, "type": "question" if prompt.startswith("Is") else "neutral"} for prompt in STARTS]
    scored = [
        row | {f"{side}_score": float(row[side].count("o")) + i / 100 for side in ("chosen", "rejected")}
        for i, row in enumerate(pairs)
    ]
    splits = ("train", "validation", "test")
    return SimpleNamespace(
        name="tiny", sft=tiny_gpt2(), base=tiny_gpt2(1), words={"film"}, tokenizer=tokenizer, gold=gold,
        prompts=dict.fromkeys(splits, rows), pairs=dict.fromkeys(splits, scored), open_ended=True,
    )  # fmt: skip


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_every_method_trains_a_copy_with_the_settings_that_are_tried_for_it(world, method):
    found = methods.METHODS[method]
    before = copy.deepcopy([world.sft.state_dict(), world.base.state_dict()])
    knobs = {found.knob: found.values[0]} if found.knob else {}
    run = methods.method_run(world, method, seed=0, lr=1e-3, **knobs)
    for states, model in zip(before, (world.sft, world.base), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(states.values(), model.state_dict().values(), strict=True))
    assert {"gold_reward", "kl", "gain", "forward_kl", "repetition"} <= set(run["metrics"])
    assert [point["step"] for point in run["path"]] == [1, 2, 3, 4]
    assert [len(row) for row in run["by_prompt"]["kl"]] == [40] * 4 and run["path"][-1]["kl"] != 0


def test_a_run_looked_at_on_its_way_ends_as_one_that_is_not(world):
    looked, alone = (
        methods.method_run(world, "ipo", seed=0, lr=1e-3, tau=0.1, on_the_way=way) for way in (True, False)
    )
    assert len(looked["path"]) == 4 and alone["path"] == looked["path"][-1:]


def test_the_settings_reach_the_loss(world, monkeypatch):
    seen = []

    def train(policy, data, tokenizer, **settings):
        seen.append((data, settings))
        return {"loss": [0.5]}

    monkeypatch.setattr(variants, "train", train)
    methods.method_run(world, "simpo", seed=1, lr=1e-4, beta=5.0)
    methods.method_run(world, "sft", seed=1, lr=1e-3)
    methods.method_run(world, "kto (unbalanced)", seed=1, lr=2e-4, beta=0.1)
    (pairs, simpo), (same, sft), (single, kto) = seen
    assert simpo["loss"] == "simpo" and simpo["beta"] == 5 and simpo["gamma_over_beta"] == 0.5 and simpo["seed"] == 1
    assert simpo["reference"] is world.sft is kto["reference"], "the first needs none, the second draws pairs"
    assert simpo["lr"] == 1e-4 and sft["lr"] == 1e-3 and same == pairs and len(pairs) == 32
    assert kto["loss"] == "kto" and kto["desirable_weight"] == 4
    assert sum(row["label"] for row in single) / len(single) == pytest.approx(0.2, abs=0.05) and len(single) == 32


def test_a_trial_is_the_end_of_such_a_run_on_validation(world):
    trial = methods.method_trial(world, "dpo", seed=90, lr=1e-3, beta=0.1)
    run = methods.method_run(world, "dpo", seed=90, split="validation", lr=1e-3, beta=0.1)
    ends = {"gold": run["metrics"]["gold_reward"]["value"], "kl": run["metrics"]["kl"]["value"]}
    assert trial == pytest.approx(ends, abs=1e-3)


def test_a_noise_trial_is_told_the_rate_if_the_loss_is(world, monkeypatch):
    seen = []

    def learn(world, method, rows, settings, seed, look):
        seen.append(
            (method.loss, settings, sum(a != b for a, b in zip(rows, variants.draw_pairs(world, seed), strict=True)))
        )
        return world.sft, 1, {}

    monkeypatch.setattr(methods, "learn", learn)
    for loss in ("dpo", "rdpo"):
        methods.noise_trial(world, loss, seed=90, lr=1e-3, beta=0.05)
    (_, dpo, turned), (_, rdpo, _) = seen
    assert turned == 6 and "eps" not in dpo and rdpo["eps"] == methods.FLIPS_TRIED and dpo["beta"] == 0.05


@pytest.mark.parametrize("judge", methods.JUDGES)
def test_best_of_n_has_a_measured_kl_at_most_the_bound(world, judge):
    run = methods.best_of_n(world, judge, seed=0)
    assert [point["n"] for point in run["path"]] == [1, 2, 4] and run["path"][0]["kl"] == 0 == run["path"][0]["gain"]
    for point in run["path"]:
        assert point["bound"] == pytest.approx(best_of_n_kl(point["n"]), abs=1e-4)
        assert point["kl"] <= point["bound"] + 1e-3
    if judge == "gold":
        assert run["path"][2]["gain"] > run["path"][1]["gain"] > 0
    assert [len(row) for row in run["by_prompt"]["gain"]] == [40] * 3


def test_a_grid_from_tries_to_a_difference_at_one_kl(world, monkeypatch, tmp_path):
    """Two losses: chosen on validation, run on test with other seeds, stored, and compared at one KL."""
    small = {name: variants.Method(name, knob, (0.1, 0.2)) for name, knob in (("dpo", "beta"), ("ipo", "tau"))}
    monkeypatch.setattr(methods, "RATES", (1e-2, 2e-2))
    grid = replace(
        results.GRIDS["methods"], settings=results.grid(3, method=("dpo", "ipo")),
        tries=methods._tries(small),
    )  # fmt: skip
    monkeypatch.setattr(results, "GRIDS", {"methods": grid})
    monkeypatch.setattr(results, "load_world", lambda: world)
    path = results.write("methods", tmp_path / "results", tmp_path / "work", say=lambda _: None)
    monkeypatch.setattr(store, "data_folder", lambda: tmp_path)
    stored, runs = results.load("methods"), results.by_prompt("methods")
    assert path.is_file() and len(stored["tried"]) == 12 and len(stored["runs"]) == len(runs) == 6
    for run in stored["runs"]:
        chosen = stored["chosen"][f"method={run['setting']['method']}"]["settings"]
        assert run["chosen"] == chosen and len(chosen) == 2
    sides = {name: equal_kl.measured(runs, method=name) for name in ("dpo", "ipo")}
    far = min(kl.mean(1).max().item() for side in sides.values() for kl, _ in side.values())
    assert far > 0
    found = equal_kl.gain_at_kl(sides["ipo"], 0.9 * far, less=sides["dpo"], reach=math.inf).square_root
    assert found.seeds == 3 and found.prompts == 40 and found.half > 0
    j = objective(results.table(runs, "gain", method="dpo"), results.table(runs, "kl", method="dpo"), beta=0.1)
    gains, kls = (
        [sum(run[what][-1].tolist()) / 40 for run in runs if run["setting"]["method"] == "dpo"]
        for what in ("gain", "kl")
    )
    mean = sum(g - 0.1 * k for g, k in zip(gains, kls, strict=True)) / 3
    assert j.value == pytest.approx(mean, abs=1e-4), "J is that of the stored prompts"


@pytest.mark.parametrize("method", methods.SHARED)
def test_a_policy_that_two_grids_need_is_trained_once(world, monkeypatch, tmp_path, method):
    """The grid `methods` leaves it on the shelf, where `paper` takes it up: the one that it would have trained."""
    chosen = {"lr": 1e-3} | ({"beta": 0.1} if method != "sft" else {})
    alone = paper.policy_of(world, method, 0, chosen)
    monkeypatch.setattr(store, "shelf", tmp_path / "policies")
    methods.method_run(world, method, seed=0, **chosen)
    assert len(list(store.shelf.iterdir())) == 1
    monkeypatch.setattr(paper, "learn", None)
    taken = paper.policy_of(world, method, 0, chosen)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), taken.parameters(), strict=True))
    with pytest.raises(TypeError):
        paper.policy_of(world, method, 1, chosen)  # another seed has to be trained


# ------------------------------------------------------------------------------------------- the DPO paper's


@pytest.mark.parametrize("method", ["none", "dpo", "best-of-n"])
def test_win_rates_by_temperature(world, monkeypatch, method):
    monkeypatch.setattr(paper, "BEST_OF", 4)
    monkeypatch.setattr(paper, "POOL_PROMPTS", 5)
    chosen = {"lr": 1e-3, "beta": 0.1} if method == "dpo" else {}
    run = paper.temperatures(world, method, seed=0, **chosen)
    assert [point["temperature"] for point in run["path"]] == list(paper.TEMPERATURES)
    assert all(0 <= point["win_rate"] <= 1 for point in run["path"])
    prompts = 5 if method == "best-of-n" else 12
    assert [len(row) for row in run["by_prompt"]["win"]] == [prompts] * len(paper.TEMPERATURES)
    at = run["path"][paper.TEMPERATURES.index(1.0)]["win_rate"]
    assert run["metrics"]["win_rate"]["value"] == pytest.approx(at, abs=1e-3)


def test_an_opponent_is_one_pair_of_each_prompt(world):
    rows = paper.opponents(world)
    assert [row["prompt"] for row in rows] == list(dict.fromkeys(row["prompt"] for row in world.pairs["test"]))
    assert rows[0] == world.pairs["test"][0]


def test_other_prompts_are_about_other_things():
    found = paper.other_prompts()
    assert len(set(found)) == 72 and not any(word in " ".join(found) for word in ("film", "movie", "cast", "plot"))


def test_a_type_that_is_left_out_is_not_trained_on(world, monkeypatch):
    seen = []
    train = lambda world, method, rows, *_: (seen.append(rows) or world.sft, 1, {})  # noqa: E731
    monkeypatch.setattr(paper, "learn", train)
    monkeypatch.setattr(paper, "OPENINGS", paper.OPENINGS[:1])
    world.pairs["train"] = world.pairs["train"][:30] + [
        row | {"prompt": "Is the film"} for row in world.pairs["train"][30:]
    ]
    for trained in ("all", "left out"):
        run = paper.out_of_distribution(world, "dpo", trained, seed=0)
        assert {"gain", "gain_other", "gain_left_out", "kl_other"} <= set(run["metrics"])
        assert run["metrics"]["kl_other"]["value"] == 0, "SFT has not moved"
    assert any(row["prompt"] == "Is the film" for row in seen[0])
    assert not any(row["prompt"] == "Is the film" for row in seen[1])
    world.prompts = {split: [row | {"type": "neutral"} for row in rows] for split, rows in world.prompts.items()}
    with pytest.raises(ValueError, match="no prompts of the type 'question'"):
        paper.out_of_distribution(world, "dpo", "all", seed=0)


def test_what_lesson_11_says_of_temperatures_and_of_other_prompts():
    at = paper.TEMPERATURES.index(1.0)
    played, tested, changes, gaps = results.by_prompt("temperatures"), results.by_prompt("ood-prompts"), {}, {}
    for method in (*paper.TRAINED, "best-of-n"):
        won = torch.stack([run["win"] for run in played if run["setting"]["method"] == method]).double()
        assert won.shape[:2] == (8, 5)
        changes |= {(method, t): paired(won[:, i], won[:, at]) for i, t in enumerate(paper.TEMPERATURES) if i != at}
    said = verdicts(changes, 0.05)
    assert all(said[method, t].says == "the same" for method, t in said if method in ("none", "dpo"))
    assert not any(verdict.says == "differs" for verdict in said.values())
    for method in ("sft", "dpo", "ppo"):
        find = partial(results.table, tested, method=method)
        assert crossed(find("gain_other", trained="all")).low > 0
        gaps[method] = paired(find("gain_left_out", trained="left out"), find("gain_left_out", trained="all"))
    assert not any(verdict.says == "differs" for verdict in verdicts(gaps, results.PROTOCOL.margin).values())


# ------------------------------------------------------------------------------------------- coverage


@pytest.fixture
def scored(world, monkeypatch):
    """400 pairs whose texts have a gold reward of their own."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, 2, generator=generator).tolist()
    names = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")
    rows = [dict(zip(names, (f"{i}", "a", "b", *pair), strict=True)) for i, pair in enumerate(values)]
    monkeypatch.setattr(coverage, "PAIRS", 60)
    world.pairs = {"train": rows}
    return world


def test_arms_cover_what_they_say(scored):
    middle = coverage.scores(scored).median().item()
    sides = lambda rows: [row[side] for row in rows for side in ("chosen_score", "rejected_score")]  # noqa: E731
    arms = {arm: coverage.rows_of(scored, arm, seed=0) for arm in ("random", "poor", "same margins", "good")}
    assert all(len({row["prompt"] for row in rows}) == 60 for rows in arms.values()), "none twice"
    assert max(sides(arms["poor"])) <= middle <= min(sides(arms["good"]))
    assert max(sides(arms["random"])) > middle + 1 and max(sides(arms["same margins"])) > middle + 1
    mean = lambda rows: sum(abs(coverage._margin(row)) for row in rows) / len(rows)  # noqa: E731
    assert abs(mean(arms["same margins"]) - mean(arms["poor"])) < 0.3 * abs(mean(arms["random"]) - mean(arms["poor"]))


def test_too_few_pairs_are_counted(scored, monkeypatch):
    monkeypatch.setattr(coverage, "PAIRS", 399)
    with pytest.raises(ValueError, match=r"'poor' has \d+ pairs; 399 are needed"):
        coverage.rows_of(scored, "poor", seed=0)
