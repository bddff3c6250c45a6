"""The whole site, built; and axe, the accessibility checker, on its index and three pages where there is Chromium."""

from pathlib import Path

import chromium
import pytest
from bs4 import BeautifulSoup

from prefcourse.authoring import site

ROOT = Path(__file__).resolve().parents[2]
LOOKED_AT = ("notebooks/06_the_dpo_loss", "notebooks/10_evaluation_and_ab_tests", "exercises/06_the_dpo_loss")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    return {p.relative_to(out).with_suffix("").as_posix(): p for p in site.build(ROOT, out)}


def test_every_notebook_is_a_page_whose_images_have_alt_texts(pages):
    folders = ("notebooks", "exercises", "exercises/solutions")
    notebooks = [p for folder in folders for p in (ROOT / folder).glob("*.ipynb")]
    assert len(pages) == len(notebooks) + 1
    for name, path in pages.items():
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for image in page.find_all("img"):
            assert len(image.get("alt", "").split()) >= 5, f"{name}: {str(image)[:80]}"
        for link in page.find_all("a"):
            target = link.get("href", "").partition("#")[0]
            if target and ":" not in target and target.endswith(".html"):
                assert (path.parent / target).exists(), f"{name}: {target}"


@chromium.needed
def test_axe_finds_no_barrier(pages):
    from axe_playwright_python.sync_playwright import Axe

    with chromium.browser() as browser:
        for name in ("index", *LOOKED_AT):
            page = browser.new_page()
            page.goto(pages[name].as_uri())
            report = Axe().run(page)
            assert report.violations_count == 0, f"{name}: {report.generate_report()}"
            page.close()
