"""Every lesson that loads a world, run to its end on a stand-in for `gpt2-imdb`: `make stand-in`.

The stand-in is made in build/stand-in, or in what PREFCOURSE_STAND_IN names, unless it is there. The executed notebooks
lie beside it, to be looked at.
"""

import os
from pathlib import Path

import nbformat
import pytest
import stand_in

from prefcourse import notebooks

ROOT = Path(__file__).resolve().parents[1]
LESSONS = [p for p in sorted((ROOT / "notebooks").glob("*.ipynb")) if "load_world(" in p.read_text(encoding="utf-8")]
WHICH = "from prefcourse.world import current_world\nprint(current_world())"


@pytest.fixture(scope="module")
def environment():
    """PREFCOURSE_…: the variables with which a learner would choose the stand-in."""
    folder = Path(os.environ.get("PREFCOURSE_STAND_IN", ROOT / "build" / "stand-in")).resolve()
    parts = stand_in.find(folder) or stand_in.write(folder)
    names = {f"PREFCOURSE_{part.upper()}": str(path) for part, path in parts.items()}
    return names | {"PREFCOURSE_WORLD": "gpt2-imdb", "PREFCOURSE_CACHE": str(folder / "cache")}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_it_runs_to_its_end(path, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(WHICH))
    for cell in notebook.cells:
        cell.metadata["tags"] = ["raises-exception"]  # go on after an error, so that all are seen at once
    notebooks.execute(notebook, path.parent, timeout=120)
    out = Path(environment["PREFCOURSE_CACHE"]).parent / path.name
    nbformat.write(notebook, out)
    errors = [
        f"cell {k}: {output.ename}: {output.evalue}\n{cell.source}"
        for k, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert not errors, "\n\n".join([f"{len(errors)} cells of {path.name} fail; see {out}", *errors])
    assert notebook.cells[-1].outputs[0].text.strip() == "gpt2-imdb"
