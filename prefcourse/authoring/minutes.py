"""How long a lesson takes, counted from its text, for its core and for all of it.

    python -m prefcourse.authoring.minutes notebooks

A part is optional when its first cell begins with a heading that begins with "Optional": `## Optional · A proof`.
It goes on to the next cell that begins with a heading of the same or a higher rank, which is what JupyterLab folds away
under such a heading; `prefcourse.authoring.notebooks` folds them when it writes a notebook. The rest is the core.

The lines of the cell that installs the package do not count: it is the same in all lessons, and nobody reads it.
"""

import argparse
import re
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

from prefcourse.authoring.notebooks import find, optional_rank, rank
from prefcourse.authoring.publish import SET_UP

WORDS_A_MINUTE, LINES_A_MINUTE, MINUTES_A_PREDICTION = 150, 10, 1
MOST_CELLS, MOST_WORDS, MOST_LINES = 45, 2500, 180  # of a core
STATED = re.compile(r"(\d+) minutes to read(?:, (\d+) with the optional parts)?")
RUN = re.compile(r"about (\d+) s(?:econds)?\b")


@dataclass(frozen=True)
class Size:
    """What a reader meets: cells, words of text, lines of code but blank ones, comments and installing, and minutes."""

    cells: int
    words: int
    lines: int
    minutes: float

    @property
    def over(self) -> list[str]:
        """What is more than a core may have."""
        limits = {"cells": MOST_CELLS, "words": MOST_WORDS, "lines": MOST_LINES}
        return [
            f"{getattr(self, name)} {name}, {most} at most"
            for name, most in limits.items()
            if getattr(self, name) > most
        ]


def core(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that are in no optional part."""
    kept, inside = [], 0  # `inside`: the rank of the optional heading that we are under, or 0
    for cell in notebook.cells:
        if inside and 0 < rank(cell) <= inside:
            inside = 0
        inside = inside or optional_rank(cell)
        if not inside:
            kept.append(cell)
    return kept


def size(cells: list[NotebookNode]) -> Size:
    """The size of `cells`; a numbered question under "Predict" is a minute of thought, running counts once."""
    text = [cell.source for cell in cells if cell.cell_type == "markdown"]
    read = [cell.source for cell in cells if cell.cell_type == "code" and not SET_UP.search(cell.source)]
    code = [line.strip() for source in read for line in source.splitlines()]
    words = sum(bool(re.search(r"\w", word)) for source in text for word in source.split())
    lines = sum(bool(line) and not line.startswith("#") for line in code)
    questions = sum(len(re.findall(r"^\d+\. ", s, re.MULTILINE)) for s in text if re.match(r"#+ Predict", s))
    seconds = int(found[1]) if (found := RUN.search("\n".join(text))) else 0
    minutes = words / WORDS_A_MINUTE + lines / LINES_A_MINUTE + questions * MINUTES_A_PREDICTION + seconds / 60
    return Size(len(cells), words, lines, minutes)


def minutes(notebook: NotebookNode) -> tuple[int, int]:
    """Minutes for the core and for everything, to the nearest five, as the contract table of a lesson states them."""
    return tuple(5 * round(size(cells).minutes / 5) for cells in (core(notebook), notebook.cells))


def stated(notebook: NotebookNode) -> tuple[int, int]:
    """What the contract table says: "15 minutes to read, 40 with the optional parts". Raises ValueError without one."""
    found = STATED.search(notebook.cells[0].source)
    if not found:
        raise ValueError("the first cell has no 'N minutes to read, M with the optional parts': add it to its table")
    return int(found[1]), int(found[2] or found[1])


def main(arguments: list[str] | None = None) -> int:
    """The command line: a table of the notebooks at the given paths."""
    parser = argparse.ArgumentParser(
        prog="python -m prefcourse.authoring.minutes", description="Count what lessons take, core and whole."
    )
    parser.add_argument("paths", nargs="*", default=["notebooks"], metavar="PATH", help="notebooks, or folders of them")
    print(f"{'':26} cells        words          lines        minutes")
    totals = [0, 0]
    for path in find(parser.parse_args(arguments).paths):
        notebook = nbformat.read(path, as_version=4)
        a, b = size(core(notebook)), size(notebook.cells)
        totals = [totals[0] + a.minutes, totals[1] + b.minutes]
        counts = f"{a.cells:4} of {b.cells:3}  {a.words:5,} of {b.words:5,}  {a.lines:4} of {b.lines:3}"
        print(f"{path.stem[:25]:25} {counts}  {a.minutes:5.1f} of {b.minutes:5.1f}  {'; '.join(a.over)}")
    print(f"core {totals[0] / 60:.1f} hours, everything {totals[1] / 60:.1f} hours")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
