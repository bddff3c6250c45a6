"""Text goes to and from files and programs as UTF-8, and says so: the default of Windows is another one."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("prefcourse", "tests", "docs") for path in (ROOT / folder).rglob("*.py"))
NOTEBOOKS = sorted([*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "exercises" / "solutions").glob("*.ipynb")])
TEXT = {"read_text": 0, "write_text": 1}  # method → how many arguments come before `encoding`
OPENS = {"open": "r", "fdopen": "r", "NamedTemporaryFile": "w+b", "TemporaryFile": "w+b"}  # function → its mode
OTHER_OPENS = {"Image", "os", "gzip", "webbrowser"}  # their `open` is no file of text


def unsaid(tree):
    """The calls in `tree` that read or write text without naming an encoding: (line, name)."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if None in given or "encoding" in given:  # None: **settings, which we cannot see
            continue
        text = name in TEXT and len(call.args) <= TEXT[name]
        if name in OPENS and not (name == "open" and owner in OTHER_OPENS):
            method = isinstance(call.func, ast.Attribute) and owner not in ("io", "tempfile")  # path.open(mode)
            place = 0 if (method and name == "open") or name not in ("open", "fdopen") else 1
            mode = given.get("mode") or (call.args[place] if len(call.args) > place else ast.Constant(OPENS[name]))
            text = isinstance(mode, ast.Constant) and "b" not in str(mode.value)
        if text or isinstance(given.get("text"), ast.Constant):
            yield call.lineno, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_opened_with_an_encoding(path):
    assert list(unsaid(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_so_do_notebooks(path):
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    code = re.sub(r"^( *)[%!].*", r"\1pass", "\n".join(cells), flags=re.MULTILINE)  # magics are no Python
    assert list(unsaid(ast.parse(code))) == []


@pytest.mark.parametrize(
    "line",
    [
        "open('x')", "open('x', 'w')", "path.open()", "path.open('a')", "open('x', mode='r')", "path.read_text()",
        "path.write_text('x')", "tempfile.NamedTemporaryFile('w')", "run(command, text=True)", "os.fdopen(3)",
        "path.read_text(errors='replace')",
    ],
)  # fmt: skip
def test_the_rule_sees(line):
    assert len(list(unsaid(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "open('x', 'rb')", "path.open('wb')", "open('x', encoding='utf-8')", "open(path, **how)", "Image.open('x')",
        "path.read_text('utf-8')", "path.write_text('x', 'utf-8')", "tempfile.NamedTemporaryFile()", "run(command)",
    ],
)  # fmt: skip
def test_the_rule_lets_pass(line):
    assert list(unsaid(ast.parse(line))) == []
