"""Which cells a function needs, what is read of a notebook, and who has handed in what."""

import json
import os
import random
from pathlib import Path

import nbformat
import pytest
from a_class import NAME, solution, unsolved

pytest.importorskip("resource", reason="students' code runs in processes that are forked")

from prefcourse import checks
from prefcourse.grading import classroom, reports, suspicion
from prefcourse.grading.cells import Cell, HandedIn, binds, hands_in, read_assignment, read_notebook, uses
from prefcourse.grading.classroom import Submission, collect
from prefcourse.grading.marking import Mark, Marked, seed_of
from prefcourse.grading.reports import read_roster
from prefcourse.grading.stripped import lay

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "exercises" / "solutions").glob("*.ipynb"))
ASSIGNMENTS = {a.number: a for a in map(read_assignment, SOURCES)}
FIRST = ASSIGNMENTS["00"]


def notebook(*sources: str) -> HandedIn:
    return HandedIn([Cell("", source) for source in sources], {})


def test_every_automatic_check_is_a_task_with_its_points():
    for number, assignment in ASSIGNMENTS.items():
        of = checks.of_notebook(number)
        assert {t.check: t.points for t in assignment.tasks} == {name: c.points for name, c in of.items()}
        assert {t.check for t in assignment.tasks if t.seed is not None} == {
            name for name, c in of.items() if isinstance(c, checks.Choice)
        }
    assert sum(a.points for a in ASSIGNMENTS.values()) == 212


def test_names_at_the_top_and_names_that_are_needed():
    source = "import numpy as np\nx, (y, *z) = a, b\n\ndef f(u=k):\n    v = w + u\n    return v\nfor i in []: pass"
    assert binds(source) == {"np", "x", "y", "z", "f", "i"}
    assert {"a", "b", "k", "w"} <= uses(source) and not {"u", "v"} & uses(source)
    assert binds("%matplotlib inline\nif True:\n    !ls\nq = 1") == {"q"}
    assert binds("x = (5\n% 3)\n[k for k in y if (z := k)]\nwith a as (b, c): pass") == {"x", "b", "c"}
    assert uses("a = (5\n% n)") == {"n"}
    assert binds("def broken(:") == set() == uses("def broken(:")


def test_only_the_cells_that_a_function_needs_are_run_the_last_one_before_it():
    task = next(t for t in FIRST.tasks if t.check == "log_pi")
    mine = notebook("import math", "k = 1", "k = 2", "while True: pass", "def half(x): return x / k",
                    "def my_log_pi(a, b): return half(math.e)", "k = 3", "print('unneeded')")  # fmt: skip
    assert mine.cells_for(task, FIRST) == ["import math", "k = 2", mine.cells[4].source, mine.cells[5].source]


def test_a_given_cell_that_is_deleted_is_taken_from_the_assignment_and_an_answer_is_not():
    task = next(t for t in FIRST.tasks if t.check == "tempered")
    found = notebook("def my_tempered(l, t): return torch.softmax(l, 0) * my_log_pi(END, END)").cells_for(task, FIRST)
    assert any("import torch" in source for source in found)
    assert not any("def my_log_pi" in source for source in found)


def test_of_two_answers_the_named_one_counts_and_else_the_last():
    task = next(t for t in FIRST.tasks if t.check == "log_pi")
    one, two = "def my_log_pi(a, b): return 1", "def my_log_pi(a, b): return 2"
    assert HandedIn([Cell("log-pi", one), Cell("", two)], {}).answer(task).source == one
    assert notebook(one, two).answer(task).source == two
    assert notebook("x = 1").answer(task) is None


def test_a_notebook_is_known_by_its_cells(tmp_path):
    for source in SOURCES:
        assert hands_in(read_notebook(source), ASSIGNMENTS).name == source.stem
    for made in (solution(), unsolved()):
        for cell in made.cells:
            cell.metadata = {}
        nbformat.write(made, tmp_path / "x.ipynb")
        assert hands_in(read_notebook(tmp_path / "x.ipynb"), ASSIGNMENTS).name == NAME
    assert hands_in(notebook("x = 1"), ASSIGNMENTS) is None


@pytest.mark.parametrize(
    ("name", "student", "canvas"),
    [
        (f"ada_{NAME}.ipynb", "ada", ""), (f"{NAME}_ada.ipynb", "ada", ""), (f"{NAME}.ipynb", NAME, ""),
        (f"{NAME}_ada (1).ipynb", "ada", ""), (f"lovelaceada_12_345_{NAME}.ipynb", "lovelaceada", "12"),
        (f"lovelaceada_LATE_12_345_{NAME}-1.ipynb", "lovelaceada", "12"),
        (f"Ada Lovelace - {NAME}.ipynb", "Ada Lovelace", ""),
    ],
)  # fmt: skip
def test_plain_files_say_whose_they_are(tmp_path, name, student, canvas):
    (tmp_path / name).touch()
    assert collect(tmp_path, [NAME]) == ([Submission(student, tmp_path / name, canvas)], [])


def test_folders_of_students_of_nbgrader_and_of_moodle(tmp_path):
    submitted = tmp_path / "course" / "submitted"
    for path in (
        "ada/ex00/a.ipynb",
        "ben/a.ipynb",
        "ben/.ipynb_checkpoints/a.ipynb",
        "Jane Doe_7_assignsubmission_file/a.ipynb",
    ):
        (submitted / path).parent.mkdir(parents=True, exist_ok=True)
        (submitted / path).touch()
    (submitted / "cy").mkdir()
    found, without = collect(tmp_path / "course", [NAME])
    assert sorted(s.student for s in found) == ["Jane Doe", "ada", "ben"] and without == ["cy"]
    (tmp_path / "none").mkdir()
    for nothing in ("none", "missing"):
        with pytest.raises(FileNotFoundError, match=nothing):
            collect(tmp_path / nothing, [NAME])


def test_every_student_has_inputs_of_their_own_and_always_the_same():
    seeds = [seed_of("31415", f"student {k}", "00") for k in range(120)]
    assert len(set(seeds)) == 120 and seeds[3] == seed_of("31415", "student 3", "00")
    assert seed_of("31415", "ada", "00") != seed_of("31416", "ada", "00") != seed_of("31415", "ada", "01")
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of("31415", "\udcff", "00") >= 0  # a folder's name that is no UTF-8


def test_a_roster_is_canvas_own_export(tmp_path):
    path = tmp_path / "class.csv"
    path.write_text(
        'Student,ID,SIS Login ID,Section\n"    Points Possible",,,\n"Doe, Jane",7,jane,A\n', encoding="utf-8-sig"
    )
    assert read_roster(path) == [{"Student": "Doe, Jane", "ID": "7", "SIS Login ID": "jane", "Section": "A"}]


def test_alike_are_copies_with_other_names_and_comments_and_not_the_public_solution():
    code = """def my_sequence_logps(a, b, c):
    t = torch.arange(a.shape[1])
    m = (t >= b[:, None]) & (t < (b + c)[:, None])
    return a.mul(m).sum(1)"""
    other = (
        code.replace("m = ", "inside = ").replace("mul(m)", "mul(inside)").replace("(a, b, c):", "(a, b, c):  # mine")
    )
    mine = {"a": notebook(code), "b": notebook(other), "c": read_notebook(SOURCES[0])}
    words = suspicion.alike({who: suspicion.prints(found, FIRST) for who, found in mine.items()})
    assert words["a"] == ["my_sequence_logps: the same as b"] and words["b"] == ["my_sequence_logps: the same as a"]
    assert words["c"] and all("public solution" in word for word in words["c"])
    assert suspicion.prints(notebook("def my_sequence_logps(a, b, c): return a"), FIRST) == {}  # too short to tell


def marked(student, name, *, number="00", problem="", elsewhere=False):
    mark = Mark("log_pi", 0 if problem else 3, 3, "missing" if problem else "pass", "text")
    return Marked(student, number, str(name), [mark], problem, elsewhere)


def test_of_several_files_the_newest_that_can_be_marked_counts(tmp_path):
    """A folder of nbgrader's has every assignment; the others are no news."""
    files = [tmp_path / name for name in ("old", "new", "broken", "other")]
    for age, path in enumerate(files):
        path.touch()
        os.utime(path, (age, age))
    old, new, broken, other = files
    another = {"problem": "06 was assigned", "elsewhere": True}
    found = [marked("ada", new), marked("ada", other, **another), marked("ada", old), marked("cy", tmp_path / "gone"),
             marked("ada", broken, problem="broke off"), marked("ben", other, **another)]  # fmt: skip
    outcome = classroom._outcome(found, ["dora"])
    assert [(m.student, Path(m.file).name) for m in outcome.marked] == [
        ("ada", "new"),
        ("ben", "other"),
        ("cy", "gone"),
    ]
    assert outcome.words == [
        "ada: broken does not count, old does", "ada: old does not count, new does", "dora: the folder has no notebook",
        "ben: 06 was assigned",
    ]  # fmt: skip
    assert not outcome.control_failed
    assert classroom._outcome([marked("control", old, problem="broke off")], []).control_failed


def test_names_that_are_no_text_and_no_file_s_names_are_written_all_the_same(tmp_path):
    names = ["=1+1", "a/b", "<i>", "\udcff", "..", "Zoë", "a_b", "x" * 300]
    reports.write(tmp_path, [marked(name, "f") for name in names], ["\udcff: \x1b[2J"], ASSIGNMENTS, [], [])
    pages = list((tmp_path / "pages").iterdir())
    assert len(pages) == len(names) and all(page.parent == tmp_path / "pages" for page in pages)
    table = (tmp_path / "canvas.csv").read_text(encoding="utf-8")
    assert "'=1+1,," in table and "\n=1+1" not in table
    assert "\x1b" not in (tmp_path / "look.md").read_text(encoding="utf-8")


def test_the_roster_fills_canvas_columns_and_has_those_who_handed_in_nothing(tmp_path):
    roster = [{"Student": "Lovelace, Ada", "ID": "7", "SIS Login ID": "ada", "Section": "A"},
              {"Student": "Doe, Jane", "ID": "8", "SIS Login ID": "jane", "Section": "A"}]  # fmt: skip
    files = [Submission("doejane", tmp_path, "8"), Submission("ada", tmp_path)]
    reports.write(tmp_path, [marked("ada", "f"), marked("doejane", "f")], [], ASSIGNMENTS, files[:1], roster)
    lines = (tmp_path / "canvas.csv").read_text(encoding="utf-8").splitlines()
    assert lines[2:] == ['"Lovelace, Ada",7,,ada,A,3', '"Doe, Jane",8,,jane,A,3']
    reports.write(tmp_path, [marked("ada", "f")], [], ASSIGNMENTS, [], roster)
    assert (tmp_path / "canvas.csv").read_text(encoding="utf-8").splitlines()[3] == '"Doe, Jane",8,,jane,A,'


@pytest.mark.parametrize("seed", range(60))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(tmp_path, seed):
    """A notebook with parts cut out, exchanged or made nonsense."""
    draw, text = random.Random(seed), nbformat.writes(solution())
    data = json.loads(text)
    for _ in range(draw.randint(1, 4)):
        place = parent = data
        key = "cells"
        while isinstance(place, dict | list) and place and draw.random() < 0.8:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            parent, place = place, place[key]
        parent[key] = draw.choice([None, 3, "x", [], {}, [[1]], {"a": {}}, "\ud800", True])
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(data) if seed % 3 else text[: draw.randrange(len(text))], encoding="utf-8")
    try:
        found = read_notebook(path)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith("x.ipynb: ")
        return
    hands_in(found, ASSIGNMENTS)
    for task in FIRST.tasks:
        found.cells_for(task, FIRST)
    suspicion.odd(found, FIRST), suspicion.deleted(found, FIRST), suspicion.prints(found, FIRST)


@pytest.mark.posix
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.ipynb")
    (tmp_path / "b.ipynb").mkdir()
    for name in ("a.ipynb", "b.ipynb"):
        with pytest.raises(ValueError, match="not a file"):
            read_notebook(tmp_path / name)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return lay(tmp_path_factory.mktemp("copy"), SOURCES)


@pytest.mark.parametrize("number", checks.NUMBERS)
def test_no_answer_is_in_the_copy_for_students_code(copy, number):
    text = "\n".join(p.read_text(encoding="utf-8") for p in copy.rglob("*.py"))
    for check in checks.of_notebook(number).values():
        hints = [check.hint] if isinstance(check, checks.Exercise) else []
        assert not any(hint[:50] in text for hint in hints + [m.hint for m in check.mutants])
        assert check.title not in text
        if isinstance(check, checks.Choice):
            assert check.right not in text


def test_the_copy_has_what_given_cells_import(copy):
    for name, words in {
        "ex07": "class Table",
        "ex11_bill": "def learn",
        "ex14_adapters": "def gpt2_shapes",
        "ex01_pipeline": "class Desk",
    }.items():
        assert words in (copy / "prefcourse" / "checks" / f"{name}.py").read_text(encoding="utf-8")
    assert not (copy / "prefcourse" / "grading" / "marking.py").exists()
    assert (copy / "data" / "checksums.json").exists()
