"""By hand: every answer that a check knows, right or wrong, gets from a student's process the words it gets here.

    python tests/soak_grading.py             # about a minute: 578 answers of 56 checks, seed 1
    python tests/soak_grading.py 1 2 3       # with these seeds

The answers are the references and the wrong answers of the checks, sent as source. Says which differ; 1 if one does.
"""

import ast
import sys
import tempfile
from pathlib import Path

from prefcourse import checks
from prefcourse.grading.marking import verdict
from prefcourse.grading.nursery import Limits, Nursery
from prefcourse.grading.remote import Remote
from prefcourse.grading.stripped import PACKAGE, lay

SOURCES = sorted((PACKAGE.parent / "exercises" / "solutions").glob("*.ipynb"))


class Bare(ast.NodeTransformer):
    """`check.reference(...)` becomes `check(...)`, since a decorated function is a plain one here."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        return node.value if node.attr == "reference" and isinstance(node.value, ast.Name) else node


def module(name: str) -> list[ast.stmt]:
    """The statements of a module of the checks, and of those it imports, as plain functions without decorators."""
    body: list[ast.stmt] = []
    for node in ast.parse((PACKAGE / "checks" / f"{name}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prefcourse.checks"):
            inner = node.module.rpartition(".")[2]
            body += [] if inner in ("core", "questions", "values", "checks") else module(inner)
        elif isinstance(node, ast.FunctionDef):
            if not any(ast.unparse(mark).startswith("choice") for mark in node.decorator_list):
                node.decorator_list = [mark for mark in node.decorator_list if "cache" in ast.unparse(mark)]
                body.append(node)
        else:
            body.append(node)
    return body


def source(check: checks.Exercise, function) -> str:
    """Code that defines `answer`, which does what `function`, an answer to `check`, does. Names may come twice."""
    body = Bare().visit(ast.Module(module(check.reference.__module__.rpartition(".")[2]), [])).body
    named = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == function.__name__]
    wanted = next(n for n in reversed(named) if function.__code__.co_firstlineno <= n.lineno <= n.end_lineno
                  and n.lineno - function.__code__.co_firstlineno <= 8)  # fmt: skip
    kept = [node for node in body if node not in named or node is wanted]
    return f"Case = dict\n{ast.unparse(ast.Module(kept, []))}\nanswer = {function.__name__}"


def differing(check: checks.Exercise, seeds: list[int], nursery: Nursery) -> tuple[int, list[str]]:
    """How many answers were compared, and those that get other words there."""
    tried, found = 0, []
    for name, function, _ in check.answers(0):
        for seed in seeds:
            here = check.judge(function, seed)
            with Remote(nursery, [source(check, function)], "answer", Limits(seconds=60)) as there:
                assert there.loaded.get("is") == "ready", (check.name, name, there.loaded)
                result = verdict(check, there, seed)
            tried += 1
            words = [[line for line in r.text.splitlines() if "of your function: " not in line] for r in (here, result)]
            if words[0] != words[1]:  # but for the line, which `marking.judge` adds
                found.append(
                    f"{check.number} {check.name} {name}, seed {seed}:\n{here.text}\n{result.text} {there.over}"
                )
    return tried, found


def main() -> int:
    seeds, tried, found = [int(word) for word in sys.argv[1:]] or [1], 0, []
    with tempfile.TemporaryDirectory() as folder:
        copy = lay(Path(folder) / "copy", SOURCES)
        with Nursery(copy, [PACKAGE / "checks"], ["torch", "numpy", "transformers"]) as nursery:
            for number in checks.NUMBERS:
                for check in checks.of_notebook(number).values():
                    if isinstance(check, checks.Exercise):
                        count, words = differing(check, seeds, nursery)
                        tried, found = tried + count, found + words
    print("\n".join([*found, f"{tried} answers, {len(found)} with other words there"]))
    return min(len(found), 1)


if __name__ == "__main__":
    raise SystemExit(main())
