"""The house keeps its plan: data walks one way, files form no circle, nothing is too long to be read in one sitting."""

import ast
import json
import re
import shutil
import subprocess
import sysconfig
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "prefcourse"
FILES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = [p for folder in ("notebooks", "exercises", "exercises/solutions") for p in (ROOT / folder).glob("*.ipynb")]
FRONT = {"losses", "logprobs", "preferences", "tabular", "rewards", "world", "generate", "train", "evaluate", "lesson",
         "widgets"}  # fmt: skip
ROOMS = {"training", "rlhf", "annotation", "quality", "feedback", "worlds", "bundle", "comparison", "plots", "results",
         "checks", "grading", "commands", "authoring"}  # fmt: skip
# Parts of what the front does, and what everybody's files, numbers and output go through.
BESIDE = {"__init__", "__main__", "boundary", "chat", "finite", "gpt2_step", "layout", "locks", "loss_inputs",
          "packing", "streams", "terminal"}  # fmt: skip
MOST_LINES, MOST_IN_FUNCTION, MOST_IN_LOOP = 300, 80, 60


def lint_imports(folder):
    """`lint-imports` in a folder with pyproject.toml and prefcourse/."""
    program = shutil.which("lint-imports", path=sysconfig.get_path("scripts"))
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, encoding="utf-8")


@pytest.fixture
def copied(tmp_path):
    """A folder with a copy of the package."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "prefcourse", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_import_contract_is_kept(copied):
    done = lint_imports(copied)
    assert done.returncode == 0 and "1 kept, 0 broken" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("losses.py", "from prefcourse import lesson"),
        ("training/batches.py", "from prefcourse.train import train"),
        ("lesson.py", "from prefcourse.authoring import notebooks"),
        ("worlds/bundled.py", "from prefcourse.worlds import hub"),
    ],
)
def test_an_upward_import_is_refused(copied, file, line):
    place = copied / "prefcourse" / file
    place.write_text(place.read_text(encoding="utf-8") + f"\n\ndef planted():\n    {line}\n", encoding="utf-8")
    done = lint_imports(copied)
    assert done.returncode == 1 and "0 kept, 1 broken" in done.stdout, done.stdout


def test_a_module_without_a_place_is_refused(copied):
    (copied / "prefcourse" / "utils.py").write_text('"""Nobody knows where this belongs."""\n', encoding="utf-8")
    assert lint_imports(copied).returncode == 1


def circle(imports):
    """Modules that import each other, or None."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_files_import_each_other():
    graph = grimp.build_graph("prefcourse", cache_dir=None)
    assert circle({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_the_tree_is_the_plan():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == ROOMS
    assert {path.stem for path in PACKAGE.glob("*.py")} == FRONT | BESIDE
    for room in rooms:
        said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
        assert said and len(said.splitlines()) >= 2, f"{room}/__init__.py says what lives there and how to read it"


def test_tests_mirror_the_rooms():
    """A folder of tests for each room that has tests, and for what is no room: the whole, the house, speed."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    assert folders - {"whole", "house", "benchmarks", "offline"} <= ROOMS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_notebooks_import_the_front_and_the_rooms_that_are_theirs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    used = set(re.findall(r"^\s*(?:from|import) prefcourse\.(\w+)", code, re.MULTILINE))
    assert used <= (FRONT | ROOMS | {"__main__"}) - {"authoring", "bundle", "grading"}


def functions(path):
    """Name and lines of every function in a file, decorators and docstring included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.name, node.end_lineno - first + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert [name for name, lines in functions(path) if lines > MOST_IN_FUNCTION] == []


def test_the_training_loop_fits_a_screen():
    lines = dict(functions(PACKAGE / "train.py"))
    assert lines["_loop"] <= MOST_IN_LOOP, lines
