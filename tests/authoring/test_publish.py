"""A fork publishes with one command: every link that a learner can follow leads to it, however often it is run."""

import re
import shutil
from pathlib import Path

import pytest

from prefcourse.authoring import publish

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"https://(?:github\.com|colab\.research\.google\.com/github|mybinder\.org/v2/gh)/([\w.-]+/[\w.-]+)")


@pytest.fixture
def fork(tmp_path):
    """A copy of all that holds links."""
    for pattern in publish.FILES:
        for path in ROOT.glob(pattern):
            (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return tmp_path


def texts(root):
    return {p: p.read_text(encoding="utf-8") for pattern in publish.FILES for p in sorted(root.glob(pattern))}


def own_links(root, names):
    """How many links in `root` lead to each of `names`; links to papers' code and the like are others'."""
    found = [name.removesuffix(".") for text in texts(root).values() for name in LINK.findall(text)]
    return {name: found.count(name) for name in names}


def test_every_link_of_a_fork_leads_to_it(fork, capsys):
    before, _ = publish.current(fork)
    count = own_links(fork, [before])[before]
    notebooks = [path for path in texts(fork) if path.suffix == ".ipynb"]
    assert count >= 2 * len(notebooks)  # each opens on Colab, and installs from there
    assert publish.main(["me/my-course", "--root", str(fork)]) == 0
    assert own_links(fork, [before, "me/my-course"]) == {before: 0, "me/my-course": count}
    assert re.fullmatch(rf"me/my-course: {count} links in \d+ files changed\n", capsys.readouterr().out)
    assert publish.publish(fork, "me/my-course") == {}  # nothing is left to change
    publish.publish(fork, "you/another.course_2")
    assert own_links(fork, ["me/my-course", "you/another.course_2"]) == {
        "me/my-course": 0,
        "you/another.course_2": count,
    }


def test_the_way_back_gives_the_same_bytes(fork):
    before, tag = publish.current(fork)
    first = texts(fork)
    publish.publish(fork, "me/my-course", "v1.0")
    changed = texts(fork)
    for path, text in changed.items():
        if path.suffix == ".ipynb":
            assert '"https://github.com/me/my-course\\", \\"v1.0\\"' in text and "/me/my-course/blob/v1.0/" in text
            assert f"/blob/{tag}/" not in text
    publish.publish(fork, before, tag)
    assert texts(fork) == first


def test_only_links_of_this_repository_are_changed(fork):
    before, _ = publish.current(fork)
    page = fork / "README.md"
    page.write_text(f"https://github.com/{before}-two/x https://github.com/{before}. {before}\n", encoding="utf-8")
    publish.publish(fork, "me/it")
    want = f"https://github.com/{before}-two/x https://github.com/me/it. {before}\n"
    assert page.read_text(encoding="utf-8") == want


@pytest.mark.parametrize(
    "name", ["", "me", "me/", "/it", "me/it/more", "https://github.com/me/it", "me/my course", "me/it.git"]
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
