"""Every lesson that loads a world, run to its end in another place: `make stand-in` and `make pretend-gpu`.

First in another world, a stand-in for `gpt2-imdb`, and on another device: what breaks with other models, tokenizers and
texts, or on a GPU, breaks here. It is made in build/stand-in, or in what PREFCOURSE_STAND_IN names, unless it is there.
Then in the bundled world on that device, where all that a lesson asserts must hold. The executed notebooks are left in
build/elsewhere, to be looked at.
"""

import os
from pathlib import Path

import nbformat
import pytest
import stand_in

from prefcourse.authoring import notebooks

ROOT = Path(__file__).resolve().parents[2]
LESSONS = [p for p in sorted((ROOT / "notebooks").glob("*.ipynb")) if "load_world(" in p.read_text(encoding="utf-8")]
ON_ANOTHER_DEVICE = f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nimport pretend_gpu\npretend_gpu.start()"
WHICH = "from prefcourse.world import current_world\nprint(current_world())"


@pytest.fixture(scope="module")
def in_another_world():
    """PREFCOURSE_…: the variables with which a learner would choose the stand-in."""
    folder = Path(os.environ.get("PREFCOURSE_STAND_IN", ROOT / "build" / "stand-in")).resolve()
    parts = stand_in.find(folder) or stand_in.write(folder)
    names = {f"PREFCOURSE_{part.upper()}": str(path) for part, path in parts.items()}
    return names | {"PREFCOURSE_WORLD": "gpt2-imdb", "PREFCOURSE_CACHE": str(folder / "cache")}


def run(path: Path, kind: str) -> str:
    """Run the lesson at `path` on the pretended device; the name of its world. AssertionError with all that failed."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [nbformat.v4.new_code_cell(ON_ANOTHER_DEVICE), *notebook.cells, nbformat.v4.new_code_cell(WHICH)]
    notebooks.execute(notebook, path.parent, timeout=300, allow_errors=True)
    out = ROOT / "build" / "elsewhere" / f"{path.stem}-{kind}.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)
    errors = [
        f"cell {k - 1}: {output.ename}: {output.evalue}\n{cell.source}"
        for k, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert not errors, "\n\n".join([f"{len(errors)} cells of {path.name} fail; see {out}", *errors])
    return notebook.cells[-1].outputs[0].text.strip()


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_in_another_world(path, in_another_world, monkeypatch):
    for name, value in in_another_world.items():
        monkeypatch.setenv(name, value)
    assert run(path, "in-another-world") == "gpt2-imdb"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_on_another_device(path):
    assert run(path, "on-another-device") == "tiny-reviews"
