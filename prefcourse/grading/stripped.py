"""A copy of the package without answers, for the process in which students' functions run.

    lay(Path("/tmp/for-them"), notebooks)        # /tmp/for-them/prefcourse, and data beside it

All but the exercises' checks is as it is. Of `prefcourse.checks` there is what the notebooks' own cells use: the class
`Table` of 07, `learn` of 11 and their like. References, wrong answers, hints and verdicts are not there. A call such as
`checks.ex06.dpo_loss(my_dpo_loss)` does nothing.
"""

import ast
import json
import re
import shutil
from pathlib import Path

import prefcourse
from prefcourse.worlds.bundled import data_folder

PACKAGE = Path(prefcourse.__file__).parent
CHECKS = "prefcourse.checks"
LEFT_OUT = {"checks", "__pycache__", "data", "authoring", "bundle", "commands", "__main__.py"}
OURS = {"wire.py", "child.py", "confine.py"}  # of this room; what marks stays here
SILENT = '''"""Checks that say nothing: answers are judged elsewhere."""


class _Silent:
    """Takes every call and has every attribute."""

    def __call__(self, *arguments, **settings):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    passed, status, text, hint = False, "not attempted", "", ""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Silent()
'''
ROOM = '''"""The exercises' checks, without answers."""

from importlib import import_module

from prefcourse.checks.core import attempt


def __getattr__(name):
    if name.startswith("ex") and name[2:].isdecimal():
        return import_module(f"prefcourse.checks.{name}")
    raise AttributeError(name)
'''
CORE = (
    SILENT
    + '''

Case = dict


def attempt(answer, *arguments):
    """Call the learner's function; None while it is a stub."""
    try:
        return answer(*arguments)
    except NotImplementedError:
        return None
'''
)


def lay(target: Path, notebooks: list[Path]) -> Path:
    """Write the copy into `target`, with of the checks what the cells of `notebooks` use. Returns `target`."""
    room = target / "prefcourse"
    shutil.copytree(PACKAGE, room, ignore=lambda folder, names: _left_out(Path(folder), names))
    checks = room / "checks"
    checks.mkdir()
    kept = closure(_used(notebooks))
    names = {path.stem for path in (PACKAGE / "checks").glob("*.py")} - {"__init__", "core"}
    for name in sorted(names):
        own = f"\n\n{kept[name]}\n" if name in kept else ""
        (checks / f"{name}.py").write_text(SILENT + own, encoding="utf-8")
    (checks / "core.py").write_text(CORE, encoding="utf-8")
    (checks / "__init__.py").write_text(ROOM, encoding="utf-8")
    (target / "data").symlink_to(data_folder().resolve(), target_is_directory=True)
    return target


def _left_out(folder: Path, names: list[str]) -> set[str]:
    if folder == PACKAGE:
        return LEFT_OUT & set(names)
    kept = OURS | {"__init__.py"} if folder.name == "grading" else set(names) - {"__pycache__"}
    return set(names) - kept


def _used(notebooks: list[Path]) -> dict[str, set[str]]:
    """Module of the checks → the names that given cells take from it."""
    used: dict[str, set[str]] = {}
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        for module, names in re.findall(r"^from prefcourse\.checks\.(\w+) import ([\w, ]+)$", code, re.MULTILINE):
            used.setdefault(module, set()).update(name.strip() for name in names.split(","))
        for module, name in re.findall(r"\bchecks\.(ex\d\d)\.(\w+)", code):
            used.setdefault(module, set()).add(name)
    return used


def closure(used: dict[str, set[str]]) -> dict[str, str]:
    """Module of the checks → the source of the names `used`, of what these need, and of no check."""
    wanted = {module: set(names) for module, names in used.items() if module != "core"}
    done: dict[str, dict[str, ast.stmt]] = {}
    imports: dict[str, list[str]] = {}
    while wanted:
        module, names = wanted.popitem()
        have = done.setdefault(module, {})
        table = _table(module)
        while names:
            name = names.pop()
            node = table.get(name)
            if node is None or name in have or _is_answer(node):
                continue
            have[name] = node
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{CHECKS}."):
                wanted.setdefault(node.module.removeprefix(f"{CHECKS}."), set()).add(name)
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - set(have)
        imports[module] = list(dict.fromkeys(ast.unparse(_only(node, have)) for node in have.values()))
    return {module: "\n\n".join(_sorted(done[module], imports[module])) for module in done if done[module]}


def _table(module: str) -> dict[str, ast.stmt]:
    """Name → the statement at the top of a module of the checks that binds it."""
    tree = ast.parse((PACKAGE / "checks" / f"{module}.py").read_text(encoding="utf-8"))
    table: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            table[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            table |= {(alias.asname or alias.name).partition(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            table |= {n.id: node for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    return table


def _is_answer(node: ast.stmt) -> bool:
    """A reference, a wrong answer or a question: what a decorator of the checks has marked."""
    marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
    return any(mark.startswith(("exercise", "choice")) or ".mutant" in mark for mark in marks)


def _only(node: ast.stmt, names: dict) -> ast.stmt:
    """An import, of the names that are needed alone."""
    if not isinstance(node, ast.ImportFrom):
        return node
    aliases = [alias for alias in node.names if (alias.asname or alias.name) in names]
    return ast.ImportFrom(module=node.module, names=aliases, level=0)


def _sorted(nodes: dict[str, ast.stmt], texts: list[str]) -> list[str]:
    """The statements in the order of their module."""
    order = {ast.unparse(_only(node, nodes)): node.lineno for node in nodes.values()}
    return sorted(texts, key=lambda text: order.get(text, 0))
