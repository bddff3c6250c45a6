"""Grids of experiments: resumable, whole or not at all, and every stored file says how it was made."""

import json
import random
from types import SimpleNamespace

import pytest

from prefcourse import results
from prefcourse.__main__ import main
from prefcourse.comparison.crossed import crossed, paired, verdicts
from prefcourse.results.protocol import described
from prefcourse.results.store import Grid
from prefcourse.worlds.bundled import data_folder

STORED = sorted((data_folder() / "results").glob("*.json"))


@pytest.fixture
def grid(monkeypatch):
    """A grid whose runs are counted, and whose third run fails once."""
    calls = []

    def run(world, n, seed):
        calls.append((n, seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"metrics": {"kl": {"value": n + seed / 10, "low": 0.0, "high": 1.0}}}

    monkeypatch.setattr(results, "load_world", lambda: None)
    monkeypatch.setattr(results, "GRIDS", {"tiny": Grid("a test", results.grid(2, n=(1, 2)), run)})
    return calls


def test_an_interrupted_grid_goes_on_where_it_stopped(grid, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        results.write("tiny", tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()
    path = results.write("tiny", tmp_path / "out", tmp_path / "work")
    assert grid == [(1, 0), (2, 0), (1, 1), (1, 1), (2, 1)]
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert [run["setting"] for run in stored["runs"]] == results.grid(2, n=(1, 2))
    assert results.column(stored, "kl", by="n") == {1: [1.0, 1.1], 2: [2.0, 2.1]}
    assert results.column(stored, "kl", by="n", seed=1) == {1: [1.1], 2: [2.1]}
    assert stored["command"] == "python -m prefcourse results tiny" and stored["versions"]["torch"]
    assert stored["protocol"] == described() and stored["chosen"] == {} and stored["tried"] == []


def test_two_processes_divide_a_grid(grid, tmp_path):
    grid.extend([None] * 3)  # no interruption
    out, work = tmp_path / "out", tmp_path / "work"
    assert results.write("tiny", out, work, share=(1, 2)) is None and not out.exists()
    assert grid[3:] == [(1, 0), (1, 1)]
    path = results.write("tiny", out, work, share=(2, 2))
    assert grid[5:] == [(2, 0), (2, 1)] and len(json.loads(path.read_text(encoding="utf-8"))["runs"]) == 4


@pytest.mark.parametrize("share", ["3/2", "0/2", "one", "1/"])
def test_a_share_that_is_none(grid, tmp_path, capsys, share):
    assert main(["results", "tiny", "--out", str(tmp_path), "--share", share]) == 2
    assert "share must be k/n" in capsys.readouterr().err


def test_a_wrong_name_is_an_error_that_lists_the_grids(tmp_path, capsys):
    assert main(["results", "betas", "--out", str(tmp_path)]) == 2
    assert "there is no grid 'betas'; the grids are: main-job" in capsys.readouterr().err


def test_a_missing_result_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(results.store, "data_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m prefcourse results pairs-needed"):
        results.load("pairs-needed")


@pytest.mark.parametrize("flips", [0.0, 0.25])
def test_noise_exchanges_the_stated_share_of_labels(monkeypatch, flips):
    monkeypatch.setattr(results.data, "LABELS", 40)
    monkeypatch.setattr(results.data, "fit", lambda world, rows, seed: rows)
    pairs = [{"prompt": f"{i}", "chosen": "good", "rejected": "bad"} for i in range(50)]
    rows = results.label_noise(SimpleNamespace(pairs={"train": pairs}), flips, seed=0)
    assert len(rows) == 40 and sum(row["chosen"] == "bad" for row in rows) == 40 * flips


def test_with_no_label_turned_the_pairs_are_those_of_lesson_10(monkeypatch):
    """Its section on the spread between runs calls these stored runs its own recipe."""
    monkeypatch.setattr(results.data, "LABELS", 40)
    monkeypatch.setattr(results.data, "fit", lambda world, rows, seed: rows)
    pairs = [{"prompt": f"{i}", "chosen": "good", "rejected": "bad"} for i in range(50)]
    found = results.label_noise(SimpleNamespace(pairs={"train": pairs}), 0.0, seed=3)
    assert found == random.Random(3).sample(pairs, 40)


def test_lesson_01_says_of_flips_what_is_stored():
    """Each share costs gain, after Holm over all; 40 % leave some, about a quarter; KL falls in the means."""
    each, shares = results.by_prompt("label-noise"), (0.0, 0.1, 0.2, 0.3, 0.4)
    gain, kl = ([results.table(each, what, flips=f) for f in shares] for what in ("gain", "kl"))
    cost = {f: paired(found, gain[0]) for f, found in zip(shares[1:], gain[1:], strict=True)}
    found = verdicts(cost, results.PROTOCOL.margin).values()
    assert [v.says for v in found] == ["differs"] * 4 and all(v.difference.high < 0 for v in found)
    means = {name: [values.mean().item() for values in rows] for name, rows in (("gain", gain), ("kl", kl))}
    assert all(row == sorted(row, reverse=True) for row in means.values())
    assert crossed(gain[-1]).low > 0 and 0.15 < means["gain"][-1] / means["gain"][0] < 0.35


def test_lesson_01_says_of_few_pairs_what_is_stored():
    """Of ten rows two are not told from 1,600 pairs read once, the others gain less; with more repeated pairs more."""
    each, stored = results.by_prompt("pairs-needed"), results.load("pairs-needed")
    rows = dict.fromkeys((run["setting"]["read"], run["setting"]["pairs"]) for run in stored["runs"])
    gain = {row: results.table(each, "gain", read=row[0], pairs=row[1]) for row in rows}
    usual = gain["equally often", 1600]
    said = verdicts({row: paired(gain[row], usual) for row in gain if row[1] < 1600}, results.PROTOCOL.margin)
    alike = {row for row, found in said.items() if found.says != "differs"}
    assert alike == {("equally often", 800), ("once", 400)} and len(said) == 10
    assert all(found.difference.value < 0 and found.says != "the same" for found in said.values())
    often = [gain["equally often", n].mean().item() for n in (50, 100, 200, 400, 800, 1600)]
    assert often == sorted(often) and usual.shape == (8, 400)
    rates = {(run["setting"]["read"], run["setting"]["pairs"]): run["chosen"]["lr"] for run in stored["runs"]}
    assert {rates["equally often", n] for n in (200, 400, 800, 1600)} == {1.5e-4}
    assert rates["equally often", 50] == 5e-5 and rates["once", 400] == 4e-4 and rates["once", 800] == 1.5e-4


def test_few_prompts_mean_few_prompts(monkeypatch):
    monkeypatch.setattr(results.data, "fit", lambda world, rows, seed: {"rows": rows})
    prompts = [{"prompt": f"{i}", "type": "question" if i % 2 else "neutral"} for i in range(20)]
    pairs = [{"prompt": f"{i % 20}", "chosen": "good", "rejected": "bad"} for i in range(100)]
    world = SimpleNamespace(pairs={"train": pairs}, prompts={"train": prompts})
    found = results.data.prompt_diversity(world, 4, "question", seed=0)
    assert found["pairs"] == 20
    assert len({row["prompt"] for row in found["rows"]}) == 4 and all(int(r["prompt"]) % 2 for r in found["rows"])


def test_the_shift_of_a_taste_is_after_minus_before(tiny_gpt2, tokenizer, pairs):
    rows = [{"prompt": text} for text in ("That cast", "The ending", "I like the film")]
    world = SimpleNamespace(sft=tiny_gpt2(), tokenizer=tokenizer, prompts={"test": rows}, pairs={"train": pairs})
    found = results.data.taste_shift(world, "shorter reviews", seed=0, labels=25, steps=2)
    m = found["metrics"]
    assert found["labels"] == 25 and found["skipped"] >= 0
    assert m["shift"]["value"] == pytest.approx(m["after"]["value"] - m["before"]["value"], abs=2e-4)
    assert m["shift"]["low"] <= m["shift"]["value"] <= m["shift"]["high"]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_results_say_how_they_were_made(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "versions", "machine", "date"} <= set(stored), path.name
    if path.stem in results.GRIDS:
        assert stored["command"] == f"python -m prefcourse results {path.stem}"
        grid = results.GRIDS[path.stem]
        assert stored["protocol"] == described()
        assert (stored["what"], stored["asks"], stored["tells"]) == (grid.what, grid.asks, grid.tells)
        assert [run["setting"] for run in stored["runs"]] == grid.settings
        tries = results.GRIDS[grid.chosen_with].tries if grid.chosen_with else grid.tries
        assert [run["setting"] for run in stored["tried"]] == list(tries)


def test_a_band_is_the_range_and_half_of_it_more_on_each_side():
    assert results.band([3.0, 1.0, 2.0]) == (0.0, 4.0)


def test_what_quality_buys_lesson_01():
    """Over one family: panels gain more, few prompts and one type less, and no temperature is told from 1."""
    panels, hot, some = (results.by_prompt(n) for n in ("annotators", "response-diversity", "prompt-diversity"))
    groups = [
        (panels, {"annotators": 1}, [{"annotators": n, "rule": rule, "budget": "pairs"} for n, rule in
                                     ((3, "majority"), (9, "majority"), (3, "unanimous"))]),
        (hot, {"temperature": 1.0}, [{"temperature": t} for t in (0.4, 0.7, 1.3)]),
        (some, {"prompts": 300, "types": "all"}, [{"prompts": n, "types": types} for n, types in
                                                  ((30, "all"), (100, "all"), (300, "negative"), (300, "question"))]),
    ]  # fmt: skip
    family = {
        str(setting): paired(*(results.table(runs, "gain", **which) for which in (setting, base)))
        for runs, base, settings in groups
        for setting in settings
    }
    assert all(d.seeds == 8 and d.prompts == 400 for d in family.values()) and len(family) == 10
    said = verdicts(family, results.PROTOCOL.margin)
    signs = {name: d.value > 0 for name, d in family.items() if said[name].says == "differs"}
    assert len(signs) == 7 and all(more == ("annotators" in name) for name, more in signs.items())
