"""The static site: alt texts, formulas and navigation arrive, and nothing comes from elsewhere.

`tests/whole/site_in_browser.py` builds the whole of it and lets axe look at pages.
"""

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from prefcourse.authoring import site

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="  # one grey point


def lesson(number, *more):
    text = f"# {number} · A lesson\n\nWe take $\\pi_\\theta$, cost `$5`, and $$\\hat r = \\beta h \\tag{{Eq. 7}}$$"
    figure = new_output(
        "display_data", {"image/png": PNG, "text/plain": ""}, metadata={"image/png": {"alt": "a < b falls"}}
    )
    link = new_markdown_cell(
        f"See [the exercises](../exercises/{number}_a.ipynb#top).\n\n| | a |\n|---|---|\n| b | c |"
    )
    return new_notebook(cells=[new_markdown_cell(text), new_code_cell("f(0.5)", outputs=[figure]), link, *more])


@pytest.fixture
def course(tmp_path):
    for folder in ("notebooks", "exercises"):
        (tmp_path / folder).mkdir()
        for number in ("01", "02"):
            nbformat.write(lesson(number), tmp_path / folder / f"{number}_a.ipynb")
    return tmp_path


def test_pages_have_alt_texts_formulas_navigation_and_nothing_from_elsewhere(course):
    pages = site.build(course, course / "out")
    assert [p.relative_to(course / "out").as_posix() for p in pages] == [
        "index.html", "notebooks/01_a.html", "notebooks/02_a.html", "exercises/01_a.html", "exercises/02_a.html"
    ]  # fmt: skip
    text = pages[1].read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    assert page.title.string == "01 · A lesson" and page.html["lang"] == "en"
    assert page.find("img")["alt"] == "a < b falls"
    inline, display = page.find_all("math")
    assert (inline["display"], display["display"]) == ("inline", "block")
    assert inline.get_text() == "πθ" and "(Eq. 7)" in page.find(class_="formula").get_text()
    assert "$5" in text and "formula-" not in text and not page.find_all("script")
    assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    links = {a.get_text(): a["href"] for a in page.find("nav").find_all("a")}
    assert links == {
        "All lessons": "../index.html", "Next: 02 · A lesson": "02_a.html", "Its exercises": "../exercises/01_a.html"
    }  # fmt: skip
    for p in pages:
        for a in BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser").find_all("a"):
            target, _, anchor = a["href"].partition("#")
            assert (p.parent / target).exists() and (target or anchor)


def test_the_readmes_picture_is_that_of_lesson_08():
    root = Path(__file__).resolve().parents[2]
    assert (root / "data/results/front-door.png").read_bytes() == site.front_door(root), (
        "run `python -m prefcourse.authoring.site --front-door`"
    )


def test_a_formula_that_cannot_be_turned_names_its_notebook(course, capsys):
    bad = lesson("01", new_markdown_cell("$$x_1_2$$"))
    nbformat.write(bad, course / "notebooks" / "01_a.ipynb")
    assert site.main(["--root", str(course), "--out", str(course / "out")]) == 2
    assert "01_a.ipynb: no MathML for the formula" in capsys.readouterr().err
