"""The wheel, in an environment with the course's requirements and nothing else, used from an empty folder.

    build/test-venv/bin/python tests/whole/wheel_elsewhere.py

`make test` runs it before the packages of the tests are installed: what a learner without a clone would miss, is missed
here. The world loads, DPO trains from the command line, and a lesson runs to its end.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LESSON = ROOT / "notebooks" / "06_the_dpo_loss.ipynb"
TRAIN = ["train", "--steps", "8", "--output", "run"]


def main() -> None:
    """Raises if any of it fails; prints a line for each thing that worked."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        import nbformat

        import prefcourse
        from prefcourse.authoring import notebooks

        where = Path(prefcourse.__file__).resolve()
        assert "site-packages" in where.parts and ROOT / "prefcourse" not in where.parents, where
        world = prefcourse.load_world()
        print(f"from {where.parent.name} in site-packages: {world.name}, {len(world.pairs['train']):,} pairs")
        for command in (["doctor"], TRAIN):
            subprocess.run([sys.executable, "-m", "prefcourse", *command], check=True, stdout=subprocess.DEVNULL)
            print(f"python -m prefcourse {' '.join(command)}")
        assert (Path("run") / "run.json").is_file()
        copy = Path(shutil.copy(LESSON, folder))
        notebooks.run(copy, timeout=120)  # raises at the first cell that fails
        outputs = sum(len(cell.get("outputs", [])) for cell in nbformat.read(copy, as_version=4).cells)
        print(f"{copy.name}: {outputs} outputs")
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
