"""Results that take too long for a notebook: grids of training runs, stored in `data/results/NAME.json`.

    python -m prefcourse results pairs-needed        # runs what is missing, then writes data/results/pairs-needed.json

A grid is a list of settings, each a small dict with a seed in it, and a function that turns one of them into metrics;
the grids stand in the modules beside this one, by subject. Every finished run is kept in `build/results/NAME/`, so an
interrupted grid goes on where it stopped. A lesson reads a stored result with `load`, re-runs one of its points with
the same function, and asserts that it lands in the stored band.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from prefcourse.preferences import write_whole
from prefcourse.results import beyond, data, failures, reward_models, rlhf, rlhf_vs_dpo, variants
from prefcourse.results.data import label_noise
from prefcourse.results.store import Grid, column, estimate, grid, load, metrics, provenance
from prefcourse.world import load_world
from prefcourse.worlds.world import World

__all__ = ["GRIDS", "column", "estimate", "grid", "label_noise", "load", "metrics", "write"]


def write(
    name: str, folder: Path, work: Path, say: Callable[[str], None] = print, share: tuple[int, int] = (1, 1)
) -> Path | None:
    """Run what is missing of grid `name` and write `folder/name.json`; return its path.

    share: (k, n) runs every n-th setting only, from the k-th on, so that n processes divide a grid. The file is written
    by the process that finds all runs done; the others return None.
    Raises ValueError for a name that is not in GRIDS, or a share that is none.
    """
    if not 1 <= share[0] <= share[1]:
        raise ValueError(f"share must be k/n with 1 <= k <= n, got {share[0]}/{share[1]}")
    if name not in GRIDS:
        raise ValueError(f"there is no grid {name!r}; the grids are: {', '.join(GRIDS)}")
    what, settings, run = GRIDS[name]
    world, runs = load_world(), []
    for number, setting in enumerate(settings, start=1):
        kept = work / name / ("_".join(f"{k}={v}" for k, v in setting.items()).replace("/", "-") + ".json")
        if not kept.exists() and (number - share[0]) % share[1]:
            continue  # another process's
        if not kept.exists():
            began = time.time()
            found = {"setting": setting, "date": time.strftime("%Y-%m-%d")} | run(world, **setting)
            write_whole(kept, json.dumps(found | {"seconds": round(time.time() - began)}))
        runs.append(json.loads(kept.read_text(encoding="utf-8")))
        say(f"[{number}/{len(settings)}] {name} {setting}: {runs[-1]['seconds']} s")
    if len(runs) < len(settings):
        return None
    record = {
        "what": what,
        **provenance(f"python -m prefcourse results {name}"),
        "date": max(r.pop("date") for r in runs),
        "runs": runs,
    }
    path = folder / f"{name}.json"
    lines = json.dumps({**record, "runs": []}, indent=1).removesuffix("[]\n}")
    write_whole(path, lines + "[\n" + ",\n".join("  " + json.dumps(r) for r in runs) + "\n ]\n}\n")
    return path


def main_job(world: World, seed: int) -> dict:
    """`python -m prefcourse train` at its defaults: what it found for sft and for dpo."""
    with tempfile.TemporaryDirectory() as folder:  # the command itself, as a reader would run it
        command = [sys.executable, "-m", "prefcourse", "train", "--seed", str(seed), "--output", folder]
        subprocess.run(command, check=True)
        record = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    return {key: record[key] for key in ("command", "settings", "results")}


GRIDS: dict[str, Grid] = {
    "main-job": ("the main job at its defaults, 400 test prompts", grid(3), main_job),
    **data.GRIDS,
    **reward_models.GRIDS,
    **rlhf.GRIDS,
    **rlhf_vs_dpo.GRIDS,
    **variants.GRIDS,
    **failures.GRIDS,
    **beyond.GRIDS,
}
