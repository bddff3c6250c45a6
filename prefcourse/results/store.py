"""How stored results are read, and the small things that every grid needs. `prefcourse.results` writes them."""

import copy
import importlib.metadata
import json
import os
import platform
import random
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor
from transformers import PreTrainedModel

from prefcourse.annotation.annotators import exchanged
from prefcourse.evaluate import Estimate
from prefcourse.losses import LOSSES
from prefcourse.preferences import Row
from prefcourse.results.protocol import PROTOCOL
from prefcourse.training.reference import ReferenceLogps, reference_logps
from prefcourse.worlds.bundled import data_folder
from prefcourse.worlds.world import World

Setting = dict[str, Any]
METRICS = ("gold_reward", "win_rate", "kl", "typicality", "non_words", "distinct_2")
Made = TypeVar("Made")

STEPS = 126  # of a value that is stored by prompt: even, so that a tie, ½ of a win, is stored as it is

_kept: dict[Hashable, Any] = {}
shelf: Path | None = None  # where a grid that is being run keeps the policies that other grids need, too


@dataclass(frozen=True)
class Grid:
    """A question to be answered by runs. run(world, **setting) returns what is stored of one of `settings`.

    tries: candidates on validation, each measured by `trial(world, **setting)` → {"gold", "kl"}. What is chosen for the
    group `by` goes to the runs of that group as further settings; where a setting says a value itself, that holds.
    chosen_with: another grid, whose choices this one takes. seconds, trial_seconds: expected, until some are measured.
    """

    what: str
    settings: list[Setting]
    run: Callable[..., dict]
    asks: str = ""  # the question
    tells: str = ""  # what the answer can and cannot tell
    answer: Callable[[Mapping], str] | None = None  # from a stored file, in a line
    tries: Sequence[Setting] = ()
    trial: Callable[..., dict] | None = None
    by: tuple[str, ...] = ()
    chosen_with: str = ""
    seconds: float = 60.0
    trial_seconds: float = 40.0


def provenance(command: str, *packages: str) -> dict[str, Any]:
    """Where a stored result comes from: the command that makes it again, the versions, and the kind of machine."""
    return {
        "command": command,
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", *packages)},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU only",
    }


def load(name: str) -> dict:
    """The stored result `name`: a dict with what, command, versions, machine, date, and runs.

    Raises FileNotFoundError if there is none, with the command that makes it.
    """
    path = data_folder() / "results" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such stored result. Make it with `python -m prefcourse results {name}`.")
    return json.loads(path.read_text(encoding="utf-8"))


def by_prompt(name: str) -> list[dict[str, Any]]:
    """What each run of the stored result `name` found on each prompt: setting, and tensors (points, prompts).

    kl (log π/π_SFT of the sample, nats) and gain (its gold reward less that of SFT's) have a row for each point of the
    run's path, and a column for each of the protocol's prompts. A value is right to half a step, 0.4 % of the largest
    of its row. For `comparison.equal_kl.measured`; the end of a run is run["gain"][-1]. Raises
    FileNotFoundError if the grid is not stored by prompt.
    """
    path = data_folder() / "results" / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: this result is not stored by prompt. Make it with `python -m prefcourse results {name}`."
        )
    tensors, found = load_file(path), []
    for number, run in enumerate(load(name)["runs"]):
        own = {
            key.split("/")[1]: t.float() * tensors[f"{key}/step"]
            for key, t in tensors.items()
            if key.startswith(f"{number}/") and not key.endswith("/step")
        }
        if own:
            found.append({"setting": run["setting"], "path": run.get("path", []), **own})
    return found


def in_steps(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """`rows` (K, P) in whole steps of each row, int8, and the step (K, 1): the largest of a row is STEPS steps.

    Raises ValueError for numbers that are not finite.
    """
    values = torch.tensor(rows)
    if not values.isfinite().all():
        raise ValueError("what a run found by prompt is not finite: look at that run, its file is in build/results")
    step = values.abs().amax(1, keepdim=True).clamp(min=1e-9) / STEPS
    return (values / step).round().to(torch.int8), step


def table(runs: Sequence[Mapping], what: str, **setting: Any) -> torch.Tensor:
    """What runs with this `setting` found at their ends, (seeds, prompts), seeds in order; runs as of `by_prompt`.

    Raises ValueError if no run has the setting, or two runs of one seed do.
    """
    own = {run["setting"]["seed"]: run[what][-1] for run in runs if setting.items() <= run["setting"].items()}
    count = sum(setting.items() <= run["setting"].items() for run in runs)
    if not own or count != len(own):
        raise ValueError(f"{count} runs of {len(own)} seeds have the setting {setting}; allowed is one a seed")
    return torch.stack([own[seed] for seed in sorted(own)]).double()


def column(stored: Mapping, metric: str, by: str, **setting: Any) -> dict[Any, list[float]]:
    """The values of `metric` of a stored result, one per seed, for each value of the setting `by`.

    Only runs whose setting has all of `setting` count.
    """
    found: dict[Any, list[float]] = {}
    for run in stored["runs"]:
        if not setting.items() <= run["setting"].items():
            continue
        found.setdefault(run["setting"][by], []).append(run["metrics"][metric]["value"])
    return found


def band(values: Sequence[float]) -> tuple[float, float]:
    """Where another run of a setting should land: the range of its stored seeds, and half of it more on each side."""
    room = (max(values) - min(values)) / 2
    return min(values) - room, max(values) + room


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Numbers as they are stored: to four decimals."""
    return {name: round(value, 4) for name, value in values.items()}


def metrics(found: Mapping[str, Estimate], names: Sequence[str] = METRICS) -> dict[str, dict[str, float]]:
    """The estimates `names` of an evaluation as plain dicts of value, low, high, rounded to four decimals.

    Those that `evaluate` does not measure in this world are left out.
    """
    return {name: rounded(asdict(found[name])) for name in names if name in found}


def estimate(stored: Mapping[str, float]) -> Estimate:
    """The Estimate that `metrics` stored."""
    return Estimate(stored["value"], stored["low"], stored["high"])


def seeded(**values: Sequence) -> list[Setting]:
    """`grid` with as many seeds as the protocol says."""
    return grid(PROTOCOL.seeds, **values)


def grid(seeds: int, **values: Sequence) -> list[Setting]:
    """Every combination of `values` for each seed; seeds outermost, so that the first runs cover the whole range."""
    settings: list[Setting] = [{}]
    for name, options in values.items():
        settings = [{**s, name: option} for s in settings for option in options]
    return [{**s, "seed": seed} for seed in range(seeds) for s in settings]


def kept(key: Hashable, make: Callable[[], Made]) -> Made:
    """What `make` returns, made once for each `key`: the runs of a seed share reward models, samples and policies."""
    if key not in _kept:
        _kept[key] = make()
    return _kept[key]


def shelved(name: str, like: PreTrainedModel, learn: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """The policy `name`, which this or another grid has trained, with the shape of `like`; else what `learn` returns.

    While a grid is run it is kept on the shelf; outside of one, as in a lesson, nothing is read or kept.
    """
    if shelf is None:
        return learn()
    path = shelf / f"{name.replace('/', '-')}.safetensors"
    if path.is_file():
        policy = copy.deepcopy(like)
        load_model(policy, path)
        return policy
    policy = learn()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    save_model(policy, str(part))
    part.replace(path)
    return policy


def reference_of(world: World, rows: Sequence[Row], loss: str) -> PreTrainedModel | ReferenceLogps:
    """What `train` takes as the reference for `loss` on `rows`: SFT's log-probs, computed once for all runs on them.

    SFT itself where a loss needs none, or draws pairs of its own as KTO does.
    """
    needs = LOSSES[loss].inputs()
    sides = tuple(name for name in needs if name.startswith("reference"))
    if not sides or "kl_policy" in needs:
        return world.sft
    key = ("reference", world.name, sides, *(tuple(map(str, row.values())) for row in rows))
    return kept(key, lambda: reference_logps(world.sft, rows, world.tokenizer, loss=loss, progress=False))


def turned(rows: Sequence[Row], share: float, rng: random.Random) -> tuple[list[Row], set[int]]:
    """`rows` with exactly this share of labels turned round, drawn by `rng`, and the numbers of those rows."""
    drawn = set(rng.sample(range(len(rows)), round(share * len(rows))))
    return [exchanged(row) if i in drawn else row for i, row in enumerate(rows)], drawn
