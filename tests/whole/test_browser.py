"""JupyterLab in a real browser: a lesson's slider redraws its figure; the labelling app puts labels on the disk.

Needs Chromium (`apt-get install chromium`, or PREFCOURSE_CHROMIUM=/path/to/it); without one the test is skipped and
says so.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import chromium
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from prefcourse.annotation.labels import read_labels

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # cells out of sight are there, too
}
LESSON = Path(__file__).resolve().parents[2] / "notebooks" / "05_the_closed_form.ipynb"
CELL = """
from prefcourse.rewards import GoldReward
from prefcourse.widgets import label_pairs

pairs = [{"prompt": f"Film {i}", "chosen": f" is good {i}.", "rejected": f" is bad {i}."} for i in range(4)]
label_pairs(pairs, "labels.jsonl", gold=GoldReward({"good": 1.0, "bad": -1.0}))
"""


LONG = "https://example.org/" + "a-very-long-word-" * 20
HARD = [  # texts that a page gets wrong: lines, code, length, a long word, writing from right to left
    ("def f(x):\n", "    if x:\n        return 1\n\n- one\n- two", " ".join(["word"] * 400)),
    ("See ", LONG, "short."),
    ("أهلا ", "وسهلا بكم (123).", "\u202eabc reversed"),
]
MANY = """
from prefcourse.widgets import label_pairs

pairs = [{"prompt": f"Film {i}", "chosen": f" is good {i}.", "rejected": f" is bad {i}."} for i in range(COUNT)]
label_pairs(pairs, "labels.jsonl")
"""


def write_notebook(path, *cells):
    """A notebook of these code cells."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(cell.strip()) for cell in cells], metadata=kernel), path)


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a free port, in an empty folder with two notebooks; gives its address."""
    write_notebook(tmp_path / "label.ipynb", CELL)
    shutil.copy(LESSON, tmp_path / "lesson.ipynb")
    config = tmp_path / "config"
    (config / "labconfig").mkdir(parents=True)
    (config / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--expose-app-in-browser", "--allow-root",
               "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={tmp_path}"]  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", *command], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "server.log").open("w", encoding="utf-8"),
        env={k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"} | {"JUPYTER_CONFIG_DIR": str(config)},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(400):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    else:
        server.kill()
        pytest.fail("JupyterLab did not start:\n" + (tmp_path / "server.log").read_text(encoding="utf-8")[-2000:])
    yield address
    server.terminate()
    server.wait()


def run_all(page, address, name="label"):
    """Open a notebook anew and run its cells."""
    page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
    page.wait_for_function("window.jupyterapp && window.jupyterapp.shell.currentWidget?.sessionContext")
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")


@chromium.needed
def test_labelling_in_jupyterlab(lab, tmp_path):
    with chromium.browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(60_000)
        run_all(page, lab)
        page.get_by_role("button", name="A is better (a)").click()
        page.get_by_text("1 of 4 labelled").wait_for()
        keys = page.get_by_placeholder("keys: a b t s u")
        keys.press("b")
        page.get_by_text("2 of 4 labelled").wait_for()
        keys.press("t")
        page.get_by_text("3 of 4 labelled").wait_for()
        keys.press("u")
        page.get_by_text("2 of 4 labelled. Undone.").wait_for()
        assert [r["label"] for r in read_labels(tmp_path / "labels.jsonl")] == ["A", "B"]
        page.screenshot(path=tmp_path / "app.png")

        run_all(page, lab)  # a reloaded page; the kernel lives on
        page.get_by_text("2 of 4 labelled").wait_for()
        keys = page.get_by_placeholder("keys: a b t s u")
        keys.press("a")
        page.get_by_text("3 of 4 labelled").wait_for()
        assert "true reward" not in page.content()
        page.get_by_role("button", name="B is better (b)").click()
        page.get_by_text("All 4 pairs are labelled").wait_for()
        page.get_by_text("The true reward of this world chooses as you did").wait_for()
        page.screenshot(path=tmp_path / "end.png")
    records = read_labels(tmp_path / "labels.jsonl")
    assert [r["label"] for r in records] == ["A", "B", "A", "B"] and len({r["prompt"] for r in records}) == 4


def cells(page):
    """How many cells the notebook has: a key that JupyterLab takes for its own adds one."""
    return page.evaluate("window.jupyterapp.shell.currentWidget.content.model.cells.length")


def labels_of(path, count):
    """The labels in the file, once there are `count` of them and no more come."""
    for _ in range(1200):
        if path.exists() and len(read_labels(path)) >= count:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    return [record["label"] for record in read_labels(path)]


@chromium.needed
@pytest.mark.parametrize("way", ["box", "button"])
def test_labels_are_the_keys_however_quickly_they_come(lab, tmp_path, way):
    """At each speed, into the box and right after a click on a button, before the kernel knows of that."""
    tries = int(os.environ.get("PREFCOURSE_TRIES", "5"))
    write_notebook(tmp_path / "many.ipynb", MANY.replace("COUNT", str(4 * tries * 3)))
    path, wanted = tmp_path / "labels.jsonl", []
    with chromium.browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(60_000)
        run_all(page, lab, "many")
        keys = page.get_by_placeholder("keys: a b t s u")
        keys.wait_for()
        before = cells(page)
        for delay in (10, 30, 60, 120):
            for _ in range(tries):
                if way == "box":
                    keys.click()
                    keys.press_sequentially("abt", delay=delay)
                    wanted += ["A", "B", "tie"]
                else:
                    page.get_by_role("button", name="A is better").click()
                    page.wait_for_timeout(delay)
                    page.keyboard.type("bt", delay=delay)
                    wanted += ["A", "B", "tie"]
                assert labels_of(path, len(wanted)) == wanted, f"{delay} ms"
        assert cells(page) == before


@chromium.needed
def test_fifty_pairs_by_keyboard_alone(lab, tmp_path):
    write_notebook(tmp_path / "many.ipynb", MANY.replace("COUNT", "50"))
    path, given = tmp_path / "labels.jsonl", {"a": "A", "b": "B", "t": "tie", "s": "skip"}
    with chromium.browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(60_000)
        run_all(page, lab, "many")
        page.get_by_text("0 of 50 labelled").wait_for()
        before, wanted = cells(page), []
        for _ in range(40):  # to the box, as one gets there without a mouse
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.placeholder || ''").startswith("keys"):
                break
        for n in range(50):
            key = "abts"[n % 4]
            page.keyboard.press("x" if n == 7 else key)  # a slip, and what was meant
            page.keyboard.press(key) if n == 7 else None
            wanted.append(given[key])
            if n == 20:  # and one label is taken back
                page.keyboard.press("u")
                page.keyboard.press(key)
            page.get_by_text(f"{n + 1} of 50 labelled").wait_for() if n < 49 else None
        page.get_by_text("All 50 pairs are labelled").wait_for()
        assert labels_of(path, 50) == wanted and cells(page) == before


@chromium.needed
@pytest.mark.parametrize("width", [420, 1200])
def test_hard_texts_stay_in_their_card_and_the_buttons_in_sight(lab, tmp_path, width):
    from axe_playwright_python.sync_playwright import Axe

    pairs = [{"prompt": prompt, "chosen": a, "rejected": b} for prompt, a, b in HARD]
    write_notebook(
        tmp_path / "hard.ipynb", f"from prefcourse.widgets import label_pairs\nlabel_pairs({pairs!r}, 'labels.jsonl')"
    )
    with chromium.browser() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(60_000)
        run_all(page, lab, "hard")
        page.get_by_text("0 of 3 labelled").wait_for()
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        before = cells(page)
        for n in range(3):
            page.locator(".prefcourse-labels").scroll_into_view_if_needed()
            page.wait_for_timeout(300)
            page.screenshot(path=tmp_path / f"hard-{width}-{n}.png")
            seen = page.evaluate(LOOK)
            assert seen["buttons"] == 5 and seen["cut"] == [] and seen["wide"] == [], seen
            if n == 0:  # line breaks and indents are those of the text
                assert "    if x:\n        return 1\n\n- one" in page.locator(".prefcourse-labels").inner_text()
            found = Axe().run(page, ".prefcourse-labels").response["violations"]
            assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []
            page.locator(".prefcourse-labels [role=group]").first.click()
            page.keyboard.press("b")  # which here neither adds a cell nor is lost
            labels_of(tmp_path / "labels.jsonl", n + 1)
        assert cells(page) == before and labels_of(tmp_path / "labels.jsonl", 3) == ["B"] * 3


LOOK = """() => {
    const app = document.querySelector('.prefcourse-labels'), edge = app.getBoundingClientRect();
    const buttons = [...app.querySelectorAll('button')], place = e => e.getBoundingClientRect();
    const inside = box => box.left >= edge.left - 1 && box.right <= edge.right + 1;
    return {
        buttons: buttons.filter(b => place(b).bottom < innerHeight && inside(place(b))).length,
        cut: buttons.filter(b => b.scrollWidth > b.clientWidth + 1).map(b => b.textContent),
        wide: [...app.querySelectorAll('[role=group], [role=group] *')].filter(
            e => !inside(place(e)) || (e.getAttribute('role') && e.scrollWidth > e.clientWidth + 1)
        ).map(e => e.outerHTML.slice(0, 80)),
    };
}"""


@chromium.needed
def test_a_lesson_runs_in_jupyterlab_and_its_slider_redraws_the_figure(lab):
    with chromium.browser() as browser:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(90_000)
        run_all(page, lab, "lesson")
        page.evaluate("window.jupyterapp.commands.execute('notebook:expand-all-headings')")  # optional parts are folded
        figure = page.locator(".jupyter-widgets img").first
        figure.wait_for()
        page.wait_for_function("document.querySelectorAll('.jp-InputPrompt').length > 10")
        page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.info")
        before = figure.get_attribute("src")
        handle = page.locator(".widget-slider .noUi-handle").first
        handle.focus()
        handle.press("ArrowRight")
        page.wait_for_function(
            "before => { const i = document.querySelector('.jupyter-widgets img'); return i && i.src !== before; }",
            arg=before,
        )
        figure.evaluate("image => image.decode()")
        assert figure.get_attribute("alt").startswith("For β")
        assert figure.evaluate("i => i.naturalWidth == 2 * i.getAttribute('width')")  # sharp where pixels are dense
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
