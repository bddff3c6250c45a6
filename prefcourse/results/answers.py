"""What a stored grid answers, in a line with intervals: for the table of all results, and for its tests.

    by_value("win_rate", "pairs")(load("pairs-needed"))       # "win_rate by pairs: 50: 0.60 [0.55, 0.65] · …"
    against("gain", "method", "dpo")(load("methods"))         # "gain less dpo's …: ipo +0.10 [-0.02, +0.22] …; Holm …"

    forest("methods", "method", "dpo")                        # at equal KL, over seeds and prompts, Holm over all rows

The first two read the means of runs, so that they work for files of either protocol; their intervals are over seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prefcourse.comparison import equal_kl
from prefcourse.comparison.ab_tests import holm
from prefcourse.comparison.crossed import Crossed, interval
from prefcourse.comparison.equal_kl import Row, measured
from prefcourse.evaluate import Estimate
from prefcourse.finite import counted
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import by_prompt

Answer = Callable[[Mapping], str]


def over(values: list[float]) -> Crossed:
    """The mean of one number per seed with its 95 % interval by Student's t, and its p-value."""
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    if math.isinf(spread):
        return Crossed(values[0], -math.inf, math.inf, math.inf, 1.0, 1, 0)
    return interval(float(np.mean(values)), spread, len(values) - 1, len(values), 0)


def factor(found: Estimate) -> Estimate:
    """What was computed on logarithms as a factor, or as a geometric mean."""
    return Estimate(*(math.exp(x) for x in (found.value, found.low, found.high)))


def seeds_of(stored: Mapping, metric: str, by: str, **setting: Any) -> dict[Any, dict[int, float]]:
    """Value of the setting `by` → seed → `metric`, of the runs whose setting agrees with `setting` where it says it.

    Raises ValueError where several runs of a seed remain: their settings differ in something else.
    """
    found: dict[Any, dict[int, float]] = {}
    for run in stored["runs"]:
        own = run["setting"]
        if metric in run.get("metrics", {}) and by in own and all(own.get(k, v) == v for k, v in setting.items()):
            seeds = found.setdefault(own[by], {})
            if own["seed"] in seeds:
                raise ValueError(f"{by} = {own[by]} has several runs of a seed, with other settings besides")
            seeds[own["seed"]] = run["metrics"][metric]["value"]
    if not found:
        raise ValueError(f"no run has the metric {metric!r} and the setting {by!r}")
    return found


def by_value(metric: str, by: str, **setting: Any) -> Answer:
    """`metric` for each value of the setting `by`, over seeds."""

    def answer(stored: Mapping) -> str:
        found = seeds_of(stored, metric, by, **setting)
        where = "".join(
            f", {k} = {v}" for k, v in setting.items() if any(k in run["setting"] for run in stored["runs"])
        )
        rows = " · ".join(f"{value}: {over(list(seeds.values())):.2f}" for value, seeds in found.items())
        return f"{metric} by {by}{where}: {rows}"

    return answer


def against(metric: str, by: str, baseline: Any, **setting: Any) -> Answer:
    """`metric` of each value of `by` less that of `baseline`, seed by seed, with Holm over all of them."""

    def answer(stored: Mapping) -> str:
        found = seeds_of(stored, metric, by, **setting)
        if baseline not in found:
            raise ValueError(f"no run of {baseline!r} to compare with")
        base = found.pop(baseline)
        apart = {}
        for value, seeds in found.items():
            both = sorted(seeds.keys() & base.keys())
            if len(both) > 1:
                apart[str(value)] = over([seeds[seed] - base[seed] for seed in both])
        p = holm({name: d.p for name, d in apart.items()})
        rows = " · ".join(f"{name}: {d:+.2f}{'*' if p[name] < 0.05 else ''}" for name, d in apart.items())
        real = counted(sum(value < 0.05 for value in p.values()), "difference")
        return f"{metric} less that of {baseline}, by {by}: {rows}. After Holm over {len(apart)}: {real} (*)"

    return answer


def forest(
    name: str, by: str, baseline: Any, budgets: Sequence[float] = PROTOCOL.budgets, **setting: Any
) -> dict[tuple[str, float], Row]:
    """(value of `by`, KL) → its gain less the baseline's at that KL, and what may be said, for the KLs `budgets`.

    name: of a stored grid. Only runs whose setting has all of `setting` count; a tuple allows each of its values. Holm
    is over all rows. Raises FileNotFoundError for a grid that is not stored by prompt.
    """
    allowed = {key: value if isinstance(value, tuple) else (value,) for key, value in setting.items()}
    runs = [
        run
        for run in by_prompt(name)
        if by in run["setting"] and all(run["setting"].get(key) in values for key, values in allowed.items())
    ]
    values = dict.fromkeys(run["setting"][by] for run in runs)
    found = {value: measured(runs, **{by: value}) for value in values}
    return equal_kl.forest(found, baseline, budgets, PROTOCOL.margin)


def at_equal_kl(
    name: str, by: str, baseline: Any, budgets: Sequence[float] = PROTOCOL.budgets, **setting: Any
) -> Answer:
    """The rows of `forest` in a line."""

    def answer(stored: Mapping) -> str:
        rows = forest(name, by, baseline, budgets, **setting).items()
        said = (f"{value} at {kl:g} nats: {row.at.square_root:+.2f} {row.says}" for (value, kl), row in rows)
        return f"gain less that of {baseline}, Holm over {len(rows)}: " + " · ".join(said)

    return answer
