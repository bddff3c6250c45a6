"""Differences over seeds *and* prompts: intervals, p-values, families of tests, and tests of "the same".

    d = paired(ipo, dpo)                     # (seeds, prompts) each, on the same prompts: d.value, d.low, d.high, d.p
    verdicts({"ipo": d, "kto": e}, margin=0.15)      # Holm over both: "differs", "the same", or "not told apart"
    parts(ipo - dpo)                         # how much of the spread is the seeds', the prompts', and the rest

An interval over seeds holds the prompts fixed, and one over prompts holds the run fixed. A statement about a method is
about other runs and other prompts, so both are drawn: every seed meets every prompt, they are crossed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from torch import Tensor

from prefcourse.comparison.ab_tests import holm
from prefcourse.evaluate import Estimate
from prefcourse.finite import number, numbers, same_shape

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
NEARLY_NORMAL = 1e5  # degrees of freedom


@dataclass(frozen=True)
class Crossed(Estimate):
    """A mean over seeds and prompts with its 95 % interval. se: standard error. df: degrees of freedom of Student's t.

    df comes out between that of the seeds and that of the prompts, by whose spread is larger.
    """

    se: float
    df: float
    seeds: int
    prompts: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def p(self) -> float:
        """Two-sided p-value of "the mean is 0"."""
        if self.se == 0:
            return float(self.value == 0)
        return min(2 * student_tail(abs(self.value) / self.se, self.df), 1.0)


@dataclass(frozen=True)
class Verdict:
    """What a family of tests lets us say of one difference. p: Holm's. p_same: Holm's, of the equivalence test."""

    difference: Crossed
    p: float
    p_same: float
    says: str  # "differs", "the same" or "not told apart"


def crossed(values: Tensor) -> Crossed:
    """The mean of `values`, (S, P): S seeds, all on the same P prompts, with an interval for new seeds and new prompts.

    value = μ + seed + prompt + rest. The variance of the mean is (MS_seed + MS_prompt - MS_rest) / SP, with the mean
    squares of the two-way table, and its degrees of freedom are Satterthwaite's (Searle, Casella and McCulloch 1992,
    ch. 4). Never below what the seeds or the prompts alone give. Raises ValueError for fewer than two of either.
    """
    values = numbers("values", values, ndim=2, least=2).numpy()
    S, P = values.shape
    if P < 2:
        raise ValueError(f"values has shape {values.shape}; allowed is (seeds, prompts), two or more of each")
    free, mean_squares = _table(values)
    sum_ = max(mean_squares[0] + mean_squares[1] - mean_squares[2], *mean_squares[:2])
    spread = float((mean_squares**2 / free).sum())
    df = sum_**2 / spread if spread > 0 else float(S - 1)
    return interval(float(values.mean()), math.sqrt(sum_ / (S * P)), df, S, P)


def interval(value: float, se: float, df: float, seeds: int, prompts: int) -> Crossed:
    """`value` ± Student's t of `df` degrees of freedom times `se`."""
    half = student_quantile(0.975, df) * se
    return Crossed(value, value - half, value + half, se, df, seeds, prompts)


def paired(a: Tensor, b: Tensor) -> Crossed:
    """Mean of a - b, both (S, P): the same seeds and prompts, so that what they do to both drops out."""
    a, b = same_shape(ndim=2, least=2, a=a, b=b)
    return crossed(a - b)


def objective(gain: Tensor, kl: Tensor, beta: float) -> Crossed:
    """J - J(reference) = E[gain] - β KL in nats: what the objective of RLHF says a policy is worth.

    gain: gold reward less the reference's; kl: log π/π_ref of the sample, whose mean is the KL; both (S, P). Below
    0 the policy is worse than the reference by its own objective (Rafailov et al. 2023, Eq. 3).
    """
    gain, kl = same_shape(ndim=2, least=2, gain=gain, kl=kl)
    return crossed(gain - number("beta", beta, least=0) * kl)


def parts(values: Tensor) -> dict[str, float]:
    """Variance of one value by source: seeds, prompts, rest. values: (S, P). A negative estimate counts as 0.

    The variance of the mean of S seeds and P prompts is seeds / S + prompts / P + rest / SP: it tells whether more
    seeds or more prompts would narrow an interval.
    """
    values = numbers("values", values, ndim=2, least=2).numpy()
    _, (seed, prompt, rest) = _table(values)
    S, P = values.shape
    return {"seeds": max((seed - rest) / P, 0.0), "prompts": max((prompt - rest) / S, 0.0), "rest": float(rest)}


def half_width(parts: Mapping[str, float], seeds: int, prompts: int) -> float:
    """Half the width that an interval has, about, with so many seeds and prompts: 1.96 standard errors."""
    variance = parts["seeds"] / seeds + parts["prompts"] / prompts + parts["rest"] / (seeds * prompts)
    return NormalDist().inv_cdf(0.975) * math.sqrt(variance)


def p_same(difference: Crossed, margin: float) -> float:
    """p-value of "the difference is `margin` or more, either way": two one-sided tests (Schuirmann 1987), the larger.

    Below 0.05 exactly if the 90 % interval lies within ± margin; then we may say "the same, within the margin". A large
    p of the usual test says nothing of the kind. The margin is set before the data are seen.
    """
    margin = number("margin", margin, above=0)
    if difference.se == 0:
        return float(abs(difference.value) >= margin)
    return student_tail((margin - abs(difference.value)) / difference.se, difference.df)


def verdicts(family: Mapping[str, Crossed], margin: float, alpha: float = 0.05) -> dict[str, Verdict]:
    """What may be said of each difference of a family, which is all that one figure or table shows.

    Holm's procedure runs over the family once for "differs" and once for "the same": in each, at most `alpha` of ever
    saying it wrongly. A difference for which both hold, small and yet not 0, is called "the same".
    """
    differs = holm({name: d.p for name, d in family.items()})
    same = holm({name: p_same(d, margin) for name, d in family.items()})
    found = {}
    for name, d in family.items():
        says = "the same" if same[name] < alpha else "differs" if differs[name] < alpha else "not told apart"
        found[name] = Verdict(d, differs[name], same[name], says)
    return found


def student_tail(t: float, df: float) -> float:
    """P(T > t) for Student's t with `df` degrees of freedom, which need not be whole.

    With t = √df tan θ the density is proportional to cos^{df - 1} θ: a smooth integral, by Gauss and Legendre.
    """
    df = number("df", df, above=0, most=math.inf)
    if t < 0:
        return 1 - student_tail(-t, df)
    if df > NEARLY_NORMAL:
        return 0.5 * math.erfc(t / math.sqrt(2))
    low, high = math.atan(t / math.sqrt(df)), math.pi / 2
    if df > 100:  # beyond t + 12 there is nothing to count
        high = math.atan((t + 12) / math.sqrt(df))
    theta = low + (high - low) * (NODES + 1) / 2
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    return float(scale * (high - low) / 2 * (WEIGHTS * np.cos(theta) ** (df - 1)).sum())


def student_quantile(share: float, df: float) -> float:
    """The t below which Student's distribution has `share`, ½ or more, by halving."""
    share = number("share", share, least=0.5, below=1)
    low, high = 0.0, 1.0
    while student_tail(high, df) > 1 - share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if student_tail(middle, df) <= 1 - share else (middle, high)
    return (low + high) / 2


def _table(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of freedom and mean squares of seeds, prompts and rest of the two-way table (S, P)."""
    S, P = values.shape
    seeds, prompts, mean = values.mean(1), values.mean(0), values.mean()
    rest = values - seeds[:, None] - prompts[None] + mean
    squares = np.array([P * ((seeds - mean) ** 2).sum(), S * ((prompts - mean) ** 2).sum(), (rest**2).sum()])
    free = np.array([S - 1, P - 1, (S - 1) * (P - 1)], dtype=float)
    return free, squares / free
