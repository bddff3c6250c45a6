"""The page of all results, computed from the files."""

import json
import re
from dataclasses import replace

import pytest

from prefcourse.evaluate import over_seeds
from prefcourse.results import GRIDS, answers, load, page
from prefcourse.worlds.bundled import data_folder


def run(method, seed, gain, **more):
    return {"setting": {"method": method, "seed": seed, **more}, "metrics": {"gain": {"value": gain}}, "seconds": 1800}


def stored(**more):
    gains = {"dpo": (1.0, 1.2, 0.8), "ipo": (2.0, 2.2, 1.8), "kto": (1.3, 0.9, 1.1)}
    runs = [run(m, s, g) for m, row in gains.items() for s, g in enumerate(row)]
    return {"runs": runs, "command": "python -m prefcourse results methods", **more}


def test_a_mean_over_seeds_is_that_of_the_course():
    values = [1.0, 1.2, 0.8, 1.5]
    ours, theirs = answers.over(values), over_seeds(values)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-3)


def test_an_answer_by_value():
    assert answers.by_value("gain", "method")(stored()).startswith("gain by method: dpo: 1.00 [0.50, 1.50] · ipo: 2.00")


def test_an_answer_against_a_baseline_is_paired_and_corrected():
    text = answers.against("gain", "method", "dpo")(stored())
    assert (
        "ipo: +1.00 [+1.00, +1.00]*" in text and "kto: +0.10" in text and "After Holm over 2: 1 difference (*)" in text
    )


def test_several_settings_a_seed_have_no_answer_in_a_line():
    twice = stored()
    twice["runs"].append(run("dpo", 0, 5.0))
    with pytest.raises(ValueError, match="method = dpo has several runs of a seed"):
        answers.by_value("gain", "method")(twice)


def test_a_page_of_two_files(tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "noise", replace(GRIDS["noise"], answer=answers.against("gain", "method", "dpo")))
    tried = [{"seconds": 900}] * 4
    for name, more in (("noise", {"tells": "C."}), ("ai-feedback", {"tried": tried, "tells": "A | B."})):
        (tmp_path / f"{name}.json").write_text(json.dumps(stored(**more)), encoding="utf-8")
    text = page.write(tmp_path).read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(rows) == {"noise", "ai-feedback"}
    assert "After Holm over 2" in rows["noise"] and "In all 10.0 hours" in text
    assert "| 3 | 9, 4 tries |" in rows["ai-feedback"]
    assert "none in a line: no run" in rows["ai-feedback"], "its runs here have no judge"
    assert "| 4.5 |" in rows["noise"] and "A \\| B." in rows["ai-feedback"]
    assert text.count("\n- `") == len(GRIDS) - 2 and "`coverage`: " in text


def test_the_page_of_the_stored_files_has_every_one_of_them():
    text = page.page(data_folder() / "results")
    for path in (data_folder() / "results").glob("*.json"):
        assert f"`{path.stem}`" in text or f"`{path.name}`" in text, path.stem
    row = next(line for line in text.splitlines() if line.startswith("| `label-noise`"))
    found = answers.seeds_of(load("label-noise"), "win_rate", "flips")
    printed = re.findall(r"(0\.\d): (\d\.\d\d) \[", row)
    assert {float(k): float(v) for k, v in printed} == pytest.approx(
        {flips: sum(s.values()) / len(s) for flips, s in found.items()}, abs=0.0051
    )
    assert not re.search(r"\bnan\b", text)
    assert (data_folder() / "results" / "README.md").read_text(encoding="utf-8") == text, "run `results --page` again"
