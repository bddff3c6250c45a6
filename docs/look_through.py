"""What is wrong with built pages: LaTeX left over, pictures without words, dead links, things from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

QUIET = {"pre", "code", "script", "style", "title"}  # elements whose text may hold backslashes and dollars
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LATEX = re.compile(r"\\[A-Za-z]{2,}|\\[|()\[\]{}]|\$(?!\s)[^$\n]+(?<!\s)\$(?!\d)|attachment:")
BLOCKS = {"p", "li", "td", "th", "div", "dd", "dt", "h1", "h2", "h3", "h4", "br"}  # a formula does not span two
LEAST_WORDS = 5  # of an alt text


class Page(HTMLParser):
    """One page: its ids, its links, what it loads, its pictures, and its text outside code and formulas."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.ids, self.links, self.loads, self.pictures, self.text = path, set(), [], [], [], []
        self.quiet = []  # the open elements from the first whose text does not count
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element has; once within code or a formula, stay there until it ends."""
        has = dict(attrs)
        if tag in BLOCKS:
            self.text.append("\n")
        self.ids.add(has.get("id"))
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        if tag == "img":
            self.pictures.append((has.get("src", ""), has.get("alt") or ""))
        if tag in ("img", "script", "iframe", "source") and "src" in has:
            self.loads.append(has["src"])
        if tag == "link" and has.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(has["href"])
        formula = "math" in (has.get("class") or "").split()
        if tag not in VOID and (self.quiet or tag in QUIET or formula):
            self.quiet.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Leave the element, and those in it that nobody closed."""
        if tag in self.quiet:
            while self.quiet.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Keep text that is read as such."""
        if not self.quiet:
            self.text.append(data)


def faults(out: Path) -> list[str]:
    """Everything that is wrong with the pages in the folder `out`, a line each."""
    pages = {path.resolve(): Page(path) for path in sorted(out.rglob("*.html")) if "_static" not in path.parts}
    found = [] if pages else [f"{out}: no pages"]
    for path, page in pages.items():
        wrong = [f"LaTeX is left over: {text[0]!r}" for text in LATEX.finditer("".join(page.text))]
        wrong += [
            f"no alt text of {LEAST_WORDS} words: {source} {alt!r}"
            for source, alt in page.pictures
            if len(alt.split()) < (1 if "_static/images/" in source else LEAST_WORDS)  # there lie the theme's icons
        ]
        wrong += [f"comes from elsewhere: {address}" for address in page.loads if re.match(r"(?:https?:)?//", address)]
        wrong += [f"dead link: {address}" for address in {*page.links, *page.loads} if _dead(address, path, pages)]
        wrong += [
            f"not a notebook on Colab: {address}"
            for address in page.links
            if "colab.research.google.com" in address and not address.endswith(".ipynb")
        ]
        found += [f"{path.relative_to(out.resolve()).as_posix()}: {words}" for words in wrong]
    return found


def _dead(address: str, path: Path, pages: dict[Path, Page]) -> bool:
    """Whether a link of the page at `path` leads to no file, or to a place that its page does not have."""
    if re.match(r"[a-z]+:|//", address):
        return False
    name, _, anchor = address.partition("#")
    there = (path.parent / unquote(name.partition("?")[0])).resolve() if name else path
    if not there.is_file():
        return True
    return bool(anchor) and there in pages and unquote(anchor) not in pages[there].ids
