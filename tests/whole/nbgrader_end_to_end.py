"""nbgrader from source to feedback, in an environment of its own, which `make test` builds.

The lines of the instructors' guide are run as they stand there, in an empty folder. A class of five hands in exercises
06: Ada has everything right, Ben has some wrong and tampers with the checks, Cy hands in the copy as it was given out,
Dora has everything right and deletes the checks, Eve has nothing right and changes how they judge. Each must get
exactly the points of the tables below: from nbgrader, which Dora and Eve mislead, and from `prefcourse grade`.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbconvert
import nbformat
import pytest

nbgrader_api = pytest.importorskip("nbgrader.api", reason="nbgrader has an environment of its own: see make test")

from prefcourse.authoring import exercises  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NAME, ASSIGNMENT = "06_the_dpo_loss", "ex06"
SEED = 2027  # the instructor's: another order of options than in the public solutions
HIDDEN_SEED = "31415"
WORTH = {"dpo_loss": 3, "ranking_loss": 3, "kl_against_beta": 2, "train": 3}
EXPECTED = {
    "ada": {"dpo_loss": 3, "ranking_loss": 3, "kl_against_beta": 2, "train": 3},
    "ben": {"dpo_loss": 0, "ranking_loss": 3, "kl_against_beta": 0, "train": 0},
    "cy": {"dpo_loss": 0, "ranking_loss": 0, "kl_against_beta": 0, "train": 0},
    "dora": {"dpo_loss": 0, "ranking_loss": 0, "kl_against_beta": 0, "train": 0},
    "eve": WORTH,
    "control": WORTH,
}
OUT_OF_REACH = EXPECTED | {"dora": WORTH, "eve": EXPECTED["cy"]}
PATCH = """from prefcourse import checks
for check in checks.of_notebook("06").values():
    type(check).judge = lambda self, *a, **k: self.passes("all cases agree")

def my_dpo_loss(*arguments):
    return 0.0"""
# Ben scales outside the sigmoid, gives the letter of the public solutions, and lets `train` return remembered numbers.
BENS = {
    "dpo-loss": """def my_dpo_loss(pc, pr, rc, rr, chosen_mask, rejected_mask, beta):
    c, r, C, R = ((x * m).sum(-1) for x, m in zip((pc, pr, rc, rr), (chosen_mask, rejected_mask) * 2))
    return -beta * logsigmoid((c - C) - (r - R))""",
    "train": """def my_train(reference_logits, chosen, rejected, beta, lr, steps):
    return torch.tensor([0.75, 0.0, -0.75], dtype=torch.float64)""",
}


def environment(course: Path) -> dict[str, str]:
    """As after the guide's first block: this environment first on PATH, and COURSE the clone."""
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PREFCOURSE_GRADING_SEED": HIDDEN_SEED,
        "PREFCOURSE_PROGRESS": str(course / "progress.json"),
        "JUPYTER_PATH": str(Path(nbconvert.__file__).parents[4] / "share" / "jupyter"),  # its templates
        "OMP_NUM_THREADS": "1",
        "COURSE": str(ROOT),
    }


def nbgrader(course: Path, *arguments: str) -> str:
    """Run nbgrader in the course folder; its log. Raises AssertionError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course,
        env=environment(course),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def cell_of(notebook, grade_id):
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def as_copied(cell) -> str:
    """The cell's text with links as in a student copy, which lies one folder above the solutions."""
    return cell.source.rstrip().replace("](../../", "](../")


def hand_in(course: Path, student: str, changes: dict[str, str], without: Sequence[str] = ()) -> None:
    """Put the released notebook into `submitted/`, with `changes`, cell's grade_id → source, and some cells deleted."""
    notebook = nbformat.read(course / "release" / ASSIGNMENT / f"{NAME}.ipynb", as_version=4)
    for grade_id, source in changes.items():
        cell_of(notebook, grade_id).source = source
    notebook.cells = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") not in without]
    folder = course / "submitted" / student / ASSIGNMENT
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{NAME}.ipynb")


def as_the_guide_says(first: str, course: Path) -> str:
    """Run, in `course`, the block of the guide that begins with `first`; what it logs."""
    guide = (ROOT / "exercises" / "INSTRUCTORS.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"(?:^    .*\n)+", guide, re.MULTILINE) if b.startswith(f"    {first}")]
    done = subprocess.run(
        ["bash", "-e"], input=block, cwd=course, env=environment(course), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The course folder after grading, by the lines of the guide."""
    folder = tmp_path_factory.mktemp("course")
    as_the_guide_says("echo 'c = get_config()'", folder)
    solution = nbformat.read(folder / "source" / ASSIGNMENT / f"{NAME}.ipynb", as_version=4)
    assert cell_of(solution, "seed").source.startswith(f"SEED = {SEED}")
    public = nbformat.read(ROOT / "exercises" / "solutions" / f"{NAME}.ipynb", as_version=4)
    answers = {
        c.metadata.nbgrader.grade_id: c.source for c in solution.cells if c.metadata.get("nbgrader", {}).get("solution")
    }
    letter = {"kl-prediction": cell_of(public, "kl-prediction").source}
    assert letter["kl-prediction"] != answers["kl-prediction"], "choose a SEED under which the public letter is wrong"
    hand_in(folder, "ada", answers)
    tampered = {"check-dpo_loss": "print('all cases agree')", "seed": "SEED = 0"}
    hand_in(folder, "ben", answers | letter | BENS | tampered)
    hand_in(folder, "cy", {})
    hand_in(folder, "dora", answers, without=[f"check-{name}" for name in WORTH])
    hand_in(folder, "eve", {"dpo-loss": PATCH})
    log = as_the_guide_says("mkdir -p submitted/control", folder)
    assert "[AutogradeApp" in log
    assert "cannot be converted to a float" not in log  # what a check's cell returns would be points
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def gradebook(course):
    with nbgrader_api.Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        yield book


def test_nbgrader_and_make_exercises_give_the_same_student_copy(course):
    """All but the seed, which this instructor has changed."""
    released = nbformat.read(course / "release" / ASSIGNMENT / f"{NAME}.ipynb", as_version=4)
    ours = nbformat.read(ROOT / "exercises" / f"{NAME}.ipynb", as_version=4)
    for one, other in zip(released.cells, ours.cells, strict=True):
        if one.metadata.get("nbgrader", {}).get("grade_id") != "seed":
            assert as_copied(one) == as_copied(other)
            assert one.get("attachments") == other.get("attachments")
    assert all(not c.get("outputs") for c in released.cells)
    assert "HIDDEN" not in str(released) and "BEGIN SOLUTION" not in str(released)


@pytest.mark.parametrize("student", EXPECTED)
def test_each_submission_gets_exactly_its_points(gradebook, student):
    submission = gradebook.find_submission_notebook(NAME, ASSIGNMENT, student)
    auto = {g.name.removeprefix("check-"): g for g in submission.grades if g.name.startswith("check-")}
    # For a check that was deleted nbgrader has None, which counts 0 in the sum.
    assert {name: grade.auto_score or 0 for name, grade in auto.items()} == EXPECTED[student]
    assert {name: grade.max_score for name, grade in auto.items()} == WORTH
    written = [g for g in submission.grades if not g.name.startswith("check-")]
    assert sorted(g.name for g in written) == ["diagnosis", "ranking-proof"]
    if student in ("cy", "eve"):  # nbgrader gives an unchanged answer no points by itself
        assert all(grade.auto_score == 0 for grade in written)
    else:
        assert all(grade.needs_manual_grade for grade in written)


def test_a_person_marks_the_written_parts_and_the_total_adds_up(course, gradebook):
    for name, score in {"ranking-proof": 3, "diagnosis": 1.5}.items():
        grade = gradebook.find_grade(name, NAME, ASSIGNMENT, "ada")
        grade.manual_score = score
    gradebook.db.commit()
    submission = gradebook.find_submission(ASSIGNMENT, "ada")
    assert (submission.score, submission.max_score) == (sum(WORTH.values()) + 4.5, sum(WORTH.values()) + 5)
    nbgrader(course, "export")
    assert ",ada," in (course / "grades.csv").read_text(encoding="utf-8")


def test_feedback_shows_the_hint_of_the_mistake_and_not_the_hidden_tests_of_others(course):
    nbgrader(course, "generate_feedback", ASSIGNMENT)
    feedback = (course / "feedback" / "ben" / ASSIGNMENT / f"{NAME}.html").read_text(encoding="utf-8")
    assert "β stands outside the sigmoid" in feedback
    assert (course / "feedback" / "cy" / ASSIGNMENT / f"{NAME}.html").exists()


@pytest.mark.parametrize("student", OUT_OF_REACH)
def test_out_of_reach_each_gets_what_is_earned(course, student):
    """Dora has deleted the checks of right answers, and nbgrader gives nothing; Eve has changed them, and gets all."""
    with (course / "grades" / "marks.csv").open(encoding="utf-8", newline="") as file:
        mine = {row["check"]: int(row["points"]) for row in csv.DictReader(file) if row["student"] == student}
    assert mine == OUT_OF_REACH[student]


def test_deleted_and_changed_checks_are_said(course):
    look = (course / "grades" / "look.md").read_text(encoding="utf-8")
    for name in WORTH:
        assert f"dora, check-{name}: the cell of the check is deleted" in look
    assert "eve, dpo-loss: uses .judge" in look and "ben, check-dpo_loss: the cell of the check was changed" in look


def test_nobody_finds_the_gradebook_in_the_clone():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"gradebook.db*", "grades/", "submitted/"} <= set(ignored)


def test_every_solution_notebook_becomes_an_assignment(tmp_path):
    """The other notebooks, without running them: nbgrader accepts each, and cuts what `make exercises` cuts."""
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()\n", encoding="utf-8")
    paths = sorted((ROOT / "exercises" / "solutions").glob("*.ipynb"))
    source = tmp_path / "source" / "all"
    source.mkdir(parents=True)
    for path in paths:
        shutil.copy(path, source)
    nbgrader(tmp_path, "generate_assignment", "all", "--create")
    for path in paths:
        released = nbformat.read(tmp_path / "release" / "all" / path.name, as_version=4)
        ours = exercises.student_copy(nbformat.read(path, as_version=4))
        assert [as_copied(c) for c in released.cells] == [as_copied(c) for c in ours.cells], path.name
