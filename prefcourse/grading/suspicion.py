"""Cells that deserve a question: deleted or changed checks, names that only cheating needs, and notebooks alike.

Nothing here changes a mark. The code runs where there is no answer to find, so a hit costs nothing by itself; it says
where to ask a student for two minutes. No hit proves nothing either: names can be put together from pieces.
"""

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable

from prefcourse.grading.cells import UNREADABLE, Assignment, Cell, HandedIn, plain

MOST = 30  # words on one notebook's code
WORTH_A_WORD = 40  # nodes of a syntax tree; shorter answers are alike by themselves
ATTRIBUTES = {
    "reference": "the reference of a check",
    "mutants": "the wrong answers of a check",
    "judge": "the verdict of a check",
    "grade": "the verdict of a check",
    "passes": "the verdict of a check",
    "lettered": "the order of options",
    "right": "the right option",
    "_getframe": "the frames of its callers",
    "currentframe": "the frames of its callers",
    "f_back": "the frames of its callers",
    "tb_frame": "the frames of its callers",
    "__globals__": "another module's names",
    "__closure__": "another function's names",
    "__subclasses__": "classes by a back door",
    "get_objects": "every object there is",
    "get_referrers": "every object there is",
    "get_referents": "every object there is",
}
MODULES = {"inspect", "gc", "ctypes", "subprocess", "socket", "os", "pathlib", "shutil", "importlib", "requests",
           "urllib", "sys", "signal", "multiprocessing", "pickle"}  # fmt: skip
CALLS = {"open", "exec", "eval", "compile", "__import__", "setattr", "globals", "vars"}
PATCHED = {"checks", "prefcourse", "torch", "numpy", "np", "math"}


def odd(handed_in: HandedIn, assignment: Assignment) -> list[str]:
    """What in a student's own cells deserves a question, with the cell it stands in."""
    given = {_bare(cell.source) for cell in assignment.cells}
    found = []
    for number, cell in enumerate(handed_in.cells, start=1):
        if _bare(cell.source) in given or (
            cell.name and not cell.solution and not cell.checks and _in(cell, assignment)
        ):
            continue
        where = cell.name or f"code cell {number}"
        found += [f"{where}: {what}"[:200] for what in dict.fromkeys(_odd(cell.source))]
    return found if len(found) <= MOST else [*found[:MOST], f"and {len(found) - MOST} more of this kind"]


def _in(cell: Cell, assignment: Assignment) -> bool:
    return any(other.name == cell.name and _bare(other.source) == _bare(cell.source) for other in assignment.cells)


def _odd(source: str) -> Iterable[str]:
    try:
        tree = ast.parse(plain(source))
    except UNREADABLE:
        return  # its mark says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            yield f"uses .{node.attr}, {ATTRIBUTES[node.attr]}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in MODULES)
            yield from (f"imports {name}" for name in names if name.startswith("prefcourse.checks"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"calls {node.func.id}"
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (f"puts something else into {ast.unparse(t)}" for t in targets if _of_a_library(t))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ATTRIBUTES:
            yield f"has the word {node.value!r}, which {ATTRIBUTES[node.value]} goes by"


def _of_a_library(target: ast.expr) -> bool:
    while isinstance(target, ast.Attribute | ast.Subscript | ast.Call) and not isinstance(target, ast.Name):
        if isinstance(target, ast.Call):  # type(checks.ex06.dpo_loss).judge = …
            return any(isinstance(n, ast.Name) and n.id in PATCHED for n in ast.walk(target))
        target = target.value
        if isinstance(target, ast.Name):
            return target.id in PATCHED
    return False


def deleted(handed_in: HandedIn, assignment: Assignment) -> list[str]:
    """Cells of the assignment that are missing or that have another text, checks first. All is marked all the same."""
    found = []
    there = {cell.name: cell for cell in handed_in.cells if cell.name}
    for task in assignment.tasks:
        ours = next(cell for cell in assignment.cells if cell.name == task.cell)
        if task.cell not in there:
            same = any(cell.checks == task.check for cell in handed_in.cells)
            found += [] if same else [f"{task.cell}: the cell of the check is deleted"]
        elif not _bare(ours.source).startswith(_bare(there[task.cell].source)):
            found.append(f"{task.cell}: the cell of the check was changed")
        if task.answer not in there and handed_in.answer(task) is None:
            found.append(f"{task.answer}: the cell of the answer is deleted")
    found += [f"{name}: the written part is deleted" for name in assignment.written if name not in handed_in.written]
    return found


def answered(text: str) -> bool:
    """Is there anything in a written part?"""
    return bool(text.strip()) and text.strip() != "YOUR ANSWER HERE" and "raise NotImplementedError()" not in text


def _bare(source: str) -> str:
    """The text without hidden tests and without what an editor does to the ends of lines."""
    source = re.sub(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS", "", source, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


# ---------------------------------------------------------------------------------------------- alike


def prints(handed_in: HandedIn, assignment: Assignment) -> dict[str, list[str]]:
    """Function → [print of the code, print of the public solution's]; comments, docstrings and names do not count."""
    found = {}
    for task in assignment.tasks:
        answer = handed_in.answer(task)
        theirs = _print(answer.source, task.function) if answer else ""
        ours = next(c.source for c in assignment.cells if c.name == task.answer)
        if theirs:
            found[task.function if task.function != "my_prediction" else task.check] = [
                theirs,
                _print(ours, task.function),
            ]
    return found


def _print(source: str, function: str) -> str:
    """A short text that two functions share if they differ in comments, docstring and names only; "" for short ones."""
    try:
        tree = ast.parse(source)
    except UNREADABLE:
        return ""
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    if not found:
        return ""
    body, names = found[-1], {}
    if ast.get_docstring(body) is not None:
        body.body = body.body[1:]
    if sum(1 for _ in ast.walk(body)) < WORTH_A_WORD:
        return ""
    for node in ast.walk(body):
        if isinstance(node, ast.Name):
            node.id = names.setdefault(node.id, f"n{len(names)}")
        elif isinstance(node, ast.arg):
            node.arg = names.setdefault(node.arg, f"n{len(names)}")
    return hashlib.sha256(ast.dump(body).encode()).hexdigest()[:16]


def alike(found: dict[str, dict[str, list[str]]]) -> dict[str, list[str]]:
    """Student → words on whose code is the same, from student → prints; what equals the public solution is apart."""
    groups, words = defaultdict(set), defaultdict(list)
    for student, functions in found.items():
        for function, (theirs, public) in functions.items():
            if theirs == public:
                words[student].append(f"{function}: the same as the public solution")
            else:
                groups[function, theirs].add(student)
    for (function, _), students in groups.items():
        for student in students:
            if others := sorted(students - {student}):
                words[student].append(
                    f"{function}: the same as {', '.join(others[:5])}{' …' if len(others) > 5 else ''}"
                )
    return dict(words)
