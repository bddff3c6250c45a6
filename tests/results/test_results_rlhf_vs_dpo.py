"""The comparison of DPO and RLHF: what a run records, how stored runs are read, and the figures."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prefcourse import plots
from prefcourse.comparison import costs
from prefcourse.comparison.ab_tests import holm
from prefcourse.comparison.crossed import objective, verdicts
from prefcourse.results import PROTOCOL, answers, by_prompt, forest, load, look, store
from prefcourse.results import rlhf_table as table
from prefcourse.results import rlhf_vs_dpo as grid
from prefcourse.rlhf import best_of_n

SMALL = {"PAIRS": 16, "POOL": 4, "COMPLETIONS": 8, "PROBE": 4, "RANKED": 12}


@pytest.fixture
def world(tiny_gpt2, tokenizer, pairs, monkeypatch):
    """A world of 36 pairs in which the true reward counts the letter o, and a grid small enough for it."""
    for name, value in SMALL.items():
        monkeypatch.setattr(grid, name, value)
    for settings in (grid.RLOO, grid.PPO):
        monkeypatch.setitem(settings, "steps", 4)
    monkeypatch.setitem(grid.PPO, "batch_size", 8)
    monkeypatch.setitem(grid.DPO, "batch_size", 4)
    for module, name in (
        (look, "generate"),
        (grid, "rloo"),
        (grid, "ppo"),
        (best_of_n, "sample_pool"),
        (grid, "sample_pool"),
    ):
        monkeypatch.setattr(module, name, partial(getattr(module, name), max_new_tokens=8))  # fmt: skip
    gold = lambda prompts, texts: torch.tensor([float(text.count("o")) for text in texts])  # noqa: E731
    rows = [{"prompt": prompt} for prompt in dict.fromkeys(row["prompt"] for row in pairs)]
    return SimpleNamespace(
        name="tiny", sft=tiny_gpt2(), base=tiny_gpt2(1), words=None, tokenizer=tokenizer, gold=gold,
        prompts={"test": rows, "train": rows},
        pairs={"train": pairs, "test": pairs},
    )  # fmt: skip


@pytest.mark.parametrize("method", ["dpo", "rloo", "ppo", "rloo-gold", "best-of-n"])
def test_a_run_says_what_it_found_and_what_it_cost(world, method):
    before = copy.deepcopy(world.sft.state_dict())
    run = grid.rlhf_vs_dpo(world, method, "none", 1, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), world.sft.state_dict().values(), strict=True))
    assert {"gold_reward", "kl"} <= set(run["metrics"])
    assert ("accuracy" in run["metrics"]) == (method in ("rloo", "ppo", "best-of-n"))
    path = run["path"]
    if method == "best-of-n":
        assert [p["n"] for p in path] == [1, 2, 4]
        assert path[-1]["bound"] == pytest.approx(math.log(4) - 3 / 4, abs=1e-4)
        assert all(0 <= p["kl"] <= p["bound"] + 1e-4 for p in path), "what it spends is measured, and is at most that"
        assert run["metrics"]["kl"]["value"] == pytest.approx(path[-1]["kl"], abs=1e-3)
        assert [len(row) for row in run["by_prompt"]["gain"]] == [4, 4, 4]
        golds = [p["gold"] for p in path]
        assert len(set(golds)) > 1
        return
    assert [len(row) for row in run["by_prompt"]["kl"]] == [4] * 4, "a row for each point but the start"
    assert path[0]["kl"] == 0.0 and all(p["kl"] != 0 for p in path[1:])
    assert path[0]["gain"] == 0 and path[-1]["gain"] == pytest.approx(path[-1]["gold"] - path[0]["gold"], abs=2e-4)
    work = [p["work"] for p in path]
    assert work == sorted(work) and len(set(work)) == 5
    assert path[-1]["gold"] == run["metrics"]["gold_reward"]["value"]
    total = sum(forward + 2 * backward for forward, backward in run["tokens"].values())
    assert work[-1] == total, "what is evaluated on the way must not be counted"
    trained = run["tokens"].get("reward model's training", [0, 0])
    assert work[0] == trained[0] + 2 * trained[1] and (work[0] > 0) == (method in ("rloo", "ppo"))


def test_a_knob_changes_its_setting_and_no_other(world, monkeypatch):
    seen = {}

    def record(name):
        def instead(policy, *arguments, **settings):
            seen[name] = settings
            return policy, {}

        return instead

    monkeypatch.setattr(grid, "train", record("dpo"))
    monkeypatch.setattr(grid, "rloo", record("rloo"))
    original = grid.train_reward_model

    def reward_model(*arguments, **settings):
        seen["reward"] = settings
        return original(*arguments, **settings)

    monkeypatch.setattr(grid, "train_reward_model", reward_model)

    def settings(method, knob, times, **chosen):
        seen.clear()
        monkeypatch.setattr(store, "_kept", {})
        grid.rlhf_vs_dpo(world, method, knob, times, seed=0, **chosen)
        return {name: {k: v for k, v in found.items() if k != "measure"} for name, found in copy.copy(seen).items()}

    dpo, rloo = settings("dpo", "none", 1), settings("rloo", "none", 1)
    dpo["dpo"].pop("every"), rloo["rloo"].pop("every")
    assert settings("dpo", "epochs", 3)["dpo"] == dpo["dpo"] | {"steps": 3 * dpo["dpo"]["steps"]}
    assert settings("dpo", "beta", 3)["dpo"]["beta"] == pytest.approx(0.3)
    assert settings("dpo", "none", 1, lr=7e-4)["dpo"]["lr"] == 7e-4, "the rate that was chosen"
    assert settings("dpo", "lr", 3, lr=7e-4)["dpo"]["lr"] == pytest.approx(2.1e-3), "and a multiple of it"
    wrong = settings("rloo", "reward_lr", 3)
    assert wrong["rloo"] == rloo["rloo"] and wrong["reward"]["lr"] == pytest.approx(3 * rloo["reward"]["lr"])
    wrong = settings("rloo", "lr", 3)
    assert wrong["reward"] == rloo["reward"] and wrong["rloo"]["lr"] == pytest.approx(3 * rloo["rloo"]["lr"])
    wrong = settings("rloo", "k", 2)["rloo"]
    assert wrong["k"] * wrong["batch_size"] == rloo["rloo"]["k"] * rloo["rloo"]["batch_size"]


def test_the_settings_are_all_different_and_cover_both_sides():
    settings = grid.GRIDS["rlhf-vs-dpo"].settings
    assert len({tuple(s.items()) for s in settings}) == len(settings)
    wrong = {(s["method"], s["knob"], s["times"]) for s in settings if s["knob"] not in ("none", "memory")}
    for method, knobs in (("dpo", ("lr", "beta", "epochs")), ("rloo", ("lr", "beta"))):
        assert all((method, knob, 3) in wrong for knob in knobs)


# ------------------------------------------------------------------------------------------- reading


def grid_of(seeds=5, prompts=40):
    """A made-up grid, (stored, each): gain = d (a - 0.1 d), d = √KL; RLOO does twice the work of DPO, PPO three times.

    a differs by seed. KL and gain of a prompt lie around their means, which they have exactly.
    """
    runs, each, value = [], [], lambda x: {"value": x, "low": x, "high": x}
    around = torch.linspace(-1, 1, prompts).double()  # of mean 0
    for seed in range(seeds):
        for method, factor in (("dpo", 1), ("rloo", 2), ("ppo", 3)):
            a = 1 + seed / 10
            for knob, times, reach in (("none", 1, 2.0), ("beta", 3, 1.0), ("epochs", 3, 3.0), ("steps", 3, 3.0)):
                kl = [reach * i / 4 for i in range(5)]
                gain = [math.sqrt(k) * (a - 0.1 * math.sqrt(k)) for k in kl]
                start, size = 100.0 * (factor - 1), 3 if knob in ("epochs", "steps") else 1
                path = [{"kl": k, "gain": g, "work": start + 100.0 * size * i / 4, "seconds": 10.0 * factor}
                        for i, (k, g) in enumerate(zip(kl, gain, strict=True))]  # fmt: skip
                setting = {"method": method, "knob": knob, "times": times, "seed": seed, "split": "test"}
                runs.append({"setting": setting, "metrics": {"accuracy": value(0.6)}, "path": path,
                             "tokens": {"policy": [40, 30]}})  # fmt: skip
                points = {"kl": torch.tensor(kl[1:]), "gain": torch.tensor(gain[1:])}
                each.append(
                    {"setting": setting, "path": path}
                    | {name: x[:, None].double() + around for name, x in points.items()}
                )
            memory = {"method": method, "knob": "memory", "times": 1, "seed": seed, "split": "test"}
            runs.append({"setting": memory, "peak_mb": 100 * factor})
    return {"runs": runs}, each


def test_the_interval_of_a_spread_is_the_textbooks():
    sd = table.spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (sd.value, sd.low, sd.high) == pytest.approx((1.5811, 0.9473, 4.5435), abs=1e-3)
    with pytest.raises(ValueError, match="allowed are 3 to 10"):
        table.spread([1.0, 2.0])


def test_the_interval_covers_the_spread_as_often_as_it_says():
    for seeds in (4, 8, 10):
        spreads = [table.spread(x) for x in np.random.default_rng(0).normal(size=(2000, seeds))]
        assert np.mean([s.low <= 1 <= s.high for s in spreads]) == pytest.approx(0.95, abs=0.015)


def test_two_spreads_of_the_same_seeds_are_told_apart_as_often_as_the_test_says():
    draw = np.random.default_rng(0)
    shared, ours, theirs = (draw.normal(size=(2000, 8)) for _ in range(3))  # what a seed does to both
    p = [table.p_of_spreads(s + a, s + b) for s, a, b in zip(shared, ours, theirs, strict=True)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.015)
    apart = [table.p_of_spreads(s + 6 * a, s + b) for s, a, b in zip(shared, ours, theirs, strict=True)]
    assert np.mean(np.array(apart) < 0.05) > 0.75
    assert table.p_of_spreads([1, 2, 3], [2, 3, 4]) == 1 and table.p_of_spreads([1, 2, 3], [5, 5, 5]) == 0
    with pytest.raises(ValueError, match="ours"):
        table.p_of_spreads([1.0, 2.0], [1.0, 3.0])


def test_gain_at_equal_work_lies_between_the_measured_points():
    _, data = grid_of()
    assert table.gain_at_work(data, "dpo", 50).value == pytest.approx(
        np.mean([1 + seed / 10 - 0.1 for seed in range(5)])  # half the work of a run that ends at 2 nats: 1 nat
    )
    assert table.gain_at_work(data, "rloo", 100).value == pytest.approx(0)  # the reward model is all it could pay for
    assert table.gain_at_work(data, "dpo", 200).value > table.gain_at_work(data, "dpo", 100).value
    with pytest.raises(ValueError, match="got 0 seeds"):
        table.gain_at_work(data, "ppo", 1e6)


def test_all_points_of_a_path_are_on_the_prompts_that_are_stored():
    _, each = grid_of()
    for run in each:
        run["path"][-1] |= {"gain": 9.0, "kl": 9.0}  # the end, on more prompts than the points before it
    path = table.paths(each, "dpo")[0]
    assert [point["kl"] for point in path] == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert path[-1]["gain"] == pytest.approx(math.sqrt(2) - 0.2) and path[-1]["work"] == 100
    assert table.gain_at_work(each, "dpo", 100).value < 2
    with pytest.raises(KeyError, match="no run"):
        table.paths(each, "dpo", "lr", 3)


def test_an_effect_is_taken_seed_by_seed():
    _, each = grid_of()
    assert table.wrong(each, "rloo") == [("beta", 3), ("epochs", 3), ("steps", 3)]
    gain, log, worth = table.effect(each, "dpo", "beta", 3)
    expected = [1 + seed / 10 - 0.1 - (math.sqrt(2) * (1 + seed / 10) - 0.2) for seed in range(5)]
    assert gain.value == pytest.approx(np.mean(expected)) and (gain.seeds, gain.prompts) == (5, 40)
    assert worth.value == pytest.approx(gain.value + table.BETA)  # a nat of KL less
    times = answers.factor(log)
    assert (times.value, times.low, times.high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="0 runs of 0 seeds"):
        table.effect(each, "dpo", "lr", 3)
    each[0]["kl"] -= 3
    with pytest.raises(ValueError, match="kl is"):
        table.effect(each, "dpo", "beta", 3)


def test_the_table_has_every_row_filled():
    stored, each = grid_of()
    rows = table.table(stored, each, kl=1.5)
    assert all(len(row) == 4 and all(row) for row in rows)
    found = {row[0]: row[1:] for row in rows}
    assert found["reward model: share of the work"] == ["67% [67%, 67%]", "50% [50%, 50%]", "0% [0%, 0%]"]
    assert found["work (thousands)"] == ["0 [0, 0]"] * 3 and found["KL paid (nats)"][2].startswith("2.00 ")
    assert found["gain at 1.5 nats of KL"][0].startswith(f"{math.sqrt(1.5) * 1.2 - 0.15:.2f} ")
    assert found["gain at the work of one DPO run"][1].startswith("0.00 ")
    assert table.markdown(rows).count("\n") == len(rows) + 1
    far = {row[0]: row[1:] for row in table.table(stored, each, kl=2.5)}
    assert far["gain at 2.5 nats of KL"] == ["not reached"] * 3


# ------------------------------------------------------------------------------------------- what lesson 11 says


@pytest.fixture(scope="module")
def whole():
    return load("rlhf-vs-dpo"), by_prompt("rlhf-vs-dpo")


def test_one_run_of_dpo_is_half_the_work_of_rloos_pipeline_and_a_third_of_ppos(whole):
    work = {
        m: np.mean([run["path"][-1]["work"] for run in table.runs(whole[0], m).values()])
        for m in ("dpo", "rloo", "ppo")
    }
    assert work["rloo"] / work["dpo"] == pytest.approx(2, abs=0.3) and work["ppo"] / work["dpo"] == pytest.approx(
        3, abs=0.5
    )
    share = [run["path"][0]["work"] / run["path"][-1]["work"] for run in table.runs(whole[0], "rloo").values()]
    assert min(share) > 0.5


def test_by_the_objective_and_by_the_spread_over_seeds_no_method_is_told_from_dpo(whole):
    (gain, kl), better, spreads = table.ends(whole[1], "dpo"), {}, {}
    assert gain.shape == (8, 200)
    for method in ("rloo", "ppo"):
        ours, far = table.ends(whole[1], method)
        better[method] = objective(ours - gain, far - kl, table.BETA)
        for what, a, b in (("gain", ours, gain), ("kl", far, kl)):
            spreads[method, what] = table.p_of_spreads(a.mean(1), b.mean(1))
    assert all(verdict.says != "differs" for verdict in verdicts(better, PROTOCOL.margin).values())
    assert min(holm(spreads).values()) > PROTOCOL.alpha


def test_of_18_wrong_settings_16_show_in_the_kl_and_one_raises_the_objective(whole):
    found = {
        (method, *which): table.effect(whole[1], method, *which)
        for method in ("dpo", "rloo", "ppo")
        for which in table.wrong(whole[1], method)
    }
    p = holm({(which, i): change.p for which, changes in found.items() for i, change in enumerate(changes)})
    told = [[which for which in found if p[which, i] < PROTOCOL.alpha] for i in range(3)]
    assert (len(p), len(told[1])) == (54, 16)
    assert [w[:2] for w in told[2] if found[w][2].value > 0] == [("rloo", "reward_epochs")]
    high = {which[:2]: worth.value for which, (*_, worth) in found.items() if which[2] == 3}
    assert min(high, key=high.get) == ("dpo", "lr") and ("dpo", "lr", 3) not in told[2]


def test_the_end_of_a_path_is_the_end_by_prompt(whole):
    for method in ("dpo", "rloo", "ppo"):
        last = [path[-1] for path in table.paths(whole[1], method).values()]
        for what, values in zip(("gain", "kl"), table.ends(whole[1], method), strict=True):
            assert [point[what] for point in last] == pytest.approx(values.mean(1).tolist(), abs=1e-6)


def test_at_equal_kl_the_true_reward_is_not_below_dpo():
    rows = forest("rlhf-vs-dpo", "method", "dpo", table.BUDGETS, knob=table.CURVE)
    truth = [row for (method, _), row in rows.items() if method == "rloo-gold"]
    assert truth and all(row.at.square_root.high > 0 for row in truth)


# ------------------------------------------------------------------------------------------- figures


def fits(fig):
    """Whether all that is drawn lies inside the figure."""
    fig.draw_without_rendering()
    width, height = fig.bbox.size
    boxes = [axes.get_tightbbox() for axes in fig.axes]
    return all(b.x0 >= -1 and b.y0 >= -1 and b.x1 <= width + 1 and b.y1 <= height + 1 for b in boxes)


def test_cost_and_quality_draws_means_of_points_and_every_seed():
    data, _ = grid_of()
    paths = {
        name: [run["path"] for run in table.runs(data, method).values()]
        for name, method in (("DPO", "dpo"), ("RLOO", "rloo"))
    }
    bare = [[{"kl": p["kl"], "gain": p["gain"]} for p in path] for path in paths["DPO"]]
    fig = plots.cost_and_quality(paths | {"best-of-n": bare}, title="RLHF pays first")
    left, right = fig.axes
    bold = [line for line in left.get_lines() if line.get_label() == "RLOO"]
    assert bold[0].get_ydata() == pytest.approx(np.mean([[p["gain"] for p in path] for path in paths["RLOO"]], 0))
    assert len(left.get_lines()) == 3 * 6 + 1 and len(right.get_lines()) == 2 * 6 + 1  # best-of-n has no training
    assert fig._suptitle.get_text() == "RLHF pays first" and fits(fig)


def test_wrong_settings_draws_a_row_for_each():
    rows = [
        ("DPO", "rate × 3", (0.1, -0.1, 0.3), (1.0, 0.5, 1.5)),
        ("RLOO", "rate ÷ 3", (-0.2, -0.3, -0.1), (0, -1, 1)),
    ]
    fig = plots.wrong_settings(rows, title="Rates hurt most")
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["DPO: rate × 3", "RLOO: rate ÷ 3"]
    assert fig.axes[0].yaxis_inverted() and fits(fig)


def test_regret_by_pairs_and_budget():
    curves = {"DPO": np.array([[0.4, 0.6], [0.1, 0.3]]), "RLHF": np.array([[0.2, 0.2], [0.2, 0.2]])}
    fig = plots.regret_by_pairs({"one": ((4, 16), curves), "two": ((4, 16), curves)}, title="they cross")
    assert list(fig.axes[0].get_lines()[0].get_ydata()) == pytest.approx([0.5, 0.2]) and fits(fig)
    fig = plots.budget(costs.plan_memory(7e9, 2), costs.plan_work(1e5, 200, 1e5))
    assert fig.axes[1].get_title(loc="left") == "PPO does 2.0 times the work of DPO" and fits(fig)
    assert {text.get_text() for text in fig.axes[0].texts} == {"112 GB", "126 GB", "140 GB", "252 GB"}
