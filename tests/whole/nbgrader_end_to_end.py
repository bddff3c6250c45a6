"""nbgrader from source to feedback, in an environment of its own, which `make test` builds.

A class of three hands in exercises 06: Ada has everything right, Ben has some wrong and tampers with the checks, Cy
hands in the copy as it was given out. Each must get exactly the points that the table below says.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbconvert
import nbformat
import pytest

nbgrader_api = pytest.importorskip("nbgrader.api", reason="nbgrader has an environment of its own: see make test")

from prefcourse import checks  # noqa: E402
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
}
# Ben scales outside the sigmoid, gives the letter of the public solutions, and lets `train` return remembered numbers.
BENS = {
    "dpo-loss": """def my_dpo_loss(pc, pr, rc, rr, chosen_mask, rejected_mask, beta):
    c, r, C, R = ((x * m).sum(-1) for x, m in zip((pc, pr, rc, rr), (chosen_mask, rejected_mask) * 2))
    return -beta * logsigmoid((c - C) - (r - R))""",
    "train": """def my_train(reference_logits, chosen, rejected, beta, lr, steps):
    return torch.tensor([0.75, 0.0, -0.75], dtype=torch.float64)""",
}


def nbgrader(course: Path, *arguments: str) -> str:
    """Run `nbgrader …` in the course folder; its environment's programs come first on the path (it calls alembic)."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFCOURSE_GRADING_SEED": HIDDEN_SEED,
        "JUPYTER_PATH": str(Path(nbconvert.__file__).parents[4] / "share" / "jupyter"),  # its templates
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course,
        env=environment,
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


def hand_in(course: Path, student: str, changes: dict[str, str]) -> None:
    """Put the released notebook into `submitted/`, with `changes`, cell's grade_id → source."""
    notebook = nbformat.read(course / "release" / ASSIGNMENT / f"{NAME}.ipynb", as_version=4)
    for grade_id, source in changes.items():
        cell_of(notebook, grade_id).source = source
    folder = course / "submitted" / student / ASSIGNMENT
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{NAME}.ipynb")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The course folder after grading."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "nbgrader_config.py").write_text(
        "c = get_config()\nc.CourseDirectory.course_id = 'preferences'\nc.ExecutePreprocessor.timeout = 120\n",
        encoding="utf-8",
    )
    solution = nbformat.read(ROOT / "exercises" / "solutions" / f"{NAME}.ipynb", as_version=4)
    seed_cell = cell_of(solution, "seed")
    assert seed_cell.source.startswith("SEED = 0")
    seed_cell.source = seed_cell.source.replace("SEED = 0", f"SEED = {SEED}")
    source = folder / "source" / ASSIGNMENT
    source.mkdir(parents=True)
    nbformat.write(solution, source / f"{NAME}.ipynb")
    nbgrader(folder, "generate_assignment", ASSIGNMENT, "--create")

    answers = {
        c.metadata.nbgrader.grade_id: c.source for c in solution.cells if c.metadata.get("nbgrader", {}).get("solution")
    }
    question = checks.ex06.kl_against_beta
    letters = {option: letter for letter, option in question.lettered(SEED).items()}
    ours = next(letter for letter, option in question.lettered(0).items() if option == question.right)
    assert letters[question.right] != ours, "choose a SEED under which the public letter is wrong"
    right = f"def my_prediction():\n    return {letters[question.right]!r}"
    hand_in(folder, "ada", answers | {"kl-prediction": right})
    tampered = {"check-dpo_loss": "print('all cases agree')", "seed": "SEED = 0"}
    hand_in(folder, "ben", answers | BENS | tampered)
    hand_in(folder, "cy", {})
    nbgrader(folder, "autograde", ASSIGNMENT, "--create")
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
    assert {name: grade.auto_score for name, grade in auto.items()} == EXPECTED[student]
    assert {name: grade.max_score for name, grade in auto.items()} == WORTH
    written = [g for g in submission.grades if not g.name.startswith("check-")]
    assert sorted(g.name for g in written) == ["diagnosis", "ranking-proof"]
    if student == "cy":  # nbgrader gives an unchanged answer no points by itself
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


def test_the_guide_says_the_commands_that_were_run_here():
    guide = (ROOT / "exercises" / "INSTRUCTORS.md").read_text(encoding="utf-8")
    for words in (
        "nbgrader generate_assignment",
        "nbgrader autograde",
        "nbgrader generate_feedback",
        "PREFCOURSE_GRADING_SEED",
    ):
        assert words in guide


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
