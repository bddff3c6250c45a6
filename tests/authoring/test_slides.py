"""Decks from all lessons: whole, readable, with each figure described; and a notebook that is no lesson is refused."""

import base64
import html
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from prefcourse.authoring import parts, slides

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """The folder with the decks of all lessons."""
    out = tmp_path_factory.mktemp("decks")
    assert slides.main(["--root", str(ROOT), "--out", str(out)]) == 0
    return out


def cut(deck):
    """The deck's slides as Markdown without front matter, each with its note apart."""
    front, *pages = deck.read_text(encoding="utf-8").split("---\n\n")
    assert front.startswith("---\nmarp: true\n")
    return [(re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL).strip(), page) for page in pages]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem[:2])
def test_a_deck_is_whole_and_readable(decks, lesson):
    pages = cut(decks / f"{lesson.stem}.md")
    assert 10 <= len(pages) <= slides.MOST_SLIDES + 2, len(pages)
    for text, page in pages:
        title, *rest = text.split("\n", 1)
        assert title.startswith("#") and "".join(rest).strip(), f"an empty slide: {text!r}"
        assert parts.words(text) <= slides.MOST_WORDS + 10, (parts.words(text), text)
        assert not re.search(r"attachment:|\[widget|\.ipynb|<details|YOUR (CODE|ANSWER)|</?t[dr]>", text), text
        assert text.count("$$") % 2 == 0 and len(re.findall(r"(?<!\\)\$", text)) % 2 == 0, f"an open formula: {text}"
        for formula in parts.FORMULA.findall(text):
            assert formula.count("{") == formula.count("}") and formula.count(r"\begin") == formula.count(r"\end")
            assert formula.count(r"\left") - formula.count(r"\leftarrow") == formula.count(r"\right") - formula.count(
                r"\rightarrow"
            )
        assert page.count("<!--\nNotes\n") == 1 and f"notebooks/{lesson.name}" in page, "a note with the lesson"
    heads = [text.split("\n")[0].lstrip("# ") for text, _ in pages]
    assert heads.index("Predict first") < heads.index("Your predictions") < heads.index("Summary")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem[:2])
def test_every_figure_is_there_with_its_alt_text_and_its_takeaway(decks, lesson):
    text = (decks / f"{lesson.stem}.md").read_text(encoding="utf-8")
    notebook = nbformat.read(lesson, as_version=4)
    drawn = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    shown = re.findall(r'<img src="([^"]+)" alt="([^"]+)">', text)
    assert len(shown) == len(drawn) > 0
    for (file, alt), output in zip(shown, drawn, strict=True):
        assert html.unescape(alt) == output.metadata["image/png"]["alt"]
        assert (decks / file).read_bytes() == base64.b64decode(output.data["image/png"])
    for page, _ in cut(decks / f"{lesson.stem}.md"):
        assert "<img" not in page or "**Takeaway" in page, page


def test_long_questions_are_shown_in_full_and_answered(decks):
    pages = [text for text, _ in cut(decks / "07_dpo_on_a_small_gpt2.md")]
    asked, said = ("\n".join(p for p in pages if p.startswith(f"## {head}")) for head in ("Predict first", "Your pred"))
    assert re.findall(r"^\d\.", asked, re.MULTILINE) == ["1.", "2.", "3.", "4."]
    assert re.findall(r"^- \*\*(\d)\*\*", said, re.MULTILINE) == ["1", "2", "3", "4"]


def test_a_text_is_cut_where_a_sentence_ends():
    text = "**Why.** We want $a. B$ (see below. And above) by Xu et al. (2024). Then *it goes. On* here. Last."
    assert parts.sentences(text) == [
        "**Why.** We want $a. B$ (see below. And above) by Xu et al. (2024).", "Then *it goes. On* here.", "Last.",
    ]  # fmt: skip
    assert parts.shortened(text, 3) == parts.sentences(text)[0]


def test_a_long_formula_is_broken_and_keeps_its_number():
    assert parts.fitted(r"a = b \tag{Eq. 4}") == r"a = b\qquad\text{(Eq. 4)}"
    long = "x + " * 40 + r"y,\qquad z = 1"
    assert parts.fitted(long).count(r"\\[8pt]") == 1 and parts.fitted(long).startswith(r"\begin{gathered}")


@pytest.mark.parametrize("make", [lambda p: p.write_text("{", encoding="utf-8"), lambda p: shutil.copy(
    ROOT / "exercises/05_the_closed_form.ipynb", p)])  # fmt: skip
def test_what_is_no_lesson_is_refused_with_what_to_do(tmp_path, capsys, make):
    make(tmp_path / "no.ipynb")
    assert slides.main([str(tmp_path / "no.ipynb"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "no.ipynb" in said and "notebooks/05_the_closed_form.ipynb" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()
    assert slides.main(["77", "--root", str(ROOT)]) == 2
    assert "no lesson '77'" in capsys.readouterr().err


def test_without_node_or_a_browser_the_decks_are_written_and_it_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slides.main(["05", "--root", str(ROOT), "--out", str(tmp_path / "out"), "--render"]) == 1
    assert "npx is not on PATH" in capsys.readouterr().err and (tmp_path / "out" / "05_the_closed_form.md").is_file()
    npx = tmp_path / "npx"
    npx.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n', encoding="utf-8")
    npx.chmod(0o755)
    assert slides.main(["05", "--root", str(ROOT), "--out", str(tmp_path / "out"), "--render"]) == 1
    assert "no PDF" in capsys.readouterr().err  # and the HTML was asked for, once, with the version that is pinned
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert (
        len(calls) == 1 and calls[0].startswith(f"--yes {slides.MARP} ") and calls[0].endswith("05_the_closed_form.md")
    )
