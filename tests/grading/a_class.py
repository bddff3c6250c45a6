"""Submissions of notebook 00 as a class hands them in: right, wrong, broken, and by students who do not want to learn.

`CLASS` says for each student what is changed and what the marks must be: points of log_pi, sequence_logps,
twice_as_likely and tempered, in that order. `hand_in` writes them into a folder.
"""

from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NAME = "00_start_here"
ALL = (3, 3, 2, 3)
NOTHING = (0, 0, 0, 0)
LOG_PI, SEQUENCE, LETTER, TEMPERED = "log-pi", "sequence-logps", "temperature-prediction", "tempered"
CHECKS = ("check-log_pi", "check-sequence_logps", "check-twice_as_likely", "check-tempered")


def in_a_clone(folder: Path) -> None:
    """Give `folder` what the root of a clone has: the package may be installed where no solutions lie beside it."""
    (folder / "exercises").mkdir()
    (folder / "exercises" / "solutions").symlink_to(ROOT / "exercises" / "solutions")


def solution() -> nbformat.NotebookNode:
    """The public solution, without outputs and without hidden tests, as a student who has all right hands it in."""
    notebook = nbformat.read(ROOT / "exercises" / f"{NAME}.ipynb", as_version=4)
    answers = nbformat.read(ROOT / "exercises" / "solutions" / f"{NAME}.ipynb", as_version=4)
    for cell, answer in zip(notebook.cells, answers.cells, strict=True):
        if cell.metadata.get("nbgrader", {}).get("solution"):
            lines = answer.source.splitlines()
            cell.source = "\n".join(line for line in lines if "### " not in line)
    return notebook


def unsolved() -> nbformat.NotebookNode:
    """The notebook as it is given out."""
    return nbformat.read(ROOT / "exercises" / f"{NAME}.ipynb", as_version=4)


def cell(notebook: nbformat.NotebookNode, grade_id: str) -> nbformat.NotebookNode:
    """The cell with that name."""
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def changed(**sources: str):
    """All right but for these cells; `_` in a name stands for `-`."""

    def make():
        notebook = solution()
        for name, source in sources.items():
            cell(notebook, name.replace("_", "-")).source = source
        return notebook

    return make


def without(*names: str, start=solution):
    """Without these cells."""

    def make():
        notebook = start()
        gone = [cell(notebook, name) for name in names]
        notebook.cells = [c for c in notebook.cells if all(c is not g for g in gone)]
        return notebook

    return make


def all_wrong(trick: str):
    """Nothing is right, and `trick` stands above the first function."""

    def make():
        notebook = unsolved()
        cell(notebook, LOG_PI).source = f"{trick}\n\ndef my_log_pi(next_token, y):\n    return 0.0"
        cell(
            notebook, SEQUENCE
        ).source = "def my_sequence_logps(token_logps, p, c):\n    return token_logps.sum(-1) * 0"
        cell(notebook, TEMPERED).source = "def my_tempered(logits, temperature):\n    return logits * 0"
        return notebook

    return make


def replaced_checks():
    """Print what a passed check prints, in its place, with nothing right."""
    notebook = all_wrong("")()
    for name in CHECKS:
        cell(notebook, name).source = f'print("✓ {name}: all 5 cases agree (3 points)")'
    return notebook


def anonymous():
    """All right, pasted into another notebook: no cell has a name."""
    notebook = solution()
    for c in notebook.cells:
        c.metadata.pop("nbgrader", None)
    return notebook


def with_noise():
    """All right, with cells that print without end, hang, stop and call the shell beside the answers."""
    notebook = solution()
    for source in ('print("x" * 10_000_000)', "while True:\n    pass", "1 / 0", "%pip list\n!ls", "def broken(:"):
        notebook.cells.insert(3, nbformat.v4.new_code_cell(source))
    return notebook


PRINTS = """print("x" * 10_000_000)

def my_log_pi(next_token, y):
    print("x" * 10_000_000)
    return sum(math.log(next_token[y[:t]][y[t]]) for t in range(len(y)))"""
FRAMES = """import sys

def my_log_pi(next_token, y):
    frame = sys._getframe()
    while frame is not None:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            check = getattr(value, "log_pi", value)
            if callable(getattr(check, "reference", None)):
                return check.reference(next_token, y)
        frame = frame.f_back
    return 0.0"""
ANY_OBJECT = """import gc, math

def my_log_pi(next_token, y):
    for thing in gc.get_objects():
        if type(thing).__name__ == "Exercise" and thing.name == "log_pi":
            return thing.reference(next_token, y)
    return 0.0"""
THE_FILE = f"""import pathlib

def my_log_pi(next_token, y):
    scope = {{}}
    text = pathlib.Path({str(ROOT / "prefcourse" / "checks" / "ex00.py")!r}).read_text(encoding="utf-8")
    exec(text, scope)
    return scope["log_pi"].reference(next_token, y)"""
THE_SOLUTION = THE_FILE.replace("prefcourse/checks/ex00.py", f"exercises/solutions/{NAME}.ipynb")
BY_PATH = f"""import importlib, sys

def my_log_pi(next_token, y):
    sys.path.insert(0, {str(ROOT)!r})
    for name in [n for n in sys.modules if n.startswith("prefcourse")]:
        del sys.modules[name]
    return importlib.import_module("prefcourse.checks.ex00").log_pi.reference(next_token, y)"""
FORGER = """import json, os, struct

def my_log_pi(next_token, y):
    word = json.dumps({"is": "value", "value": True, "passed": True, "status": "pass", "points": 3}).encode()
    for number in range(3, 64):
        try:
            os.write(number, struct.pack("!I", len(word)) + word)
        except OSError:
            pass
    return 0.0"""
LOADER = """import json, os, struct
word = json.dumps({"is": "missing", "stopped": {}, "callable": 1}).encode()
for number in range(3, 64):
    try:
        os.write(number, struct.pack("!I", len(word)) + word)
    except OSError:
        pass"""
PATCH = """for name in ("log_pi", "sequence_logps", "twice_as_likely", "tempered"):
    kind = type(getattr(checks.ex00, name))
    kind.judge = lambda self, *a, **k: self.passes("all cases agree")
    kind.grade = kind.judge
    kind.__call__ = kind.judge"""
PATCH_CORE = """import prefcourse.checks.core, prefcourse.checks.values
prefcourse.checks.core.difference = prefcourse.checks.values.difference = lambda *a, **k: ""
torch.allclose = torch.equal = lambda *a, **k: True"""
BY_REFERENCE = "my_log_pi = checks.ex00.log_pi.reference"
SPELLED = BY_REFERENCE.replace("checks.ex00.log_pi.reference", 'getattr(checks.ex00.log_pi, "refer" + "ence")')
RIGHT_LETTER = """def my_prediction():
    q = checks.ex00.twice_as_likely
    return next(a for a, option in q.lettered(SEED).items() if option == q.right)"""
RENAMED = """def my_sequence_logps(logps, first, many):
    t = torch.arange(logps.shape[1])[None, :]
    inside = (t >= first[:, None]) & (t < first[:, None] + many[:, None])
    kept = torch.where(inside, logps, torch.zeros_like(logps))
    return kept.sum(dim=1)"""


def stops(line: str) -> str:
    """`my_log_pi`, which does this."""
    return f"def my_log_pi(next_token, y):\n    import os, signal, sys, subprocess\n    {line}"


LOST = (0, 3, 2, 3)  # the first function alone
CLASS = {
    "ada": (solution, ALL),
    "endless": (changed(log_pi=stops("while True: pass")), LOST),
    "endless cell": (changed(log_pi="while True:\n    pass\n\ndef my_log_pi(next_token, y):\n    return 0"), LOST),
    "prints": (changed(log_pi=PRINTS), ALL),
    "noise": (with_noise, ALL),
    "syntax": (changed(log_pi="def my_log_pi(next_token, y)\n    return 0"), LOST),
    "deleted checks": (without(*CHECKS), ALL),
    "replaced checks": (replaced_checks, NOTHING),
    "patched judge": (all_wrong(PATCH), NOTHING),
    "patched core": (all_wrong(PATCH_CORE), NOTHING),
    "reference": (changed(log_pi=BY_REFERENCE), LOST),
    "spelled": (changed(log_pi=SPELLED), LOST),
    "frames": (changed(log_pi=FRAMES), LOST),
    "any object": (changed(log_pi=ANY_OBJECT), LOST),
    "the file": (changed(log_pi=THE_FILE), LOST),
    "the solution": (changed(log_pi=THE_SOLUTION), LOST),
    "by path": (changed(log_pi=BY_PATH), LOST),
    "forger": (changed(log_pi=FORGER), LOST),
    "forger of loads": (changed(log_pi=LOADER), LOST),
    "letter": (changed(temperature_prediction=RIGHT_LETTER), (3, 3, 0, 3)),
    "stub": (unsolved, NOTHING),
    "missing": (without(LOG_PI, TEMPERED), (0, 3, 2, 0)),
    "anonymous": (anonymous, ALL),
    "memory": (changed(log_pi=stops("return len(bytearray(40_000_000_000))")), LOST),
    "leaves": (changed(log_pi=stops("os._exit(0)")), LOST),
    "kills": (changed(log_pi=stops("[os.kill(n, 9) for n in (os.getppid(), os.getpgid(os.getppid()))]")), LOST),
    "exits": (changed(log_pi=stops("sys.exit()")), LOST),
    "interrupts": (changed(log_pi=stops("raise KeyboardInterrupt")), LOST),
    "starts others": (changed(log_pi=stops("subprocess.Popen(['sleep', '600']); return 0.0")), LOST),
    "holds itself": (changed(log_pi=stops("a = []; a += [a, a]; return a")), LOST),
    "renamed": (changed(sequence_logps=RENAMED), ALL),
    "copied": (changed(sequence_logps=RENAMED.replace("inside", "mask").replace("kept", "x")), ALL),
    "<b>Zoë": (changed(tempered="def my_tempered(logits, temperature):\n    return logits.softmax(-1)"), (3, 3, 2, 0)),
}
BROKEN = {  # what is in the file, and a word that the report must have
    "truncated": (lambda text: text[: len(text) // 2], "broke off"),
    "empty": (lambda text: "", "empty"),
    "no notebook": (lambda text: '{"cells": 3}', "no notebook"),
    "a list": (lambda text: "[1, 2]", "no notebook"),
    "another": (lambda text: (ROOT / "exercises" / "06_the_dpo_loss.ipynb").read_text(encoding="utf-8"), "assigned"),
    "foreign": (lambda text: nbformat.writes(nbformat.v4.new_notebook()), "none of its cells"),
}


def hand_in(folder: Path, students=None) -> Path:
    """Write the class into `folder`, one folder for each student."""
    for student, (make, _) in CLASS.items():
        if students is None or student in students:
            _write(folder / student, nbformat.writes(make()))
    for student, (spoil, _) in BROKEN.items():
        if students is None or student in students:
            _write(folder / student, spoil(nbformat.writes(solution())))
    return folder


def _write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.ipynb").write_text(text, encoding="utf-8")
