"""The explorable in a browser, from disk: axe, a phone, a keyboard, two on one page, and the table's numbers."""

from pathlib import Path

import chromium
import pytest
import torch

from prefcourse import tabular

STATIC = Path(__file__).resolve().parents[2] / "docs" / "_static"
PAGE = (STATIC / "explorable.html").as_uri()
REFERENCE, REWARD = ([[0.4, 0.3, 0.2, 0.1]], [[-1.0, 0.0, 1.0, 2.0]])  # what the page opens with

pytestmark = chromium.needed


@pytest.fixture(scope="module")
def browser():
    with chromium.browser() as opened:
        yield opened


def look(browser, width=800, **settings):
    """The page in a window so wide; console errors and requests to anywhere else fail the test."""
    page = browser.new_context(viewport={"width": width, "height": 800}, **settings).new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.on("request", lambda request: request.url.startswith("file:") or pytest.fail(request.url))
    page.goto(PAGE)
    page.wait_for_function("document.querySelector('.said').textContent")  # the sentences come when sliders rest
    return page


def shown(page, name):
    """The number beside a name in the table under the plane."""
    return page.locator(f".numbers div:has(dt:text-is('{name}')) dd").inner_text()


def expected(beta):
    """What the table says of the page's first setting at this β: Z, J*, and the bars of π*."""
    reference, reward = (torch.tensor(rows, dtype=torch.float64) for rows in (REFERENCE, REWARD))
    log_z = tabular.log_z(reference, reward, beta).item()
    best = tabular.optimal_policy(reference, reward, beta)[0]
    return f"{torch.tensor(log_z).exp():.3g}", f"{beta * log_z:.3f}", [f"{100 * p:.1f} %" for p in best.tolist()]


@pytest.mark.parametrize(("width", "scheme"), [(800, "light"), (800, "dark"), (360, "light")])
def test_axe_finds_no_barrier_and_nothing_is_cut(browser, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = look(browser, width, color_scheme=scheme)
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    surface = page.evaluate("getComputedStyle(document.querySelector('.prefcourse-explorable')).backgroundColor")
    assert surface == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 29)"}[scheme]
    sizes = page.evaluate("[...document.querySelectorAll('.plane .tick')].map((t) => t.getBoundingClientRect().height)")
    assert min(sizes) >= 12  # letters of the plane are not shrunk with it


def test_the_keyboard_moves_a_slider_and_all_that_follows(browser):
    page = look(browser)
    beta = page.get_by_label("β, the price of a nat")
    assert (shown(page, "Z"), shown(page, "J* = β log Z")) == expected(1.0)[:2]
    before = page.locator(".plane").get_attribute("aria-label"), page.get_by_role("status").inner_text()
    beta.focus()
    page.keyboard.press("Home")
    _, top, bars = expected(0.1)
    assert beta.get_attribute("aria-valuetext") == "0.1" and shown(page, "J* = β log Z") == top
    assert page.locator(".reply dd:nth-of-type(2) span").all_inner_texts() == bars
    page.wait_for_function("(old) => document.querySelector('.said').innerText !== old", arg=before[1])
    assert "At β = 0.1," in page.get_by_role("status").inner_text()
    assert f"J* = {float(top):.2f}" in page.locator(".plane").get_attribute("aria-label") != before[0]
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert shown(page, "Z") == expected(1.0)[0]


def test_dpo_reaches_the_optimum_and_a_reply_that_never_comes_stays_away(browser):
    page = look(browser)
    page.get_by_label("DPO’s steps").focus()
    page.keyboard.press("End")
    page.wait_for_function("document.querySelector('.said').textContent.includes('stands on π*')")
    for row in page.locator(".reply").all():
        _, best, dpo = row.locator("dd span").all_inner_texts()
        assert best == dpo
    page.get_by_label("the reference").select_option("superb never comes")
    assert page.locator(".reply").last.locator("dd span").all_inner_texts() == ["0.0 %"] * 3


def test_a_theme_decides_against_the_system(browser):
    page = look(browser, color_scheme="light")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    surface = page.evaluate("getComputedStyle(document.querySelector('.prefcourse-explorable')).backgroundColor")
    assert surface == "rgb(22, 25, 29)"


def test_two_on_one_page_begin_where_each_is_told(browser, tmp_path):
    text = (STATIC / "explorable.html").read_text(encoding="utf-8")
    first = '<div class="prefcourse-explorable">'
    other = '<div class="prefcourse-explorable" data-beta="0.1" data-rewards="0,0,0,1" data-reference="even"></div>'
    assert text.count(first) == 1
    (tmp_path / "two.html").write_text(text.replace(first, other + first), encoding="utf-8")
    for kind in ("js", "css"):
        (tmp_path / f"explorable.{kind}").write_bytes((STATIC / f"explorable.{kind}").read_bytes())
    page = browser.new_page()
    page.goto((tmp_path / "two.html").as_uri())
    ids = page.evaluate("[...document.querySelectorAll('.prefcourse-explorable [id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids)) == 14
    firsts = page.evaluate("[...document.querySelectorAll('.controls .value')].map((value) => value.innerText)")
    assert firsts == ["0.1", "3", "1", "3"]
    bars = page.locator(".prefcourse-explorable").first.locator(".reply dd:first-of-type span")
    assert bars.all_inner_texts() == ["25.0 %"] * 4
    assert page.evaluate("document.querySelectorAll('link[rel=stylesheet]').length") == 1
