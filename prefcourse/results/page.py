"""The page `data/results/README.md`: every stored grid, what was asked, what came out, seconds, command.

    python -m prefcourse results --page          # writes it from the files beside it

Answers are computed from the stored runs.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from prefcourse.preferences import write_whole
from prefcourse.results.grids import GRIDS
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.running import hours
from prefcourse.results.store import Grid

RULE = f"{PROTOCOL.rule}. The limit is {PROTOCOL.most_kl:g} nats"
BUDGETS = " and ".join(f"{kl:g}" for kl in PROTOCOL.budgets)
HEAD = f"""# Stored results

What takes too long for a notebook. Every file is made by the command in its row, and holds the raw runs, versions,
machine and date; the command goes on where it stopped, and `--share 1/2` and `--share 2/2` divide it. This page is
written by `python -m prefcourse results --page`; its numbers are computed from the files.

**The protocol** (version {PROTOCOL.version}).

- Settings are chosen on {PROTOCOL.choose_on} prompts, over {len(PROTOCOL.choose_seeds)} seeds: {RULE}.
- They are reported on {PROTOCOL.report_on} prompts, with {PROTOCOL.seeds} other seeds.
- Intervals: {PROTOCOL.intervals}. In the table below they are over seeds.
- Families: {PROTOCOL.family}. "The same" means two one-sided tests, margin ± {PROTOCOL.margin:g} nats of gold reward.
- At equal KL, {BUDGETS} nats: {PROTOCOL.equal_kl}.

| grid | asked | answer | can and cannot tell | seeds | runs | hours | command |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def page(folder: Path) -> str:
    """The page for the files of `folder`; grids without a file stand below the table, with expected hours."""
    rows, other, missing, spent = [], [], [], 0.0
    for name, grid in GRIDS.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            missing.append(f"- `{name}`: {grid.asks} (`python -m prefcourse results {name}`, about "
                           f"{hours(name, GRIDS):.1f} h)")  # fmt: skip
            continue
        stored = json.loads(path.read_text(encoding="utf-8"))
        rows.append(_row(name, stored))
        spent += _seconds(grid, stored)
    for path in sorted(folder.glob("*.json")):
        if path.stem not in GRIDS:
            stored = json.loads(path.read_text(encoding="utf-8"))
            other.append(f"- `{path.name}`: `{stored['command']}`, {stored['date']}")
    total = f"In all {spent / 3600:.1f} hours of one process with one thread, two of them at a time as a rule."
    parts = [HEAD + "\n".join(rows), total]
    if other:
        parts.append("## Measurements that are no grid\n\n" + "\n".join(other))
    if missing:
        parts.append("## Not yet run\n\n" + "\n".join(missing))
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> Path:
    """Write `folder`/README.md, whole or not at all, and return its path."""
    path = folder / "README.md"
    write_whole(path, page(folder))
    return path


def _row(name: str, stored: Mapping) -> str:
    grid = GRIDS[name]
    tried = f"the tries of `{grid.chosen_with}`" if grid.chosen_with else f"{len(stored.get('tried', ()))} tries"
    runs = f"{len(stored['runs'])}" + (f", {tried}" if stored.get("tried") else "")
    cells = [f"`{name}`", grid.asks, _answer(grid.answer, stored), stored["tells"],
             str(len({run["setting"]["seed"] for run in stored["runs"]})), runs,
             f"{_seconds(grid, stored) / 3600:.1f}", f"`{stored['command']}`"]  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _seconds(grid: Grid, stored: Mapping) -> float:
    """What a grid took, its own tries included, and not those of the grid that it takes its settings from."""
    return sum(run["seconds"] for run in [*stored["runs"], *([] if grid.chosen_with else stored.get("tried", ()))])


def _answer(answer, stored: Mapping) -> str:
    """The grid's answer, or why there is none in a line."""
    if answer is None:
        return "see its figure"
    try:
        return answer(stored)
    except ValueError as error:
        return f"none in a line: {error}"
