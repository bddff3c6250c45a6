"""How stored results are read, and the small things that every grid needs. `prefcourse.results` writes them."""

import importlib.metadata
import json
import os
import platform
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from prefcourse.annotation.annotators import exchanged
from prefcourse.evaluate import Estimate
from prefcourse.preferences import Row
from prefcourse.worlds.bundled import data_folder

Setting = dict[str, Any]
Grid = tuple[str, list[Setting], Callable[..., dict]]  # what it is, its settings, and the run of one of them
METRICS = ("gold_reward", "win_rate", "kl", "typicality", "non_words", "distinct_2")
Made = TypeVar("Made")

_kept: dict[Hashable, Any] = {}


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


def turned(rows: Sequence[Row], share: float, rng: random.Random) -> tuple[list[Row], set[int]]:
    """`rows` with exactly this share of labels turned round, drawn by `rng`, and the numbers of those rows."""
    drawn = set(rng.sample(range(len(rows)), round(share * len(rows))))
    return [exchanged(row) if i in drawn else row for i, row in enumerate(rows)], drawn
