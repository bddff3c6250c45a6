"""Reading the grid `rlhf-vs-dpo`: every row of the table "DPO against RLHF" as a number with its interval over seeds.

    stored = load("rlhf-vs-dpo")
    gold_at_kl(stored, "dpo", 1.0) - what one nat bought, over the seeds
    effect(stored, "rloo", "lr", 3, "gold_reward") - what a rate three times too high changes

Intervals over seeds are Student's, as all seeds together are one small sample. Differences are taken seed by seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prefcourse.evaluate import Estimate

T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t by degrees of freedom
CHI2 = {2: (0.0506, 7.378), 3: (0.2158, 9.348), 4: (0.4844, 11.143)}  # 2.5 % and 97.5 % points
THIRD = 0.3333
WIDER = {"dpo": "epochs", "rloo": "steps"}  # the knob that makes a run longer


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one number per seed with its 95 % interval by Student's t. Raises ValueError outside 2 to 5 seeds."""
    mean, free = float(np.mean(values)), len(values) - 1
    if free not in T975:
        raise ValueError(f"got {len(values)} seeds; allowed are 2 to 5")
    half = T975[free] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def spread(values: Sequence[float]) -> Estimate:
    """The standard deviation over 3 to 5 seeds, with the 95 % interval of a normal sample (by chi-squared)."""
    found, free = float(np.std(values, ddof=1)), len(values) - 1
    if free not in CHI2:
        raise ValueError(f"got {len(values)} seeds; allowed are 3 to 5")
    few, many = CHI2[free]
    return Estimate(found, found * math.sqrt(free / many), found * math.sqrt(free / few))


def runs(stored: Mapping, method: str, knob: str = "none", times: float = 1, split: str = "test") -> dict[int, dict]:
    """seed → run of a method with one knob multiplied. Raises KeyError if there is none."""
    wanted = {"method": method, "knob": knob, "times": times, "split": split}
    found = {r["setting"]["seed"]: r for r in stored["runs"] if wanted.items() <= r["setting"].items()}
    if not found:
        raise KeyError(f"the stored grid has no run with {wanted}")
    return found


def seeds(stored: Mapping, method: str, of: str | Callable[[dict], float], *which) -> list[float]:
    """One number per seed of the runs `which` (knob, times): a metric by name, or what a function says of a run."""
    read = (lambda run: run["metrics"][of]["value"]) if isinstance(of, str) else of
    return [read(run) for run in runs(stored, method, *which).values()]


def gain(run: Mapping) -> float:
    """Gold reward at the end less that of the reference, on the same prompts."""
    return run["metrics"]["gold_reward"]["value"] - run["path"][0]["gold"]


def effect(stored: Mapping, method: str, knob: str, times: float, metric: str) -> Estimate:
    """A metric with one knob wrong less the same with all tuned, seed by seed."""
    wrong, tuned = runs(stored, method, knob, times), runs(stored, method)
    value = lambda run: run["metrics"][metric]["value"]  # noqa: E731
    return over_seeds([value(wrong[seed]) - value(tuned[seed]) for seed in wrong])


def points(stored: Mapping, method: str, knobs: Sequence[tuple[str, float]]) -> dict[int, list[dict]]:
    """seed → all measured points of the runs `knobs`, on the way and at the end."""
    found: dict[int, list[dict]] = {}
    for knob, times in knobs:
        for seed, run in runs(stored, method, knob, times).items():
            found.setdefault(seed, []).extend(run["path"])
    return found


def gold_at_kl(stored: Mapping, method: str, kl: float) -> Estimate:
    """The gain in gold reward at `kl` nats, over the seeds.

    For each seed, the points of all its runs at the tuned rate (and both other β) are fitted by the form that Gao et
    al. (2023, Sec. 3.2) found for best-of-n, gain = d (a - b d) with d = √KL, which starts at 0 with the reference. No
    extrapolation: raises ValueError if a seed has no point as far as `kl`.
    """
    known = {(r["setting"]["knob"], r["setting"]["times"]) for r in stored["runs"] if r["setting"]["method"] == method}
    knobs = [k for k in (("none", 1), ("beta", 3), ("beta", THIRD)) if k in known]
    return over_seeds([_curve(path)(kl) for path in points(stored, method, knobs).values()])


def _curve(path: Sequence[Mapping]) -> Callable[[float], float]:
    kl, gold = (np.array([point[name] for point in path], dtype=float) for name in ("kl", "gold"))
    d, start = np.sqrt(kl.clip(0)), gold[kl == 0].mean() if (kl == 0).any() else gold[kl.argmin()]
    (a, b), *_ = np.linalg.lstsq(np.stack([d, -(d**2)], -1), gold - start, rcond=None)

    def gain_at(kl_wanted: float) -> float:
        if kl_wanted > kl.max():
            raise ValueError(f"the runs end at {kl.max():.2f} nats; {kl_wanted} would be a guess")
        return float(a * math.sqrt(kl_wanted) - b * kl_wanted)

    return gain_at


def gain_at_work(stored: Mapping, method: str, work: float) -> Estimate:
    """The gain after `work` forward-token equivalents: between the measured points of a seed's runs, on a line.

    The points are those of the tuned run and the end of the run three times as long; seeds that have both count.
    """
    found = []
    longer = runs(stored, method, WIDER[method], 3) if method in WIDER else {}
    for seed, run in runs(stored, method).items():
        path = [*run["path"], *(longer[seed]["path"][-1:] if seed in longer else [])]
        at, gold = zip(*sorted((point["work"], point["gold"]) for point in path), strict=True)
        if at[-1] >= work:
            found.append(float(np.interp(work, at, gold)) - run["path"][0]["gold"])
    return over_seeds(found)
