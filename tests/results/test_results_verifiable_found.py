"""What lesson 15 computes from its stored runs, on made-up ones, and, once they are there, on those of data/."""

import json
import math

import pytest
import torch

from prefcourse import plots
from prefcourse.results import running, store, verifiable
from prefcourse.results import verifiable_found as found
from prefcourse.results.protocol import PROTOCOL
from prefcourse.rlhf.verifiers import least_kl, pass_at_k
from prefcourse.worlds.bundled import data_folder

PROMPTS, SAMPLES = 40, 32
MEANT = {"sft": 0.06, "dr": 0.5, "length": 0.45, "std": 0.5, "grpo": 0.4, "clip higher": 0.5, "dynamic": 0.6,
         "sequence ratio": 0.5}  # fmt: skip


def made_up(arm, seed, draw):
    """A run that passes about as often as MEANT says; with 1/|o| wrong answers are twice as long."""
    rate = torch.full((PROMPTS, SAMPLES), MEANT[arm], dtype=torch.float64)
    right = torch.bernoulli(rate, generator=draw).sum(1)
    long = 2.0 if arm in ("length", "grpo") else 1.0
    tokens = long * (10 + torch.randn((), generator=draw).item() / 4)
    by_prompt = {f"pass_{k}": [pass_at_k(right, SAMPLES, k).tolist()] for k in (1, 8, 32)}
    spent = 0.0 if arm == "sft" else least_kl(0.06, MEANT[arm]) + 1
    by_prompt["kl"] = [(spent + 0.1 * torch.randn(PROMPTS, generator=draw) * bool(spent)).tolist()]
    point = {name: 0.5 for name in verifiable.PATH} | {"length_wrong": None}
    path = [] if arm == "sft" else [point | {"step": 0}, point | {"step": 1, "length_wrong": tokens}]
    rate = right.double().mean().item() / SAMPLES
    found_ = {"length_wrong": tokens, "pass_1": rate}
    metrics = {name: {"value": x, "low": x, "high": x} for name, x in found_.items()}
    return {"setting": {"arm": arm, "seed": seed}, "date": "2026-11-30", "seconds": 1, "path": path,
            "metrics": metrics, "prompts": ["a"] * 4, "texts": ["b"] * 4, "by_prompt": by_prompt}  # fmt: skip


def made_up_verifier(on, seed, draw):
    means = {"sft": (0.15, 0.1, 0.2, 0.0), "sloppy": (0.95, 0.05, 7.0, 1.5), "strict": (0.8, 0.7, 1.0, 0.3)}[on]
    by_prompt = {name: [(mean + 0.02 * torch.randn(PROMPTS, generator=draw)).tolist()]
                 for name, mean in zip(("sloppy", "strict", "parts", "gold"), means, strict=True)}  # fmt: skip
    return {"setting": {"trained_on": on, "seed": seed}, "date": "2026-11-30", "seconds": 1, "path": [],
            "metrics": {}, "prompts": ["a"] * 4, "texts": ["b"] * 4, "by_prompt": by_prompt}  # fmt: skip


def write(folder):
    """Both grids, made up, as `results` would write them into `folder`/results."""
    draw = torch.Generator().manual_seed(0)
    seeds = range(PROTOCOL.seeds)
    runs = {"verifiable": [made_up(arm, seed, draw) for seed in seeds for arm in verifiable.ARMS]}
    runs["verifier"] = [made_up_verifier(on, s, draw) for s in seeds for on in ("sft", "sloppy", "strict")]
    for name, of in runs.items():
        running.store(name, verifiable.GRIDS[name], [], {}, of, folder / "results")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(store, "data_folder", lambda: tmp_path)
    return tmp_path


def test_differences_are_one_family_and_find_what_is_there(stored):
    rows, p = found.differences()
    assert len(rows) == len(p) == 3 * len(found.CHANGES) and set(found.CHANGES) == set(verifiable.ARMS) - {"sft", "dr"}
    assert rows["length", "length_wrong"].value == pytest.approx(10, abs=0.6) and p["length", "length_wrong"] < 0.05
    assert p["dynamic", "pass_1"] < 0.05 < p["clip higher", "length_wrong"]
    smallest = min(row.p for row in rows.values())
    assert min(p.values()) == pytest.approx(min(1.0, smallest * len(rows)))


def test_pass_curves_and_gaps(stored):
    gaps, p = found.pass_gaps()
    assert list(gaps) == [1, 8, 32] and gaps[1].value == pytest.approx(0.44, abs=0.03) and p[1] < 0.05
    curve = found.pass_curve("sft")
    assert curve[1][0] == pytest.approx(0.06, abs=0.01) and all(
        low <= value <= high for value, low, high in curve.values()
    )
    assert found.rates("dr").shape == (PROTOCOL.seeds, PROMPTS)


def test_the_hacked_verifier(stored):
    rows, p = found.hacked("sloppy")
    assert rows["sloppy"].low > 0.7 and rows["strict"].high < 0 and rows["gold"].low > 1 and max(p.values()) < 0.05
    assert found.trained_on("strict", "strict").mean().item() == pytest.approx(0.7, abs=0.01)


def test_a_step_without_a_number_has_nan(stored):
    runs = found.paths("dr")
    assert len(runs) == PROTOCOL.seeds and [point["step"] for point in runs[0]] == [0, 1]
    assert math.isnan(runs[0][0]["length_wrong"]) and runs[0][1]["length_wrong"] > 5
    assert plots.paths_by_step([("A", "tokens", "length_wrong", {"Dr. GRPO": runs})]).axes


def test_the_answers_in_a_line(stored):
    for name, grid in verifiable.GRIDS.items():
        line = json.loads((stored / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert line["asks"] == grid.asks
    assert "After Holm over 7" in verifiable.GRIDS["verifiable"].answer(store.load("verifiable"))


@pytest.mark.skipif(not (data_folder() / "results" / "verifiable.safetensors").is_file(), reason="not yet run")
def test_the_stored_runs_bear_out_what_the_lesson_needs():
    before, after = found.rates("sft").mean(1), found.rates("dr").mean(1)
    assert after.mean() > 3 * before.mean() and after.min() > before.max()
    assert found.rates("dr", "kl").mean() > least_kl(before.mean().item(), after.mean().item())
