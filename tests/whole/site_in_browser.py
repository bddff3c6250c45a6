"""The whole site, built without a network; and, where there is Chromium, what a reader sees of it."""

import os
import re
import subprocess
from pathlib import Path

import chromium
import nbformat
import pytest
from bs4 import BeautifulSoup

from prefcourse.authoring.minutes import stated

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "site-venv" / "bin" / "python"
LOOKED_AT = (
    "index", "notebooks/00_start_here", "notebooks/05_the_closed_form", "notebooks/09_variants",
    "notebooks/14_beyond_preferences", "exercises/06_the_dpo_loss",
    "exercises/10_evaluation_and_ab_tests", "exercises/INSTRUCTORS", "data/README", "docs/speed",
)  # fmt: skip
MOST_BYTES = 1_500_000  # of a lesson with its figures; MathJax and the theme come once for all pages

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no Sphinx here: make site, or make test")


def build(*arguments):
    """Build a site; the tests' block of the network holds there, too."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "offline")}
    command = [str(PYTHON), str(ROOT / "docs" / "make_site.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The site as students see it."""
    folder = tmp_path_factory.mktemp("pages") / "site"
    done = build("--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def chrome(out):
    with chromium.browser() as browser:
        yield browser


def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_every_notebook_is_a_page_and_no_solution_is_anywhere(out):
    for folder in ("notebooks", "exercises"):
        names = {path.stem for path in (ROOT / folder).glob("*.ipynb")}
        assert names and names <= {path.stem for path in (out / folder).glob("*.html")}
        for name in names:  # what can be downloaded is what lies in the clone
            assert (out / "_sources" / folder / f"{name}.ipynb").read_bytes() == (
                ROOT / folder / f"{name}.ipynb"
            ).read_bytes()
    assert not list(out.rglob("solutions/*")) and "exercises/solutions" not in (out / "searchindex.js").read_text(
        "utf-8"
    )


def test_a_lesson_has_its_ways_and_is_light(out):
    page = soup(out / "notebooks" / "05_the_closed_form.html")
    links = {link["href"] for link in page.find_all("a", href=True)}
    assert {"../index.html", "../exercises/05_the_closed_form.html", "04_rlhf_with_policy_gradients.html",
            "06_the_dpo_loss.html", "../_sources/notebooks/05_the_closed_form.ipynb"} <= links  # fmt: skip
    colab = [link for link in links if link.startswith("https://colab.research.google.com/github/")]
    assert colab and all(link.endswith("/blob/main/notebooks/05_the_closed_form.ipynb") for link in colab)
    assert page.find("meta", {"name": "description"})["content"].startswith("The objective of lesson 02 has one best")
    for path in sorted((out / "notebooks").glob("*.html")):
        figures = {Path(image["src"]).name for image in soup(path).find_all("img") if "_images/" in image["src"]}
        assert figures, path.name
        size = path.stat().st_size + sum((out / "_images" / name).stat().st_size for name in figures)
        assert size <= MOST_BYTES, f"{path.name}: {size:,} bytes"


def test_the_start_page_has_each_lesson_with_its_minutes(out):
    rows = [
        [cell.get_text(" ", strip=True) for cell in row.find_all("td")]
        for row in soup(out / "index.html").find_all("tr")
    ]
    minutes = {row[0]: (int(row[4]), int(row[5])) for row in rows if len(row) == 7}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert minutes[path.stem[:2]] == stated(nbformat.read(path, as_version=4))


def test_the_explorable_stands_on_the_start_page_and_in_the_lessons_with_its_sliders(out):
    lessons = [next((out / "notebooks").glob(f"{number}_*.html")) for number in ("02", "05", "06")]
    for page in (out / "index.html", *lessons):
        found = soup(page)
        (container,) = found.select("div.prefcourse-explorable")
        (script,) = [tag["src"] for tag in found.find_all("script", src=re.compile(r"explorable\.js"))]
        assert container.get_text(strip=True) and (page.parent / script.partition("?")[0]).is_file(), page.name


@chromium.needed
def test_every_formula_is_drawn_and_nothing_comes_from_elsewhere(out, chrome):
    page, asked = chrome.new_page(viewport={"width": 390, "height": 844}), []
    page.on("request", lambda request: asked.append(request.url))
    for path in sorted([*out.glob("notebooks/*.html"), *out.glob("exercises/0[169]*.html")]):
        page.goto(path.as_uri())
        page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
        page.evaluate("MathJax.startup.promise")
        undrawn = "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container svg')).length"
        assert page.evaluate(undrawn) == 0, path.name
        assert page.locator("[data-mjx-error], merror").count() == 0, path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{path.name} is wider than a phone"
    page.close()
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == []


@chromium.needed
def test_lines_can_be_read_and_found_from_disk(out, chrome):
    page = chrome.new_page(viewport={"width": 1440, "height": 900})
    page.goto((out / "notebooks" / "05_the_closed_form.html").as_uri())
    width = "Math.max(...[...document.querySelectorAll('section > p')].map(p => p.getBoundingClientRect().width))"
    letter = """() => { const p = document.querySelector('section > p'), s = document.createElement('span');
      s.textContent = 'the quick brown fox jumps over the lazy dog '.repeat(2); s.style.whiteSpace = 'pre';
      p.append(s); return s.getBoundingClientRect().width / 88; }"""
    characters = page.evaluate(width) / page.evaluate(letter)
    assert 65 <= characters <= 85, characters
    page.goto((out / "search.html").as_uri() + "?q=partition")
    page.locator("#search-results li a").first.wait_for()
    page.close()


@chromium.needed
def test_axe_finds_no_barrier_in_either_scheme(out, chrome):
    from axe_playwright_python.sync_playwright import Axe

    colours = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # all else is the same in the dark
    for name in LOOKED_AT:
        page = chrome.new_page(color_scheme="light")
        page.goto((out / f"{name}.html").as_uri())
        page.add_style_tag(content="* { transition: none !important; }")  # else it measures a colour on its way
        for scheme, options in (("light", {}), ("dark", colours)):
            page.emulate_media(color_scheme=scheme)
            page.locator(f"html[data-theme={scheme}]").wait_for(state="attached")
            report = Axe().run(page, options=options)
            assert report.violations_count == 0, f"{name}, {scheme}: {report.generate_report()}"
        page.close()
