"""The course as a static site: every executed lesson and exercise as a page that opens from disk, without a network.

    python -m prefcourse.authoring.site --out build/site        # then open build/site/index.html

nbconvert makes the pages. What it leaves out is added here: the figures' alt texts (it looks for them nowhere in the
notebook), navigation, one title and language for each page, and formulas as MathML, which browsers show and screen
readers speak without a script from elsewhere.
"""

import argparse
import base64
import copy
import html
import re
import sys
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import InvalidNotebook
from nbformat import NotebookNode

try:
    from latex2mathml.converter import convert as mathml
except ModuleNotFoundError:  # only the site needs it
    mathml = None

MATHS = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)((?:\\.|[^$\\])+?)(?<!\s)\$(?![\w$])", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
TAG = re.compile(r"\\tag\{((?:[^{}]|\{[^{}]*\})*)\}")
PLACE = "formula-{}-formula"
STYLE = """
body { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
nav.course { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; padding: .8rem 0; font-family: sans-serif; }
nav.course a { color: #005a9c; }
a.skip { position: absolute; left: -999px; } a.skip:focus { position: static; }
main a:not(.skip) { text-decoration: underline !important; }
.jp-InputPrompt, .jp-OutputPrompt { color: #595959 !important; opacity: 1 !important; }
.highlight .c1, .highlight .cm { color: #2b6060 !important; }
.highlight .o, .highlight .ow { color: #7a1fb8 !important; }
.highlight .mf, .highlight .mi { color: #006000 !important; }
[style*="opacity: 0.55"] { opacity: .8 !important; }
math[display=block] { margin: .6rem 0; font-size: 1.1em; } img { max-width: 100%; height: auto; }
.formula { display: flex; align-items: center; gap: 1rem; } .formula math { flex: 1; }
pre, table { overflow-x: auto; }
"""

INDEX = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Preference optimisation, understood</title>
<style>{style} body {{ font-family: sans-serif; line-height: 1.6; }} li a {{ color: #005a9c; }}</style></head>
<body><main><h1>Preference optimisation, understood</h1>
<p>From the RLHF objective through the closed form to DPO and its variants, on a small GPT-2.</p>
{contents}</main></body>
</html>
"""


def formulas(source: str, made: list[str]) -> str:
    """Markdown with a placeholder for each LaTeX formula, whose MathML is added to `made`; code is left alone.

    nbconvert takes inline HTML apart, so the formulas come back after it. Raises ValueError naming one that fails.
    """

    def turned(found: re.Match) -> str:
        display, inline = found.groups()
        latex = (display or inline).strip()
        label = TAG.search(latex)
        try:
            formula = mathml(TAG.sub("", latex), display="block" if display else "inline")
        except Exception as error:  # the library has many kinds
            raise ValueError(f"no MathML for the formula {latex[:80]!r}: {type(error).__name__} {error}") from error
        if label:
            number = html.escape(label[1].replace("\\text", "").strip("{}$"))
            formula = f'<span class="formula">{formula}<span>({number})</span></span>'
        made.append(formula)
        return f"\n\n{PLACE.format(len(made) - 1)}\n\n" if display else PLACE.format(len(made) - 1)

    parts = CODE.split(source)
    return "".join(part if i % 2 else MATHS.sub(turned, part) for i, part in enumerate(parts))


def title(notebook: NotebookNode) -> str:
    """The first heading."""
    return re.search(r"^# +(.*)$", notebook.cells[0].source, re.MULTILINE)[1].strip()


def alt_texts(notebook: NotebookNode) -> list[str]:
    """Of the figures in order of their appearance, from the outputs' metadata."""
    return [
        output.metadata.get("image/png", {}).get("alt", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def page(notebook: NotebookNode, links: dict[str, str]) -> str:
    """One notebook as a page; `links` (text → address) is its navigation."""
    notebook, made = copy.deepcopy(notebook), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(([^)\s]+)\.ipynb(#[^)]*)?\)", r"](\1.html\2)", formulas(cell.source, made))
    body, _ = HTMLExporter(template_name="lab", embed_images=True).from_notebook_node(notebook)
    soup = BeautifulSoup(body, "html.parser")
    soup.html["lang"] = "en"
    soup.title.string = title(notebook)
    for script in soup.find_all("script"):  # MathJax, RequireJS and Mermaid from elsewhere: nothing here needs them
        script.decompose()
    figures = [image for image in soup.find_all("img") if image.find_parent(class_="jp-RenderedImage")]
    for image, alt in zip(figures, alt_texts(notebook), strict=True):
        image["alt"] = alt
    for anchor in soup.find_all("a", class_="anchor-link"):  # a paragraph sign that says nothing when read aloud
        anchor.decompose()
    for cell in soup.find_all("pre"):
        cell["tabindex"] = "0"  # wide code scrolls by keyboard, too
    for head in soup.find_all("th"):
        if head.get_text(strip=True):
            head["scope"] = "col"
        else:
            head.name = "td"
    for toggle in soup.find_all(class_="jp-Collapser"):
        toggle.decompose()
    _wrap(soup, links)
    return re.sub(PLACE.format(r"(\d+)"), lambda found: made[int(found[1])], str(soup))


def _wrap(soup: BeautifulSoup, links: dict[str, str]) -> None:
    """Style, a link past the navigation, the navigation above and below, and one landmark around the lesson."""
    style = soup.new_tag("style")
    style.string = STYLE
    soup.head.append(style)
    main = soup.body.find("main") or soup.new_tag("main")
    if main.parent is None:
        main.extend(list(soup.body.contents))
        soup.body.append(main)
    main["id"] = "lesson"
    soup.body.insert(0, BeautifulSoup(_nav(links, "lessons"), "html.parser"))
    soup.body.insert(0, BeautifulSoup('<a class="skip" href="#lesson">Skip to the lesson</a>', "html.parser"))
    soup.body.append(BeautifulSoup(_nav(links, "lessons, again"), "html.parser"))


def _nav(links: dict[str, str], label: str) -> str:
    return f'<nav class="course" aria-label="{label}">' + "".join(
        f'<a href="{address}">{html.escape(text)}</a>' for text, address in links.items()
    ) + "</nav>"  # fmt: skip


def build(root: Path, out: Path) -> list[Path]:
    """Write all pages of the course that lies in `root`; returns them, index first. ValueError names a bad notebook."""
    if mathml is None:
        raise ImportError("the site needs latex2mathml: pip install latex2mathml")
    shelves = {"notebooks": "Lessons", "exercises": "Exercises", "exercises/solutions": "Solutions"}
    found = {shelf: sorted((root / shelf).glob("*.ipynb")) for shelf in shelves}
    written, contents = [], []
    for shelf, paths in found.items():
        entries, up = [], "../" * (shelf.count("/") + 1)
        for i, path in enumerate(paths):
            notebook = nbformat.read(path, as_version=4)
            links = {"All lessons": f"{up}index.html"}
            for word, k in (("Before", i - 1), ("Next", i + 1)):
                if 0 <= k < len(paths):
                    links[f"{word}: {title(nbformat.read(paths[k], as_version=4))}"] = f"{paths[k].stem}.html"
            if shelf == "notebooks" and (root / "exercises" / path.name).exists():
                links["Its exercises"] = f"../exercises/{path.stem}.html"
            target = out / shelf / f"{path.stem}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_text(page(notebook, links), encoding="utf-8")
            except (ValueError, InvalidNotebook) as error:
                raise ValueError(f"{path}: {error}") from error
            written.append(target)
            entries.append(f'<li><a href="{shelf}/{path.stem}.html">{html.escape(title(notebook))}</a></li>')
        contents.append(f"<h2>{shelves[shelf]}</h2><ul>{''.join(entries)}</ul>" if entries else "")
    index = out / "index.html"
    index.write_text(INDEX.format(style=STYLE, contents="".join(contents)), encoding="utf-8")
    return [index, *written]


def front_door(root: Path) -> bytes:
    """The README's picture: that of the cell with the tag `front-door` in lesson 08."""
    (lesson,) = (root / "notebooks").glob("08_*.ipynb")
    cells = nbformat.read(lesson, as_version=4).cells
    (cell,) = (cell for cell in cells if "front-door" in cell.metadata.get("tags", []))
    return base64.b64decode(next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m prefcourse.authoring.site", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("."), help="the clone (default: here)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/site"), help="where the pages go (default: %(default)s)"
    )
    parser.add_argument(
        "--front-door", action="store_true", help="write the README's picture, data/results/front-door.png"
    )
    options = parser.parse_args(arguments)
    if options.front_door:
        (options.root / "data/results/front-door.png").write_bytes(front_door(options.root))
        return 0
    try:
        pages = build(options.root, options.out)
    except (ValueError, ImportError, OSError) as error:
        print(f"prefcourse.authoring.site: {error}", file=sys.stderr)
        return 2
    print(f"{len(pages)} pages; open {pages[0]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
