"""What a method gains at a KL, over seeds and prompts, by two forms of the curve, and how far best-of-n really goes.

    runs = results.by_prompt("methods")
    ours, theirs = measured(runs, method="ipo"), measured(runs, method="dpo")     # seed → (kl, gain) by prompt
    at = gain_at_kl(ours, 3.0, less=theirs)    # at.square_root, at.rl; at.disagree where they do not say alike

`comparison.frontier.gain_at` does the same from the means of runs; its interval is over seeds for the prompts given.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prefcourse.comparison.crossed import Crossed, crossed, interval
from prefcourse.comparison.frontier import FORMS, basis
from prefcourse.finite import counted, number, numbers, same_shape, whole

BLOCKS = 20  # of prompts, each left out once
FEWEST = 3  # seeds
Measured = Mapping[int, tuple[Tensor, Tensor]]  # seed → KL and gain of each point of a path on each prompt, (K, P) each


@dataclass(frozen=True)
class AtKL:
    """A gain, or a difference of gains, at one KL by both forms; `apart`: the square root's less RL's."""

    square_root: Crossed
    rl: Crossed
    apart: Crossed

    @property
    def disagree(self) -> bool:
        """Does one interval leave out 0 where the other has it, or do they stand on both sides of 0?"""
        return _side(self.square_root) != _side(self.rl)


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


def gain_at_kl(ours: Measured, kl: float, less: Measured | None = None, reach: float = 4.0) -> AtKL:
    """The gain at `kl` nats over the seeds that go so far; with `less`, minus another method's on the same seeds.

    For each seed the mean gains of its points, up to `reach` times as far, are fitted by each form of `FORMS`. How far
    the prompts carry it is found by leaving out each of BLOCKS blocks of them (Tukey's pseudo-values, Efron and
    Tibshirani 1993, ch. 11), which makes a table of seeds and blocks for `crossed`. Raises ValueError if fewer than
    three seeds of both have a point as far as `kl`: nothing is extrapolated.
    """
    kl, reach = number("kl", kl, above=0), number("reach", reach, least=1, most=math.inf)
    both = [side for side in (ours, less) if side is not None]
    seeds = sorted(set.intersection(*({s for s in side if _far(side[s][0]) >= kl} for side in both)))
    if len(seeds) < FEWEST:
        have = counted(len(seeds), "seed has", "seeds have")
        raise ValueError(f"{have} a point at {kl:g} nats; allowed are {FEWEST} and more")
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

    return AtKL(*(estimate(name) for name in ("square root", "rl", "apart")))


def best_of_n_kl_measured(texts: Sequence[Sequence[str]], logps: Tensor, rewards: Tensor, n: int) -> Tensor:
    """KL(best-of-n ‖ π_ref) of each of B prompts in nats, (B,), from one pool of N samples of π_ref for each.

    logps: log π_ref of each sample, EOS included, and rewards: by which the best is chosen, (B, N).
    The best of n is y with probability P(its level of reward) · π_ref(y | level), so its log-ratio is the level's: with
    F the share of π_ref below and p that of the level, log (((F + p)^n - F^n) / p). p is exact, the sum over the
    different texts of the pool with this reward. F is read from ranks: of N samples, the share below the i-th has
    E[log F] = ψ(i) - ψ(N + 1). Where no text is likely the result is log n - (n - 1)/n exactly, the bound of
    `best_of_n_kl`; where a few texts hold most of the probability it is less (Beirami et al. 2024).
    Raises ValueError for n outside 1..N, and for texts that are not B rows of N.
    """
    logps, rewards = same_shape(ndim=2, least=1, logps=logps, rewards=rewards)
    numbers("logps", logps, ndim=2, high=1e-4)
    if [len(row) for row in texts] != [logps.shape[1]] * len(logps):
        raise ValueError(f"texts are {counted(len(texts), 'row')}; allowed is a text for each of {tuple(logps.shape)}")
    N = logps.shape[1]
    n = whole("n", n, 1, N)
    if n == 1:
        return torch.zeros(len(logps), dtype=torch.float64)
    share = torch.tensor([math.comb(i, n - 1) / math.comb(N, n) for i in range(N)], dtype=torch.float64)
    found = []
    for row, p, r in zip(texts, logps, rewards, strict=True):
        order = r.argsort(stable=True)
        found.append(share @ _log_ratios([row[i] for i in order], p[order], r[order], n))
    return torch.stack(found)


def _log_ratios(texts: Sequence[str], logps: Tensor, rewards: Tensor, n: int) -> Tensor:
    """log π_n/π_ref of each sample of a pool in order of reward, (N,)."""
    levels, which, counts = rewards.unique_consecutive(return_inverse=True, return_counts=True)
    mass = torch.zeros(len(levels), dtype=torch.float64)
    for i in {text: i for i, text in enumerate(texts)}.values():  # the same text twice counts once
        mass[which[i]] += logps[i].exp()
    mass = mass.clamp(1e-300, 1.0)
    below = (counts.cumsum(0) - counts).double()  # samples below each level
    others = len(rewards) - counts.double()
    F = (torch.digamma(below + 1) - torch.digamma(others + 2)).exp() * (1 - mass)
    F = torch.where(below > 0, F, 0.0)
    thin = mass < 1e-6 * F  # there two powers differ by n F^{n-1} p, of which rounding would leave nothing
    limit = math.log(n) + (n - 1) * F.clamp(min=1e-300).log()
    full = ((F + mass) ** n - F**n).clamp(min=1e-300).log() - mass.log()
    return torch.where(thin, limit, full)[which]


def _far(kl: Tensor) -> float:
    """The largest mean KL of a path's points, (K, P)."""
    return float(kl.mean(1).max())


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
    if len(np.unique(x[0].clip(0)[x[0] > 0])) < 2:
        raise ValueError("a curve needs points at two KLs above 0 or more")
    coefficients = np.linalg.pinv(design) @ y[..., None]  # (1 + BLOCKS, 2, 1)
    read = (basis(np.array([at]), form) @ coefficients)[:, 0, 0]
    return float(read[0]), BLOCKS * read[0] - (BLOCKS - 1) * read[1:]


def _side(found: Crossed) -> int:
    return int(found.low > 0) - int(found.high < 0)
