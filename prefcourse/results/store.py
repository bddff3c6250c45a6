"""How stored results are read, and the small things that every grid needs. `prefcourse.results` writes them."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefcourse.evaluate import Estimate, Evaluation
from prefcourse.worlds.bundled import data_folder

Setting = dict[str, Any]
Grid = tuple[str, list[Setting], Callable[..., dict]]  # what it is, its settings, and the run of one of them
METRICS = ("gold_reward", "win_rate", "kl", "distinct_2")


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


def column(stored: Mapping, metric: str, by: str) -> dict[Any, list[float]]:
    """The values of `metric` of a stored result, one per seed, for each value of the setting `by`."""
    found: dict[Any, list[float]] = {}
    for run in stored["runs"]:
        found.setdefault(run["setting"][by], []).append(run["metrics"][metric]["value"])
    return found


def metrics(found: Evaluation, names: Sequence[str] = METRICS) -> dict[str, dict[str, float]]:
    """The estimates `names` of an evaluation as plain dicts of value, low, high, rounded to four decimals."""
    return {name: {k: round(v, 4) for k, v in asdict(found[name]).items()} for name in names}


def estimate(stored: Mapping[str, float]) -> Estimate:
    """The Estimate that `metrics` stored."""
    return Estimate(stored["value"], stored["low"], stored["high"])


def grid(seeds: int, **values: Sequence) -> list[Setting]:
    """Every combination of `values` for each seed; seeds outermost, so that the first runs cover the whole range."""
    settings: list[Setting] = [{}]
    for name, options in values.items():
        settings = [{**s, name: option} for s in settings for option in options]
    return [{**s, "seed": seed} for seed in range(seeds) for s in settings]
