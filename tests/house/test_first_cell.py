"""The cell that every notebook begins with: it installs the package where a host has a bare kernel, only there."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(
    p for name in ("notebooks", "exercises", "exercises/solutions") for p in (ROOT / name).glob("*.ipynb")
)
# A kernel in which %pip prints what it would install. sys.argv: the cell, and modules that this kernel has or has not.
KERNEL = """
import sys
import types
import warnings
from IPython.core.interactiveshell import InteractiveShell

warnings.simplefilter("ignore")  # IPython tells how to leave a terminal
source, there, missing = sys.argv[1:]
sys.modules.update({name: types.ModuleType(name) for name in there.split()})
sys.modules.update({name: None for name in missing.split()})  # which Python takes for a module that cannot be found
shell = InteractiveShell.instance(colors="NoColor")
shell.register_magic_function(lambda line: print("pip", line), magic_name="pip")
result = shell.run_cell(source)
print("error:", repr(result.error_in_exec))
"""
HOSTS = ("KAGGLE_", "BINDER_", "COLAB_")


def first_cell(path):
    """The first code cell; the others must not install."""
    first, *others = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any("REPOSITORY" in cell.source or "%pip" in cell.source for cell in others)
    return first


def test_all_notebooks_begin_with_the_same_cell_and_it_printed_nothing():
    assert len(NOTEBOOKS) == 3 * len(list((ROOT / "notebooks").glob("*.ipynb")))
    assert len({first_cell(path).source for path in NOTEBOOKS}) == 1
    assert [path.name for path in NOTEBOOKS if first_cell(path).outputs] == []


def run(there="", missing="prefcourse", **environment):
    """What the cell prints in a kernel with the modules `there` and without `missing`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(HOSTS)} | environment
    line = [sys.executable, "-c", KERNEL, first_cell(NOTEBOOKS[0]).source, there, missing]
    done = subprocess.run(line, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("there", "environment"),
    [
        ("google google.colab", {}),
        ("", {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}),
        ("", {"BINDER_SERVICE_HOST": "10.0.0.1"}),
        ("", {"BINDER_REQUEST": "v2/gh/me/mine/main"}),
    ],
    ids=["Colab", "Kaggle", "Binder", "Binder of late"],
)
def test_a_host_with_a_bare_kernel_installs_the_package(there, environment):
    said = run(there, **environment)
    assert said == "pip install -q --no-deps git+https://github.com/OWNER/REPOSITORY@main\nerror: None\n"


@pytest.mark.parametrize(
    ("there", "environment"),
    [
        ("", {}),
        ("google google.colab", {}),
        ("", {"BINDER_REQUEST": "v2/gh/me/mine/main"}),
    ],
    ids=["a machine of one's own", "Colab, again", "the course's own Binder"],
)
def test_where_the_package_is_nothing_happens(there, environment):
    assert run(there, missing="", **environment) == "error: None\n"


def test_another_kernel_is_told_which_to_choose_without_a_traceback():
    """A learner's Kaggle password, which is no kernel of Kaggle's, is no reason to install into an unknown kernel."""
    said = run(KAGGLE_USERNAME="me", KAGGLE_KEY="none")
    sentence = "No prefcourse in this kernel: choose that of .venv, made by make setup (docs/install.md)."
    assert f"SystemExit: {sentence}\n" in said and f"error: SystemExit({sentence!r})\n" in said
    assert "pip install" not in said and "Traceback" not in said and len(said.splitlines()) <= 5
