"""A lesson taken apart: its headings, and under each the texts, formulas, outputs and figures that follow it.

`sections` reads a notebook; `sentences` and `shortened` cut a text where a reader would. `body` writes them.
"""

import base64
import math
import re
from dataclasses import dataclass, field

from nbformat import NotebookNode

FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$])\$(?!\s)((?:\\.|[^$\\])+?)(?<!\s)\$")
STEP = re.compile(r"\*\*(Step \d+)[.:]? *(.+?)\.?\*\*\s*")
SENTENCE = re.compile(r"(?<=[.!?])(?<!al\.)(?<!App\.)(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z*$\"“(π])|(?<=[.!?]\*\*)\s+")
WIDTH = 78  # characters a line of a slide


@dataclass(frozen=True)
class Block:
    """A text, item, table, formula, code or figure; of the last two `text` is the output of `cell`, which one runs."""

    kind: str
    text: str
    cell: str = ""
    images: tuple[tuple[str, bytes], ...] = ()  # alt text and PNG


@dataclass(frozen=True)
class Section:
    """A heading and all that follows up to the next one."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def plain(source: str) -> str:
    """Markdown without links and HTML: a slide has nowhere to go."""
    source = re.sub(r"!?\[([^\]]*)\]\([^)\s]*\)", r"\1", source)
    return re.sub(r"</?(?:details|summary|div|span|a|b|br|p|img)\b[^>]*>", "", source)


def blocks(source: str) -> list[Block]:
    """A Markdown text without headings, in pieces."""
    found = []
    for k, part in enumerate(FORMULA.split(source)):
        if k % 2:
            found.append(Block("formula", part.strip()))
            continue
        for paragraph in filter(str.strip, re.split(r"\n\s*\n", part)):
            lines = [line.rstrip() for line in paragraph.strip("\n").splitlines()]
            if lines[0].startswith("|"):
                found.append(Block("table", "\n".join(lines)))
                continue
            for item in re.split(r"\n(?=(?:[-*]|\d+\.) )", "\n".join(lines)):
                kind = "item" if re.match(r"(?:[-*]|\d+\.) ", item) else "text"
                found.append(Block(kind, " ".join(item.split())))
    return found


def sections(notebook: NotebookNode) -> list[Section]:
    """The notebook's headings (also those in bold, **Step 1. …**), each with its blocks."""
    found = [Section("")]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            images = tuple(
                (o.metadata.get("image/png", {}).get("alt", ""), base64.b64decode(o.data["image/png"])) for o in outputs
            )
            run = f"In [{cell.get('execution_count')}]"
            printed = "".join(o.text for o in cell.get("outputs", []) if o.output_type == "stream")
            found[-1].blocks.append(Block("figure" if images else "code", printed, run, images))
            continue
        source = re.sub(r"```.*?```", "", plain(cell.source), flags=re.DOTALL)
        for piece in filter(None, re.split(r"^(#{1,4} .*)$|(?=^\*\*Step \d)", source, flags=re.MULTILINE)):
            if step := STEP.match(piece):
                found.append(Section(f"{step[1]} · {step[2]}"))
                found[-1].blocks.extend(blocks(piece[step.end() :]))
            elif re.match("#{1,4} ", piece):
                found.append(Section(piece.lstrip("# ").strip()))
            else:
                found[-1].blocks.extend(blocks(piece))
    return found


def words(text: str) -> int:
    """Words to read: an inline formula is one, a formula of its own three."""
    return len(INLINE.sub(" x ", FORMULA.sub(" x x x ", re.sub("<[^>]*>", " ", text))).replace("|", " ").split())


def sentences(text: str) -> list[str]:
    """`text` in sentences; none ends inside a formula, bold type or brackets."""
    done = [""]
    for piece in SENTENCE.split(text):
        done[-1] = f"{done[-1]} {piece}".strip()
        whole = done[-1].count("$") % 2 == 0 and done[-1].count("**") % 2 == 0
        whole = whole and not re.search(r"(?:^|\s)\*[^*\s][^*]*$", done[-1])  # italics that go on
        if whole and done[-1].count("(") <= done[-1].count(")") and not re.fullmatch(r"\*\*[^*]*\*\*", done[-1]):
            done.append("")
    return [sentence for sentence in done if sentence]


def shortened(text: str, most: int) -> str:
    """The first sentences of `text`, together at most `most` words; with fewer than ten, the next one too."""
    first, *more = sentences(text)
    for sentence in more:
        if words(first) >= 10 and words(f"{first} {sentence}") > most:
            break
        first = f"{first} {sentence}"
    return first


def fitted(formula: str) -> str:
    """LaTeX that a slide can scale: without the number's own column, and a long line broken where it has a wide gap."""
    tag = re.search(r"\\tag\{((?:[^{}]|\{[^{}]*\})*)\}", formula)
    if tag:
        formula = formula.replace(tag[0], "").rstrip()
    parts = re.split(r"\\qquad(?!\s*\\(?:Longrightarrow|text))", formula)
    if len(re.sub(r"\\\w+|[{}$_^\s]", "", formula)) > 75 and len(parts) > 1 and "\\begin" not in formula:
        formula = r"\begin{gathered}" + r"\\[8pt]".join(part.strip() for part in parts) + r"\end{gathered}"
    return formula + (rf"\qquad\text{{({tag[1]})}}" if tag else "")


def height(block: Block, width: int = WIDTH) -> float:
    """How many lines of a slide it takes, about."""
    if block.kind == "formula":
        return 2.6 + 1.4 * block.text.count(r"\\\\") + 0.4 * (r"\frac" in block.text or r"\sum" in block.text)
    if block.kind in ("table", "code"):
        return 1.45 * (block.text.count("\n") + 1)
    return (
        math.ceil(len(re.sub(r"\\(?:mathrm|text|left|right|big\w*|,|;)|\\\w(?=\w)|[{}$_^*]", "", block.text)) / width)
        + 0.4
    )


def markdown(block: Block) -> str:
    """The block as it stands on a slide."""
    return f"$$\n{fitted(block.text)}\n$$" if block.kind == "formula" else block.text


def body(pieces: list[Block]) -> str:
    """Blocks under each other; items that are neighbours make one list."""
    text = ""
    for before, block in zip([None, *pieces], pieces, strict=False):
        gap = "" if before is None else "\n" if before.kind == block.kind == "item" else "\n\n"
        text += gap + markdown(block)
    return text
