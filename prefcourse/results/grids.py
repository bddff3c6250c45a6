"""All grids by name, in the order of the lessons; each module beside this one defines those of its subject."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from prefcourse.results import (
    beyond_grids,
    coverage,
    data,
    failures,
    methods,
    paper,
    reward_models,
    rlhf,
    rlhf_vs_dpo,
    verifiable,
)
from prefcourse.results.store import Grid, seeded
from prefcourse.worlds.world import World


def main_job(world: World, seed: int) -> dict:
    """`python -m prefcourse train` at its defaults: what it found for sft and for dpo."""
    with tempfile.TemporaryDirectory() as folder:  # the command itself, as a reader would run it
        command = [sys.executable, "-m", "prefcourse", "train", "--seed", str(seed), "--output", folder]
        subprocess.run(command, check=True)
        record = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    return {key: record[key] for key in ("command", "settings", "results")}


GRIDS: dict[str, Grid] = {
    "main-job": Grid(
        what="the main job at its defaults",
        settings=seeded(),
        run=main_job,
        asks="What does the first command of the course do?",
        tells="The defaults are not tuned; intervals inside a run are over prompts.",
        seconds=35,
    ),
    **data.GRIDS,
    **reward_models.GRIDS,
    **rlhf.GRIDS,
    **methods.GRIDS,
    **rlhf_vs_dpo.GRIDS,
    **failures.GRIDS,
    **beyond_grids.GRIDS,
    **coverage.GRIDS,
    **verifiable.GRIDS,
    **paper.GRIDS,
}
