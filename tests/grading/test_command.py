"""The line `python -m prefcourse grade`: what it refuses in one sentence, before anything is marked."""

import os

import pytest

pytest.importorskip("resource", reason="students' code runs in processes that are forked")

from a_class import ROOT, in_a_clone

from prefcourse.__main__ import main
from prefcourse.checks import core
from prefcourse.commands import grade


def refused(capsys, *arguments: str) -> str:
    assert main(["grade", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("prefcourse grade: ") and said.count("\n") == 1
    return said


@pytest.fixture
def handed_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_a_clone(tmp_path)
    (tmp_path / "handed-in").mkdir()
    (tmp_path / "handed-in" / "ada.ipynb").write_text("{}", encoding="utf-8")
    return tmp_path / "handed-in"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "nan"], "--seconds is nan"),
        (["--seconds", "0"], "--seconds is 0"),
        (["--memory", "1"], "--memory is 1"),
        (["--processes", "0"], "--processes is 0"),
        (["--notebook", "6"], "there is no notebook '6'; there are 00, 01"),
        (["--source", "nowhere"], "nowhere: no solution notebooks"),
        (["--roster", "nobody.csv"], "nobody.csv"),
        (["--output", "handed-in/ada.ipynb"], "ada.ipynb"),
        (["--notebook", ""], "--notebook is empty"),
    ],
)
def test_bad_arguments(handed_in, capsys, arguments, words):
    assert words in refused(capsys, "handed-in", *arguments)


def test_folders_without_notebooks(handed_in, capsys):
    assert "nowhere: no such folder" in refused(capsys, "nowhere")
    (handed_in / "ada.ipynb").unlink()
    assert "no notebook in it" in refused(capsys, "handed-in")


def test_on_windows_it_says_where_to_mark(handed_in, capsys, monkeypatch):
    monkeypatch.delattr(os, "fork")
    assert "Mark in WSL" in refused(capsys, "handed-in")


def test_the_solutions_are_found_in_the_clone_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_a_clone(tmp_path)
    found = grade.sources(None)
    assert found == sorted((ROOT / "exercises" / "solutions").glob("*.ipynb"))


def test_the_secret_comes_from_the_variable_that_nbgrader_s_route_has_too():
    assert grade.SEED_VARIABLE == core.SEED_VARIABLE
