"""A clone on Windows, where git makes CRLF of LF unless told otherwise: the same bytes, and a course that runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = (".gitattributes", ".ci", "Makefile", "pyproject.toml", "prefcourse", "data", "notebooks", "tests/house")
WHO = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "core.autocrlf=false", "-c", "gc.auto=0")

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder, *arguments):
    """Run git as on a machine where nobody has configured it."""
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    # A hook that runs the tests sets GIT_DIR and more, which would lead this git to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | nobody
    subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with core.autocrlf=true of what lies here now, committed or not."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("clone") / "course"
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".DS_Store")
    for part in PARTS:
        place = source / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place, ignore=ignored)
        else:
            shutil.copy(ROOT / part, place)
    git(source, "init", "--quiet")
    git(source, *WHO, "add", "--all")
    git(source, *WHO, "commit", "--quiet", "--message", "all")
    git(source, "clone", "--quiet", "-c", "core.autocrlf=true", str(source), str(target))
    return target


def test_a_clone_with_autocrlf_has_every_byte(clone):
    files = [path.relative_to(clone) for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert len(files) > 100 and Path("data/pairs/train.jsonl") in files
    assert [str(name) for name in files if (clone / name).read_bytes() != (ROOT / name).read_bytes()] == []


@pytest.mark.slow
def test_a_clone_with_autocrlf_trains(clone):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(clone), os.environ["PYTHONPATH"]])}
    command = [sys.executable, "-m", "prefcourse", "train", "--steps", "1", "--batch-size", "4"]
    run = subprocess.run(command, cwd=clone, env=environment, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert (clone / "runs" / "dpo" / "run.json").is_file() and (clone / "runs" / "dpo" / "training.png").is_file()
