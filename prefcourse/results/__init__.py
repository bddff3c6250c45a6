"""Results that take too long for a notebook: grids of training runs, stored in `data/results/NAME.json`.

    python -m prefcourse results --list              # all grids: tries, runs, expected hours
    python -m prefcourse results methods --list      # the points of one of them
    python -m prefcourse results methods             # runs what is missing, then writes data/results/methods.json

    stored = load("beta-sweep")                       # what, asks, tells, protocol, chosen, tried, runs
    ends = by_prompt("beta-sweep")                    # KL and gain of every run, point and prompt
    table(ends, "gain", beta=0.1, lr=2e-4)            # (seeds, prompts), for `comparison.crossed`
    forest("methods", "method", "dpo")                # differences at equal KL, Holm over all of them

A grid is a `Grid`: a question, a list of settings, each a small dict with a seed in it, and a function that turns one
of them into metrics. In which order to read: `protocol` (how settings are chosen and what may be said) · `store`
(reading) · `running` (tries, resume, shares) · `look` (what is measured) · the modules of grids, by subject · `answers`
and `page` (what came out, in a line and in a table). A lesson reads a stored result, re-runs one of its points with the
same function, and asserts that it lands in the stored band.
"""

from collections.abc import Callable
from pathlib import Path

from prefcourse.results import page, running
from prefcourse.results.answers import forest
from prefcourse.results.data import label_noise
from prefcourse.results.grids import GRIDS
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import band, by_prompt, column, estimate, grid, load, metrics, table
from prefcourse.world import load_world

__all__ = [
    "GRIDS", "PROTOCOL", "band", "by_prompt", "column", "estimate", "forest", "grid", "label_noise", "list_grids",
    "load", "metrics", "page", "table", "write",
]  # fmt: skip


def write(
    name: str, folder: Path, work: Path, say: Callable[[str], None] = print, share: tuple[int, int] = (1, 1)
) -> Path | None:
    """Run what is missing of grid `name` and write `folder/name.json`; return its path.

    share: (k, n) runs every n-th setting only, from the k-th on, so that n processes divide a grid. The file is written
    by the process that finds all runs done; the others return None.
    Raises ValueError for a name that is not in GRIDS, a share that is none, or a world without the splits.
    """
    if not 1 <= share[0] <= share[1]:
        raise ValueError(f"share must be k/n with 1 <= k <= n, got {share[0]}/{share[1]}")
    _known(name)
    return running.complete(name, GRIDS, load_world(), folder, work, say, share)


def list_grids(name: str | None, work: Path) -> str:
    """The points of grid `name` with expected seconds, or without a name a line for each grid.

    Raises ValueError for a name that is not in GRIDS.
    """
    if name is None:
        return running.summary(GRIDS)
    _known(name)
    try:
        stored = load(name)
    except FileNotFoundError:
        stored = None
    return running.listing(name, GRIDS, work, stored)


def _known(name: str) -> None:
    if name not in GRIDS:
        raise ValueError(f"there is no grid {name!r}; the grids are: {', '.join(GRIDS)}")
