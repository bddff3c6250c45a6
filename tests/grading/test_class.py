"""A class is marked: endless loops, 10 MB of output, broken files, deleted checks, and what cheating tries."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="students' code runs in processes that are forked")

from a_class import ALL, BROKEN, CHECKS, CLASS, NAME, hand_in, in_a_clone

from prefcourse.checks import NUMBERS, of_notebook, record

pytestmark = [pytest.mark.slow, pytest.mark.posix]
SECONDS = "4"  # for one exercise; a check takes milliseconds
GUIDE = (Path(__file__).resolve().parents[2] / "exercises" / "INSTRUCTORS.md").read_text(encoding="utf-8")
# As the guide has it for plain files, with another notebook and less patience.
(SAID,) = re.findall(r"^    python (-m prefcourse grade handed-in .*)$", GUIDE, re.MULTILINE)
LINE = [sys.executable, *SAID.replace("06", "00").split(), "--seconds", SECONDS]
TWO = ["--processes", "2"]
ORDER = [name.removeprefix("check-") for name in CHECKS]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PREFCOURSE_GRADING_SEED": "31415", "PREFCOURSE_PROGRESS": str(folder / "progress.json")}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """An empty folder in which the class was handed in and marked, with a Ctrl-C on the way, and what was printed."""
    folder = tmp_path_factory.mktemp("class")
    in_a_clone(folder)
    hand_in(folder / "handed-in")
    both = {"cwd": folder, "env": environment(folder), "encoding": "utf-8"}
    with subprocess.Popen([*LINE, "--processes", "1"], **both, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        for text in run.stdout:
            if text.startswith("   2 of"):
                break
        run.send_signal(signal.SIGINT)
        stopped = run.stderr.read()
        run.wait()
    start = time.monotonic()
    done = subprocess.run([*LINE, *TWO], **both, capture_output=True)
    assert done.returncode == 0, done.stderr
    print(f"\n{len(CLASS) + len(BROKEN)} notebooks in {time.monotonic() - start:.0f} s")
    return folder, run.returncode, stopped, done.stdout


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("student", CLASS)
def test_each_student_gets_exactly_these_points(graded, student):
    mine = {r["check"]: int(r["points"]) for r in rows(graded[0] / "grades" / "marks.csv") if r["student"] == student}
    assert tuple(mine[name] for name in ORDER) == CLASS[student][1]


@pytest.mark.parametrize("student", BROKEN)
def test_a_file_that_cannot_be_marked_is_reported_and_earns_nothing(graded, student):
    folder, *_ = graded
    mine = [r for r in rows(folder / "grades" / "marks.csv") if r["student"] == student]
    assert [r["points"] for r in mine] == ["0"] * 4
    (line,) = [
        x for x in (folder / "grades" / "look.md").read_text(encoding="utf-8").splitlines() if f"- {student}: " in x
    ]
    assert BROKEN[student][1] in line
    assert BROKEN[student][1] in (folder / "grades" / "pages" / f"{student}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("student", "words"),
    {
        "deleted checks": "check-log_pi: the cell of the check is deleted",
        "replaced checks": "check-tempered: the cell of the check was changed",
        "missing": "tempered: the cell of the answer is deleted",
        "patched judge": "log-pi: uses .judge, the verdict of a check",
        "patched core": "puts something else into torch.equal",
        "reference": "log-pi: uses .reference, the reference of a check",
        "frames": "uses ._getframe, the frames of its callers",
        "any object": "uses .get_objects",
        "letter": "uses .right, the right option",
        "starts others": "imports subprocess",
        "renamed": "my_sequence_logps: the same as copied",
        "copied": "my_sequence_logps: the same as renamed",
        "endless": "was stopped: it did not end in time",
        "anonymous": "the written part is deleted",
        "ada": "the same as the public solution",
    }.items(),
)
def test_what_deserves_a_question_is_said(graded, student, words):
    look = (graded[0] / "grades" / "look.md").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith((f"- {student},", f"- {student}:")) and words in line for line in look)


def test_an_honest_student_is_not_suspected(graded):
    look = (graded[0] / "grades" / "look.md").read_text(encoding="utf-8")
    about = [line for line in look.splitlines() if line.startswith(("- noise,", "- ada,", "- syntax,", "- stub,"))]
    assert all("the same as the public solution" in line for line in about)


def test_the_tables_have_the_columns_of_canvas_and_moodle(graded):
    folder, *_ = graded
    canvas = rows(folder / "grades" / "canvas.csv")
    assert list(canvas[0]) == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", NAME]
    assert canvas[0]["Student"] == "Points Possible" and canvas[0][NAME] == str(sum(ALL))
    points = {row["SIS Login ID"]: int(row[NAME]) for row in canvas[1:]}
    assert points == {s: sum(marks) for s, (_, marks) in CLASS.items()} | dict.fromkeys(BROKEN, 0)
    moodle = {row["username"]: row for row in rows(folder / "grades" / "moodle.csv")}
    assert {student: int(row[NAME]) for student, row in moodle.items()} == points
    assert moodle["endless"][f"{NAME} feedback"] == "open: log_pi"


def test_a_page_shows_what_failed_with_its_hint_and_runs_nothing(graded):
    pages = graded[0] / "grades" / "pages"
    (mine,) = [p.read_text(encoding="utf-8") for p in pages.iterdir() if "Zoë" in p.name]
    assert "<b>" not in mine and "&lt;b&gt;Zoë" in mine
    assert "0 of 3" in mine and "Hint:" in mine and "is read by a person" in mine
    assert len(list(pages.iterdir())) == len(CLASS) + len(BROKEN)
    assert not any("prefcourse.checks" in p.read_text(encoding="utf-8") for p in pages.iterdir())


def test_the_same_line_marks_nothing_again_and_a_new_file_alone(graded):
    folder, *_ = graded
    before = (folder / "grades" / "marks.csv").read_bytes()
    done = subprocess.run(LINE, cwd=folder, env=environment(folder), capture_output=True, encoding="utf-8")
    assert f"{len(CLASS) + len(BROKEN)} notebooks marked before, 0 to mark" in done.stdout
    assert (folder / "grades" / "marks.csv").read_bytes() == before


def remember(path: str, name: str) -> None:
    os.environ["PREFCOURSE_PROGRESS"] = path
    record.remember("00", name)


def test_progress_is_a_learners_own_and_right_after_all_of_it_and_with_four_processes(graded):
    folder, *_ = graded
    path = folder / "progress.json"
    assert not path.exists()  # 38 students have not passed anything for whoever marks them
    processes = [get_context("fork").Process(target=remember, args=(str(path), name)) for name in of_notebook("00")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    done = subprocess.run(
        [sys.executable, "-m", "prefcourse", "progress"], cwd=folder, env=environment(folder), capture_output=True,
        encoding="utf-8",
    )  # fmt: skip
    lines = done.stdout.splitlines()
    first, *_, last, _ = lines[next(i for i, line in enumerate(lines) if line.startswith("notebook")) + 1 :]
    assert "4 of 4" in first and "11 / 11" in first and "done" in first
    assert last.split()[:4] == ["all", "4", "of", str(sum(len(of_notebook(n)) for n in NUMBERS))]


def test_ctrl_c_keeps_what_is_done_and_the_same_line_goes_on(graded):
    _, code, stopped, printed = graded
    assert code == 130 and stopped.count("\n") == 1  # one line, in a pipe
    assert "interrupted. What is marked is kept in grades; the same line goes on." in stopped
    before = next(line for line in printed.splitlines() if "marked before" in line)
    done, left = int(before.split()[0]), int(before.split()[-3])
    assert done >= 2 and done + left == len(CLASS) + len(BROKEN)


def test_nothing_of_it_is_left_running(graded):
    """`starts others` has started a process that sleeps for ten minutes."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        found += [words] if words[:2] == [b"sleep", b"600"] else []
    assert not found
