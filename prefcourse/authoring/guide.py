"""The numbers of the instructors' guide, counted from the headers of lessons and exercises.

    python -m prefcourse.authoring.guide            # fills exercises/INSTRUCTORS.md

The guide's plans say by hand which lessons and exercises they take. The column `minutes` of a table below
`<!-- minutes -->` is computed from its columns `lessons` ("00, 01", in brackets where slides stand for the lesson) and
`exercises` ("00: 1 2 4 · 01: all"). `<!-- hours -->` and `<!-- marking -->` are written whole.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

from prefcourse.authoring.minutes import stated
from prefcourse.finite import counted

BY_SLIDES = 20  # minutes of a lesson of which one sees the slides
CLASSES = (30, 120)
PAGE = 4  # points from which a written part is a page


def reading(root: Path) -> dict[str, tuple[int, int]]:
    """Minutes to read each lesson, by its number: its core, and with all that is optional."""
    return {
        path.name[:2]: stated(nbformat.read(path, as_version=4))
        for path in sorted((root / "notebooks").glob("*.ipynb"))
    }


def exercises(root: Path) -> dict[str, dict[str, int]]:
    """Minutes of each exercise of each notebook, from its header."""
    found = {}
    for path in sorted((root / "exercises").glob("*.ipynb")):
        head = nbformat.read(path, as_version=4).cells[0].source
        rows = re.findall(r"^\| (\d+) \|[^|]*\|[^|]*\|[^|]*\| (\d+) \|", head, re.MULTILINE)
        found[path.name[:2]] = {number: int(minutes) for number, minutes in rows}
    return found


def written(root: Path) -> dict[str, dict[str, int]]:
    """Points of each part that is marked by hand, by notebook and nbgrader's name."""
    return {
        path.name[:2]: {
            cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "markdown" and cell.metadata.get("nbgrader", {}).get("grade")
        }
        for path in sorted((root / "exercises" / "solutions").glob("*.ipynb"))
    }


def marking(points: int) -> int:
    """Minutes to mark one answer: two a point for a page (PAGE points and more), else one a point and one to begin."""
    return 2 * points if points >= PAGE else points + 1


def planned(lessons: str, chosen: str, root: Path) -> tuple[int, int]:
    """Minutes of lessons and of exercises as a plan's row names them. ValueError for one that does not exist."""
    read, tasks = reading(root), exercises(root)
    numbers = re.findall(r"(\(?)(\d\d)", lessons)
    wanted = {number: asked.split() for number, asked in re.findall(r"(\d\d): ([\d ]+|all)", chosen)}
    for number in {number for _, number in numbers} | {*wanted}:
        strange = {*wanted.get(number, [])} - {*tasks.get(number, {}), "all"}
        if number not in read or strange:
            raise ValueError(
                f"the plan's row {lessons!r}, {chosen!r} names what is not there: {number} {sorted(strange)}"
            )
    work = [tasks[n].values() if asked == ["all"] else [tasks[n][k] for k in asked] for n, asked in wanted.items()]
    return sum(BY_SLIDES if slides else read[number][0] for slides, number in numbers), sum(map(sum, work))


def plan(table: str, root: Path) -> str:
    """A plan's table with its column `minutes` computed, and its last row, **all**, summed."""
    lines = [line.strip().strip("|") for line in table.strip().splitlines()]
    head, rule, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    place, total = head.index("minutes"), (0, 0)
    for row in rows:
        if row[0] == "**all**":
            row[place] = f"{total[0]} + {total[1]} = {sum(total)}"
            continue
        read, work = planned(row[head.index("lessons")], row[head.index("exercises")], root)
        total = total[0] + read, total[1] + work
        row[place] = f"{read} + {work}"
    return "\n".join(
        "| " + " | ".join(row) + " |" if row is not rule else "|---" * len(head) + "|" for row in (head, rule, *rows)
    )


def hours(root: Path) -> str:
    """One sentence: how long lessons and exercises take."""
    core, whole = map(sum, zip(*reading(root).values(), strict=True))
    work = sum(sum(minutes.values()) for minutes in exercises(root).values())
    return (
        f"The cores of the lessons take {core / 60:.1f} hours to read ({whole / 60:.1f} with all that is optional), "
        f"exercises {work / 60:.1f}: **{(core + work) / 60:.1f} hours in all**."
    )


def marking_table(root: Path) -> str:
    """How long it takes to mark the written parts of each notebook, for one answer and for a class."""
    lines = [
        f"| notebook | written parts, minutes an answer | {' | '.join(f'class of {n}, hours' for n in CLASSES)} |",
        "|---|---|---|---|",
    ]
    total = 0
    for number, parts in written(root).items():
        minutes = {name: marking(points) for name, points in parts.items()}
        total += sum(minutes.values())
        said = " · ".join(f"{name} {k}" for name, k in minutes.items())
        lines.append(f"| {number} | {said} | {' | '.join(f'{sum(minutes.values()) * n / 60:.1f}' for n in CLASSES)} |")
    pages = sum(marking(points) for parts in written(root).values() for points in parts.values() if points >= PAGE)
    for_classes = " | ".join(f"{pages * n / 60:.0f}" for n in CLASSES)
    lines.append(f"| the pages alone | {pages} minutes | {for_classes} |")
    parts = sum(map(len, written(root).values()))
    for_classes = " | ".join(f"{total * n / 60:.0f}" for n in CLASSES)
    lines.append(f"| **all** | {counted(parts, 'part')}, {total} minutes | {for_classes} |")
    return "\n".join(lines)


def filled(text: str, root: Path) -> str:
    """The guide's text with all that is computed in its place. ValueError names a plan that cannot be read."""
    made = {"hours": hours, "marking": marking_table}
    text = re.sub(
        r"<!-- (hours|marking) -->\n.*?<!-- end -->",
        lambda found: f"<!-- {found[1]} -->\n\n{made[found[1]](root)}\n\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )
    return re.sub(r"(<!-- minutes -->\n\n)((?:\|.*\n)+)", lambda found: found[1] + plan(found[2], root) + "\n", text)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m prefcourse.authoring.guide", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("."), help="the clone (default: here)")
    root = parser.parse_args(arguments).root
    path = root / "exercises" / "INSTRUCTORS.md"
    try:
        path.write_text(filled(path.read_text(encoding="utf-8"), root), encoding="utf-8", newline="\n")
    except (ValueError, OSError) as error:
        print(
            f"prefcourse.authoring.guide: {error}. Run it where the clone lies, or say --root FOLDER", file=sys.stderr
        )
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
