"""What an assignment asks for, what a student's notebook has for it, and the cells that a function needs to run.

    assignment = read_assignment(Path("exercises/solutions/06_the_dpo_loss.ipynb"))
    handed_in = read_notebook(path)                       # ValueError in one line for what is no notebook
    handed_in.cells_for(assignment.tasks[0], assignment)  # of the student's cells, those that are needed, in order

Only what a function needs is run: the cell that defines it, and those that define the names it uses. So a notebook that
stops half-way, runs for an hour or prints without end costs only the exercise in which it does.
"""

import ast
import json
import re
import symtable
from dataclasses import dataclass
from pathlib import Path

import nbformat

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what parsing a cell raises
MOST_BYTES = 60_000_000  # of a notebook
CHECKED = re.compile(r"^checks\.ex(\d\d)\.(\w+)\.grade\((\w+)(, SEED)?\)", re.MULTILINE)
SHOWN = re.compile(r"\bchecks\.ex(\d\d)\.(\w+)\(\w+(?:, SEED)?\)")


@dataclass(frozen=True)
class Cell:
    """A code cell. name: nbgrader's grade_id, "" without one."""

    name: str
    source: str
    solution: bool = False
    checks: str = ""  # the name of the check that stands in it


@dataclass(frozen=True)
class Task:
    """One automatic check: which function it is about, where that stands, and what it is worth."""

    check: str
    function: str
    cell: str  # grade_id of the check's own cell
    answer: str  # grade_id of the cell in which the function is written
    seed: int | None  # of the order of options, where there are some
    points: int


@dataclass(frozen=True)
class Assignment:
    """A notebook of the solutions. written: grade_id → points of each part that a person marks."""

    number: str
    name: str
    cells: list[Cell]
    tasks: list[Task]
    written: dict[str, int]

    @property
    def points(self) -> int:
        """The automatic ones."""
        return sum(task.points for task in self.tasks)


@dataclass(frozen=True)
class HandedIn:
    """A student's notebook: its code cells, and the text of the written parts by grade_id."""

    cells: list[Cell]
    written: dict[str, str]

    def names(self) -> set[str]:
        """The grade_ids there are."""
        return {cell.name for cell in self.cells if cell.name} | set(self.written)

    def answer(self, task: Task) -> Cell | None:
        """The cell with the function: by its name in nbgrader, or else the last that defines the function."""
        by_name = [c for c in self.cells if c.name == task.answer and task.function in binds(c.source)]
        defining = [c for c in self.cells if task.function in binds(c.source) and not c.checks]
        broken = [c for c in self.cells if c.name == task.answer]
        return (by_name or defining or broken or [None])[-1]

    def cells_for(self, task: Task, assignment: Assignment) -> list[str]:
        """The sources to run for a task, in order: the student's, and given cells of what the student has deleted."""
        answer = self.answer(task)
        mine = [cell for cell in self.cells if not cell.checks]
        given = [cell for cell in assignment.cells if not cell.checks and not cell.solution]
        if answer not in mine:
            return []
        at = mine.index(answer)
        needed, todo, known = {("mine", at)}, uses(answer.source), set()
        while todo:
            name = todo.pop()
            if name in known:
                continue
            known.add(name)
            places = [i for i, cell in enumerate(mine) if name in binds(cell.source)]
            if places:
                before = [i for i in places if i <= at]
                found = ("mine", before[-1] if before else places[0])
            elif any(name in binds(cell.source) for cell in given):
                found = ("given", next(i for i, cell in enumerate(given) if name in binds(cell.source)))
            else:
                continue  # a name of Python's, or of nobody's
            if found not in needed:
                needed.add(found)
                todo |= uses((mine if found[0] == "mine" else given)[found[1]].source)
        order = sorted(needed, key=lambda place: (place[0] == "mine", place[1]))
        return [(mine if kind == "mine" else given)[i].source for kind, i in order]


# ---------------------------------------------------------------------------------------------- reading


def read_assignment(path: Path) -> Assignment:
    """The assignment of a solution notebook. Raises ValueError where it has no check."""
    notebook = _read(path)
    cells = [_cell(c) for c in notebook.cells if c.cell_type == "code"]
    seed = next((int(m[1]) for c in cells if (m := re.match(r"SEED = (\d+)", c.source))), 0)
    tasks, written, number = [], {}, ""
    for cell in notebook.cells:
        grading = cell.metadata.get("nbgrader", {})
        if grading.get("grade") and grading.get("solution"):
            written[grading["grade_id"]] = grading["points"]
        elif grading.get("grade") and (found := CHECKED.search(cell.source)):
            number, check, function, asks = found.groups()
            here = next(i for i, c in enumerate(cells) if c.name == grading["grade_id"])
            answer = [c for c in cells[:here] if c.solution and function in binds(c.source)][-1]
            tasks.append(
                Task(check, function, grading["grade_id"], answer.name, seed if asks else None, grading["points"])
            )
    if not tasks:
        raise ValueError(f"{path}: no cell with a check to grade by; is this a notebook of exercises/solutions?")
    return Assignment(number, path.stem, cells, tasks, written)


def read_notebook(path: Path) -> HandedIn:
    """A student's notebook. Raises ValueError that says in one line why it cannot be read."""
    notebook = _read(path)
    written = {}
    for cell in notebook.cells:
        grading = cell.metadata.get("nbgrader", {})
        if isinstance(grading, dict) and grading.get("grade") and grading.get("solution"):
            written[str(grading.get("grade_id"))] = cell.source
    return HandedIn([_cell(c) for c in notebook.cells if c.cell_type == "code"], written)


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{size // 1_000_000} MB, more than {MOST_BYTES // 1_000_000}: clear its outputs")
        raw = path.read_bytes().decode("utf-8-sig")
        if not raw.strip():
            raise ValueError("the file is empty")
        try:
            json.loads(raw)
        except ValueError as error:
            raise ValueError(f"it is not a whole notebook, as after an upload that broke off ({error})") from None
        notebook = nbformat.convert(nbformat.reader.reads(raw), 4)
        for cell in notebook.cells:
            if not (
                isinstance(cell.source, str) and isinstance(cell.metadata, dict) and isinstance(cell.cell_type, str)
            ):
                raise ValueError("a cell has no text")
        return notebook
    except UnicodeDecodeError:
        raise ValueError(f"{path.name}: it is not text in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    except OSError as error:
        raise ValueError(f"{path.name}: it cannot be read ({error.strerror})") from error
    except Exception as error:  # nbformat, over JSON that is no notebook, in many ways
        raise ValueError(f"{path.name}: it is JSON but no notebook ({type(error).__name__})") from error


def _cell(cell: nbformat.NotebookNode) -> Cell:
    grading = cell.metadata.get("nbgrader", {})
    grading = grading if isinstance(grading, dict) else {}
    check = CHECKED.search(cell.source) or SHOWN.search(cell.source)
    locked = bool(grading.get("grade")) and not grading.get("solution")
    name = str(grading.get("grade_id") or "")
    is_check = check[2] if check and not binds(cell.source) else name if locked else ""
    return Cell(name, cell.source, bool(grading.get("solution")), is_check)


def hands_in(notebook: HandedIn, assignments: dict[str, Assignment]) -> Assignment | None:
    """The assignment that a notebook belongs to, by its cells; None if it belongs to none."""
    functions = {name for cell in notebook.cells for name in binds(cell.source)}

    def common(assignment: Assignment) -> int:
        asked = {task.cell for task in assignment.tasks} | {task.answer for task in assignment.tasks}
        return len(asked & notebook.names()) + len({task.function for task in assignment.tasks} & functions)

    best = max(assignments.values(), key=common)
    return best if common(best) else None


# ---------------------------------------------------------------------------------------------- names


SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def plain(source: str) -> str:
    """A cell as Python: itself, or with `pass` for its magics and shell commands. Raises what the parser raises."""
    try:
        ast.parse(source)
        return source
    except SyntaxError:
        source = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
        ast.parse(source)
        return source


def binds(source: str) -> set[str]:
    """The names that a cell defines at its top; none for a cell that is no Python."""
    try:
        todo: list[ast.AST] = [ast.parse(plain(source))]
    except UNREADABLE:
        return set()
    found = set()
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif not isinstance(node, SCOPES):  # what these bind is their own
            found |= {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
            todo += ast.iter_child_nodes(node)
    return found


def uses(source: str) -> set[str]:
    """The names of the notebook or of Python that a cell needs, in its functions too."""
    try:
        tables = [symtable.symtable(plain(source), "cell", "exec")]
    except UNREADABLE:
        return set()
    found = set()
    while tables:
        table = tables.pop()
        top = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
        tables += table.get_children()
    return found
