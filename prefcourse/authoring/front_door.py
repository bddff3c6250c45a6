"""Write the picture that README.md and the site's start page open with, data/results/front-door.png.

    python -m prefcourse.authoring.front_door        # `make notebooks` does it, too

It is the figure of the cell with the tag `front-door` in lesson 08.
"""

import base64
import sys
from pathlib import Path

import nbformat


def front_door(root: Path) -> bytes:
    """The picture, as PNG, from the lesson in the clone `root`. Raises ValueError unless one cell has the tag."""
    (lesson,) = (root / "notebooks").glob("08_*.ipynb")
    cells = nbformat.read(lesson, as_version=4).cells
    tagged = [cell for cell in cells if "front-door" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(
            f"{lesson}: {len(tagged)} cells with the tag front-door. Give it to the one whose figure it is."
        )
    return base64.b64decode(next(o.data["image/png"] for o in tagged[0].outputs if "image/png" in o.get("data", {})))


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    (root / "data" / "results" / "front-door.png").write_bytes(front_door(root))
