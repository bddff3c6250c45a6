"""A grid with tries: chosen settings reach the runs, a killed grid goes on, and two shares make the file of one."""

import json
import os
import signal
import threading
import time

import pytest
import torch

from prefcourse import results
from prefcourse.results import answers, running, store
from prefcourse.results.protocol import candidates
from prefcourse.results.store import Grid


class Counted:
    """A grid of two methods and two seeds whose gold is best at lr = 2 for "a" and at lr = 3 for "b"."""

    def __init__(self):
        self.tried, self.ran, self.stop, self.nap = [], [], None, 0.0

    def trial(self, world, method, lr, seed):
        self.count(self.tried, (method, lr, seed))
        return {"gold": -abs(lr - {"a": 2, "b": 3}[method]), "kl": float(lr)}

    def run(self, world, method, seed, lr=None):
        self.count(self.ran, (method, seed, lr))
        value = {"value": lr + seed / 10, "low": 0.0, "high": 9.0}
        by_prompt = {"gain": [[lr, seed, 0.5], [1.0, 2.0, 3.0]], "kl": [[1.0] * 3, [2.0] * 3]}
        return {"metrics": {"gain": value}, "path": [{"step": 1}, {"step": 2}], "by_prompt": by_prompt}

    def count(self, where, what):
        time.sleep(self.nap)
        where.append(what)
        if self.stop is not None and len(self.tried) + len(self.ran) == self.stop:
            self.stop = None
            raise KeyboardInterrupt

    def grid(self, **changes):
        tries = [s for m in "ab" for s in candidates(method=[m], lr=[1, 2, 3])]
        fields = {
            "what": "a test",
            "settings": results.grid(3, method=("a", "b")),
            "run": self.run,
            "tries": tries,
            "trial": self.trial,
            "by": ("method",),
            "asks": "Which?",
            "tells": "Little.",
        }
        return Grid(**fields | changes)


@pytest.fixture
def counted(monkeypatch, tmp_path):
    found = Counted()
    monkeypatch.setattr(results, "load_world", lambda: None)
    monkeypatch.setattr(results, "GRIDS", {"tiny": found.grid()})
    return found


def written(folder):
    """The stored file, less what differs from run to run."""
    stored = json.loads((folder / "tiny.json").read_text(encoding="utf-8"))
    return {k: [{**run, "seconds": 0} for run in v] if k in ("runs", "tried") else v for k, v in stored.items()}


def whole(tmp_path, name="one"):
    results.write("tiny", tmp_path / name, tmp_path / f"{name}-work", say=lambda _: None)
    return written(tmp_path / name)


def test_what_is_chosen_on_validation_reaches_the_runs_and_the_file(counted, tmp_path):
    stored = whole(tmp_path)
    assert len(counted.tried) == 12 and set(counted.ran) == {
        (m, s, {"a": 2, "b": 3}[m]) for m in "ab" for s in range(3)
    }
    assert stored["chosen"]["method=a"]["settings"] == {"lr": 2} and len(stored["tried"]) == 12
    assert all(run["chosen"] == {"lr": {"a": 2, "b": 3}[run["setting"]["method"]]} for run in stored["runs"])
    assert stored["asks"] == "Which?" and stored["tells"] == "Little." and "by_prompt" not in stored["runs"][0]


@pytest.mark.parametrize("stop", [1, 5, 12, 13, 17])
def test_a_killed_grid_goes_on_where_it_stopped(counted, tmp_path, stop):
    counted.stop = stop
    with pytest.raises(KeyboardInterrupt):
        whole(tmp_path)
    assert not (tmp_path / "one").exists()
    whole(tmp_path)
    assert len(counted.tried) + len(counted.ran) == 12 + 6 + 1, "only the run that was killed is run again"
    assert written(tmp_path / "one") == whole(tmp_path, "another")


@pytest.mark.posix
@pytest.mark.parametrize("kept", [3, 14])
def test_a_grid_goes_on_after_sigkill(counted, tmp_path, kept):
    """A process of its own is killed once so many tries and runs are on the disk; this one makes the rest."""
    counted.nap = 0.02
    child = os.fork()
    if child == 0:
        whole(tmp_path)
        os._exit(0)
    work = tmp_path / "one-work"
    while len(list(work.rglob("*.json"))) < kept and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = len(list(work.rglob("*.json")))
    assert kept <= done < 18 and not (tmp_path / "one").exists()
    whole(tmp_path)
    assert len(counted.tried) + len(counted.ran) == 18 - done
    assert written(tmp_path / "one") == whole(tmp_path, "another")


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_two_shares_one_after_the_other_make_the_file_of_one(counted, tmp_path, order):
    out, work = tmp_path / "two", tmp_path / "work"
    paths = [results.write("tiny", out, work, share=(k, 2), say=lambda _: None) for k in order]
    assert paths == [None, out / "tiny.json"] and len(counted.ran) == 6 and len(counted.tried) == 12
    assert written(out) == whole(tmp_path)


def test_two_shares_side_by_side_make_the_file_of_one(counted, tmp_path):
    counted.nap = 0.01
    out, work, found = tmp_path / "two", tmp_path / "work", []
    threads = [
        threading.Thread(target=lambda k=k: found.append(
            results.write("tiny", out, work, share=(k, 2), say=lambda _: None))) for k in (1, 2)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(found) and len(counted.ran) == 6
    assert 12 <= len(counted.tried) <= 14, "each helps the other at the end, and at most its last try is done twice"
    assert written(out) == whole(tmp_path)


def test_what_was_found_by_prompt_lies_beside_the_file(counted, tmp_path, monkeypatch):
    whole(tmp_path / "results", "results")
    monkeypatch.setattr(store, "data_folder", lambda: tmp_path / "results")
    runs = results.by_prompt("tiny")
    assert [run["setting"] for run in runs] == results.grid(3, method=("a", "b"))
    assert runs[1]["gain"].shape == (2, 3) and runs[1]["gain"][0].tolist() == pytest.approx([3, 0, 0.5], abs=1.5 / 126)
    ends = results.table(runs, "gain", method="a")
    assert ends.dtype == torch.float64 and ends.shape == (3, 3)
    assert ends.flatten().tolist() == pytest.approx([1.0, 2.0, 3.0] * 3, abs=1.5 / 126)
    with pytest.raises(ValueError, match="6 runs of 3 seeds have the setting"):
        results.table(runs, "gain")
    with pytest.raises(FileNotFoundError, match="python -m prefcourse results other"):
        results.by_prompt("other")


def test_a_forest_of_stored_runs_is_at_equal_kl(counted, tmp_path, monkeypatch):
    """Two methods on curves 1 and 2 d: at 1.5 nats the second has √1.5 more, whatever the prompts."""
    kls, shared = (0.5, 1.0, 2.0, 4.0), torch.randn(30, generator=torch.Generator().manual_seed(0)).tolist()

    def run(world, method, seed, lr):
        gains = [[{"a": 1, "b": 2}[method] * kl**0.5 + x for x in shared] for kl in kls]
        return {"metrics": {}, "path": [], "by_prompt": {"kl": [[kl] * 30 for kl in kls], "gain": gains}}

    grid = counted.grid(settings=results.grid(4, method=("a", "b")), run=run)
    monkeypatch.setattr(results, "GRIDS", {"tiny": grid})
    whole(tmp_path / "results", "results")
    monkeypatch.setattr(store, "data_folder", lambda: tmp_path / "results")
    found = results.forest("tiny", "method", "a")
    assert set(found) == {("b", 1.5), ("b", 3.0)}
    for (_, kl), row in found.items():
        assert row.says == "differs" and row.at.square_root.value == pytest.approx(kl**0.5, abs=0.01)
    some = results.forest("tiny", "method", "a", seed=(0, 1, 2))
    assert {row.at.square_root.seeds for row in some.values()} == {3}, "each value of a tuple counts, and no other"
    text = answers.at_equal_kl("tiny", "method", "a")({})
    assert text.startswith("gain less that of a, Holm over 2: b at 1.5 nats: +1.22 [")


def test_numbers_by_prompt_are_stored_in_a_byte_each(tmp_path):
    rows = torch.randn(3, 400, generator=torch.Generator().manual_seed(0)) * torch.tensor([[30.0], [0.01], [1.0]])
    rows[2] = (torch.arange(400) % 3) / 2  # lost, tied, won
    whole, step = store.in_steps(rows.tolist())
    back = whole * step
    assert whole.dtype == torch.int8 and step.shape == (3, 1) and torch.equal(back[2].round(decimals=4), rows[2])
    assert ((back - rows).abs() <= step / 2 * 1.001).all() and (back - rows)[0].mean().abs() < 0.01
    assert store.in_steps([[0.0, 0.0]])[0].tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="not finite"):
        store.in_steps([[1.0, float("nan")]])


def test_a_card_that_is_written_anew_makes_no_run_void(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "data_folder", lambda: tmp_path)

    def of(**sums):
        (tmp_path / "checksums.json").write_text(json.dumps(sums), encoding="utf-8")
        return running.fingerprint()

    one = of(**{"sft/model.safetensors": "a", "facts.json": "b"})
    assert of(**{"facts.json": "c", "sft/model.safetensors": "a"}) == one != of(**{"sft/model.safetensors": "c"})


def test_the_shelf_is_there_while_a_grid_is_run_and_no_longer(counted, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(counted, "count", lambda where, what: seen.append(store.shelf))
    whole(tmp_path)
    assert set(seen) == {tmp_path / "one-work" / "policies" / running.fingerprint()} and store.shelf is None


def test_runs_of_another_world_are_not_taken_over(counted, tmp_path, monkeypatch):
    whole(tmp_path)
    monkeypatch.setattr(running, "fingerprint", lambda: "other")
    whole(tmp_path)
    assert len(counted.tried) == 24 and len(counted.ran) == 12


def test_what_a_setting_says_itself_is_not_chosen_for_it(counted, tmp_path, monkeypatch):
    settings = [{"method": "a", "lr": 7, "seed": 0}, {"method": "a", "seed": 0}]
    grid = Grid("a test", settings, counted.run, tries=counted.grid().tries, trial=counted.trial, by=("method",))
    monkeypatch.setattr(results, "GRIDS", {"tiny": grid})
    whole(tmp_path)
    assert counted.ran == [("a", 0, 7), ("a", 0, 2)]


def test_a_grid_takes_over_what_another_chose(counted, tmp_path, monkeypatch):
    other = counted.grid(tries=(), trial=None, chosen_with="tiny")
    monkeypatch.setattr(results, "GRIDS", {"tiny": counted.grid(), "other": other})
    results.write("other", tmp_path / "out", tmp_path / "work", say=lambda _: None)
    assert len(counted.tried) == 12 and {lr for _, _, lr in counted.ran} == {2, 3}
    results.write("tiny", tmp_path / "out", tmp_path / "work", say=lambda _: None)
    assert len(counted.tried) == 12, "and tries are done once for both"


def test_a_grid_is_listed_with_what_is_done_and_what_is_left(counted, tmp_path):
    text = running.listing("tiny", {"tiny": counted.grid(seconds=100, trial_seconds=10)}, tmp_path / "w", None)
    assert "try  method=a lr=2: 2 x 10 s, 0 done" in text and "run  method=b: 3 x 100 s, 0 done" in text
    assert "in all 12 tries, 6 runs; left to do: about 0.2 h" in text and not counted.tried
    whole(tmp_path)
    text = running.listing("tiny", results.GRIDS, tmp_path / "one-work", None)
    assert "run  method=b: 3 x 0 s, 3 done" in text and "left to do: about 0.0 h" in text


def test_all_grids_are_listed_with_their_hours(capsys):
    from prefcourse.__main__ import main

    assert main(["results", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(results.GRIDS) + 1 and lines[-1].startswith("all") and "methods" in "".join(lines)
    assert main(["results"]) == 2 and "say which grid to run" in capsys.readouterr().err
