"""What a method gains at a KL, over seeds and prompts, by two forms of the curve, and how far best-of-n really goes.

    runs = results.by_prompt("methods")
    ours, theirs = measured(runs, method="ipo"), measured(runs, method="dpo")     # seed → (kl, gain) by prompt
    at = gain_at_kl(ours, 3.0, less=theirs)    # at.square_root, at.rl; at.disagree where they do not say alike

A seed counts at a KL only with points on both sides of it: nothing is extrapolated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prefcourse.comparison.crossed import Crossed, Verdict, crossed, interval, parts, verdicts
from prefcourse.comparison.frontier import FORMS, basis
from prefcourse.finite import counted, number, numbers, same_shape, whole

BLOCKS = 20  # of prompts, each left out once
FEWEST = 3  # seeds
REACH = 4.0  # how many times as far as the KL that is asked for a point may lie and still count
Measured = Mapping[int, tuple[Tensor, Tensor]]  # seed → KL and gain of each point of a path on each prompt, (K, P) each


@dataclass(frozen=True)
class AtKL:
    """A gain, or a difference of gains, at one KL by both forms; `apart`: the square root's less RL's.

    parts: variance of the square root's by source, of one seed and one prompt, as `crossed.parts` gives it: with
    `crossed.half_width` it tells how many seeds and prompts a narrower interval takes.
    """

    square_root: Crossed
    rl: Crossed
    apart: Crossed
    parts: Mapping[str, float]

    @property
    def disagree(self) -> bool:
        """Does one interval leave out 0 where the other has it, or do they stand on both sides of 0?"""
        return _side(self.square_root) != _side(self.rl)


@dataclass(frozen=True)
class Row:
    """A row of a forest: a difference at one KL, and what may be said of it by each form."""

    at: AtKL
    square_root: Verdict
    rl: Verdict

    @property
    def says(self) -> str:
        """What both forms say, or "the forms disagree"."""
        return self.square_root.says if self.square_root.says == self.rl.says else "the forms disagree"


def measured(runs: Sequence[Mapping], **setting) -> dict[int, tuple[Tensor, Tensor]]:
    """Seed → (kl, gain) by prompt of the runs with this `setting`, as `results.by_prompt` gives them.

    Runs of one seed are put together: their points lie on one curve. Raises ValueError if there is none.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for run in runs:
        if setting.items() <= run["setting"].items():
            kl, gain = run["kl"].double(), run["gain"].double()
            before = found.get(run["setting"]["seed"])
            found[run["setting"]["seed"]] = (
                (kl, gain) if before is None else (torch.cat([before[0], kl]), torch.cat([before[1], gain]))
            )
    if not found:
        raise ValueError(f"no run has the setting {setting}; give one that the grid has")
    return found


def gain_at_kl(ours: Measured, kl: float, less: Measured | None = None, reach: float = REACH) -> AtKL:
    """The gain at `kl` nats over the seeds that go so far; with `less`, minus another method's on the same seeds.

    For each seed the mean gains of its points, up to `reach` times as far, are fitted by each form of `FORMS`. How far
    the prompts carry it is found by leaving out each of BLOCKS blocks of them (Tukey's pseudo-values, Efron and
    Tibshirani 1993, ch. 11), which makes a table of seeds and blocks for `crossed`. Raises ValueError if fewer than
    three seeds of both have a point as far as `kl` and one not so far: nothing is extrapolated.
    """
    kl, reach = number("kl", kl, above=0), number("reach", reach, least=1, most=math.inf)
    both = [side for side in (ours, less) if side is not None]
    seeds = _reaching(both, kl, reach)
    if len(seeds) < FEWEST:
        have = counted(len(seeds), "seed has", "seeds have")
        raise ValueError(f"{have} points on both sides of {kl:g} nats; allowed are {FEWEST} and more")
    prompts = both[0][seeds[0]][0].shape[1]
    values, tables = {}, {}
    for form in FORMS:
        found = [[_one(*side[s], kl, reach, form) for s in seeds] for side in both]
        whole_, pseudo = (np.array([[row[i] for row in side] for side in found]) for i in (0, 1))
        values[form] = whole_[0] - (whole_[1] if less is not None else 0)  # (S,)
        tables[form] = pseudo[0] - (pseudo[1] if less is not None else 0)  # (S, BLOCKS)
    values["apart"], tables["apart"] = (x["square root"] - x["rl"] for x in (values, tables))

    def estimate(name: str) -> Crossed:
        spread = crossed(tables[name])
        return interval(float(values[name].mean()), spread.se, spread.df, len(seeds), prompts)

    variance = parts(tables["square root"])  # of a block, which is a mean of prompts
    variance |= {source: variance[source] * prompts / BLOCKS for source in ("prompts", "rest")}
    return AtKL(*(estimate(name) for name in ("square root", "rl", "apart")), variance)


def forest(
    methods: Mapping[str, Measured], baseline: str, budgets: Sequence[float], margin: float
) -> dict[tuple[str, float], Row]:
    """(method, KL) → its gain less the baseline's and what may be said, at every budget that three seeds of both span.

    Holm runs over all rows together, for each form by itself: they are one figure.
    """
    found: dict[tuple[str, float], AtKL] = {}
    for kl in budgets:
        for name, ours in methods.items():
            if name != baseline and len(_reaching((ours, methods[baseline]), kl)) >= FEWEST:
                found[name, kl] = gain_at_kl(ours, kl, less=methods[baseline])
    roots, logs = (
        verdicts({f"{name} at {kl:g}": getattr(at, form) for (name, kl), at in found.items()}, margin)
        for form in ("square_root", "rl")
    )
    return {key: Row(found[key], roots[f"{key[0]} at {key[1]:g}"], logs[f"{key[0]} at {key[1]:g}"]) for key in found}


def best_of_n_kl_measured(texts: Sequence[Sequence[str]], logps: Tensor, rewards: Tensor, n: int) -> Tensor:
    """KL(best-of-n ‖ π_ref) of each of B prompts in nats, (B,), from one pool of N samples of π_ref for each.

    logps: log π_ref of each sample, EOS included, and rewards: by which the best is chosen, (B, N).
    If no two texts had the same reward and none were likely, the KL would be log n - (n - 1)/n: `best_of_n_kl`, the
    bound. Texts of one reward share an interval (F, F + p) of π_ref's distribution of rewards, within which the best is
    as π_ref has it; so by the chain rule the KL is the bound less, for each reward,
    ∫ n u^{n-1} log (n u^{n-1} / ρ) du over its interval, with ρ = ((F + p)^n - F^n) / p (Beirami et al. 2024).
    p is exact, the sum of π_ref over the different texts of the pool with this reward; F, the share below, is estimated
    from the pool. What the pool did not draw counts as unlikely, so the result is, if anything, too large.
    Raises ValueError for n outside 1..N, and for texts that are not B rows of N.
    """
    logps, rewards = same_shape(ndim=2, least=1, logps=logps, rewards=rewards)
    numbers("logps", logps, ndim=2, high=1e-4)
    if [len(row) for row in texts] != [logps.shape[1]] * len(logps):
        raise ValueError(f"texts are {counted(len(texts), 'row')}; allowed is a text for each of {tuple(logps.shape)}")
    n = whole("n", n, 1, logps.shape[1])
    saved = [_shared(row, p, r, n) for row, p, r in zip(texts, logps.tolist(), rewards.tolist(), strict=True)]
    return (math.log(n) - (n - 1) / n - torch.tensor(saved, dtype=torch.float64)).clamp(min=0)


def _shared(texts: Sequence[str], logps: Sequence[float], rewards: Sequence[float], n: int) -> float:
    """By how much a prompt's KL is below the bound: the sum of the integrals over its rewards."""
    likely: dict[float, dict[str, float]] = {}
    for text, logp, reward in zip(texts, logps, rewards, strict=True):
        likely.setdefault(reward, {})[text] = math.exp(min(logp, 0.0))
    below, saved = 0, 0.0
    for reward in sorted(likely):
        p, here = min(sum(likely[reward].values()), 1.0), rewards.count(reward)
        others = len(rewards) - here
        start = (1 - p) * below / others if others else 0.0
        end = min(start + p, 1.0)
        won = end**n - start**n
        if won > 0:
            area = sum(sign * u**n * (math.log(u) - 1 / n) for sign, u in ((1, end), (-1, start)) if u > 0)
            saved += max(math.log(n) * won + (n - 1) * area - won * math.log(won / p), 0.0)
        below += here
    return saved


def _reaching(sides: Sequence[Measured], kl: float, reach: float = REACH) -> list[int]:
    """The seeds that on every side have points on both sides of `kl`, and two up to `reach` times as far to fit."""

    def does(path: Tensor) -> bool:
        means = path.double().mean(1)
        near = means[(means > 0) & (means <= reach * kl)]
        return bool((means >= kl).any()) and bool((near <= kl).any()) and len(near.unique()) >= 2

    return sorted(set.intersection(*({seed for seed in side if does(side[seed][0])} for side in sides)))


def _one(kl: Tensor, gain: Tensor, at: float, reach: float, form: str) -> tuple[float, np.ndarray]:
    """One seed's gain at the KL `at`, and its pseudo-values, a block of prompts left out in turn, (BLOCKS,)."""
    kl, gain = same_shape(ndim=2, kl=kl, gain=gain)
    near = kl.mean(1) <= reach * at
    kl, gain = kl[near].numpy(), gain[near].numpy()
    P = kl.shape[1]
    if P < BLOCKS:
        raise ValueError(f"got {counted(P, 'prompt')}; allowed are {BLOCKS} and more")
    blocks = np.array_split(np.arange(P), BLOCKS)
    kept = [np.arange(P), *(np.setdiff1d(np.arange(P), block) for block in blocks)]
    x, y = (np.stack([values[:, rows].mean(1) for rows in kept]) for values in (kl, gain))  # (1 + BLOCKS, K)
    design = basis(x, form)  # (1 + BLOCKS, K, 2)
    coefficients = np.linalg.pinv(design) @ y[..., None]  # (1 + BLOCKS, 2, 1)
    read = (basis(np.array([at]), form) @ coefficients)[:, 0, 0]
    return float(read[0]), BLOCKS * read[0] - (BLOCKS - 1) * read[1:]


def _side(found: Crossed) -> int:
    return int(found.low > 0) - int(found.high < 0)
