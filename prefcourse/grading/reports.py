"""What a class's marks are written as: tables that Canvas and Moodle import, a page for each student, words for you.

canvas.csv has the columns of Canvas's own export (Student, ID, SIS User ID, SIS Login ID, Section, then one for each
assignment) and its row "Points Possible". moodle.csv has a user name, the marks, and a line of feedback; in Moodle's
import one says which column maps to what. marks.csv has every check on a line of its own.
"""

import csv
import hashlib
import html
import io
from pathlib import Path

from prefcourse.finite import counted
from prefcourse.grading.cells import Assignment
from prefcourse.grading.marking import Mark, Marked
from prefcourse.preferences import write_whole

CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
SIGNS = {"pass": "✓", "fail": "✗", "not attempted": "○"}
STYLE = ("body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;"
         "color:#222;background:#fff}"
         "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2rem .6rem;text-align:left}"
         "pre{background:#f4f4f4;padding:.6rem;overflow-x:auto;white-space:pre-wrap}")  # fmt: skip


def of(count: int, noun: str) -> str:
    """A count with its noun."""
    return counted(count, noun)


def line(marked: Marked) -> str:
    """One notebook in one line, for the one who waits."""
    signs = "".join(SIGNS.get(mark.status, "!") for mark in marked.marks)
    worth = sum(mark.worth for mark in marked.marks)
    text = f"{marked.student}  {marked.number or '??'}  {marked.points} of {worth}  {signs}  {marked.problem}"
    return flat(text).rstrip()


def write(
    out: Path, marked: list[Marked], words: list[str], assignments: dict[str, Assignment], found: list,
    roster: list[dict[str, str]],
) -> None:  # fmt: skip
    """All files of a run, into `out`."""
    numbers = sorted({m.number for m in marked if m.number})
    titles = {n: assignments[n].name for n in numbers}
    students: dict[str, dict[str, Marked]] = {}
    for one in marked:
        students.setdefault(one.student, {})[one.number] = one
    rows = [(m.student, m.number, k.check, k.points, k.worth, k.status) for m in marked for k in m.marks]
    _table(out / "marks.csv", ("student", "notebook", "check", "points", "worth", "status"), rows)
    worth = {n: assignments[n].points for n in numbers}
    _table(out / "canvas.csv", (*CANVAS, *titles.values()), _canvas(students, worth, found, roster))
    feedback = [f"{title} feedback" for title in titles.values()]
    _table(out / "moodle.csv", ("username", *titles.values(), *feedback), _moodle(students, numbers))
    (out / "pages").mkdir(exist_ok=True)
    for student, theirs in students.items():
        write_whole(out / "pages" / f"{_file(student)}.html", _utf8(page(student, theirs, assignments)))
    body = "\n".join(f"- {flat(word)}" for word in words) or "Nothing."
    write_whole(out / "look.md", _utf8(f"# To look at\n\nNothing here has changed a mark.\n\n{body}\n"))


def _table(path: Path, header: tuple, rows: list[tuple]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    path.write_bytes(text.getvalue().encode("utf-8", "replace"))


def _utf8(text: str) -> str:
    """The text without halves of characters, such as a file's name has that is no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _harmless(cell: object) -> object:
    """A table program runs a text that begins like a formula; names come from students."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def read_roster(path: Path) -> list[dict[str, str]]:
    """The class's list as Canvas or Moodle exports it. Raises ValueError if it is no table."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a table in UTF-8 ({error})") from error
    rows = [
        {k: (v or "").strip() for k, v in row.items() if isinstance(k, str) and isinstance(v, str | None)}
        for row in rows
    ]
    return [row for row in rows if "points possible" not in {v.lower() for v in row.values()}]


def _canvas(students: dict, worth: dict[str, int], found: list, roster: list[dict[str, str]]) -> list[tuple]:
    """A row for each student, by what the list of the class or the file's name says of them; nobody is left out."""
    numbers = {s.student: s.canvas for s in found if s.canvas}
    rows, seen = [("Points Possible", "", "", "", "", *worth.values())], set()
    for student, theirs in students.items():
        row = next((r for r in roster if student.lower() in {v.lower() for v in r.values()}
                    or numbers.get(student, "\0") == r.get("ID")), None)  # fmt: skip
        seen.add(id(row))
        who = [row.get(name, "") for name in CANVAS] if row else [student, numbers.get(student, ""), "", student, ""]
        rows.append((*who, *(theirs[n].points if n in theirs else "" for n in worth)))
    rows += [(*(r.get(name, "") for name in CANVAS), *("" for _ in worth)) for r in roster if id(r) not in seen]
    return rows


def _moodle(students: dict[str, dict[str, Marked]], numbers: list[str]) -> list[tuple]:
    rows = []
    for student, theirs in students.items():
        points = [theirs[n].points if n in theirs else "" for n in numbers]
        rows.append((student, *points, *(_feedback(theirs[n]) if n in theirs else "" for n in numbers)))
    return rows


def _feedback(marked: Marked) -> str:
    open_ = [mark.check for mark in marked.marks if mark.status != "pass"]
    return marked.problem or (f"open: {', '.join(open_)}" if open_ else "all checks pass")


# ---------------------------------------------------------------------------------------------- a student's page


def page(student: str, theirs: dict[str, Marked], assignments: dict[str, Assignment]) -> str:
    """What a student reads: each exercise, its points, and what failed with the check's hint. No script, no picture."""
    parts = [f"<h1>{html.escape(student)}</h1>"]
    for number, marked in sorted(theirs.items()):
        name = assignments[number].name if number in assignments else Path(marked.file).name
        worth = sum(mark.worth for mark in marked.marks)
        parts.append(f"<h2>{html.escape(name)}: {marked.points} of {worth} points</h2>")
        if marked.problem:
            parts.append(f"<p><strong>{html.escape(marked.problem)}</strong></p>")
        rows = "".join(_row(mark) for mark in marked.marks)
        parts.append(f"<table><tr><th>exercise</th><th>points</th><th>result</th></tr>{rows}</table>")
        parts += [
            f"<pre>{html.escape(flat(mark.text, lines=True))}</pre>" for mark in marked.marks if mark.status != "pass"
        ]
        for part, there in marked.written.items():
            told = "is read by a person" if there else "is empty"
            parts.append(f"<p>The written part <em>{html.escape(part)}</em> {told}.</p>")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(student)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _row(mark: Mark) -> str:
    return f"<tr><td>{html.escape(mark.check)}</td><td>{mark.points} of {mark.worth}</td><td>{mark.status}</td></tr>"


def flat(text: str, lines: bool = False) -> str:
    """A text of a student's making, at most so long, without what moves a terminal's cursor."""
    text = _utf8(text)
    kept = "".join(c if c.isprintable() or (lines and c == "\n") else " " for c in text)
    return kept if len(kept) <= 4000 else kept[:3997] + "…"


def _file(student: str) -> str:
    """A student's name as a file's name."""
    name = "".join(c if c.isalnum() or c in "-_. @" else "_" for c in student).strip(". ")[:120]
    return name if name == student else f"{name}-{hashlib.sha256(student.encode('utf-8', 'replace')).hexdigest()[:6]}"
