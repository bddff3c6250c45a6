"""The instructors' guide and its samples agree with the notebooks: minutes, marking, and an answer of each kind."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from prefcourse.authoring import guide

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "exercises" / "INSTRUCTORS.md").read_text(encoding="utf-8")
SAMPLES = (ROOT / "exercises" / "SAMPLES.md").read_text(encoding="utf-8")
WRITTEN = guide.written(ROOT)
PARTS = [(number, name, points) for number, parts in WRITTEN.items() for name, points in parts.items()]


def tables():
    """The guide's plans, each as its rows."""
    found = re.findall(r"<!-- minutes -->\n\n((?:\|.*\n)+)", GUIDE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()] for t in found]


def test_the_guides_numbers_are_those_of_the_notebooks():
    assert guide.filled(GUIDE, ROOT) == GUIDE, "run python -m prefcourse.authoring.guide"
    assert "?" not in {cell for table in tables() for row in table for cell in row}


def test_the_minutes_are_added_up_from_headers_and_the_lesson_table():
    """By another way than the guide's own: every cell of every header."""
    minutes = 0
    for path in (ROOT / "exercises").glob("*.ipynb"):
        head = nbformat.read(path, as_version=4).cells[0].source
        minutes += sum(int(line.split("|")[5]) for line in head.splitlines() if re.match(r"\| \d", line))
    rows = [line.split("|") for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    read = sum(int(row[-4]) for row in rows if re.fullmatch(r" \d\d ", row[1] if len(row) > 6 else ""))  # the cores
    assert len(guide.reading(ROOT)) == len(list((ROOT / "notebooks").glob("*.ipynb")))
    assert f"**{(minutes + read) / 60:.1f} hours in all**" in GUIDE


def test_the_shortened_path_and_the_five_weeks_take_at_most_sixty_percent():
    short, five, ten = tables()
    whole = sum(core for core, _ in guide.reading(ROOT).values()) + sum(
        sum(m.values()) for m in guide.exercises(ROOT).values()
    )
    totals = [int(re.search(r"= (\d+)", " ".join(table[-1]))[1]) for table in (short, five, ten)]
    assert 0.5 * whole < totals[0] <= 0.6 * whole
    assert totals[1] == totals[0], "the five weeks are the shortened path"
    assert 0.85 * whole < totals[2] <= whole
    weeks = [sum(map(int, re.findall(r"\d+", row[3]))) for row in ten[2:-1]]
    assert len(weeks) == 10 and max(weeks) <= 2 * min(weeks) + 60, f"no week is twice another: {weeks}"


def test_every_bug_of_the_lessons_that_are_kept_is_kept():
    for row in tables()[0][2:-1]:
        number = row[0].strip("()")
        head = nbformat.read(next((ROOT / "exercises").glob(f"{number}_*.ipynb")), as_version=4).cells[0].source
        bugs = re.findall(r"^\| (\d) \|[^|]*\|[^|]*bug[^|]*\|", head, re.MULTILINE)
        assert bugs
        assert row[0].startswith("(") or {*bugs} & {*row[1].split(": ")[1].split()}, row


def test_what_a_plan_marks_exists():
    names = {name for _, name, _ in PARTS}
    for table in tables()[1:]:
        for row in table[2:-1]:
            for part in re.findall(r"[a-z-]{4,}", row[5].replace("with the class", "").replace("oral checks", "")):
                assert part in names, (part, row)


@pytest.mark.parametrize(("number", "name", "points"), PARTS, ids=[f"{n}-{name}" for n, name, _ in PARTS])
def test_each_written_part_has_a_full_a_middling_and_a_low_sample(number, name, points):
    (lesson,) = re.findall(rf"^## {number} · .*?(?=^## |\Z)", SAMPLES, re.MULTILINE | re.DOTALL)
    (part,) = re.findall(rf"^### {name} · .*?(?=^##|\Z)", lesson, re.MULTILINE | re.DOTALL)
    assert part.startswith(f"### {name} · {points} point")
    given = [float(mark.replace("½", ".5")) for mark in re.findall(r"^- \*\*([\d½]+)\.\*\* ", part, re.MULTILINE)]
    full, middle, low = given
    assert full == points and 0 < middle < full and 0 <= low < middle and low <= full / 3
    for sample in re.split(r"^- \*\*", part, flags=re.MULTILINE)[1:]:
        said, reason = re.fullmatch(r".*?\*\* (\".*?\")\s+\*([^*].*)\*\s*", sample.strip(), re.DOTALL).groups()
        assert len(said.split()) <= 120 and len(reason.split()) >= 1


def test_the_samples_have_no_part_that_is_not_there():
    assert len(re.findall(r"^### ", SAMPLES, re.MULTILINE)) == len(PARTS)


def test_a_plan_that_names_what_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"06 \['9'\]"):
        guide.planned("06", "06: 1 9", ROOT)
    with pytest.raises(ValueError, match="99"):
        guide.planned("99", "none", ROOT)
    assert guide.planned("06", "06: 1 3", ROOT)[1] == sum(guide.exercises(ROOT)["06"][k] for k in "13")
    assert guide.planned("(06)", "06: all", ROOT) == (guide.BY_SLIDES, sum(guide.exercises(ROOT)["06"].values()))
    assert guide.main(["--root", str(tmp_path)]) == 2 and "--root" in capsys.readouterr().err


def test_a_changed_header_changes_the_guide(tmp_path):
    shutil.copytree(ROOT / "exercises", tmp_path / "exercises")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (path,) = (tmp_path / "exercises").glob("06_*.ipynb")
    said = path.read_text(encoding="utf-8")
    path.write_text(said.replace("| core | 15 |", "| core | 75 |", 1), encoding="utf-8")
    assert guide.main(["--root", str(tmp_path)]) == 0
    before, after = (re.search(r"\*\*([\d.]+) hours in all", text)[1] for text in (
        GUIDE, (tmp_path / "exercises" / "INSTRUCTORS.md").read_text(encoding="utf-8")))  # fmt: skip
    assert float(after) - float(before) == pytest.approx(1, abs=0.11)
