"""A prediction is recorded before its result is shown, and scored once; marks are given without the record."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from prefcourse import checks
from prefcourse.__main__ import main
from prefcourse.checks import predictions, record
from prefcourse.checks.core import SEED_VARIABLE

QUESTION = checks.ex06.kl_against_beta
CHOICES = [c for n in checks.NUMBERS for c in checks.of_notebook(n).values() if isinstance(c, checks.Choice)]
SOLUTIONS = sorted((Path(__file__).resolve().parents[2] / "exercises" / "solutions").glob("*.ipynb"))
SEED = 3


@pytest.fixture(autouse=True)
def own_record(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "kept" / "progress.json"))
    for name in predictions.GRADERS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "exercises").mkdir()
    monkeypatch.chdir(tmp_path / "exercises")
    monkeypatch.setattr(predictions, "_here", {})
    monkeypatch.setattr(predictions, "_told", set())


def restart(monkeypatch):
    """Another kernel: what only the process knew is gone."""
    monkeypatch.setattr(predictions, "_here", {})


def letter(option=None, question=QUESTION, seed=SEED):
    """A function that returns the letter of an option, of the right one by default."""
    found = next(a for a, o in question.lettered(seed).items() if o == (option or question.right))
    return lambda: found


def wrong(k=0):
    return QUESTION.mutants[k].name


def stub():
    raise NotImplementedError


def test_nothing_is_shown_before_a_prediction_is_recorded(capsys):
    assert not QUESTION.predicted()
    assert "record your prediction first" in capsys.readouterr().out
    QUESTION.record(stub, SEED)
    assert "not attempted" in capsys.readouterr().out and not QUESTION.predicted()
    for nothing in (lambda: "z", lambda: 1 / 0, "a"):
        QUESTION.record(nothing, SEED)
        assert QUESTION(nothing, SEED).status == "fail"
        assert not QUESTION.predicted()
    assert not predictions.file().exists()
    QUESTION.record(letter(wrong()), SEED)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"● kl_against_beta: recorded {letter(wrong())()}) {wrong()}"
    assert QUESTION.predicted() and capsys.readouterr().out == ""


@pytest.mark.parametrize("again", [False, True], ids=["same kernel", "after a restart"])
def test_the_first_prediction_is_the_one_that_is_scored(monkeypatch, capsys, again):
    QUESTION.record(letter(wrong()), SEED)
    if again:
        restart(monkeypatch)
    QUESTION.record(letter(), SEED)
    said = capsys.readouterr().out
    assert f"now you say “{QUESTION.right}”" in said and said.count(f"recorded {letter(wrong())()})") == 2
    for _ in range(2):
        result = QUESTION(letter(), SEED)
        assert result.status == "fail" and result.hint == QUESTION.options[wrong()]
        assert f"not “{wrong()}”" in result.text and "it counts" in result.text and ".forget()" in result.text
    assert record.passed() == {}
    QUESTION.forget()
    assert not QUESTION.predicted()
    assert QUESTION(letter(), SEED).passed and list(record.passed()["06"]) == ["kl_against_beta"]


def test_a_right_prediction_stays_right_and_letters_of_another_seed_mean_the_same(monkeypatch):
    QUESTION.record(letter(), SEED)
    restart(monkeypatch)
    result = QUESTION(letter(wrong(), seed=SEED + 1), SEED + 1)
    assert result.passed and f"“{QUESTION.right}” is right" in result.text and f"now you say “{wrong()}”" in result.text


def test_a_check_without_a_record_records():
    assert QUESTION(letter(wrong()), SEED).status == "fail"
    assert QUESTION.predicted() and QUESTION(letter(), SEED).status == "fail"


def test_folders_know_nothing_of_each_other(tmp_path, monkeypatch, capsys):
    QUESTION.record(letter(wrong()), SEED)
    (tmp_path / "solutions").mkdir()
    monkeypatch.chdir(tmp_path / "solutions")
    assert not QUESTION.predicted() and QUESTION(letter(), SEED).passed


def test_marks_are_given_by_the_letter_in_the_file_and_write_nothing(monkeypatch, capsys):
    QUESTION.record(letter(wrong()), SEED)
    before = predictions.file().read_bytes()
    QUESTION.grade(letter(), SEED)
    assert "✓" in capsys.readouterr().out and QUESTION.judge(letter(), SEED).passed
    with pytest.raises(checks.CheckFailed):
        QUESTION.grade(letter(wrong(1)), SEED)
    assert predictions.file().read_bytes() == before
    for name in ("NBGRADER_EXECUTION", SEED_VARIABLE):  # another student's notebook, on the same machine
        monkeypatch.setenv(name, "7")
        restart(monkeypatch)
        assert not QUESTION.predicted()
        QUESTION.record(letter(), SEED)
        assert QUESTION.predicted() and QUESTION(letter(), SEED).passed
        assert predictions.file().read_bytes() == before
        monkeypatch.delenv(name)


def test_progress_says_that_a_prediction_was_made(capsys):
    QUESTION.record(letter(wrong()), SEED)
    assert main(["progress"]) == 0
    assert "kl_against_beta (predicted otherwise)" in capsys.readouterr().out


def test_a_record_that_is_damaged_or_cannot_be_written_harms_nothing(monkeypatch, capsys):
    predictions.file().parent.mkdir(parents=True)
    for damaged in ("{", "[1]", '{"a": 3}', "[" * 100_000, json.dumps({os.getcwd(): {"06.kl_against_beta": "gone"}})):
        predictions.file().write_text(damaged, encoding="utf-8")
        assert not QUESTION.predicted()
        QUESTION.record(letter(), SEED)
        restart(monkeypatch)
        assert QUESTION.predicted()
        QUESTION.forget()
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(predictions.file() / "deeper" / "progress.json"))  # in a file's place
    capsys.readouterr()
    QUESTION.record(letter(wrong()), SEED)
    assert QUESTION.predicted() and QUESTION(letter(), SEED).status == "fail"
    assert capsys.readouterr().out.count("kept in this notebook alone") == 1


def cells(path):
    return nbformat.read(path, as_version=4).cells


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_each_notebook_records_before_the_result_and_scores_after_it(path):
    code = [c.source for c in cells(path) if c.cell_type == "code"]
    mine = [c for c in CHOICES if c.number == path.stem[:2]]
    assert mine
    for question in mine:
        name = f"checks.ex{question.number}.{question.name}"

        def at(text):
            return [i for i, source in enumerate(code) if source.startswith(text)]

        (asked,), (recorded,), (scored,) = at(f"{name}.ask("), at(f"{name}.record("), at(f"{name}(")
        results = [i for i, source in enumerate(code) if f"{name}.predicted()" in source]
        assert asked < recorded < min(results) and max(results) < scored, "ask, answer, record, result, score"
        assert recorded == asked + 2, "the answer alone stands between the question and the record"


@pytest.mark.parametrize("question", CHOICES, ids=lambda c: f"{c.number}.{c.name}")
def test_no_heading_holds_the_right_option(question):
    (path,) = [p for p in SOLUTIONS if p.stem[:2] == question.number]
    above = []
    for cell in cells(path):
        if f"{question.name}.ask(" in cell.source:
            break
        above.append(cell.source)
    assert question.right.lower() not in "\n".join(above).lower()


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_the_code_of_a_result_computes_it_and_holds_no_shares(path):
    """The cell is read before it is run: a share such as 2 / 6 in it, or in a label, tells what comes out."""
    code = [c.source for c in cells(path) if c.cell_type == "code" and ".predicted()" in c.source]
    assert code and not re.findall(r"\d ?/ ?\d+", "\n".join(code))
