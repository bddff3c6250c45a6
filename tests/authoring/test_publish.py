"""A fork publishes with one command: every link that a learner can follow leads to it, however often it is run."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from prefcourse.authoring import publish

ROOT = Path(__file__).resolve().parents[2]
# Written here anew, and in pieces, so that publishing leaves this file as it is.
HUB, COLAB, BINDER = "https://github.com/", "https://colab.research.google.com/github/", "https://mybinder.org/v2/gh/"
LINK = re.compile(rf"(?:{re.escape(HUB)}|{re.escape(COLAB)}|{re.escape(BINDER)})([\w.-]+/[\w.-]+)")
SITE = re.compile(r"https://([\w-]+)\.github\.io/([\w.-]+)")
UNPUBLISHED = "OWNER/REPOSITORY"


@pytest.fixture
def fork(tmp_path):
    """The whole course in an empty folder, as a download has it: no git. Big data stays at home.

    These tests run in forks, too, which have a name already: here it is taken off again.
    """
    away = shutil.ignore_patterns(".git", ".venv", "build", "runs", "site", "__pycache__", ".*_cache", "*.safetensors",
                                  "*.jsonl", "*.egg-info", ".hypothesis")  # fmt: skip
    shutil.copytree(ROOT, tmp_path / "course", ignore=away)
    publish.publish(tmp_path / "course", UNPUBLISHED, "main")
    return tmp_path / "course"


def texts(root):
    """Every text in the folder, found by looking at all files."""
    found = {}
    for path in root.rglob("*"):
        if path.is_file() and ".git" not in path.relative_to(root).parts:
            raw = path.read_bytes()
            if b"\0" not in raw:
                found[path.relative_to(root).as_posix()] = raw.decode("utf-8")
    return found


def own_links(root, *wanted):
    """How many links in `root` lead to each of the names; links to papers' code and the like are others'."""
    all_texts = texts(root).values()
    found = [name.removesuffix(".").removesuffix(".git") for text in all_texts for name in LINK.findall(text)]
    found += ["/".join(pages).removesuffix(".") for text in all_texts for pages in SITE.findall(text)]
    return [found.count(name) for name in wanted]


def git(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    subprocess.run(["git", "-C", str(folder), *arguments], env=environment, check=True, capture_output=True)


def test_every_link_of_a_fork_leads_to_it(fork, capsys):
    [count] = own_links(fork, UNPUBLISHED)
    notebooks = [path for path in texts(fork) if path.endswith(".ipynb")]
    assert count >= 2 * len(notebooks)  # each opens on Colab, and installs from there
    assert publish.main(["me/my-course", "--root", str(fork)]) == 0
    assert own_links(fork, UNPUBLISHED, "me/my-course") == [0, count]
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"me/my-course: {count} links in \d+ files changed", said[-2])
    assert sum(int(line.split()[-2]) for line in said[:-2]) == count and "Settings → Pages" in said[-1]
    assert publish.publish(fork, "me/my-course") == {}  # nothing is left to change
    publish.publish(fork, "you/another.course_2")
    assert own_links(fork, UNPUBLISHED, "me/my-course", "you/another.course_2") == [0, 0, count]


def test_no_link_is_left_behind_where_a_reader_clicks(fork):
    publish.publish(fork, "me/my-course")
    for path, text in texts(fork).items():
        for link in re.findall(r"https?://[^\s\"'<>)\\]*", text):
            assert UNPUBLISHED not in link and "OWNER.github.io" not in link, f"{path}: {link}"
        for address in re.findall(rf"{re.escape(COLAB)}[\w./-]+", text):
            if path.endswith((".ipynb", ".md")):
                assert address.startswith(f"{COLAB}me/my-course/blob/main/"), f"{path}: {address}"
    for file in (".github/ISSUE_TEMPLATE/config.yml", "CITATION.cff", "CHANGELOG.md", "README.md"):
        assert "me/my-course" in (fork / file).read_text(encoding="utf-8"), file


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_with_git_its_own_files_are_read_and_no_others(fork):
    git(fork, "init", "--quiet")
    git(fork, "add", "--all")
    linked = f"{HUB}{UNPUBLISHED}\n"
    places = {"docs/new.md": f"{HUB}me/it\n", "runs/log.md": linked, ".venv/lib/other.md": linked}  # two are ignored
    for name in places:
        (fork / name).parent.mkdir(parents=True, exist_ok=True)
        (fork / name).write_text(linked, encoding="utf-8")
    assert "docs/new.md" in publish.publish(fork, "me/it")  # not yet added, but it would be
    assert {name: (fork / name).read_text(encoding="utf-8") for name in places} == places


def test_the_way_back_gives_the_same_bytes(fork):
    first = texts(fork)
    publish.publish(fork, "me/my-course", "v1.0")
    changed = texts(fork)
    for path, text in changed.items():
        if path.endswith(".ipynb"):
            assert f'"{HUB}me/my-course\\", \\"v1.0\\"' in text and "/me/my-course/blob/v1.0/" in text
            assert "/my-course/blob/main/" not in text
    publish.publish(fork, UNPUBLISHED, "main")
    assert texts(fork) == first


def test_what_a_merge_brought_is_renamed_too(fork):
    """Ours is me/it; the lesson that came from upstream still has upstream's name and tag."""
    lesson = sorted((fork / "notebooks").glob("*.ipynb"))[-1]
    theirs = lesson.read_text(encoding="utf-8")
    publish.publish(fork, "me/it", "v1.0")
    lesson.write_text(theirs, encoding="utf-8")
    assert list(publish.publish(fork, "me/it", "v1.0")) == [f"notebooks/{lesson.name}"]
    assert own_links(fork, UNPUBLISHED) == [0] and "/blob/main/" not in lesson.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"{HUB}{{}}-two/x", f"{HUB}OWNER/REPOSITORY-two/x"),  # another repository
        (f"{HUB}{{}}. {{}}", f"{HUB}me/it. OWNER/REPOSITORY"),  # a name that is no link
        (f"git clone {HUB}{{}}.git", f"git clone {HUB}me/it.git"),
        ("git@" + "github.com:{}.git", "git@" + "github.com:me/it.git"),
        (f"git+{HUB}{{}}@main", f"git+{HUB}me/it@main"),
        (f"{HUB}{{}}/actions/workflows/check.yml/badge.svg", f"{HUB}me/it/actions/workflows/check.yml/badge.svg"),
        (f"{BINDER}{{}}/main?labpath=notebooks", f"{BINDER}me/it/v2?labpath=notebooks"),
        (f"{HUB}{{}}/tree/main", f"{HUB}me/it/tree/v2"),
        (f"{HUB}{{}}/blob/maintenance/x", f"{HUB}me/it/blob/maintenance/x"),
        ("https://codespaces" + ".new/{}", "https://codespaces" + ".new/me/it"),
        ("https://OWNER" + ".github.io/REPOSITORY/notebooks/x.html", "https://me.github.io/it/notebooks/x.html"),
        ("https://CO-OWNER" + ".github.io/REPOSITORY", "https://CO-OWNER" + ".github.io/REPOSITORY"),
    ],
)
def test_links_of_this_repository_are_changed_and_no_others(fork, text, want):
    page = fork / "docs" / "page.md"
    page.write_text(text.replace("{}", UNPUBLISHED), encoding="utf-8")
    publish.publish(fork, "me/it", "v2")
    assert page.read_text(encoding="utf-8") == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("https://OWNER" + ".github.io/REPOSITORY/", "https://me" + ".github.io/"),
        ("(https://OWNER" + ".github.io/REPOSITORY).", "(https://me" + ".github.io)."),
        ("https://OWNER" + ".github.io/REPOSITORY/docs/data.html#x", "https://me" + ".github.io/docs/data.html#x"),
        ("https://OWNER" + ".github.io/REPOSITORY/index.html", "https://me" + ".github.io/index.html"),
        (f"{HUB}OWNER/REPOSITORY/blob/main/x", f"{HUB}me/me.github.io/blob/main/x"),
        (f"{BINDER}OWNER/REPOSITORY/main", f"{BINDER}me/me.github.io/main"),
    ],
)
def test_an_owners_own_site_has_no_folder_and_the_way_back_is_the_same(tmp_path, text, want):
    lesson, page = tmp_path / "notebooks" / "00.ipynb", tmp_path / "page.md"
    lesson.parent.mkdir()
    lesson.write_text(f'REPOSITORY, TAG = "{HUB}{UNPUBLISHED}", "main"', encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    assert publish.publish(tmp_path, "me/me.github.io") == {"page.md": 1, "notebooks/00.ipynb": 1}
    assert page.read_text(encoding="utf-8") == want
    assert publish.publish(tmp_path, "me/me.github.io") == {}
    publish.publish(tmp_path, UNPUBLISHED)
    assert page.read_text(encoding="utf-8") == text


def test_from_an_owners_own_site_to_another_repository_and_nothing_of_others():
    """All in one text, by the function alone: on that host other repositories have their folders."""
    mine, host = "me/me.github.io", "https://me" + ".github.io"
    text = (
        f"{host} {host}/ {host}/notebooks/x.html {host}. {host}/other/ {host}/docs-two/ {host}.example "
        f"{mine} {HUB}{mine}/x"
    )
    want = (
        f"{host}/it {host}/it/ {host}/it/notebooks/x.html {host}/it. {host}/other/ {host}/docs-two/ {host}.example "
        f"{mine} {HUB}me/it/x"
    )
    assert publish.renamed(text, mine, "me/it") == (want, 5)
    assert publish.renamed(want, "me/it", mine) == (text, 5)
    assert publish.site("Me/me.GitHub.io") == "Me" + ".github.io" and publish.site("me/you.github.io").endswith(
        "/you.github.io"
    )


def test_the_contact_is_set_and_stays(fork):
    publish.publish(fork, "me/it", contact="conduct@example.org")
    publish.publish(fork, "you/it")
    lines = (fork / publish.CONDUCT).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("**Contact**")] == ["**Contact**: conduct@example.org"]


@pytest.mark.posix
def test_a_program_stays_one(fork):
    program = fork / ".ci" / "run"
    program.write_text(f"#!/bin/sh\n# {HUB}{UNPUBLISHED}\n", encoding="utf-8")
    program.chmod(0o755)
    assert ".ci/run" in publish.publish(fork, "me/it")
    assert program.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "name", ["", "me", "me/", "/it", "me/it/more", f"{HUB}me" + "/it", "me/my course", "me/it.git"]
)
def test_a_name_that_cannot_be_is_refused_and_nothing_changed(fork, name, capsys):
    first = texts(fork)
    assert publish.main([name, "--root", str(fork)]) == 2
    assert "the name must be OWNER/REPOSITORY" in capsys.readouterr().err
    assert texts(fork) == first


def test_elsewhere_it_says_where_to_run_it(tmp_path, capsys):
    assert publish.main(["me/it", "--root", str(tmp_path)]) == 2
    assert "Run this in the folder of the course" in capsys.readouterr().err
    assert publish.main(["me/it", "--tag", "v 1", "--root", str(ROOT)]) == 2
    assert "the tag must be a branch or tag" in capsys.readouterr().err
