"""What runs on GitHub: the lines exist, the versions are the project's, and nothing may more than it needs."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NAMES = {"check", "whole", "site", "links"}


def parsed(path):
    """A file of YAML, with its `on:` as text: YAML 1.1 reads that word as true."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8").replace("\non:", '\n"on":'))


WORKFLOWS = {path.stem: parsed(path) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
JOBS = [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"].values()]
CHECK = WORKFLOWS["check"]["jobs"]["check"]
FORMS = sorted(path.stem for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def runs(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def pythons():
    """The versions that pyproject.toml names."""
    return [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]


def recipe(target):
    """The commands of a target of the Makefile, without variables and folders of programs."""
    text = MAKEFILE.replace("\\\n", "")
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1].splitlines()
    return [re.sub(r"(^|\s)(\$\(\w+\)/bin/|[A-Z_]+=\S+ )+", r"\1", " ".join(line.split())) for line in lines]


def test_there_are_these_and_all_can_be_read():
    assert set(WORKFLOWS) == NAMES
    for name, workflow in WORKFLOWS.items():
        assert workflow["name"] == name and workflow["on"] and workflow["jobs"]


def test_it_runs_what_make_check_runs():
    assert [line for line in runs(CHECK) if " pip " not in line] == recipe("check")
    assert CHECK["env"]["OMP_NUM_THREADS"] == "1"


def test_it_runs_on_three_systems_whatever_one_of_them_says():
    matrix = CHECK["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert CHECK["strategy"]["fail-fast"] is False
    tried = matrix["python"] + [more["python"] for more in matrix["include"]]
    assert {tried[0], tried[-1]} == {pythons()[0], pythons()[-1]}  # the oldest everywhere, the newest somewhere


def test_no_step_needs_a_shell_that_windows_lacks():
    assert not [line for line in runs(CHECK) if re.search(r"[|&;$\\']|\bmake\b|^[A-Z_]+=", line)]


def test_make_lowest_runs_the_same_tests():
    assert recipe("lowest")[-1] == recipe("check")[-1]


@pytest.mark.parametrize(("name", "job"), JOBS, ids=[name for name, _ in JOBS])
def test_every_command_is_there(name, job):
    """`make` has the target, and python the file; a job takes a time that somebody thought of."""
    assert 0 < job["timeout-minutes"] <= 120
    for line in runs(job):
        for target in re.findall(r"^make (\S+)", line):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
        for file in re.findall(r"^python (?!-m)(\S+)", line):
            assert (ROOT / file).is_file(), file


def test_the_whole_is_make_test_and_the_site_is_what_make_site_writes():
    assert runs(WORKFLOWS["whole"]["jobs"]["test"]) == ["make test"]
    build, deploy = WORKFLOWS["site"]["jobs"]["build"], WORKFLOWS["site"]["jobs"]["deploy"]
    assert runs(build) == ["make site"] and deploy["needs"] == "build"
    (upload,) = [step for step in build["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "build/site" and "in build/site" in MAKEFILE
    assert "SITE_URL" in next(step for step in build["steps"] if step.get("run") == "make site")["env"]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_nothing_may_more_than_it_needs(name):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"].startswith(name)
    for job_name, job in workflow["jobs"].items():
        writes = {right for right, how in job.get("permissions", {}).items() if how == "write"}
        assert writes == ({"pages", "id-token"} if (name, job_name) == ("site", "deploy") else set())
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])  # GitHub's own, by major version
    assert "secrets." not in (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")


def test_only_main_publishes_and_the_links_are_asked_once_a_week():
    assert WORKFLOWS["site"]["on"]["push"] == {"branches": ["main"]} and "pull_request" not in WORKFLOWS["site"]["on"]
    (weekly,) = WORKFLOWS["links"]["on"]["schedule"]
    minute, hour, day, month, weekday = weekly["cron"].split()
    assert (day, month) == ("*", "*") and minute.isdigit() and hour.isdigit() and weekday.isdigit()
    assert set(WORKFLOWS["links"]["on"]) == {"schedule", "workflow_dispatch"}


def test_every_python_is_one_that_the_project_promises():
    assert pythons() and all(f"{version}.0" in SpecifierSet(PROJECT["requires-python"]) for version in pythons())
    assert PROJECT["requires-python"] == f">={pythons()[0]}"
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    used = re.findall(r'python(?:-version)?: \[?"([\d.]+)"', text)
    assert len(used) >= 5 and set(used) <= set(pythons())
    installing = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"Python {pythons()[0]} to {pythons()[-1]}" in installing


@pytest.mark.parametrize(("name", "job"), JOBS, ids=[name for name, _ in JOBS])
def test_where_torch_is_installed_a_variable_says_where_builds_for_the_cpu_are(name, job):
    """No address of a registry stands in a file: `vars.` is empty unless the repository's owner sets it."""
    steps = [(step.get("run", ""), {**job.get("env", {}), **step.get("env", {})}) for step in job["steps"]]
    for line, environment in steps:
        if re.search(r"requirements\.txt|^make ", line):
            assert environment["PIP_EXTRA_INDEX_URL"] == "${{ vars.PIP_EXTRA_INDEX_URL }}", line


# ------------------------------------------------------------------- machines that others lend


def test_binder_has_the_course_and_a_torch_of_its_range():
    environment = parsed(".binder/environment.yml")
    wanted = dict(re.fullmatch(r"([a-z-]+)(.*)", line).groups() for line in environment["dependencies"])
    (torch,) = re.findall(r"^torch(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted["pytorch-cpu"] == torch and wanted["python"] == f"={pythons()[0]}"
    script = ROOT / ".binder" / "postBuild"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert [line.split("--no-cache-dir ")[1] for line in lines if " pip install " in line] == [
        "-r requirements.txt", "--no-deps -e .",
    ]  # fmt: skip


@pytest.mark.posix
def test_binder_can_run_it():
    assert (ROOT / ".binder" / "postBuild").stat().st_mode & 0o111


def test_the_dev_container_sets_the_course_up():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["image"] == f"python:{pythons()[0]}" and container["postCreateCommand"] == "make setup"
    assert re.search(r"^setup:", MAKEFILE, re.MULTILINE)
    custom = container["customizations"]
    venv = re.search(r"^VENV +:= (\S+)", MAKEFILE, re.MULTILINE)[1]
    interpreter = custom["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == f"${{containerWorkspaceFolder}}/{venv}/bin/python"
    assert all((ROOT / file).is_file() for file in custom["codespaces"]["openFiles"])


# ------------------------------------------------------------------------------- issue forms


def test_there_are_three_forms():
    assert FORMS == ["red_cell", "unclear_passage", "wrong_statement"]
    for link in parsed(".github/ISSUE_TEMPLATE/config.yml")["contact_links"]:
        assert set(link) == {"name", "url", "about"}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_one_that_github_takes(name):
    """Its rules: name, description and body; ids that differ; a label for each field; options where they belong."""
    form = parsed(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"] and form["title"] and form["labels"]
    fields = form["body"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    for field in fields:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"} and field["attributes"]["label"]
        assert ("options" in field["attributes"]) == (field["type"] in {"dropdown", "checkboxes"})
        assert re.fullmatch(r"[\w-]+", field["id"])
        shown = re.findall(r"notebooks/\S+\.ipynb", field["attributes"].get("placeholder", ""))
        assert all((ROOT / path).is_file() for path in shown)


# --------------------------------------------------------------------------- what changed


def test_the_changelog_keeps_its_form():
    """Keep a Changelog 1.1: a version, newest first, with its date, and under it what was added, changed, fixed."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    dates = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", head).groups() for head in heads[1:]]
    assert dates == sorted(dates, reverse=True) and len(dates) >= 1
    assert dates[0][0] == PROJECT["version"]
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {"Added", "Changed", "Removed", "Fixed", "Deprecated"}
    for head in heads:
        version = re.match(r"\[(.*)\]", head)[1]
        assert re.search(rf"^\[{re.escape(version)}\]: https://\S+$", text, re.MULTILINE), version
