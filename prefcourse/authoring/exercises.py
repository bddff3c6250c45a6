"""From the solutions to the student copies, and the tables of the instructors' guide: `make exercises` calls this.

    python -m prefcourse.authoring.exercises            # writes exercises/NN_*.ipynb and tables of INSTRUCTORS.md
    python -m prefcourse.authoring.exercises --check    # writes nothing; says what is out of date
    python -m prefcourse.authoring.exercises --assign 06 --seed 2027 --out source/ex06      # a source for a class

`exercises/solutions/` is the only source. A student copy is what nbgrader's `generate_assignment` makes of it: what
stands between BEGIN SOLUTION and END SOLUTION becomes a stub, hidden tests and outputs go. Figures to aim at are kept:
a markdown cell that shows `![alt](attachment:NAME.png)` gets the picture of the code cell with the tag `figure:NAME`.
"""

import argparse
import base64
import copy
import io
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from prefcourse import checks
from prefcourse.authoring.notebooks import clean, text, write

CODE_STUB = ["# YOUR CODE HERE", "raise NotImplementedError()"]  # nbgrader's own, so that both ways give one notebook
TEXT_STUB = "YOUR ANSWER HERE"
ATTACHMENT = re.compile(r"!\[[^\]]*\]\(attachment:([\w-]+)\.png\)")
FIGURE_TAG = "figure:"


def student_copy(solution: NotebookNode) -> NotebookNode:
    """The notebook that a student gets. Raises ValueError for a region that does not end or is not in its cell."""
    student = copy.deepcopy(solution)
    for i, cell in enumerate(student.cells):
        grading = cell.metadata.get("nbgrader", {})
        if grading.get("solution") and grading.get("grade"):  # a written answer, marked by a person
            cell.source = TEXT_STUB if cell.cell_type == "markdown" else "\n".join(CODE_STUB)
            cell.pop("attachments", None)
        elif cell.cell_type == "code":
            cell.source = cut(cut(cell.source, "SOLUTION", CODE_STUB, i), "HIDDEN TESTS", [], i)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = cell.source.replace("](../../", "](../")  # the copy lies one folder higher
    return clean(student)


def cut(source: str, name: str, stub: list[str], number: int = 0) -> str:
    """`source` with each region BEGIN name … END name replaced by `stub`, indented like the line BEGIN."""
    lines, inside = [], None
    for line in source.split("\n"):
        if f"### BEGIN {name}" in line:
            if inside is not None:
                raise ValueError(f"cell {number}: BEGIN {name} inside another")
            inside = line[: len(line) - len(line.lstrip())]
            lines += [inside + part for part in stub]
        elif f"### END {name}" in line:
            if inside is None:
                raise ValueError(f"cell {number}: END {name} without a BEGIN")
            inside = None
        elif inside is None:
            lines.append(line)
    if inside is not None:
        raise ValueError(f"cell {number}: BEGIN {name} has no END")
    return "\n".join(lines).rstrip()


def attach_figures(solution: NotebookNode) -> NotebookNode:
    """`solution`, changed, with the pictures that its text shows taken from its figures' outputs, at screen size."""
    figures = {}
    for cell in solution.cells:
        for tag in cell.metadata.get("tags", []):
            pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            if tag.startswith(FIGURE_TAG) and pictures:
                figures[tag.removeprefix(FIGURE_TAG)] = pictures[0]
    for i, cell in enumerate(solution.cells):
        names = ATTACHMENT.findall(cell.source) if cell.cell_type == "markdown" else []
        if missing := [name for name in names if name not in figures]:
            raise ValueError(
                f"cell {i} shows {missing[0]}.png, and no code cell with a picture is tagged figure:{missing[0]}"
            )
        if names:
            cell.attachments = NotebookNode(
                {f"{name}.png": NotebookNode({"image/png": _small(figures[name])}) for name in names}
            )
    return solution


def _small(output: NotebookNode) -> str:
    """The picture at the size in which it is shown (stored figures have twice as many pixels)."""
    picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
    look = output.metadata.get("image/png", {})
    size = (look.get("width", picture.width), look.get("height", picture.height))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).quantize(64, dither=Image.Dither.NONE).save(
        buffer, "png", optimize=True
    )
    return base64.b64encode(buffer.getvalue()).decode()


# ---------------------------------------------------------------------------------------------- for a class

ASKED = re.compile(r"^checks\.ex(\d\d)\.(\w+)\.grade\((\w+), SEED\)", re.MULTILINE)


def for_class(solution: NotebookNode, seed: int) -> NotebookNode:
    """A solution notebook with the order of options of `seed`, and links as in a student copy.

    The letters that its answers return change with the order: marked itself, it has full marks.
    """
    made = copy.deepcopy(solution)
    for i, cell in enumerate(made.cells):
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../../", "](../")
        elif cell.metadata.get("nbgrader", {}).get("grade_id") == "seed":
            cell.source = re.sub(r"^SEED = \d+", f"SEED = {seed}", cell.source)
        for number, name, function in ASKED.findall(cell.source):
            question = checks.of_notebook(number)[name]
            letter = next(a for a, option in question.lettered(seed).items() if option == question.right)
            answer = next(c for c in reversed(made.cells[:i]) if f"def {function}(" in c.source)
            answer.source = re.sub(r'return "\w"', f'return "{letter}"', answer.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return made


def assign(folder: Path, number: str, seed: int, out: Path) -> Path:
    """Write the solution of a notebook for a class into `out`. Raises ValueError if there is no such notebook."""
    found = sorted((folder / "solutions").glob(f"{number}_*.ipynb"))
    if not found:
        raise ValueError(f"no notebook {number!r} in {folder / 'solutions'}")
    out.mkdir(parents=True, exist_ok=True)
    write(for_class(nbformat.read(found[0], as_version=4), seed), out / found[0].name)
    return out / found[0].name


# ---------------------------------------------------------------------------------------------- the guide


def mistakes_table(number: str) -> str:
    """The common wrong answers of a notebook as a Markdown table, from the checks themselves."""
    rows = ["| check | points | wrong answer | hint the learner sees |", "|---|---|---|---|"]
    for check in checks.of_notebook(number).values():
        for i, mutant in enumerate(check.mutants):
            first = (f"`{check.name}`", str(check.points)) if i == 0 else ("", "")
            name = mutant.name if isinstance(check, checks.Choice) else f"`{mutant.name}`"
            cells = (*first, name, mutant.hint)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def guide(source: str) -> str:
    """The instructors' guide with each table between `<!-- mistakes NN -->` and `<!-- end -->` made anew."""

    def made(found: re.Match) -> str:
        return f"<!-- mistakes {found[1]} -->\n\n{mistakes_table(found[1])}\n\n<!-- end -->"

    return re.sub(r"<!-- mistakes (\d\d) -->.*?<!-- end -->", made, source, flags=re.DOTALL)


# ---------------------------------------------------------------------------------------------- writing


def outdated(folder: Path, fix: bool) -> list[str]:
    """The files under `folder` that differ from what their source gives; with `fix` they are written."""
    found = []
    sources = sorted((folder / "solutions").glob("*.ipynb"))
    for path in sources:
        solution = attach_figures(nbformat.read(path, as_version=4))
        for target, notebook in ((path, solution), (folder / path.name, student_copy(solution))):
            if not target.exists() or target.read_text(encoding="utf-8") != text(notebook):
                found.append(str(target))
                if fix:
                    write(notebook, target)
    for path in sorted({*folder.glob("*.ipynb")} - {folder / source.name for source in sources}):
        found.append(f"{path} (it has no solution notebook)")
        if fix:
            path.unlink()
    path = folder / "INSTRUCTORS.md"
    if path.exists() and (made := guide(path.read_text(encoding="utf-8"))) != path.read_text(encoding="utf-8"):
        found.append(str(path))
        if fix:
            path.write_text(made, encoding="utf-8", newline="\n")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 1 if --check finds something out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m prefcourse.authoring.exercises", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("exercises"), help="where solutions/ lies (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, list what is out of date")
    parser.add_argument(
        "--assign", metavar="NN", help="write the source of one notebook for a class into --out instead"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="with --assign: the order of options (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="with --assign: where to write")
    options = parser.parse_args(arguments)
    if not (options.folder / "solutions").is_dir():
        parser.error(f"no folder {options.folder / 'solutions'}: run this where the course's exercises/ lies")
    try:
        if options.assign is not None:
            print(f"written: {assign(options.folder, options.assign, options.seed, options.out)}")
            return 0
        found = outdated(options.folder, fix=not options.check)
    except ValueError as error:
        print(f"prefcourse.authoring.exercises: {error}", file=sys.stderr)
        return 2
    for name in found:
        print(f"{'out of date' if options.check else 'written'}: {name}")
    if options.check and found:
        print("run `make exercises` and commit what it writes")
    return 1 if options.check and found else 0


if __name__ == "__main__":
    raise SystemExit(main())
