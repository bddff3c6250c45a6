"""Slides for each lesson, made from the lesson itself: its figures, formulas, takeaways and summary, as Marp decks.

    python -m prefcourse.authoring.slides                       # all lessons, into build/slides
    python -m prefcourse.authoring.slides 05 06 --render        # two of them, and as HTML and PDF

A deck is Markdown with its figures beside it: it can be read, changed and presented without this module. `--render`
calls marp-cli, which needs node's `npx`, and for the PDF a Chromium. What a slide leaves out is in its speaker's note,
with the cell to run. `slides` says what is chosen, `write` how a deck looks.
"""

import argparse
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from prefcourse.authoring.parts import WIDTH, Block, Section, body, height, sections, sentences, shortened, words
from prefcourse.finite import counted

MARP = "@marp-team/marp-cli@4.5.1"  # the one place where its version stands
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
MOST_SLIDES, MOST_WORDS = 20, 140
LINES, DENSE = 12, (15, 98)  # lines of a slide; lines, and characters in one, where the type is small
GOALS = "You will be able to"
NAME_ONE = "Name a lesson by its number, 05, or by its path, notebooks/05_the_closed_form.ipynb"
CSS = """\
section { font: 28px/1.42 "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1d2733; background: #fff;
  padding: 48px 70px; place-content: start; }
section h1, section h2 { color: #14507f; font-size: 38px; margin: 0 0 22px; line-height: 1.2; }
section.title { place-content: center start; border-left: 18px solid #01469E; }
section.title h1 { font-size: 60px; }
section.dense { font-size: 23px; }
section.figure { padding-top: 34px; } section.figure h2 { font-size: 32px; margin-bottom: 12px; }
section.figure .row { display: flex; gap: 20px; justify-content: center; }
section.figure img { max-width: 100%; max-height: 445px; min-width: 0; object-fit: contain; background: none; }
section.figure p { margin: 12px 0 0; font-size: 26px; }
section.tall .row { float: left; width: 70%; margin-right: 26px; } section.tall img { max-height: 570px; }
section table { font-size: .9em; margin: 8px 0; } section li + li { margin-top: 8px; }
section footer, section::after { color: #595959; font-size: 16px; }
"""
ANSWER = re.compile(
    r"answers? question|answer to the p|is (?:the first half of )?question \d|ow the pred|\(question|Question \d[.:]"
)


@dataclass(frozen=True)
class Slide:
    """`body` is Markdown, `note` the speaker's; a slide of a higher `rank` goes first where there are too many."""

    title: str
    body: str
    note: str
    kind: str = ""
    rank: int = 0


def pages(title: str, pieces: list[Block], note: str) -> list[Slide]:
    """One slide, in small type if it must be, or as many as the blocks need, of about the same size."""
    long = sum(words(block.text) for block in pieces) > MOST_WORDS
    fits = [(kind, room, width) for kind, room, width in (("", LINES, WIDTH), ("dense", *DENSE))
            if not long and sum(height(block, width) for block in pieces) <= room]  # fmt: skip
    kind, room, width = (fits or [("", LINES, WIDTH)])[0]
    total = sum(height(block, width) for block in pieces)
    share, made, used = total / math.ceil(total / room), [[]], 0.0
    for block in pieces:
        if made[-1] and used + height(block, width) > min(room, share + 2):
            made.append([])
            used = 0.0
        made[-1].append(block)
        used += height(block, width)
    more = [""] + [", continued"] * (len(made) - 1)
    return [Slide(title + said, body(page), note, kind) for said, page in zip(more, made, strict=True)]


def picture(name: str, block: Block, n: int) -> str:
    """The file of the n-th figure of a cell."""
    return f"{name}-{block.cell.strip('In []')}-{n}.png"


def figure_slides(section: Section, name: str) -> list[Slide]:
    """A slide for each cell that draws, with the takeaway that follows it."""
    made = []
    for k, block in enumerate(section.blocks):
        if block.kind != "figure":
            continue
        below = [b.text for b in section.blocks[k + 1 :] if b.kind == "text" and b.text.startswith("**Takeaway")][:1]
        row = "".join(
            f'<img src="{picture(name, block, n)}" alt="{html.escape(alt)}">' for n, (alt, _) in enumerate(block.images)
        )
        takeaway = shortened(below[0], 45) if below else ""
        note = f"Run {block.cell} of the lesson, {section.title!r}, and move what can be moved. {' '.join(below)}"
        wide, high = (int.from_bytes(block.images[0][1][k : k + 4], "big") for k in (16, 20))  # in a PNG's head
        kind = "figure tall" if len(block.images) == 1 and wide < 1.5 * high else "figure"
        made.append(Slide(section.title, f'<div class="row">{row}</div>\n\n{takeaway}', note, kind))
    return made


def formula_slides(section: Section) -> list[Slide]:
    """The section's formulas, two to a slide, each with the sentences that lead to it."""
    pieces = [block for block in section.blocks if block.kind in ("text", "formula")]
    places = [k for k, block in enumerate(pieces) if block.kind == "formula"]
    cells = [block.cell for block in section.blocks if block.kind in ("code", "figure")]
    note = f"Run {cells[0]} of the lesson: both sides in numbers." if cells else "Ask for the reason of the step first."
    made = []
    for pair in (places[k : k + 2] for k in range(0, len(places), 2)):
        chosen: list[Block] = []
        for k in pair:
            if k and pieces[k - 1].kind == "text":
                chosen.append(Block("text", shortened(pieces[k - 1].text, 45)))
            chosen.append(pieces[k])
        rank = 2 if any(r"\boxed" in pieces[k].text or r"\tag" in pieces[k].text for k in pair) else 1
        title = section.title + (", continued" if made else "")
        made.append(Slide(title, body(chosen), note, "dense" if sum(map(height, chosen)) > LINES else "", rank))
    return made


def answered(said: list[str], n: int) -> tuple[str, str]:
    """Which question sentence `n` of a text answers, and the answer: this sentence, the one before, or what follows."""
    if inside := re.search(r" ?\(question (\d+)\)", said[n]):
        return inside[1], " ".join([said[n].replace(inside[0], ""), *said[n + 1 :]])
    asked = re.search(r"(?:answers|is) (?:the first half of )?question (\d+)[:,.]? *", said[n])
    asked = asked or re.search(r"Question (\d+)[.:] *", said[n])
    after = " ".join([said[n][asked.end() if asked else 0 :], *said[n + 1 :]]).strip()
    said_before = asked and n and ":" not in said[n][asked.start() :] and asked[0][0] != "Q"
    return asked[1] if asked else "", said[n - 1] if said_before else after


def answers(parts: list[Section]) -> list[Slide]:
    """What the lesson says about its own predictions, from where it says it."""
    found = []
    for section in parts:
        if re.match("Your prediction", section.title):
            texts = [block for block in section.blocks if block.kind in ("text", "item", "table")]
            return pages("Your predictions", texts, "Come back to the show of hands.")
        for k, block in enumerate(section.blocks):
            if block.text.startswith("**Your predictions.**"):
                found.append(("", Block("item", f"- {block.text.removeprefix('**Your predictions.**').strip()}")))
                continue
            said = sentences(block.text) if block.kind == "text" else []
            for n in (n for n, sentence in enumerate(said) if ANSWER.search(sentence)):
                number, text = answered(said, n)
                found.append((number, Block("item", f"- **{number}** · {shortened(text, 45)}".replace("**** · ", ""))))
                cell = section.blocks[k + 1] if k + 1 < len(section.blocks) else block
                if n == len(said) - 1 and cell.kind == "code" and cell.text:  # the answer is printed
                    found.append(("", Block("code", f"```\n{cell.text.strip()}\n```")))
    ordered = [block for _, block in sorted(found, key=lambda answer: answer[0])]
    return pages("Your predictions", ordered, "Come back to the show of hands.") if found else []


def wrong(parts: list[Section]) -> list[Slide]:
    """The lesson's mistakes, each with the beginning of its diagnosis."""
    found = []
    for section in parts:
        said = [b.text.removeprefix("**Diagnosis.**") for b in section.blocks if b.text.startswith("**Diagnosis.**")]
        name = re.sub(r"^What goes wrong(?:,[^:]*)?: ", "", section.title)
        found += [Block("item", f"- **{name}.** {shortened(text.strip(), 35)}") for text in said]
    return pages("What goes wrong", found, "Run the broken cells first, and ask what the logs show.") if found else []


def summary(section: Section) -> list[Slide]:
    """The bullets, each with its first sentences; the rest is the speaker's."""
    points = [block for block in section.blocks if block.kind == "item"]
    short = [Block("item", shortened(point.text, 40)) for point in points]
    return pages(section.title, short, "In full. " + " ".join(point.text.lstrip("-* ") for point in points))


def opening(parts: list[Section]) -> list[Slide]:
    """Title, what one will be able to do, and the questions to answer before anything is shown."""
    first = parts[1]
    lines = [block for block in first.blocks if block.kind in ("text", "formula")]
    line = Block("text", shortened(lines[0].text.strip("*"), 45))
    rows = dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \|$", "\n".join(b.text for s in parts for b in s.blocks), re.M))
    goals = [Block("item", f"- {goal.strip()}") for goal in rows[GOALS].split(" · ")]
    note = f"Time: {rows['Time']}. Network: {rows['Network']}."
    (question,) = (section for section in parts if section.title.startswith("Predict first"))
    asked = [block for block in question.blocks if block.kind in ("text", "item", "table")]
    return [
        Slide(first.title, body([line, *lines[1:2]] if line.text.endswith(":") else [line]), note, "title"),
        *pages(GOALS, [*goals, Block("text", f"**You need** {rows['You need']}")], note),
        *pages("Predict first", asked, "Everybody writes down an answer, then a show of hands; keep it."),
    ]


def slides(notebook: NotebookNode, name: str) -> list[Slide]:
    """All of the lesson's, whose figures are files that begin with `name`. ValueError where it is no lesson."""
    parts = sections(notebook)
    titles = [part.title for part in parts]
    asks = any(title.startswith("Predict first") for title in titles)
    if not asks or "Summary" not in titles or not any(GOALS in b.text for s in parts for b in s.blocks):
        raise ValueError(
            f"this is no lesson: a lesson has a table with “{GOALS}” and the headings “Predict first” and “Summary”"
        )
    beginning = opening(parts)
    end = [*answers(parts), *wrong(parts), *summary(parts[titles.index("Summary")])]
    middle = [slide for part in parts[2:] for slide in [*formula_slides(part), *figure_slides(part, name)]]
    room = max(0, MOST_SLIDES - len(beginning) - len(end) - sum(slide.kind.startswith("figure") for slide in middle))
    ranked = sorted((slide for slide in middle if not slide.kind.startswith("figure")), key=lambda slide: -slide.rank)[
        :room
    ]
    return beginning + [slide for slide in middle if slide.kind.startswith("figure") or slide in ranked] + end


def write(path: Path, out: Path) -> Path:
    """The lesson's deck and its figures, in the folder `out`; returns the deck. ValueError names what is no lesson."""
    try:
        notebook = nbformat.read(path, as_version=4)
        made = slides(notebook, path.stem)
    except (ValueError, OSError, nbformat.reader.NotJSONError) as error:
        raise ValueError(f"{path}: {error}. {NAME_ONE}") from error
    out.mkdir(parents=True, exist_ok=True)
    for block in (block for part in sections(notebook) for block in part.blocks):
        for n, (_, png) in enumerate(block.images):
            (out / picture(path.stem, block, n)).write_bytes(png)
    name = made[0].title
    head = {
        "marp": True,
        "lang": "en",
        "math": "mathjax",
        "paginate": True,
        "title": name,
        "footer": name,
        "style": CSS,
    }
    text = "---\n" + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in head.items())
    for slide in made:
        # Marp takes a comment that reads like YAML for its settings: a line of its own first makes it a note.
        note = f"Notes\n\n{slide.note.replace('--', '–')}\n\nLesson: notebooks/{path.name}"
        kind = f"<!-- _class: {slide.kind} -->\n" if slide.kind else ""
        mark = "#" if slide.kind == "title" else "##"
        text += f"---\n\n{kind}{mark} {slide.title}\n\n{slide.body}\n\n<!--\n{note}\n-->\n\n"
    deck = out / f"{path.stem}.md"
    deck.write_text(text, encoding="utf-8")
    return deck


def render(decks: list[Path]) -> list[str]:
    """HTML and PDF beside each deck; returns what is missing for that, in words, or what marp-cli complained about."""
    npx, browser = shutil.which("npx"), next(filter(None, map(shutil.which, BROWSERS)), None)
    if npx is None:
        return [f"no HTML and no PDF: node's npx is not on PATH. Install node 20 or newer; npx then fetches {MARP}"]
    said = (
        [] if browser else [f"no PDF: none of {', '.join(BROWSERS)} is on PATH. Print the HTML from a browser instead"]
    )
    kinds = [[]] + (
        [["--pdf", "--allow-local-files", "--browser", "chrome", "--browser-path", browser]] if browser else []
    )
    for kind in kinds:
        command = [npx, "--yes", MARP, "--no-stdin", "--html", *kind, *map(str, decks)]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", env=os.environ | {"PUPPETEER_SKIP_DOWNLOAD": "1"}
        )
        if done.returncode:
            said.append(f"{MARP} failed with {' '.join(kind) or 'HTML'}: {done.stderr.strip()[-600:]}")
    return said


def find(lessons: list[str], root: Path) -> list[Path]:
    """The notebooks meant by numbers or paths, all lessons where none is given. Raises FileNotFoundError."""
    if not lessons:
        return sorted((root / "notebooks").glob("*.ipynb"))
    found = []
    for name in lessons:
        match = sorted((root / "notebooks").glob(f"{name}_*.ipynb")) if re.fullmatch(r"\d+", name) else [Path(name)]
        if not match or not match[0].is_file():
            raise FileNotFoundError(f"no lesson {name!r}. {NAME_ONE}")
        found += match
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 where a lesson cannot be read, 1 where something is missing for HTML or PDF."""
    parser = argparse.ArgumentParser(prog="python -m prefcourse.authoring.slides", description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="numbers or notebooks (default: all lessons)")
    parser.add_argument("--root", type=Path, default=Path("."), help="the clone (default: here)")
    parser.add_argument("--out", type=Path, default=Path("build/slides"), help="where they go (default: %(default)s)")
    parser.add_argument("--render", action="store_true", help="make HTML and PDF too, with marp-cli and a Chromium")
    options = parser.parse_args(arguments)
    try:
        decks = [write(path, options.out) for path in find(options.lessons, options.root)]
    except (ValueError, OSError) as error:
        print(f"prefcourse.authoring.slides: {error}", file=sys.stderr)
        return 2
    print(f"{counted(len(decks), 'deck')} in {options.out}")
    missing = render(decks) if options.render and decks else []
    for line in missing:
        print(f"prefcourse.authoring.slides: {line}", file=sys.stderr)
    return min(len(missing), 1)


if __name__ == "__main__":
    raise SystemExit(main())
