"""Chromium for the tests that need a browser; without one they are skipped and say what to do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PATH = os.environ.get("PREFCOURSE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

needed = pytest.mark.skipif(not PATH, reason="no Chromium here: make browser, or set PREFCOURSE_CHROMIUM")


@contextmanager
def browser() -> Iterator:
    """A headless browser of playwright's, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=PATH, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()
