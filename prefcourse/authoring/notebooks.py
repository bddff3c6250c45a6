"""Run notebooks from top to bottom and write them back, so that the same code gives the same bytes.

    python -m prefcourse.authoring.notebooks notebooks exercises/solutions

A notebook that fails is shown with its failing cell and left as it was. What is written holds outputs and nothing else:
no times, no widget state, no metadata of the machine. `make notebooks` calls this, and the tests refuse notebooks that
were saved in any other way.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import ipykernel.kernelspec
import nbformat
import zmq
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FOLDED = "jp-MarkdownHeadingCollapsed"  # JupyterLab hides what stands below such a heading until somebody opens it
CELL_METADATA = {FOLDED, "deletable", "editable", "jupyter", "nbgrader", "tags"}  # what a cell may carry
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "[widget: run this cell to use it]"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
QUIET = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


class ThisInterpreter(KernelSpecManager):
    """Starts every kernel with the Python that runs this module, whatever kernels the machine has installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**ipykernel.kernelspec.get_kernel_dict())


class Client(NotebookClient):
    """nbclient, which now and then sleeps over the kernel's reply until the cell's time limit.

    It answers an Output widget on the socket where it waits for that reply. A reply that has come by then is not
    announced again; asking for the socket's events makes up for it.
    """

    def process_message(self, *arguments, **settings):
        """One message of the kernel, which may be one of a widget."""
        try:
            return super().process_message(*arguments, **settings)
        finally:
            self.kc.shell_channel.socket.get(zmq.EVENTS)


def execute(
    notebook: NotebookNode,
    folder: Path,
    timeout: int = 600,
    allow_errors: bool = False,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run all cells in `folder`, in place; `timeout` is in seconds per cell, `variables` go to the environment.

    Raises nbclient's errors; with `allow_errors` a cell that fails has its error among its outputs, and the next runs.
    """
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | QUIET | (variables or {})
    client = Client(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisInterpreter()),
        extra_arguments=["--log-level=ERROR"],
        timeout=timeout,
        allow_errors=allow_errors,
        record_timing=False,
        store_widget_state=True,  # without it nbclient fails on interactive_output; `clean` removes the state
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(cleanup_kc=True, env=environment)


def rank(cell: NotebookNode) -> int:
    """1 to 6 where a Markdown cell begins with a heading, else 0."""
    found = re.match(r"(#{1,6}) ", cell.source) if cell.cell_type == "markdown" else None
    return len(found[1]) if found else 0


def optional_rank(cell: NotebookNode) -> int:
    """The rank of a heading that begins with "Optional", else 0: what stands below it folds."""
    return rank(cell) if re.match(r"#+ Optional\b", cell.source) else 0


def clean(notebook: NotebookNode) -> NotebookNode:
    """Remove all that differs from run to run or from machine to machine, and fold what is optional.

    The notebook is changed and returned.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in sorted(cell.metadata.items()) if k in CELL_METADATA - {FOLDED}}
        )
        if optional_rank(cell):
            cell.metadata[FOLDED] = True
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)
            for output in cell.outputs:
                if WIDGET_VIEW in output.get("data", {}):  # its id is random, and points to state that is not stored
                    output.data = NotebookNode({"text/plain": WIDGET_NOTE})
    return notebook


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """`outputs` with neighbouring pieces of one stream joined: where a stream is cut depends on timing."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def text(notebook: NotebookNode) -> str:
    """The notebook as it is written to its file."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(notebook: NotebookNode, path: Path) -> None:
    """Write `notebook` to `path` in one step: a reader never finds half a file."""
    nbformat.validate(notebook)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", dir=path.parent, delete=False) as file:
        file.write(text(notebook))
    os.chmod(file.name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
    os.replace(file.name, path)


def run(path: Path, timeout: int = 600) -> None:
    """Execute, clean and write back one notebook."""
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, path.parent.resolve(), timeout)
    write(clean(notebook), path)


def find(paths: list[str]) -> list[Path]:
    """The notebooks at `paths`, where a folder stands for the notebooks directly in it. Raises FileNotFoundError."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no notebook and no folder at {path}")
        found += sorted(path.glob("*.ipynb")) if path.is_dir() else [path]
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the number of notebooks that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m prefcourse.authoring.notebooks", description="Run notebooks, write them back."
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="notebooks, or folders of notebooks")
    parser.add_argument("--timeout", type=int, default=600, metavar="S", help="seconds per cell (default 600)")
    options = parser.parse_args(arguments)
    try:
        paths = find(options.paths)
    except FileNotFoundError as error:
        parser.error(str(error))
    failed = 0
    for path in paths:
        start = time.perf_counter()
        try:
            run(path, options.timeout)
            verdict = "written"
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed += 1
            verdict = "FAILED, left as it was"
            print(str(error) if sys.stderr.isatty() else COLOURS.sub("", str(error)), file=sys.stderr)
        print(f"{time.perf_counter() - start:6.1f} s  {path}  {verdict}", flush=True)
    if not paths:
        print("no notebooks to run")
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
