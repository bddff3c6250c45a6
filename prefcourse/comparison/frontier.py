"""Reward against KL: which policies are beaten by none, and what methods gain at the same KL.

    points = frontier({"sft": world.sft, "dpo": dpo, "ipo": ipo}, world)       # by KL; point.best: none beats it
    runs = curves(load("methods"))                                            # method → seed → (kl, gain) of its runs
    ahead_of({0: (4.1, 0.9), 1: (5.2, 1.1)}, runs["dpo"])                     # one run a seed, each at its own KL

Two methods are compared at the same KL, or on the whole curve: a larger step along the same curve is not a better
method (Rafailov et al. 2023, Fig. 2). KL is the price that the objective names, and no measure of how much was
optimised: by Gao et al. (2023, Sec. 4.1) it cannot compare that between best-of-n and RL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from prefcourse.evaluate import Estimate, evaluate
from prefcourse.finite import counted, number, numbers
from prefcourse.worlds.world import World

FORMS = ("square root", "rl")  # d (a - b d), Gao et al.'s for best-of-n, and d (a - b log d), theirs for RL; d = √KL
Points = Sequence[tuple[float, float]]  # (KL in nats, gain in gold reward)
Curve = Mapping[int, Points]  # seed → points


@dataclass(frozen=True)
class Point:
    """A policy in the plane of reward and KL; `best`: no other has at least its reward for at most its KL."""

    name: str
    kl: Estimate
    gold_reward: Estimate
    best: bool


def frontier(
    policies: Mapping[str, PreTrainedModel], world: World, *, reference: PreTrainedModel | None = None,
    split: str = "test", seed: int = 0,
) -> list[Point]:  # fmt: skip
    """Evaluate every policy on the same prompts, and sort them by their KL to `reference` (by default world.sft).

    Raises ValueError for no policies.
    """
    if not policies:
        raise ValueError("policies is empty; give a mapping from names to models")
    found, baseline = {}, None
    for name, policy in policies.items():
        found[name] = evaluate(policy, world, reference=reference, split=split, baseline=baseline, seed=seed)
        baseline = found[name].baseline
    best = on_front([(f["kl"].value, f["gold_reward"].value) for f in found.values()])
    points = [Point(n, f["kl"], f["gold_reward"], b) for (n, f), b in zip(found.items(), best, strict=True)]
    return sorted(points, key=lambda point: point.kl.value)


def on_front(points: Points) -> list[bool]:
    """For each (kl, reward): is there no other point with at least its reward for at most its KL?

    Two equal points do not beat each other. Raises ValueError for a point that is not two finite numbers.
    """
    points = _pairs(points).tolist()
    return [not any(kl <= k and reward >= r and [kl, reward] != [k, r] for kl, reward in points) for k, r in points]


def curves(stored: Mapping, by: str = "method") -> dict[str, dict[int, list[tuple[float, float]]]]:
    """Setting `by` → seed → the (kl, gain) of all its runs, measured on the way and at the end, by KL.

    stored: a result such as `methods` or `beta-sweep`, whose runs have a `path` of points with kl and gain.
    """
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for run in stored["runs"]:
        points = found.setdefault(run["setting"][by], {}).setdefault(run["setting"]["seed"], [])
        points += [(point["kl"], point["gain"]) for point in run["path"]]
    return {name: {seed: sorted(points) for seed, points in seeds.items()} for name, seeds in found.items()}


def basis(kl: np.ndarray, form: str = "square root") -> np.ndarray:
    """The two columns whose sum, weighted by a and b, is the gain at `kl`: (...,) nats → (..., 2).

    "square root": d (a - b d), which Gao et al. (2023, Sec. 1) found for best-of-n; "rl": d (a - b log d), which they
    found for RL. d = √KL; both are 0 at the reference. A KL below 0 counts as 0. Raises ValueError for another form.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; allowed are {' and '.join(map(repr, FORMS))}")
    d = np.sqrt(kl.clip(0))
    return np.stack([d, -d * (d if form == "square root" else np.log(np.where(d > 0, d, 1.0)))], -1)


def fit_gain(points: Points, form: str = "square root") -> tuple[float, float]:
    """a and b of the gain as a function of d = √KL by least squares, in one of the forms of `basis`.

    A measured KL below 0 counts as 0. Raises ValueError for points that are not finite, and where fewer than two have
    KLs above 0 that differ: any number of curves passes through those.
    """
    kl, gain = _pairs(points).numpy().T
    if len(np.unique(kl[kl > 0])) < 2:
        raise ValueError(
            f"a curve needs points at two KLs above 0 or more, got {counted(len(kl), 'point')} at {kl.tolist()[:4]}"
        )
    (a, b), *_ = np.linalg.lstsq(basis(kl, form), gain, rcond=None)
    return float(a), float(b)


def ahead_of(
    points: Mapping[int, tuple[float, float]], curve: Curve, reach: float = 4.0, form: str = "square root"
) -> list[float]:
    """The gain of one point a seed, (kl, gain), less what `curve` of the same seed has by `fit_gain` at that KL.

    points are taken at their own KL each, where `equal_kl.gain_at_kl` asks for one KL of all. Raises ValueError for a
    seed that `curve` lacks, or whose curve does not go so far: nothing is extrapolated.
    """
    found = []
    for seed, (kl, gain) in points.items():
        at = _gains({seed: curve.get(seed, ())}, number("kl", kl, above=0), number("reach", reach, least=1), form)
        if seed not in at:
            raise ValueError(f"seed {seed}: the curve has no point as far as {kl:g} nats; give one that goes so far")
        found.append(gain - at[seed])
    return found


def _gains(curve: Curve, kl: float, reach: float, form: str) -> dict[int, float]:
    """seed → the gain at `kl`, of the seeds that reach it."""
    found = {}
    for seed, points in curve.items():
        points = _pairs(points).tolist()
        if points and max(k for k, _ in points) >= kl:
            fitted = fit_gain([point for point in points if point[0] <= reach * kl], form)
            found[seed] = float(basis(np.array(kl), form) @ np.array(fitted))
    return found


def _pairs(points: Points) -> Tensor:
    """Points as (N, 2) float64. Raises ValueError for what is not pairs of finite numbers."""
    found = numbers("points", points, ndim=None, least=0)
    if found.numel() and (found.ndim != 2 or found.shape[1] != 2):
        raise ValueError(f"points has shape {tuple(found.shape)}; allowed are pairs of KL and reward, (N, 2)")
    return found.reshape(-1, 2)
