"""All grids by name, in the order of the lessons; each module beside this one defines those of its subject."""

import copy
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
from prefcourse.results.look import brief
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import Grid, seeded
from prefcourse.train import train
from prefcourse.training.rates import MAIN_JOB
from prefcourse.worlds.world import World


def main_job(world: World, seed: int, **chosen: float) -> dict:
    """`python -m prefcourse train` at its defaults: what it found for sft and for dpo.

    Raises ValueError if its defaults are not what was chosen on validation prompts.
    """
    if chosen != MAIN_JOB:
        raise ValueError(f"validation prompts chose {chosen}: set MAIN_JOB of training/rates.py, now {MAIN_JOB}, to it")
    with tempfile.TemporaryDirectory() as folder:  # the command itself, as a reader would run it
        command = [sys.executable, "-m", "prefcourse", "train", "--seed", str(seed), "--output", folder]
        subprocess.run(command, check=True)
        record = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    return {key: record[key] for key in ("command", "settings", "results")}


def main_job_trial(world: World, seed: int, beta: float, **settings: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts of the main job with other settings."""
    policy = copy.deepcopy(world.sft)
    train(policy, world.pairs["train"], world.tokenizer, reference=world.sft_logps, loss="dpo", beta=beta, seed=seed,
          progress=False, **settings)  # fmt: skip
    return brief(world, policy, seed)


GRIDS: dict[str, Grid] = {
    "main-job": Grid(
        what="the main job at its defaults",
        settings=seeded(),
        run=main_job,
        asks="What does the first command of the course do?",
        tells="Its settings are the best of six on validation prompts, a choice narrower than two seeds can tell. "
        "Intervals inside a run are over prompts.",
        tries=[{"lr": lr, "epochs": epochs, "beta": beta, "seed": seed} for lr, epochs, beta in
               ((1e-4, 0.25, 0.1), (1.5e-4, 0.25, 0.1), (1.5e-4, 0.25, 0.2), (2e-4, 0.25, 0.2), (1e-4, 0.4, 0.1),
                (1e-4, 0.4, 0.2)) for seed in PROTOCOL.choose_seeds],
        trial=main_job_trial,
        seconds=80,
        trial_seconds=70,
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
}  # fmt: skip
