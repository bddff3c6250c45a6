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


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a free port, in an empty folder with one notebook; gives its address."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(CELL.strip())], metadata=kernel), tmp_path / "label.ipynb")
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
        env={**os.environ, "JUPYTER_CONFIG_DIR": str(config)},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
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


@chromium.needed
def test_a_lesson_runs_in_jupyterlab_and_its_slider_redraws_the_figure(lab):
    with chromium.browser() as browser:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(90_000)
        run_all(page, lab, "lesson")
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
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
