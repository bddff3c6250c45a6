"""The guard: rules that every committed notebook keeps, because nbval does not look at them.

nbval passes cells that were never run and never compares pictures. Each rule here is a function from a notebook to a
list of complaints. The rules are tested themselves: every one must fire on a small bad notebook and stay silent on a
good one. At the end stands the writer, `prefcourse.authoring.notebooks`, which produces what the rules ask for.
"""

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import zmq.asyncio
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from prefcourse.authoring import notebooks

ROOT = Path(__file__).resolve().parents[2]
GUARDED = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("exercises/solutions/*.ipynb")])

MAX_BYTES = 1_000_000
MAX_LINES = 30
MAX_IGNORED = 1 / 3
BANNED = re.compile(r"\b(simply|obviously|just)\b", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(/(home|root|Users|work|workspace|mnt|tmp)/[\w.-]|site-packages|[A-Za-z]:\\Users)")
TIMESTAMP = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
IGNORED_TAGS = {"nbval-ignore-output", "nbval-skip"}
IGNORED_COMMENT = re.compile(r"^\s*#\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_IGNORE_OUTPUT)", re.MULTILINE)


# ---------------------------------------------------------------------------------------------- what a notebook holds


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> list[tuple[int, str]]:
    """Markdown cells without code blocks, code spans and link targets."""
    found = []
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"(```|~~~).*?\1", " ", cell.source, flags=re.DOTALL)
            text = re.sub(r"`[^`\n]*`", " ", text)
            found.append((i, re.sub(r"\]\([^)]*\)", "]", text)))
    return found


def outputs(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, output) for i, cell in code_cells(notebook) for output in cell.outputs]


def texts(output: NotebookNode) -> str:
    """All that an output says in words: streams, tracebacks, plain text and HTML, but no pictures."""
    data = [str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/") or k == "image/svg+xml"]
    return "\n".join([output.get("text", ""), "\n".join(output.get("traceback", [])), *data])


def html(notebook: NotebookNode) -> list[tuple[int, str]]:
    """Where HTML can stand: the markdown cells and the HTML outputs."""
    in_cells = [(i, cell.source) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"]
    return in_cells + [
        (i, output.data["text/html"]) for i, output in outputs(notebook) if "text/html" in output.get("data", {})
    ]


def is_ignored(cell: NotebookNode) -> bool:
    return bool(IGNORED_TAGS & set(cell.metadata.get("tags", [])) or IGNORED_COMMENT.search(cell.source))


# ---------------------------------------------------------------------------------------------- the rules

RULES = {}


def rule(function):
    """Adds `function`, a generator of complaints about a notebook, to the rules."""
    RULES[function.__name__] = function
    return function


@rule
def was_run_from_top_to_bottom(notebook):
    for expected, (i, cell) in enumerate(code_cells(notebook), start=1):
        if not cell.source.strip():
            yield f"cell {i} is empty"
        elif cell.execution_count != expected:
            yield f"cell {i} has the execution count {cell.execution_count}, {expected} is due"


@rule
def no_trailing_semicolon(notebook):
    for i, cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if lines and lines[-1].split("  #")[0].rstrip().endswith(";"):
            yield f"cell {i} ends in a semicolon: use plt.show(), show(fig, alt=...) or _ = ..."


@rule
def no_stderr(notebook):
    for i, output in outputs(notebook):
        if output.output_type == "stream" and output.name == "stderr":
            yield f"cell {i} writes to stderr: {output.text.strip()[:60]!r}"


@rule
def no_errors_but_intended_ones(notebook):
    for i, cell in code_cells(notebook):
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed and "raises-exception" not in cell.metadata.get("tags", []):
            yield f"cell {i} fails and has no tag raises-exception"


@rule
def pictures_are_png(notebook):
    for i, output in outputs(notebook):
        for mime in output.get("data", {}):
            if mime.startswith("image/") and mime != "image/png":
                yield f"cell {i} holds {mime}"
    for i, text in html(notebook):
        if re.search(r"<svg\b", text, re.IGNORECASE):
            yield f"cell {i} holds an SVG"


@rule
def no_timestamps(notebook):
    for i, cell in enumerate(notebook.cells):
        if {"execution", "ExecuteTime"} & set(cell.metadata):
            yield f"cell {i} holds the times of its execution"
    for i, output in outputs(notebook):
        if found := TIMESTAMP.search(texts(output)):
            yield f"cell {i} prints the time {found.group()}"


@rule
def no_widget_state(notebook):
    if "widgets" in notebook.metadata:
        yield "the notebook holds widget state"
    for i, output in outputs(notebook):
        for mime in output.get("data", {}):
            if "widget-state" in mime or "widget-view" in mime:
                yield f"cell {i} holds {mime}"


@rule
def metadata_is_clean(notebook):
    if notebook.metadata != notebooks.METADATA:
        yield f"the notebook's metadata hold more than the kernel: {sorted(notebook.metadata)}"
    for i, cell in enumerate(notebook.cells):
        if foreign := set(cell.metadata) - notebooks.CELL_METADATA:
            yield f"cell {i} has the metadata {sorted(foreign)}"


@rule
def images_have_alt_text(notebook):
    for i, output in outputs(notebook):
        if "image/png" in output.get("data", {}) and not output.metadata.get("image/png", {}).get("alt", "").strip():
            yield f"the figure of cell {i} has no alt text: use prefcourse.lesson.show(fig, alt=...)"
    for i, text in html(notebook):
        for tag in re.findall(r"<img\b[^>]*>", text, re.IGNORECASE | re.DOTALL):
            if not re.search(r"""\balt\s*=\s*(["'])\s*(?!\1)\S""", tag):
                yield f"cell {i}: {tag[:60]} has no alt text"
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]", cell.source):
            yield f"cell {i} has a markdown image without alt text"


@rule
def no_remote_images(notebook):
    for i, text in html(notebook):
        markdown = r"!\[[^\]]*\]\(\s*<?(?:https?:)?//"
        reference = r"!\[[^\]]*\]\[[^\]]*\]"
        tag = r"""<img\b[^>]*\bsrc\s*=\s*["']?(?:https?:)?//"""
        if re.search(f"{markdown}|{reference}|{tag}", text, re.IGNORECASE | re.DOTALL):
            yield f"cell {i} shows an image from elsewhere (a reference-style image counts: write its path in place)"


@rule
def figures_have_a_takeaway(notebook):
    for i, cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            following = notebook.cells[i + 1 : i + 3]
            if not any(c.cell_type == "markdown" and c.source.startswith("**Takeaway.**") for c in following):
                yield f"neither of the two cells after the figure of cell {i} starts with **Takeaway.**"


@rule
def is_small(notebook):
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        yield f"{size:,} bytes, {MAX_BYTES:,} are allowed"


@rule
def no_notebook_progress_bars(notebook):
    for i, cell in code_cells(notebook):
        if re.search(r"tqdm\.(notebook|auto|autonotebook)|tqdm_notebook", cell.source):
            yield f"cell {i} imports a progress bar that stores widget state"


@rule
def no_wildcard_imports(notebook):
    for i, cell in code_cells(notebook):
        if re.search(r"^\s*from\s+\S+\s+import\s+\*", cell.source, re.MULTILINE):
            yield f"cell {i} imports *"


@rule
def no_banned_words(notebook):
    for i, text in prose(notebook):
        if found := BANNED.search(text):
            yield f"cell {i} says {found.group()!r}"


@rule
def cells_are_short(notebook):
    for i, cell in code_cells(notebook):
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            yield f"cell {i} has {lines} lines, {MAX_LINES} are allowed"


@rule
def most_outputs_are_compared(notebook):
    cells = [cell for _, cell in code_cells(notebook)]
    ignored = sum(map(is_ignored, cells))
    if ignored > MAX_IGNORED * len(cells):
        yield f"nbval ignores {ignored} of {len(cells)} code cells, a third is allowed"


@rule
def no_paths_of_the_machine(notebook):
    for i, cell in enumerate(notebook.cells):
        for text in [cell.source, *map(texts, cell.get("outputs", []))]:
            if (found := MACHINE_PATH.search(text)) or str(ROOT) in text:
                yield f"cell {i} holds a path of the machine: {found.group() if found else ROOT}"


def complaints(notebook: NotebookNode) -> list[str]:
    """What all rules say about a notebook, in the order of the rules."""
    return [f"{name}: {complaint}" for name, function in RULES.items() for complaint in function(notebook)]


# ---------------------------------------------------------------------------------------------- the committed notebooks


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: str(path.relative_to(ROOT)))
def test_notebook_keeps_the_rules(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = complaints(notebook)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: str(path.relative_to(ROOT)))
def test_notebook_was_written_by_make_notebooks(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.read_text(encoding="utf-8") == notebooks.text(notebooks.clean(notebook))


# ---------------------------------------------------------------------------------------------- the guard itself

PNG = {"image/png": "iVBORw0KGgo=", "text/plain": "[figure: a line that falls]"}
ALT = {"image/png": {"alt": "a line that falls"}}


def code(source="x = 1", *results, count=1, tags=(), **metadata):
    cell = new_code_cell(source, execution_count=count, outputs=list(results), metadata=metadata)
    if tags:
        cell.metadata.tags = list(tags)
    return cell


def made_of(*cells, **metadata):
    return new_notebook(cells=list(cells), metadata=nbformat.from_dict({**notebooks.METADATA, **metadata}))


def data(metadata=None, **mimes):
    mimes = {name.replace("__", "/"): value for name, value in mimes.items()}
    return new_output("display_data", data=mimes, metadata=metadata or {})


def figure(metadata=None):
    return new_output("display_data", data=PNG, metadata=metadata or {})


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def html_cell(text):
    return code("show()", data(text__html=text))


ERROR = new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
TAKEAWAY = new_markdown_cell("**Takeaway.** The line falls.")
WIDGET = new_output("display_data", data={notebooks.WIDGET_VIEW: {"model_id": "1"}})

GOOD = made_of(
    new_markdown_cell("# A title\n\nWe adjust the weights. `just` in code is fine, [and a link](https://e.org/just)."),
    new_markdown_cell("![two boxes](figures/boxes.png)"),
    code("import torch  # simply; a comment;", count=1),
    code("a = 1; b = 2\nprint(a)", stream("1\n"), count=2),
    code("plot()", figure(ALT), count=3, tags=["nbval-ignore-output"]),
    code("within('loss', loss, 0, 1)", stream("✓ loss\n"), count=4),
    TAKEAWAY,
    code("1 / 0", ERROR, count=5, tags=["raises-exception"]),
    code("\n".join(["pass"] * 30), count=6, nbgrader={"grade": False}),
)

BAD = {
    "was_run_from_top_to_bottom": [
        made_of(code(count=None)),
        made_of(code(count=2)),
        made_of(code(count=1), code(count=1)),
        made_of(code("  ")),
    ],
    "no_trailing_semicolon": [made_of(code("plt.plot(x);")), made_of(code("f(x) ;  # draws\n\n# the end"))],
    "no_stderr": [made_of(code("f()", stream("100%|██", "stderr")))],
    "no_errors_but_intended_ones": [made_of(code("1 / 0", ERROR))],
    "pictures_are_png": [
        made_of(code("f()", new_output("display_data", data={"image/svg+xml": "<svg></svg>"}))),
        made_of(code("f()", data(image__jpeg="/9j/"))),
        made_of(html_cell("<p><svg></svg></p>")),
        made_of(new_markdown_cell("<svg width='3'></svg>")),
    ],
    "no_timestamps": [
        made_of(code(execution={"iopub.execute_input": "2026-01-01T10:00:00Z"})),
        made_of(code("now()", stream("at 2026-01-01 10:00\n"))),
    ],
    "no_widget_state": [made_of(code(), widgets={"state": {}}), made_of(code("w", WIDGET))],
    "metadata_is_clean": [
        made_of(code(), colab={"provenance": []}),
        made_of(code(), language_info={"name": "python", "version": "3.11.7"}),
        made_of(code(collapsed=True)),
    ],
    "images_have_alt_text": [
        made_of(code("f()", figure()), TAKEAWAY),
        made_of(code("f()", figure({"image/png": {"alt": " "}})), TAKEAWAY),
        made_of(new_markdown_cell("![](figures/a.png)")),
        made_of(new_markdown_cell('<img src="a.png" alt="">')),
        made_of(html_cell('<img src="data:image/png;base64,AAAA">')),
    ],
    "no_remote_images": [
        made_of(new_markdown_cell("[![a badge](https://e.org/badge.svg)](https://e.org)")),
        made_of(new_markdown_cell("![a badge][badge]\n\n[badge]: https://e.org/badge.png")),
        made_of(html_cell("<img alt='a cat' src='//e.org/cat.png'>")),
    ],
    "figures_have_a_takeaway": [
        made_of(code("f()", figure(ALT))),
        made_of(code("f()", figure(ALT)), new_markdown_cell("Next."), new_markdown_cell("More."), TAKEAWAY),
    ],
    "is_small": [made_of(code("f()", stream("x" * MAX_BYTES)))],
    "no_notebook_progress_bars": [
        made_of(code("from tqdm.notebook import tqdm")),
        made_of(code("import tqdm.auto as tqdm")),
    ],
    "no_wildcard_imports": [made_of(code("import os\nfrom math import *"))],
    "no_banned_words": [
        made_of(new_markdown_cell("Obviously, Z cancels.")),
        made_of(new_markdown_cell("We simply add.")),
        made_of(new_markdown_cell("It is *just* a sum.")),
    ],
    "cells_are_short": [made_of(code("\n".join(["pass"] * 31)))],
    "most_outputs_are_compared": [
        made_of(code(tags=["nbval-ignore-output"]), code(count=2)),
        made_of(code("# NBVAL_IGNORE_OUTPUT\nf()"), code(count=2)),
        made_of(code(tags=["nbval-skip"])),
    ],
    "no_paths_of_the_machine": [
        made_of(code("open('/home/ada/data.json')")),
        made_of(code("p", stream("C:\\Users\\ada\\data"))),
        made_of(code("p", stream(f"{ROOT}/data"))),
        made_of(code("p", data(text__plain="PosixPath('/tmp/x1')"))),
        made_of(new_markdown_cell("see lib/python3.11/site-packages/torch")),
    ],
}


def test_a_good_notebook_passes_all_rules():
    assert complaints(GOOD) == []


def test_every_rule_has_a_bad_notebook():
    assert set(BAD) == set(RULES)


@pytest.mark.parametrize(("name", "notebook"), [(name, bad) for name, all_bad in BAD.items() for bad in all_bad])
def test_the_rule_fires(name, notebook):
    assert list(RULES[name](notebook)), f"{name} lets this through"


def test_pictures_are_not_searched_for_paths():
    assert not list(RULES["no_paths_of_the_machine"](made_of(code("f()", data(image__png="AA/tmp/AA/home/x")))))


# ---------------------------------------------------------------------------------------------- the writer


def written(folder, *cells, name="lesson.ipynb"):
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    path = folder / name
    nbformat.write(new_notebook(cells=list(cells), metadata={"colab": {}}), path)
    return path


@pytest.mark.slow
def test_notebooks_are_written_byte_stable_and_keep_the_rules(tmp_path, capsys):
    path = written(
        tmp_path,
        new_markdown_cell("# A figure"),
        new_code_cell("import sys, ipywidgets\nprint('a', flush=True)\nprint('b')"),
        new_code_cell("ipywidgets.IntSlider()", metadata={"tags": ["nbval-ignore-output"], "collapsed": True}),
        new_code_cell(
            "import matplotlib.pyplot as plt\nfrom prefcourse.lesson import show\n"
            "fig, axes = plt.subplots()\nshow(fig, alt='an empty pair of axes, nothing drawn')"
        ),
        new_markdown_cell("**Takeaway.** There is nothing to see."),
        new_code_cell("assert sys.executable == " + repr(sys.executable)),
    )
    assert notebooks.main([str(path)]) == 0
    assert " s  " in capsys.readouterr().out
    first = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.pop()  # names this machine's Python on purpose
    assert complaints(notebook) == []
    assert notebook.cells[1].outputs == [stream("a\nb\n")]
    assert notebook.cells[2].outputs[0].data == {"text/plain": notebooks.WIDGET_NOTE}
    assert notebook.cells[3].outputs[0].metadata["image/png"]["alt"].startswith("an empty pair")
    assert notebooks.main([str(tmp_path)]) == 0  # a folder stands for its notebooks
    assert path.read_bytes() == first


def test_a_reply_that_comes_while_a_widget_is_answered_is_seen():
    """nbclient alone slept over 7 replies in 600 cells with an Output widget, each time until the cell's time limit."""

    async def wait_for_it():
        with zmq.asyncio.Context() as context, zmq.Context() as kernels:
            shell, kernel = context.socket(zmq.DEALER), kernels.socket(zmq.DEALER)
            shell.connect(f"tcp://127.0.0.1:{kernel.bind_to_random_port('tcp://127.0.0.1')}")
            client = notebooks.Client(new_notebook(), record_timing=False)
            client.kc = SimpleNamespace(shell_channel=SimpleNamespace(socket=shell))
            reply = asyncio.ensure_future(shell.poll(5000))
            await asyncio.sleep(0.1)
            kernel.send(b"reply")
            time.sleep(0.2)  # it arrives while the loop does not look
            zmq.Socket.shadow(shell.underlying).send(b"to the widget")  # as jupyter_client sends
            client.process_message({"msg_type": "status", "content": {"execution_state": "busy"}}, new_code_cell(), 0)
            try:
                return await asyncio.wait_for(reply, 2)
            finally:
                shell.close(0), kernel.close(0)

    assert asyncio.run(wait_for_it()) == zmq.POLLIN


def test_a_failing_notebook_is_shown_and_left_as_it_was(tmp_path, capsys):
    path = written(tmp_path, new_code_cell("print('fine')"), new_code_cell("raise ValueError('the second cell')"))
    before = path.read_bytes()
    assert notebooks.main([str(path)]) == 1
    said = capsys.readouterr()
    assert "raise ValueError('the second cell')" in said.err
    assert "FAILED" in said.out
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["lesson.ipynb"]


def test_a_missing_notebook_is_an_error(tmp_path):
    with pytest.raises(SystemExit) as stop:
        notebooks.main([str(tmp_path / "none.ipynb")])
    assert stop.value.code == 2


@pytest.mark.slow
def test_nbval_compares_strictly_with_this_interpreter(tmp_path):
    path = written(tmp_path, new_code_cell(f"import sys\nprint(sys.executable == {sys.executable!r})\nprint(6 * 7)"))
    assert notebooks.main([str(path)]) == 0
    changed = path.read_text(encoding="utf-8").replace("42", "43")
    (tmp_path / "changed.ipynb").write_text(changed, encoding="utf-8")
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "60", "-rA", "-p", "no:cacheprovider"]
    sanitize = ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval-sanitize.cfg")]
    nbval = [sys.executable, "-m", "pytest", *options, *sanitize, "--rootdir", str(tmp_path), str(tmp_path)]
    said = subprocess.run(nbval, cwd=tmp_path, capture_output=True, encoding="utf-8").stdout
    assert "PASSED lesson.ipynb::Cell 0" in said
    assert "FAILED changed.ipynb::Cell 0" in said
