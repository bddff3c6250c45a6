"""Set the name under which the course is published, everywhere at once: run it in the repository, as often as you like.

    python -m prefcourse.authoring.publish me/my-course               # links, set-ups and CITATION.cff point to it
    python -m prefcourse.authoring.publish me/my-course --tag v1.0    # and Colab opens and installs that tag
    python -m prefcourse.authoring.publish me/my-course --contact me@example.org     # whom to write to about conduct

Every text file is read: those that git knows or would take, or, without git, all in the folder. Before the first time
the name is OWNER/REPOSITORY. Only links are changed, and what a notebook's first cell installs.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from prefcourse.finite import counted
from prefcourse.preferences import write_whole

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
UNPUBLISHED = "OWNER/REPOSITORY"
SET_UP = re.compile(
    r'REPOSITORY, TAG = \\?"https://github\.com/([^"\\]+)\\?", \\?"([^"\\]+)\\?"'
)  # as JSON, or as code
# What stands before the name in a link: on GitHub (by git@, too) and where its files are shown and opened.
AHEAD = (
    r"((?:github\.(?:com|dev)|colab\.research\.google\.com/github|mybinder\.org/v2/gh|codespaces\.new"
    r"|nbviewer\.org/github|raw\.githubusercontent\.com)[/:])"
)
BEHIND = r"(?=\.git\b|(?![\w.-]*[A-Za-z0-9_-]))"  # the name ends here
# On the site of me/me.github.io, me.github.io/it is another repository's: ours are the start and these folders.
OWN = r"(?=/(?:notebooks|exercises|docs|data|_\w+|\w+\.html)(?![\w-]|\.\w)|/?(?![\w/-]|\.\w))"
CONDUCT = Path(".github", "CODE_OF_CONDUCT.md")
CONTACT = re.compile(r"(?<=^\*\*Contact\*\*: ).+$", re.MULTILINE)
LEFT_OUT = {".git", ".venv", "build", "runs", "site", "__pycache__", ".ipynb_checkpoints"}  # where there is no git
THEN = (
    "On GitHub, once: Settings → Pages → Source: GitHub Actions, and the site is built at the next push. "
    "Then commit and push; .github/workflows says what runs there."
)


def texts(root: Path) -> dict[Path, str]:
    """The text of each file in `root` that is UTF-8: what git tracks or would track, or else all outside `LEFT_OUT`."""
    listing = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # a hook's, of elsewhere
    try:
        known = subprocess.run(listing, env=plain, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        known = []
    paths = [root / name for name in known if name]
    if not paths:  # no git, or a folder that a repository around it ignores
        paths = [path for path in root.rglob("*") if not LEFT_OUT.intersection(path.relative_to(root).parts)]
    found = {}
    for path in sorted(path for path in paths if path.is_file() and not path.is_symlink()):
        try:
            found[path] = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:  # a picture, or weights
            continue
    return found


def names(files: dict[Path, str]) -> list[tuple[str, str]]:
    """Each name and tag that a notebook's set-up has, that of the first notebook first."""
    notebooks = [text for path, text in files.items() if path.suffix == ".ipynb" and path.parent.name == "notebooks"]
    others = [text for path, text in files.items() if path.suffix == ".ipynb" and path.parent.name != "notebooks"]
    return list(dict.fromkeys(found for text in [*notebooks, *others] for found in SET_UP.findall(text)))


def site(name: str) -> str:
    """Where GitHub shows the site of the repository `name`: me.github.io/it, or me.github.io for me/me.github.io."""
    owner, _, repository = name.partition("/")
    host = f"{owner}.github.io"
    return host if repository.lower() == host.lower() else f"{host}/{repository}"


def renamed(text: str, before: str, name: str) -> tuple[str, int]:
    """The text with each link to the repository `before`, and to its site, pointing to `name`; how many there were."""
    text, links = re.subn(AHEAD + re.escape(before) + BEHIND, rf"\g<1>{name}", text)
    behind = BEHIND if "/" in site(before) else OWN
    text, pages = re.subn(r"(?<![\w.-])(?<!\w/)" + re.escape(site(before)) + behind, site(name), text)
    return text, links + pages


def tagged(text: str, name: str, before: str, tag: str) -> str:
    """The text with each set-up, and each link to a file of `name`, at `tag` where it was at `before`."""
    text = SET_UP.sub(lambda found: found[0].replace(f'"{before}', f'"{tag}') if found[2] == before else found[0], text)
    place = rf"(/{re.escape(name)}/(?:(?:blob|tree|raw)/)?){re.escape(before)}(?=[/?#)\s\"'\\]|$)"
    return re.sub(place, rf"\g<1>{tag}", text)


def publish(root: str | Path, name: str, tag: str | None = None, contact: str | None = None) -> dict[str, int]:
    """Point all links of the course in `root` to the repository `name`, OWNER/REPOSITORY; file → places changed.

    tag: branch or tag that Colab installs and opens; by default the one that is there. contact: whom the code of
    conduct names. Raises ValueError for a name that GitHub would not take, or where there is no course.
    """
    root = Path(root)
    if not NAME.fullmatch(name) or name.endswith((".git", ".")):
        raise ValueError(f"the name must be OWNER/REPOSITORY, such as me/my-course, got {name!r}")
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9][\w./-]*", tag):
        raise ValueError(f"the tag must be a branch or tag, such as main or v1.0, got {tag!r}")
    if contact is not None and not re.fullmatch(r"\S.*", contact):
        raise ValueError(f"the contact must be an address in one line, got {contact!r}")
    files = texts(root)
    there = names(files)
    if not there:
        raise ValueError(f"{root}: no notebook with a set-up cell there. Run this in the folder of the course.")
    # After a merge from elsewhere some set-ups have another name or tag than ours: all of them become one.
    befores = dict.fromkeys([*(before for before, _ in there), UNPUBLISHED])
    changed, new = {}, {}
    for path, text in files.items():
        new[path], count = text, 0
        for before in befores:
            if before != name:
                new[path], links = renamed(new[path], before, name)
                count += links
        for old in dict.fromkeys(old for _, old in there if tag):
            new[path] = tagged(new[path], name, old, tag)
        if contact and path == root / CONDUCT:
            new[path] = CONTACT.sub(lambda _: contact, new[path])
        if new[path] != text:
            changed[path] = count
    for path in sorted(changed, key=lambda path: path.suffix == ".ipynb"):  # they know the name before: they come last
        mode = path.stat().st_mode
        write_whole(path, new[path])
        path.chmod(mode)  # a program stays one
    return {path.relative_to(root).as_posix(): count for path, count in changed.items()}


def main(argv: list[str] | None = None) -> int:
    """Publish, and say what was changed."""
    parser = argparse.ArgumentParser(prog="python -m prefcourse.authoring.publish", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="OWNER/REPOSITORY on GitHub, such as me/my-course")
    parser.add_argument("--tag", help="branch or tag that Colab installs and opens (default: what is there, main)")
    parser.add_argument("--contact", help="address of the code of conduct (default: what is there, the issues)")
    parser.add_argument("--root", default=".", help="the folder of the course (default: here)")
    args = parser.parse_args(argv)
    try:
        changed = publish(args.root, args.name, args.tag, args.contact)
    except (ValueError, OSError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    for path, count in changed.items():
        print(f"  {path}: {counted(count, 'link')}" if count else f"  {path}: tag or contact")
    print(f"{args.name}: {counted(sum(changed.values()), 'link')} in {counted(len(changed), 'file')} changed")
    if changed:
        print(THEN)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
