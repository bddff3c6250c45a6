"""The course as a site: every executed lesson and exercise, and the pages of docs/, readable from disk, no network.

    python docs/make_site.py                    # what `make site` runs; then open build/site/index.html
    python docs/make_site.py --solutions        # with the solutions, for instructors

It runs in an environment of its own (docs/requirements.txt). The pages are copied to build/site-source as they lie in
the clone, so that links between them hold in both places; what Sphinx does not know of notebooks is put in on the way
(`adapted`). The start page is the front of README.md. What is built is looked through (look_through.py): a formula left
as LaTeX, a picture without an alt text, a dead link or anything from elsewhere fails the build.
"""

import argparse
import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

from look_through import faults

HERE = Path(__file__).resolve().parent
SET_UP = re.compile(r'REPOSITORY, TAG = \\?"https://github\.com/([^"\\]+)\\?", \\?"([^"\\]+)\\?"')
LINK = re.compile(r"(?<!!)(\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")
WIDGET = "[widget: run this cell to use it]"  # what prefcourse.authoring.notebooks leaves in a widget's place
WIDGET_NOTE = (
    '<p class="widget-note">Sliders: they need a running notebook (Colab or JupyterLab). '
    "The figure with them is the same, held still.</p>"
)
EXPLORED = ("02", "05", "06")  # lessons whose sliders the explorable can stand in for, without a kernel
PARTS = {  # of the sidebar
    "Lessons": "notebooks/*.ipynb",
    "Exercises": "exercises/*.ipynb",
    "Solutions": "exercises/solutions/*.ipynb",
    "More": "docs/*.md",
    "For instructors": "exercises/INSTRUCTORS.md",
    "The data": "data/README.md",
}
FRONT_ENDS = "\n## What is where\n"  # what comes from there on in README.md is for those who have the clone
PART = "\n```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n\n{entries}\n```\n"
MATHJAX = ("tex-svg.js", "a11y/assistive-mml.js")  # of the 24 MB of sphinx-mathjax-offline


def repository(root: Path) -> tuple[str, str]:
    """OWNER/REPOSITORY and the tag under which the course is published, from the first notebook's set-up."""
    first = min((root / "notebooks").glob("*.ipynb"))
    return SET_UP.search(first.read_text(encoding="utf-8")).groups()


def linked(text: str, page: Path, root: Path, pages: set[Path]) -> str:
    """Markdown of `page` whose links to files that are no pages lead to the repository, and README's to the start."""
    name, tag = repository(root)

    def turned(found: re.Match) -> str:
        before, target, after = found.groups()
        place = (root / page.parent / target).resolve()
        if not place.is_relative_to(root) or place.relative_to(root) in pages:
            return found[0]
        if place == root / "README.md":
            return f"{before}{'../' * (len(page.parts) - 1)}index.md)"
        kind = "tree" if place.is_dir() else "blob"
        return f"{before}https://github.com/{name}/{kind}/{tag}/{place.relative_to(root).as_posix()}{after}"

    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else LINK.sub(turned, part) for i, part in enumerate(parts))


def neighbours(page: Path, pages: set[Path], head: str) -> str:
    """The line under a notebook's head: the ways between lesson, exercises and solutions that the head lacks."""
    exercises, solutions = Path("exercises", page.name), Path("exercises", "solutions", page.name)
    others = {"Lesson": Path("notebooks", page.name), "Exercises": exercises, "Solutions": solutions}
    there = {
        word: Path(os.path.relpath(other, page.parent)).as_posix()
        for word, other in others.items()
        if other in pages and other != page
    }
    ways = [f"[{word}]({target})" for word, target in there.items() if f"]({target})" not in head]
    return f"\n\n{{.neighbours}}\n{' · '.join(ways)}" if ways else ""


def adapted(notebook: dict, page: Path, into: Path, widget: str = WIDGET_NOTE) -> dict[str, str]:
    """What myst-nb does not know, put into `notebook`; returns the alt texts of its figures by their hashes.

    Attachments become files of the folder `into`. myst-nb names a figure by its SHA-256 and takes no alt text from an
    output's metadata, so conf.py puts it in by that name; a fixed height would stretch what the page narrows.
    widget: what stands in the place of one, which a page without a kernel cannot run.
    """
    alts = {}
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        for name, data in cell.pop("attachments", {}).items():
            picture = into / page.parent / "attached" / f"{page.stem}-{name}"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(base64.b64decode("".join(data["image/png"])))
            cell["source"] = cell["source"].replace(f"attachment:{name}", f"attached/{picture.name}")
        if "google.colab" in cell["source"] or "from prefcourse.lesson import" in cell["source"]:
            cell["metadata"].setdefault("tags", []).append("hide-input")  # the set-up, folded
        for output in cell.get("outputs", []):
            data, facts = output.get("data", {}), output.get("metadata", {}).get("image/png", {})
            if "image/png" in data:
                alts[hashlib.sha256(base64.b64decode("".join(data["image/png"]))).hexdigest()] = facts.get("alt", "")
                facts.pop("height", None)
            if "".join(data.get("text/plain", "")) == WIDGET:
                output["data"] = {"text/html": widget}
    return alts


def description(notebook: dict) -> str:
    """The first line in italics under a notebook's title, without its marks."""
    found = re.search(r"^\*(?!\*)(.+)\*$", "".join(notebook["cells"][0]["source"]), re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[1]).replace("*", "") if found else ""


def entry(root: Path, page: Path) -> str:
    """A line of the sidebar's parts: a notebook by its title, less the word that the part's caption says already."""
    name = page.with_suffix("").as_posix()
    if page.suffix != ".ipynb":
        return name
    first = "".join(json.loads((root / page).read_text(encoding="utf-8"))["cells"][0]["source"])
    title = re.search(r"^# +(.+)$", first, re.MULTILINE)[1]
    return f"{re.sub(r'^(Exercises|Solutions) (?=[0-9])', '', title)} <{name}>"


def explorable(up: str = "") -> str:
    """The interactive figure: what its own page has between <main> and </main>. up: "../" for a page in a folder."""
    page = (HERE / "_static" / "explorable.html").read_text(encoding="utf-8")
    inside = re.search(r"<main>(.*)</main>", page, re.DOTALL)[1]
    return re.sub(r"<!--.*?-->", "", inside, flags=re.DOTALL).replace('src="', f'src="{up}_static/').strip()


def start_page(root: Path, pages: set[Path]) -> str:
    """README.md up to the map of its files, with the explorable under the figure and the sidebar's parts."""
    front = (root / "README.md").read_text(encoding="utf-8").partition(FRONT_ENDS)[0]
    front = re.sub(r" · \[Colab\]\([^)]*\)", "", front)  # every page has its own button
    claim, mark, rest = front.partition("\n## ")
    figure = f"\n```{{raw}} html\n{explorable()}\n```\n"
    text = linked(claim + figure + mark + rest, Path("README.md"), root, pages)
    for caption, pattern in PARTS.items():
        found = pages & {path.relative_to(root) for path in root.glob(pattern)}
        found = sorted(
            found, key=lambda page: (front.rfind(f"({page.as_posix()})") % len(front), page)
        )  # README's order
        entries = "\n".join(entry(root, page) for page in found)
        text += PART.format(caption=caption, entries=entries) if found else ""
    return text


def write_sources(root: Path, into: Path, solutions: bool = False) -> None:
    """Everything that Sphinx reads, written to the folder `into`, which is made anew."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(root / "docs", into, ignore=shutil.ignore_patterns("*.md", "*.txt", "__pycache__", "make_site.py"))
    wanted = [pattern for part, pattern in PARTS.items() if solutions or part != "Solutions"]
    pages = {path.relative_to(root) for pattern in wanted for path in root.glob(pattern)}
    facts = {"alt": {}, "description": {}, "repository": repository(root)}
    for page in sorted(pages):
        text = (root / page).read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            notebook = json.loads(text)
            facts["description"][page.with_suffix("").as_posix()] = description(notebook)
            explored = page.parent.name == "notebooks" and page.name[:2] in EXPLORED
            widget = explorable("../") if explored else WIDGET_NOTE
            facts["alt"] |= adapted(notebook, page, into, widget)
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = linked(cell["source"], page, root, pages)
            notebook["cells"][0]["source"] += neighbours(page, pages, notebook["cells"][0]["source"])
            text = json.dumps(notebook, ensure_ascii=False)
        else:
            text = linked(text, page, root, pages)
        (into / page).parent.mkdir(parents=True, exist_ok=True)
        (into / page).write_text(text, encoding="utf-8")
    (into / "index.md").write_text(start_page(root, pages), encoding="utf-8")
    (into / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    picture = into / "data" / "results" / "front-door.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "data" / "results" / "front-door.png", picture)


def build(root: Path, out: Path, solutions: bool = False) -> list[str]:
    """Build the site of the course in `root` into `out`, which is made anew; returns what is wrong with it."""
    from sphinx.cmd.build import build_main

    source = out.parent / f"{out.name}-source"
    write_sources(root, source, solutions)
    package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        target = source / "_static" / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, target)
    shutil.rmtree(out, ignore_errors=True)
    if build_main(["-W", "--keep-going", "-q", "-d", str(source / ".doctrees"), str(source), str(out)]):
        return ["Sphinx has warned, see above"]
    for copy in (out / "_sources").rglob("*.ipynb"):  # what the download button gives is the course's own
        shutil.copy(root / copy.relative_to(out / "_sources"), copy)
    return faults(out)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if the site is not what it should be."""
    parser = argparse.ArgumentParser(prog="python docs/make_site.py", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=HERE.parent, help="the clone (default: the one this lies in)")
    parser.add_argument("--out", type=Path, help="where the pages go (default: build/site there)")
    parser.add_argument("--solutions", action="store_true", help="with the solutions, for instructors")
    options = parser.parse_args(arguments)
    out = (options.out or options.root / "build" / "site").resolve()
    if wrong := build(options.root.resolve(), out, options.solutions):
        print("\n".join(["the site is not right:", *wrong]), file=sys.stderr)
        return 1
    print(f"open {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
