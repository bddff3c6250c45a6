"""The core of a lesson runs by itself: whoever leaves the folded parts closed misses no name."""

import re
import symtable
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from prefcourse.authoring.minutes import core

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """A cell and all functions, classes and comprehensions in it."""
    yield table
    for inner in table.get_children():
        yield from scopes(inner)


def names(source: str) -> tuple[set[str], set[str]]:
    """What a cell defines for those that follow, and what of others it uses."""
    source = re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.MULTILINE)  # IPython's own lines
    top = symtable.symtable(source, "cell", "exec")
    defined = {name.get_name() for name in top.get_symbols() if name.is_assigned() or name.is_imported()}
    used = {
        name.get_name()
        for table in scopes(top)
        for name in table.get_symbols()
        if name.is_referenced() and (table is top or name.is_global())
    }
    return defined, used - defined


def missing(notebook) -> list[str]:
    """Names that a core cell uses as a folded part has left them."""
    unfolded, here, folded, found = {id(cell) for cell in core(notebook)}, set(), {}, []
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        defined, used = names(cell.source)
        if id(cell) in unfolded:
            found += [f"cell {i} takes {name} from cell {folded[name]}" for name in sorted(used & set(folded) - here)]
            here |= defined
        else:
            here -= defined
            folded |= dict.fromkeys(defined, i)
    return found


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_core_takes_no_name_from_a_folded_part(path):
    found = missing(nbformat.read(path, as_version=4))
    assert not found, f"define in the core what it needs: {'; '.join(found)}"


FOLD, OPEN = new_markdown_cell("### Optional · More"), new_markdown_cell("### Core")


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ([FOLD, "a = 1", OPEN, "print(a)"], ["cell 3 takes a from cell 1"]),
        ([FOLD, "import math", OPEN, "def f():\n    return [math.pi for _ in f]"], ["cell 3 takes math from cell 1"]),
        ([FOLD, "def f():\n    pass", new_markdown_cell("## Core"), "x = f()"], ["cell 3 takes f from cell 1"]),
        (["a = 0", FOLD, "a = 1", OPEN, "print(a)"], ["cell 4 takes a from cell 2"]),  # and not the core's own
        (["a = 0", FOLD, "a = 1", OPEN, "a = 2", "print(a)"], []),
        ([FOLD, "a = 1", OPEN, "b = [a for a in 'xy']\ndef f(a):\n    return a"], []),  # another a
        ([FOLD, "a = 1", "print(a)", new_markdown_cell("#### Still more"), "print(a)"], []),  # folded as well
        ([FOLD, "a = 1", OPEN, "if True:\n    %pip install a\na = 2\nprint(a)"], []),
    ],
)
def test_a_name_from_a_folded_part_is_found(cells, found):
    made = [cell if isinstance(cell, dict) else new_code_cell(cell) for cell in cells]
    assert missing(new_notebook(cells=made)) == found
