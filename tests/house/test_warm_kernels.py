"""Forked kernels are what kernels are: each starts clean, hears signals, is compared strictly, and ends with pytest."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import warm_kernels
from jupyter_client import KernelManager
from nbformat.v4 import new_code_cell, new_notebook, new_output

from prefcourse.authoring import notebooks

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only"),
    pytest.mark.slow,  # it runs notebooks
]


@pytest.fixture(scope="module", autouse=True)
def forking():
    """Forked kernels, in this file at least."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jupyter_client.launcher.Popen", warm_kernels.Popen)
        forked = warm_kernels.Popen.forked
        yield
        assert warm_kernels.Popen.forked > forked
    warm_kernels.pytest_unconfigure()


def said(folder: Path, *cells: str) -> list[str]:
    """What each of the cells prints, in a kernel that runs in `folder`."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebooks.execute(notebook, folder, timeout=60)
    return ["".join(output.get("text", "") for output in cell.outputs).strip() for cell in notebook.cells]


TRACES = "import builtins, os, sys\nprint(hasattr(builtins, 'left'), 'LEFT' in os.environ, 'prefcourse' in sys.modules)"
LEAVE = "import prefcourse\nbuiltins.left = 1\nos.environ['LEFT'] = '1'"
PLACE = "print(os.environ['PREFCOURSE_WORLD'], os.getcwd(), os.getppid(), os.getsid(0) == os.getpid())"
NUMBERS = "import random, numpy, torch\nprint(random.random())\nprint(numpy.random.rand())\nprint(torch.rand(1).item())"
LIBRARIES = """
from matplotlib import pyplot as plt
from transformers import logging
print(plt.get_backend())
logging.get_logger("transformers.some").warning("written to the notebook")
"""
FAR = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 2)\nexcept OSError as error: print(error)"


def test_a_kernel_is_clean_and_what_its_caller_asks_for(tmp_path, monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)  # other tests call `quiet`, which kernels would inherit
    numbers = []
    for name in ("one", "two"):
        monkeypatch.setenv("PREFCOURSE_WORLD", name)
        (folder := tmp_path / name).mkdir()
        traces, _, place, drawn, libraries, far = said(folder, TRACES, LEAVE, PLACE, NUMBERS, LIBRARIES, FAR)
        assert traces == "False False False"
        assert place == f"{name} {folder} {os.getpid()} True"
        assert warm_kernels.INLINE in libraries and "written to the notebook" in libraries
        assert "run offline" in far
        numbers += drawn.split()
    assert len(set(numbers)) == 6


def test_a_kernel_hears_signals_and_its_end_is_seen():
    manager = KernelManager(kernel_spec_manager=notebooks.ThisInterpreter())
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=30)
        # An error makes a kernel refuse what is queued; the next request may already be.
        # It sleeps a little at a time: a signal that comes before the system call of a sleep is noticed after it.
        sleep = "import time\nprint('there', flush=True)\nfor _ in range(600): time.sleep(0.1)"
        client.execute(sleep, stop_on_error=False)
        while client.get_iopub_msg(timeout=30)["content"].get("text") != "there\n":  # a warning is a stream, too
            pass
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=30)["content"]["ename"] == "KeyboardInterrupt"
        client.execute("import os; os._exit(7)")
        assert manager.provisioner.process.wait(30) == 7
        assert not manager.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_what_cannot_be_forked_is_started_as_usual(tmp_path, monkeypatch):
    monkeypatch.setattr(warm_kernels, "__file__", str(tmp_path / "no_such_file.py"))
    monkeypatch.setattr(warm_kernels.Popen, "cold", ())
    monkeypatch.setenv("OTHER", "environment")
    assert said(tmp_path, "import sys\nprint('torch' in sys.modules)") == ["False"]
    (reason,) = warm_kernels.Popen.cold
    assert "no_such_file" in reason


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait; AssertionError when that takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def notebook_file(path: Path, source: str, printed: str) -> str:
    """Write a notebook of one cell, of which is stored that it printed that; returns its name."""
    output = new_output("stream", name="stdout", text=printed)
    notebook = new_notebook(cells=[new_code_cell(source, execution_count=1, outputs=[output])])
    nbformat.write(notebook, path)
    return path.name


def processes(mark: str) -> list[int]:
    """Those that were started with `mark` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # gone, or not ours
            continue
    return found


def test_nbval_compares_strictly_and_nothing_outlives_a_killed_pytest(tmp_path):
    names = [
        notebook_file(tmp_path / "right.ipynb", "print(2)", "2\n"),
        notebook_file(tmp_path / "wrong.ipynb", "print(2)", "3\n"),
        notebook_file(tmp_path / "ends.ipynb", "import os; os._exit(1)", ""),
        notebook_file(tmp_path / "sleeps.ipynb", "open('asleep', 'w'); import time; time.sleep(60)", ""),
    ]
    command = [sys.executable, warm_kernels.__file__, "-v", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    mark = str(tmp_path)
    how = {"cwd": tmp_path, "env": os.environ | {"PYTHONUNBUFFERED": "1", "MARK": mark}, "stdout": subprocess.PIPE}
    run = subprocess.Popen([*command, "--nbval-cell-timeout", "2", *names], stderr=subprocess.STDOUT, text=True, **how)
    try:
        wait_until(lambda: (tmp_path / "asleep").exists() or run.poll() is not None, 60)
        assert len(processes(mark)) == 3  # pytest, the server and a kernel
    finally:
        run.kill()
    assert re.findall(r"Cell 0 ([A-Z]+)", run.communicate()[0]) == ["PASSED", "FAILED", "FAILED"]
    wait_until(lambda: not processes(mark), 10)
