"""Every link inside the project leads somewhere: files exist, headings that are linked to exist too."""

import re
from pathlib import Path

import nbformat
import pytest

from prefcourse.authoring.minutes import stated

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(\s*<?([^)>\s]+)>?[^)]*\)")
FILES = sorted([
    *ROOT.glob("*.md"), *ROOT.glob("exercises/*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("docs/*.md"),
    *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("exercises/*.ipynb"), *ROOT.glob("exercises/solutions/*.ipynb"),
])  # fmt: skip


def markdown(path: Path) -> str:
    """The prose of a Markdown file or notebook, without its code."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, punctuation gone, spaces to hyphens."""
    headings = re.findall(r"^#+ +(.*?)\s*$", markdown(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: Path) -> list[str]:
    found = []
    for target in LINK.findall(markdown(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            found.append(f"{target}: no such file")
        elif anchor and there.suffix == ".md" and anchor not in anchors(there):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert broken(path) == []


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".ipynb"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_notebook_opens_on_colab_and_installs_from_the_same_repository(path):
    """A solution opens the exercises: nbgrader copies its text unchanged for students."""
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    colab = re.escape("in Colab](https://colab.research.google.com/github/")
    (found,) = re.findall(rf"\[Open (?:the exercises )?{colab}(.*?)\)", text)
    repository, _, rest = found.partition("/blob/")
    (tag,) = re.findall(r'REPOSITORY, TAG = "[^"]*", "([^"]+)"', text)
    place = rest.removeprefix(f"{tag}/")
    assert place == path.relative_to(ROOT).as_posix().replace("/solutions/", "/")
    assert f'REPOSITORY, TAG = "https://github.com/{repository}", "{tag}"' in text


LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_readme_has_the_lesson_with_its_minutes_and_exercises(path):
    (row,) = re.findall(rf"^\| {path.stem[:2]} \| .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    core, whole = stated(nbformat.read(path, as_version=4))
    assert f"(notebooks/{path.name})" in row and f"(exercises/{path.name})" in row
    assert [cell.strip() for cell in row.split("|")][5:7] == [str(core), str(whole)]


def test_the_readme_is_a_front_door():
    """Short, and it leads to every page of docs/; what those say is not in it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    assert {name for name in LINK.findall(readme) if name.startswith("docs/")} == {
        f"docs/{path.name}" for path in ROOT.glob("docs/*.md")
    }


def test_the_paths_have_the_minutes_of_their_lessons():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    minutes = {path.stem[:2]: stated(nbformat.read(path, as_version=4)) for path in LESSONS}
    paths = re.findall(r"^\| [^|]+ \| (\d\d[^|]*) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    assert len(paths) == 3
    for lessons, core, whole in paths:
        first, _, last = lessons.partition(" to ")
        named = [n for n in minutes if first <= n <= last] if last else lessons.split(", ")
        assert [int(core), int(whole)] == [sum(minutes[n][i] for n in named) for i in (0, 1)], lessons


def test_the_test_finds_what_is_broken(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One & two\n[a](#one--two) [b](#three) [c](gone.md) [d](page.md) `[e](code.md)` [f](https://e.org)",
        encoding="utf-8",
    )
    assert broken(page) == ["#three: no such heading", "gone.md: no such file"]
