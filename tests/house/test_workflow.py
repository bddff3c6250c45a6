"""Continuous integration runs on three systems what `make check` runs on one's own."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
JOB = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8"))["jobs"]["check"]


def recipe(target):
    """The commands of a target of the Makefile, without variables and folders of programs."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1].splitlines()
    return [re.sub(r"(^|\s)(\$\(\w+\)/bin/|[A-Z_]+=\S+ )+", r"\1", " ".join(line.split())) for line in lines]


def test_it_runs_what_make_check_runs():
    said = [step["run"] for step in JOB["steps"] if "run" in step]
    assert [line for line in said if " pip " not in line] == recipe("check")
    assert JOB["env"] == {"OMP_NUM_THREADS": "1"}


def test_it_runs_on_three_systems_whatever_one_of_them_says():
    systems = [name.partition("-")[0] for name in JOB["strategy"]["matrix"]["os"]]
    assert systems == ["ubuntu", "macos", "windows"] and JOB["strategy"]["fail-fast"] is False


def test_no_step_needs_a_shell_that_windows_lacks():
    lines = [step["run"] for step in JOB["steps"] if "run" in step]
    assert not [line for line in lines if re.search(r"[|&;$\\']|\bmake\b|^[A-Z_]+=", line)]


def test_make_lowest_runs_the_same_tests():
    assert recipe("lowest")[-1] == recipe("check")[-1]
