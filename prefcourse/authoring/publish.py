"""Set the name under which the course is published, everywhere at once: run it in the repository, as often as you like.

    python -m prefcourse.authoring.publish me/my-course               # links, set-ups and CITATION.cff point to it
    python -m prefcourse.authoring.publish me/my-course --tag v1.0    # and Colab opens and installs that tag

Before the first time the name is OWNER/REPOSITORY. Only links are changed, and what a notebook's first cell installs.
"""

import argparse
import re
import sys
from pathlib import Path

from prefcourse.finite import counted
from prefcourse.preferences import write_whole

FILES = ("README.md", "CITATION.cff", "exercises/INSTRUCTORS.md", "notebooks/*.ipynb", "exercises/*.ipynb",
         "exercises/solutions/*.ipynb")  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
SET_UP = re.compile(
    r'REPOSITORY, TAG = \\?"https://github\.com/([^"\\]+)\\?", \\?"([^"\\]+)\\?"'
)  # as JSON, or as code
AHEAD = r"(github\.com/|colab\.research\.google\.com/github/|mybinder\.org/v2/gh/)"  # what stands before the name


def current(root: Path) -> tuple[str, str]:
    """The name and the tag that the first notebook's set-up has. Raises ValueError if there is none."""
    for path in sorted(root.glob("notebooks/*.ipynb")):
        if found := SET_UP.search(path.read_text(encoding="utf-8")):
            return found[1], found[2]
    raise ValueError(f"{root}: no notebook with a set-up cell there. Run this in the folder of the course.")


def publish(root: str | Path, name: str, tag: str | None = None) -> dict[str, int]:
    """Point all links of the course in `root` to the repository `name`, OWNER/REPOSITORY; file → places changed.

    tag: branch or tag that Colab installs and opens; by default the one that is there. Raises ValueError for a name
    that GitHub would not take, or where there is no course.
    """
    root = Path(root)
    if not NAME.fullmatch(name) or name.endswith((".git", ".")):
        raise ValueError(f"the name must be OWNER/REPOSITORY, such as me/my-course, got {name!r}")
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9][\w./-]*", tag):
        raise ValueError(f"the tag must be a branch or tag, such as main or v1.0, got {tag!r}")
    before, tag_before = current(root)
    tag = tag or tag_before
    changed = {}
    for path in sorted(path for pattern in FILES for path in root.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        new, count = re.subn(AHEAD + re.escape(before) + r"(?![\w.-]*[A-Za-z0-9_-])", rf"\g<1>{name}", text)
        new = SET_UP.sub(lambda found: found[0].replace(f'"{tag_before}', f'"{tag}'), new)
        new = new.replace(f"/{name}/blob/{tag_before}/", f"/{name}/blob/{tag}/")
        if new != text:
            write_whole(path, new)
            changed[str(path.relative_to(root))] = count
    return changed


def main(argv: list[str] | None = None) -> int:
    """Publish, and say what was changed."""
    parser = argparse.ArgumentParser(prog="python -m prefcourse.authoring.publish", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="OWNER/REPOSITORY on GitHub, such as me/my-course")
    parser.add_argument("--tag", help="branch or tag that Colab installs and opens (default: what is there, main)")
    parser.add_argument("--root", default=".", help="the folder of the course (default: here)")
    args = parser.parse_args(argv)
    try:
        changed = publish(args.root, args.name, args.tag)
    except (ValueError, OSError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    print(f"{args.name}: {counted(sum(changed.values()), 'link')} in {counted(len(changed), 'file')} changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
