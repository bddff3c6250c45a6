"""The exercise notebooks as files: student copies come from the solutions, and both agree with the checks."""

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from prefcourse import checks
from prefcourse.authoring import exercises

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = sorted((ROOT / "exercises" / "solutions").glob("*.ipynb"))
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)\n### END HIDDEN TESTS", re.DOTALL)


def read(path):
    return nbformat.read(path, as_version=4)


def grading(cell):
    return cell.metadata.get("nbgrader", {})


def test_student_copies_and_guide_are_up_to_date():
    assert exercises.outdated(ROOT / "exercises", fix=False) == [], "run `make exercises`"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_notebook_goes_with_its_lesson_and_its_checks(path):
    assert (ROOT / "notebooks" / path.name).exists(), "an exercise notebook has its lesson's name"
    notebook, number = read(path), path.stem[:2]
    there = checks.of_notebook(number)
    graded = {}
    for cell in notebook.cells:
        meta = grading(cell)
        if not meta:
            continue
        assert set(meta) >= {"grade", "grade_id", "locked", "schema_version", "solution", "task"}
        assert meta.schema_version == 3 and not meta.task
        if meta.grade and not meta.solution:
            (hidden,) = HIDDEN.findall(cell.source)
            name = re.match(rf"checks\.ex{number}\.(\w+)\.grade\((.*)\)$", hidden)[1]
            assert cell.source.startswith(f"{hidden.replace('.grade(', '(')}\n"), (
                "learner and instructor check the same"
            )
            assert meta.locked and meta.points == there[name].points
            graded[name] = meta.points
        elif meta.grade:
            assert cell.cell_type == "markdown" and meta.points > 0 and not meta.locked
        elif meta.solution:
            assert cell.source.count("### BEGIN SOLUTION") == cell.source.count("### END SOLUTION") == 1
            assert re.match(r"(def|class) ", cell.source), "a stub raises, so it stands inside a function"
    assert set(graded) == set(there), "each check has its cell"
    ids = [grading(cell).grade_id for cell in notebook.cells if grading(cell)]
    assert len(ids) == len(set(ids)) and "seed" in ids
    assert 3 <= len(re.findall(r"^## \d · ", "\n".join(c.source for c in notebook.cells), re.MULTILINE)) <= 5
    for kind in ("pencil and paper", "code", "predict, then run", "find the bug"):
        assert kind in notebook.cells[0].source, f"no exercise of the kind: {kind}"
    for word in ("tier", "minutes", "points"):
        assert word in notebook.cells[0].source


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_notebook_asks_for_transfer_and_has_an_open_choice(path):
    """The answer to the first stands in no cell of the lesson; a written part has more than one good answer."""
    head, *cells = read(path).cells
    kinds = [line.split("|")[3] for line in head.source.splitlines() if re.match(r"\| \d", line)]
    assert any("transfer" in kind for kind in kinds), kinds
    asked = [i for i, c in enumerate(cells) if c.cell_type == "markdown" and "open choice" in c.source.lower()]
    later = [i for i, c in enumerate(cells) if grading(c).get("grade") and grading(c).get("solution")]
    assert any(i < j for i in asked for j in later), "an open choice is answered in a written part"


def solution(*cells):
    return new_notebook(cells=list(cells))


def graded(cell, **meta):
    cell.metadata.nbgrader = dict(schema_version=3, task=False, grade_id="x", **meta)
    return cell


def picture(width=40, height=20):
    buffer = io.BytesIO()
    Image.new("RGB", (2 * width, 2 * height), "white").save(buffer, "png")
    png = base64.b64encode(buffer.getvalue()).decode()
    return new_output("display_data", {"image/png": png}, metadata={"image/png": {"width": width, "height": height}})


def test_solutions_hidden_tests_written_answers_and_outputs_are_cut():
    code = "def f(x):\n    y = 1\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION\n"
    test = "check(f)\n### BEGIN HIDDEN TESTS\ncheck.grade(f)\n### END HIDDEN TESTS"
    student = exercises.student_copy(
        solution(
            graded(
                new_code_cell(code, execution_count=3, outputs=[picture()]), grade=False, solution=True, locked=False
            ),
            graded(new_code_cell(test), grade=True, solution=False, locked=True, points=2),
            graded(new_markdown_cell("Because."), grade=True, solution=True, locked=False, points=2),
            new_markdown_cell("Read [on](../../notebooks/06.ipynb)."),
        )
    )
    first, second, third, fourth = student.cells
    assert first.source == "def f(x):\n    y = 1\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    assert first.outputs == [] and first.execution_count is None
    assert (second.source, third.source, fourth.source) == (
        "check(f)",
        "YOUR ANSWER HERE",
        "Read [on](../notebooks/06.ipynb).",
    )


@pytest.mark.parametrize(
    "bad", ["### BEGIN SOLUTION\nx", "x\n### END SOLUTION", "### BEGIN SOLUTION\n### BEGIN SOLUTION"]
)
def test_a_region_that_does_not_close_is_refused(bad):
    with pytest.raises(ValueError, match="cell 0: "):
        exercises.student_copy(solution(new_code_cell(bad)))


def test_figures_to_aim_at_are_kept_with_their_alt_text():
    text = new_markdown_cell("Aim for this: ![a line that falls](attachment:line.png)")
    figure = new_code_cell("draw()", outputs=[picture()], metadata={"tags": ["figure:line"]})
    made = exercises.student_copy(exercises.attach_figures(solution(text, figure)))
    kept = Image.open(io.BytesIO(base64.b64decode(made.cells[0].attachments["line.png"]["image/png"])))
    assert kept.size == (40, 20)
    assert made.cells[1].outputs == []
    with pytest.raises(ValueError, match="no code cell with a picture is tagged figure:line"):
        exercises.attach_figures(solution(text))


def test_the_command_writes_what_is_out_of_date_and_says_so(tmp_path, capsys):
    (tmp_path / "solutions").mkdir()
    nbformat.write(solution(new_markdown_cell("# Title")), tmp_path / "solutions" / "06_a.ipynb")
    (tmp_path / "07_gone.ipynb").write_text("{}", encoding="utf-8")
    (tmp_path / "INSTRUCTORS.md").write_text("# Guide\n\n<!-- mistakes 06 --><!-- end -->\n", encoding="utf-8")
    assert exercises.main(["--folder", str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().out
    assert "06_a.ipynb" in said and "no solution notebook" in said and "INSTRUCTORS.md" in said
    assert not (tmp_path / "06_a.ipynb").exists()
    assert exercises.main(["--folder", str(tmp_path)]) == 0
    assert (tmp_path / "06_a.ipynb").exists() and not (tmp_path / "07_gone.ipynb").exists()
    assert "β stands outside the sigmoid" in (tmp_path / "INSTRUCTORS.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert exercises.main(["--folder", str(tmp_path), "--check"]) == 0
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit):
        exercises.main(["--folder", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("number", checks.NUMBERS)
def test_a_source_for_a_class_has_another_order_of_options_and_the_letters_that_go_with_it(tmp_path, number):
    """Seed by seed, every question's letter in the answer is that of the right option."""
    folder = ROOT / "exercises"
    for seed in (1, 2, 2027):
        assert (
            exercises.main(["--folder", str(folder), "--assign", number, "--seed", str(seed), "--out", str(tmp_path)])
            == 0
        )
        (path,) = tmp_path.glob(f"{number}_*.ipynb")
        code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert f"SEED = {seed} " in "\n".join(code)
        for i, source in enumerate(code):
            for _, name, function in exercises.ASKED.findall(source):
                question = checks.of_notebook(number)[name]
                scope = {}
                exec(next(c for c in reversed(code[:i]) if f"def {function}(" in c), scope)
                assert question.judge(scope[function], seed).passed
    assert "](../../" not in path.read_text(encoding="utf-8")


def test_a_source_for_a_class_of_no_notebook_is_refused(tmp_path, capsys):
    assert exercises.main(["--folder", str(ROOT / "exercises"), "--assign", "99", "--out", str(tmp_path)]) == 2
    assert "no notebook '99'" in capsys.readouterr().err


def test_the_guide_adds_up_the_minutes_of_the_headers():
    minutes = {}
    for path in sorted((ROOT / "exercises").glob("*.ipynb")):
        head = nbformat.read(path, as_version=4).cells[0].source
        rows = [line.split("|") for line in head.splitlines() if re.match(r"\| \d", line)]
        minutes[path.name[:2]] = sum(int(row[5]) for row in rows)
    *most, last = map(str, minutes.values())
    guide = " ".join((ROOT / "exercises" / "INSTRUCTORS.md").read_text(encoding="utf-8").split())
    assert f"the minutes, in the order of the notebooks, are {', '.join(most)} and {last}." in guide
    assert f"All of them take {sum(minutes.values()) // 60} hours, nine of them" in guide
    assert sum(minutes[n] for n in ("01", "07", "08", "10")) // 60 == 9
