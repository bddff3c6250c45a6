"""What a notebook's checks saw over moved seeds, and the table that is made of it."""

import json
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from prefcourse.authoring import bands

SEEN = {"cell": 3, "line": 1, "time": 1, "kind": "within", "name": "gain", "holds": True, "low": 0.0, "high": 4.0}


def runs(*values, **changes):
    return [
        {"k": k, "seen": [SEEN | changes | {"value": v, "holds": 0 <= v <= 4}], "failed": []}
        for k, v in enumerate(values)
    ]


def written(path, *sources):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


def test_the_interval_for_one_more_run_holds_it_95_times_in_100():
    mean, sd, low, high = bands.interval([1.0, 2.0, 3.0])
    assert (mean, sd) == (2.0, 1.0)
    assert high - mean == pytest.approx(mean - low) == pytest.approx(4.302653 * (4 / 3) ** 0.5, abs=1e-4)  # t, 2 df
    drawn = np.random.default_rng(0).normal(size=(4000, 9))
    inside = [low <= last <= high for *some, last in drawn for _, _, low, high in [bands.interval(some)]]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


def test_a_band_that_does_not_cover_the_interval_is_flagged():
    (wide,) = bands.table(runs(1.9, 2.0, 2.1))
    assert wide.startswith("✓ [3] gain: band 0 to 4, held in 3 of 3; mean 2, sd 0.1, one more run 1.503 to 2.497")
    (narrow,) = bands.table(runs(1.0, 2.0, 3.0))  # each lies inside, one more need not
    assert narrow.startswith("✗") and "held in 3 of 3" in narrow
    assert bands.table(runs(2.0))[0].startswith("✓")  # of one value there is no sd
    assert "1 finite values" in bands.table(runs(2.0, float("nan")))[0]


def test_checks_are_counted_and_closes_are_silent_until_one_fails():
    three = runs(2.0, 2.0, 9.0, kind="check")
    assert bands.table(three) == ["✗ [3] gain: held in 2 of 3"]
    assert bands.table(runs(2.0, 2.0, kind="close")) == []
    assert bands.table(runs(2.0, 9.0, kind="close")) == ["✗ [3] gain: held in 1 of 2"]
    assert bands.table([{"k": 1, "seen": [], "failed": [[7, "KeyError: 3"]]}]) == ["✗ run 1: [7] KeyError: 3"]


def test_lines_that_a_loop_comes_to_again_are_told_apart_whatever_their_names():
    both = [
        {
            "k": k,
            "failed": [],
            "seen": [SEEN | {"time": t, "name": f"{t}: {v}", "value": v} for t, v in ((1, k), (2, 2))],
        }
        for k in (0, 1)
    ]
    assert [line[2:10] for line in bands.table(both)] == ["[3] 1: 0", "[3] 2: 2"]


def test_a_run_is_kept_until_code_world_or_a_named_result_changes(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "results").mkdir(parents=True)
    for name in ("checksums.json", "results/mine.json", "results/other.json"):
        (data / name).write_text("{}", encoding="utf-8")
    monkeypatch.setattr(bands, "data_folder", lambda: data)
    path = written(tmp_path / "notebooks" / "01_a.ipynb", 'load("mine")')
    assert bands.file_of(path, 2, out) == out / "lessons" / "01_a" / "2.json"
    assert bands.file_of(tmp_path / "exercises/solutions/01_a.ipynb", 0, out) == out / "solutions" / "01_a" / "0.json"

    def keep():
        found = {"fingerprint": bands.fingerprint(nbformat.read(path, as_version=4))}
        bands.write_whole(bands.file_of(path, 0, out), json.dumps(found))

    assert bands.kept(path, 0, out) is None
    keep()
    (data / "results" / "other.json").write_text("[]", encoding="utf-8")  # the notebook does not name it
    assert bands.kept(path, 0, out)
    for changed in ("results/mine.json", "checksums.json"):
        (data / changed).write_text("[1]", encoding="utf-8")
        assert bands.kept(path, 0, out) is None
        keep()
    written(path, 'load("mine")', "x = 1")
    assert bands.kept(path, 0, out) is None


DRAWS = """
import random, numpy as np, torch
from prefcourse.authoring import bands
from prefcourse.finite import generator, numpy_generator

def draw():
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    print(torch.rand(1).item(), random.random(), np.random.rand(), random.Random(3).random(),
          generator(3).initial_seed(), torch.rand(1, generator=torch.Generator().manual_seed(3)).item(),
          numpy_generator(3).random(), np.random.default_rng([0, 3]).random(), random.Random("options").random())

draw()
bands.move_seeds(1)
draw(), draw()
"""


def test_every_source_of_random_numbers_moves_and_comes_back():
    done = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, encoding="utf-8", check=True)
    plain, moved, again = (line.split() for line in done.stdout.splitlines())
    assert moved == again
    assert [a == b for a, b in zip(plain, moved, strict=True)] == [False] * 8 + [True]  # a word is no seed of a run


NOTEBOOK = (
    "import torch\nfrom prefcourse.lesson import check, close, within\n\ntorch.manual_seed(0)\nx = torch.rand(2)",
    "for name, value in zip('ab', x):\n    within(f'draw {name}', value, 0.4, 0.6)\ncheck('small', x < 2)",
    "close('two', 1 + 1, 3)\n1 / 0",
    "check('not so', False)",
)  # fmt: skip


@pytest.mark.slow
def test_a_notebook_is_run_to_its_end_with_other_seeds_and_not_twice(tmp_path, capsys):
    path = written(tmp_path / "notebooks" / "02_b.ipynb", *NOTEBOOK)
    before, out = path.read_bytes(), tmp_path / "out"
    arguments = [str(path), "--seeds", "2", "--out", str(out)]
    assert bands.main([*arguments, "--table"]) == 0
    assert ": 0 runs" in capsys.readouterr().out and not out.exists()
    assert bands.main(arguments) == 0
    said = capsys.readouterr().out
    zero, one = (json.loads((out / "lessons" / "02_b" / f"{k}.json").read_text(encoding="utf-8")) for k in (0, 1))
    places = [(seen["cell"], seen["line"], seen["time"], seen["name"]) for seen in zero["seen"]]
    assert places == [
        (2, 2, 1, "draw a"), (2, 2, 2, "draw b"), (2, 3, 1, "small"), (3, 1, 1, "two"), (4, 1, 1, "not so")
    ]  # fmt: skip
    assert zero["seen"][0]["value"] == pytest.approx(0.4963, abs=1e-4) != one["seen"][0]["value"]
    assert zero["failed"] == [[3, "ZeroDivisionError: division by zero"]]
    assert "✗ [4] not so: held in 0 of 2" in said and "✓ [2] small: held in 2 of 2" in said
    assert "✗ [3] two: held in 0 of 2" in said and "✗ run 1: [3] ZeroDivisionError" in said
    made = [file.stat().st_mtime_ns for file in out.rglob("*.json")]
    assert bands.main(arguments) == 0
    assert [file.stat().st_mtime_ns for file in out.rglob("*.json")] == made
    assert path.read_bytes() == before


def test_a_missing_notebook_is_an_error(tmp_path):
    with pytest.raises(SystemExit) as stop:
        bands.main([str(tmp_path / "none.ipynb")])
    assert stop.value.code == 2
