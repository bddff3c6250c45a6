"""How a grid is run: tries, choices, runs; kept one by one, divided among processes, written whole.

    build/results/NAME/WORLD/tries/…json     what each candidate got on validation prompts
    build/results/NAME/WORLD/runs/…json      each finished run, under its setting and what was chosen for it
    build/results/policies/WORLD/…           policies that several grids need: the first to come trains them
    data/results/NAME.json, .safetensors     the whole, once all runs are there

WORLD is a fingerprint of the world's models and data: runs of another world are not taken over, and a card that is
written anew makes no run void. A run is kept under its setting and what was chosen, so another protocol takes over what
it asks for, too.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from prefcourse.preferences import write_whole
from prefcourse.results import store as stored_as
from prefcourse.results.protocol import PROTOCOL, Choice, check_splits, choose, described, group
from prefcourse.results.store import Grid, Setting, in_steps, provenance
from prefcourse.worlds.bundled import data_folder
from prefcourse.worlds.world import World

Say = Callable[[str], None]
Share = tuple[int, int]


CARD = ("facts.json",)  # of the files that have a checksum, those that no run reads


def fingerprint() -> str:
    """Eight letters that name the models and data of the bundled world."""
    sums = json.loads((data_folder() / "checksums.json").read_text(encoding="utf-8"))
    read = {name: sums[name] for name in sorted(sums) if name not in CARD}
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()[:8]


def place(work: Path, name: str) -> Path:
    """Where the tries and runs of grid `name` are kept."""
    return work / name / fingerprint()


def file_of(folder: Path, setting: Setting) -> Path:
    """Where a run is kept: under its setting."""
    return folder / ("_".join(f"{k}={v}" for k, v in setting.items()).replace("/", "-") + ".json")


def complete(
    name: str, grids: Mapping[str, Grid], world: World, folder: Path, work: Path, say: Say, share: Share
) -> Path | None:
    """Run what is missing of grid `name` and write it to `folder`; see `prefcourse.results.write`."""
    if world is not None:
        check_splits(world)
    stored_as.shelf = work / "policies" / fingerprint()
    try:
        return _complete(name, grids, world, folder, work, say, share)
    finally:
        stored_as.shelf = None


def _complete(
    name: str, grids: Mapping[str, Grid], world: World, folder: Path, work: Path, say: Say, share: Share
) -> Path | None:
    grid = grids[name]
    tried, choices = settle(name, grids, world, work, say, share)
    all_kept = []
    for number, setting in enumerate(grid.settings, start=1):
        chosen = chosen_for(grid, setting, choices)
        kept = file_of(place(work, name) / "runs", setting | chosen)
        all_kept.append(kept)
        if not kept.exists() and (number - share[0]) % share[1]:
            continue  # another process's
        if not kept.exists():
            began = time.time()
            found = {"setting": setting, "chosen": chosen, "date": time.strftime("%Y-%m-%d")}
            found |= grid.run(world, **setting, **chosen)
            keep(kept, found | {"seconds": round(time.time() - began)})
        say(f"[{number}/{len(grid.settings)}] {name} {setting}: {read(kept)['seconds']} s")
    if not all(kept.exists() for kept in all_kept):  # looked at again: another process may have come to its end
        return None
    return store(name, grid, tried, choices, [read(kept) for kept in all_kept], folder)


def keep(path: Path, found: Mapping) -> None:
    """Write a run whole or not at all; two processes that have made the same one do not get in each other's way."""
    own = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    write_whole(own, json.dumps(found))
    own.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A run as it was kept."""
    return json.loads(path.read_text(encoding="utf-8"))


def chosen_for(grid: Grid, setting: Setting, choices: Mapping[str, Choice]) -> Setting:
    """What the protocol chose for a run; nothing that its setting says itself. Empty where nothing is chosen."""
    if not choices:
        return {}
    by = [name for name in grid.by if name in setting]
    found = choices.get(group(setting, by)) if len(by) == len(grid.by) else None
    return {k: v for k, v in found.settings.items() if k not in setting} if found else {}


def settle(
    name: str, grids: Mapping[str, Grid], world: World, work: Path, say: Say, share: Share
) -> tuple[list[dict], dict[str, Choice]]:
    """The tries that decide on the settings of grid `name`, those missing run, and what is chosen.

    A process tries its own share, then helps the others from the back: it needs all of them to go on.
    """
    name = grids[name].chosen_with or name
    grid, folder = grids[name], place(work, name) / "tries"
    own = [s for number, s in enumerate(grid.tries, start=1) if (number - share[0]) % share[1] == 0]
    for setting in [*own, *reversed([s for s in grid.tries if s not in own])]:
        kept = file_of(folder, setting)
        if kept.exists():
            continue
        began = time.time()
        found = {"setting": setting} | grid.trial(world, **setting)
        keep(kept, found | {"seconds": round(time.time() - began)})
        say(f"tried {name} {setting}: gold {found['gold']:.2f} at {found['kl']:.2f} nats")
    tried = [read(file_of(folder, s)) for s in grid.tries]
    return tried, choose(tried, grid.by) if tried else {}


def store(
    name: str, grid: Grid, tried: Sequence[dict], choices: Mapping[str, Choice], runs: Sequence[dict], folder: Path
) -> Path:
    """Write the grid to `folder`/NAME.json, a line for each run, and what it found by prompt beside it."""
    tensors = {}
    for number, run in enumerate(runs):
        for key, rows in run.pop("by_prompt", {}).items():
            tensors[f"{number}/{key}"], tensors[f"{number}/{key}/step"] = in_steps(rows)
    path, seconds = folder / f"{name}.json", sum(run["seconds"] for run in [*tried, *runs])
    record = {
        "what": grid.what,
        "asks": grid.asks,
        "tells": grid.tells,
        "protocol": described(),
        **provenance(f"python -m prefcourse results {name}"),
        "date": max(run.pop("date") for run in runs),
        "seconds": seconds,
        "chosen": {which: asdict(choice) for which, choice in choices.items()},
    }
    lists = {"tried": tried, "runs": runs}
    head = json.dumps(record, indent=1, ensure_ascii=False).removesuffix("\n}")
    body = ",\n".join(
        f' "{key}": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]" for key, rows in lists.items()
    )
    if tensors:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{name}.safetensors.{os.getpid()}-{threading.get_ident()}"
        save_file(tensors, part)
        part.replace(folder / f"{name}.safetensors")
    part = folder / f".{name}.json.{os.getpid()}-{threading.get_ident()}"
    write_whole(part, f"{head},\n{body}\n}}\n")
    part.replace(path)
    return path


# ------------------------------------------------------------------------------------------- before it is run


def listing(name: str, grids: Mapping[str, Grid], work: Path, stored: Mapping | None) -> str:
    """The points of a grid, a line for each, with expected seconds: of runs already kept, else as declared."""
    grid = grids[name]
    lines = [f"{name}: {grid.what}"]
    total = 0.0
    if grid.chosen_with:
        lines.append(f"  settings are those that {grid.chosen_with!r} chose on {PROTOCOL.choose_on} prompts")
    each = seconds_of(place(work, name) / "tries", grid.trial_seconds)
    for what, count, done in _points(grid.tries, place(work, name) / "tries", grid):
        lines.append(f"  try  {what}: {count} x {each:.0f} s, {done} done")
        total += (count - done) * each
    expected = grid.seconds if stored is None else _mean(stored["runs"])
    each = seconds_of(place(work, name) / "runs", expected)
    for what, count, done in _points(grid.settings, place(work, name) / "runs", grid):
        lines.append(f"  run  {what}: {count} x {each:.0f} s, {done} done")
        total += (count - done) * each
    lines.append(f"  in all {len(grid.tries)} tries, {len(grid.settings)} runs; left to do: about {total / 3600:.1f} h")
    return "\n".join(lines)


def hours(name: str, grids: Mapping[str, Grid]) -> float:
    """Expected hours of a whole grid on one process: its tries and its runs."""
    grid = grids[name]
    return (len(grid.tries) * grid.trial_seconds + len(grid.settings) * grid.seconds) / 3600


def summary(grids: Mapping[str, Grid]) -> str:
    """A line for each grid with its number of tries and runs and its expected hours, and the sum."""
    lines = [
        f"{name:20} {len(grid.tries):4} tries {len(grid.settings):4} runs  {hours(name, grids):5.1f} h"
        for name, grid in grids.items()
    ]
    return "\n".join([*lines, f"{'all':20} {sum(hours(name, grids) for name in grids):27.1f} h on one process"])


def seconds_of(folder: Path, otherwise: float) -> float:
    """Mean seconds of the runs kept in `folder`, or `otherwise` if there is none."""
    kept = [read(path) for path in sorted(folder.glob("*.json"))]
    return _mean(kept) if kept else otherwise


def _mean(runs: Sequence[Mapping]) -> float:
    return sum(run["seconds"] for run in runs) / len(runs)


def _points(settings: Sequence[Setting], folder: Path, grid: Grid) -> list[tuple[str, int, int]]:
    """(setting without its seed, how many seeds, how many of them are kept) of each point."""
    names = [path.name for path in folder.glob("*.json")]
    found: dict[str, list[int]] = {}
    for setting in settings:
        what = " ".join(f"{k}={v}" for k, v in setting.items() if k != "seed")
        row = found.setdefault(what, [0, 0])
        stem = file_of(folder, setting).name.removesuffix(".json")
        row[0] += 1
        row[1] += any(n == f"{stem}.json" or n.startswith(f"{stem}_") for n in names)
    return [(what, count, done) for what, (count, done) in found.items()]
