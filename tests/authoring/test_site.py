"""The site before Sphinx: what is written for it, and what is refused of what comes out.

`tests/whole/site_in_browser.py` builds it and looks at it in a browser.
"""

import base64
import hashlib
import json
import re
from pathlib import Path

import chromium
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from prefcourse.authoring.front_door import front_door

ROOT = Path(__file__).resolve().parents[2]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="  # one grey point
SET_UP = (
    'import sys\n\nREPOSITORY, TAG = "https://github.com/me/mine", "v1"\nif "google.colab" in sys.modules:\n    pass'
)
README = """# A course

**A claim.** See [the second](notebooks/02_b.ipynb) and [the code](prefcourse/losses.py).

## Lessons

| # | lesson |
|---|---|
| 01 | [One](notebooks/01_a.ipynb) · [Colab](https://colab.research.google.com/me/01_a.ipynb) |
| 02 | [Two](notebooks/02_b.ipynb) |

## What is where

a tree
"""


def notebook(kind):
    head = f"# 01 · A {kind}\n\n*What **it** is for, see [two](02_b.ipynb).*"
    figure = new_output(
        "display_data", {"image/png": PNG, "text/plain": ""}, metadata={"image/png": {"alt": "a < b", "height": 9}}
    )
    widget = new_output("display_data", {"text/plain": "[widget: run this cell to use it]"})
    text = new_markdown_cell(
        "![A curve that rises and then falls](attachment:c.png) `[x](no.py)` [code](../prefcourse/losses.py#L3) "
        "[start](../README.md) [paper](https://e.org/a.ipynb)",
        attachments={"c.png": {"image/png": PNG}},
    )
    return new_notebook(cells=[
        new_markdown_cell(head), new_code_cell(SET_UP), new_code_cell("f(0.5)", outputs=[figure, widget]), text,
    ])  # fmt: skip


@pytest.fixture
def site(monkeypatch):
    """docs/make_site.py, which needs no Sphinx until it builds."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_site

    return make_site


@pytest.fixture
def course(tmp_path):
    """A course of one lesson, its exercise and solution, and a page."""
    for folder in ("notebooks", "exercises", "exercises/solutions"):
        (tmp_path / folder).mkdir(exist_ok=True)
        nbformat.write(notebook(folder), tmp_path / folder / "01_a.ipynb")
    nbformat.write(notebook("lesson"), tmp_path / "notebooks" / "02_b.ipynb")
    for name, text in {"README.md": README, "docs/more.md": "# More\n", "prefcourse/losses.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "data" / "results" / "front-door.png").write_bytes(base64.b64decode(PNG))
    return tmp_path


def read(course, name):
    return (course / "out" / name).read_text(encoding="utf-8")


def cells(course, name):
    return json.loads(read(course, name))["cells"]


def test_the_start_page_is_the_front_of_the_readme(site, course):
    site.write_sources(course, course / "out")
    page = read(course, "index.md")
    assert page.startswith("# A course\n\n**A claim.**") and "a tree" not in page
    assert "[the code](https://github.com/me/mine/blob/v1/prefcourse/losses.py)" in page
    assert "| 01 | [One](notebooks/01_a.ipynb) |" in page and "colab" not in page
    assert re.findall(r":caption: (.*)", page) == ["Lessons", "Exercises", "More"]
    assert re.findall(r"<(notebooks/.*)>$", page, re.MULTILINE) == ["notebooks/01_a", "notebooks/02_b"]


def test_the_explorable_stands_under_the_claim(site, course):
    site.write_sources(course, course / "out")
    before, inside = read(course, "index.md").split("```{raw} html\n")
    figure, _, after = inside.partition("\n```\n")
    assert "claim" in before and after.startswith("\n## Lessons")
    assert figure.startswith('<div class="prefcourse-explorable">') and 'src="_static/explorable.js"' in figure


def test_solutions_are_there_only_when_asked_for(site, course):
    site.write_sources(course, course / "out", solutions=True)
    assert ":caption: Solutions" in read(course, "index.md") and cells(course, "exercises/solutions/01_a.ipynb")
    assert "[Solutions](solutions/01_a.ipynb)" in cells(course, "exercises/01_a.ipynb")[0]["source"]
    site.write_sources(course, course / "out")
    assert not (course / "out" / "exercises" / "solutions").exists()
    assert "solutions" not in read(course, "index.md") + read(course, "exercises/01_a.ipynb")


def test_lesson_and_exercises_lead_to_each_other(site, course):
    site.write_sources(course, course / "out")
    heads = {folder: cells(course, f"{folder}/01_a.ipynb")[0]["source"] for folder in ("notebooks", "exercises")}
    assert heads["notebooks"].endswith("\n[Exercises](../exercises/01_a.ipynb)")
    assert heads["exercises"].endswith("\n[Lesson](../notebooks/01_a.ipynb)")
    assert site.neighbours(Path("exercises/01_a.ipynb"), {Path("notebooks/01_a.ipynb")}, heads["exercises"]) == ""


def test_a_notebook_becomes_one_that_sphinx_can_show(site, course):
    site.write_sources(course, course / "out")
    facts = json.loads(read(course, "facts.json"))
    _, set_up, code, text = cells(course, "notebooks/01_a.ipynb")
    assert set_up["metadata"]["tags"] == ["hide-input"]
    figure, widget = code["outputs"]
    assert "height" not in figure["metadata"]["image/png"] and "Sliders" in widget["data"]["text/html"]
    assert facts["alt"] == {hashlib.sha256(base64.b64decode(PNG)).hexdigest(): "a < b"}
    assert (course / "out" / "notebooks" / "attached" / "01_a-c.png").read_bytes() == base64.b64decode(PNG)
    assert facts["description"]["notebooks/01_a"] == "What it is for, see two."
    assert text["source"] == (
        "![A curve that rises and then falls](attached/01_a-c.png) `[x](no.py)` "
        "[code](https://github.com/me/mine/blob/v1/prefcourse/losses.py#L3) [start](../index.md) "
        "[paper](https://e.org/a.ipynb)"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (r"<p>so \argmax_x holds</p>", "LaTeX is left over: '\\\\argmax'"),
        ("<p>so $a + b$ holds</p>", "LaTeX is left over: '$a + b$'"),
        ("<p>costs $5 or $6</p><code>$a$ \\frac</code><span class='math notranslate'>\\(x<b>\\)</b></span>", None),
        ('<img src="x.svg" alt="figure 3">', "no alt text of 5 words: x.svg 'figure 3'"),
        ('<img src="x.svg" alt="gain falls as β grows">', None),
        ('<a href="b.html">b</a>', "dead link: b.html"),
        ('<a href="x.svg">b</a><a href="a.html#top">t</a><a href="#top">t</a><a href="mailto:a@e.org">m</a>', None),
        ('<a href="#bottom">b</a>', "dead link: #bottom"),
        ('<script src="//e.org/x.js"></script>', "comes from elsewhere: //e.org/x.js"),
        ('<a href="https://colab.research.google.com/x.html">c</a>', "not a notebook on Colab: "),
    ],
)
def test_what_is_wrong_with_a_page_is_found(site, tmp_path, body, said):
    (tmp_path / "x.svg").write_text("", encoding="utf-8")
    page = f'<html><link rel="icon" href="x.svg"><body id="top"><br>{body}<p>\\ and $</p></body></html>'
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    found = site.faults(tmp_path)
    assert found == [] if said is None else len(found) == 1 and found[0].startswith(f"a.html: {said}")


def test_no_pages_are_wrong_too(site, tmp_path):
    assert site.faults(tmp_path) == [f"{tmp_path}: no pages"]


PRINTED = """
<style>a[href]::after { content: " (" attr(href) ")"; }</style>
<div class="bd-sidebar-primary">lessons</div>
<article class="bd-article"><h2>A step<a class="headerlink" href="#x">#</a></h2>
<details><summary>Show the code</summary><p>folded = 1</p></details>
<a class="full-size" href="x.png"><img alt="A curve" height="99"></a> <a class="paper" href="https://e.org">paper</a>
</article>
<div class="bd-sidebar-secondary">contents</div>
"""
LOOKED = """() => {
  const style = (name, pseudo) => getComputedStyle(document.querySelector(name), pseudo);
  return {
    sides: ['.bd-sidebar-primary', '.bd-sidebar-secondary', '.headerlink'].map(name => style(name).display !== 'none'),
    folded: document.querySelector('details p').checkVisibility(),
    target: style('.paper', '::after').content !== 'none',
    whole: style('img').breakInside === 'avoid',
  };
}"""


@chromium.needed
def test_a_printed_page_is_the_article_alone_with_nothing_folded_or_cut():
    """What the course's style sheet adds: the same page on a screen has all that a printed one leaves out."""
    with chromium.browser() as browser:
        page = browser.new_page()
        page.set_content(PRINTED)
        page.add_style_tag(path=ROOT / "docs" / "_static" / "course.css")
        assert page.evaluate(LOOKED) == {"sides": [True] * 3, "folded": False, "target": True, "whole": False}
        page.emulate_media(media="print")
        assert page.evaluate(LOOKED) == {"sides": [False] * 3, "folded": True, "target": False, "whole": True}


def test_the_picture_of_the_front_is_that_of_lesson_08():
    assert (ROOT / "data/results/front-door.png").read_bytes() == front_door(ROOT), (
        "run `python -m prefcourse.authoring.front_door`"
    )


def test_a_picture_without_its_cell_is_missed(tmp_path):
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook("lesson"), tmp_path / "notebooks" / "08_a.ipynb")
    with pytest.raises(ValueError, match=r"08_a\.ipynb: 0 cells with the tag front-door"):
        front_door(tmp_path)
