"""Is policy A better than policy B, and how many prompts does it take to tell?

    a, b = evaluate(dpo, world), evaluate(sft, world, seed=1)            # the same prompts for both
    difference(a.rewards, b.rewards)                                    # A - B on the same prompt, with its interval
    preference(a.rewards, b.rewards)                                    # A's win rate, with Wilson's interval
    sample_size(0.55)                                                   # 783 prompts to tell 55 % from 50 %

Decide the number of prompts before looking at the results; test once; correct for the number of tests.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from prefcourse.evaluate import Estimate, bootstrap, percentiles, points, resamples
from prefcourse.finite import counted, generator, number, numbers, same_shape

PERMUTATIONS = 10_000
TINY = 1e-12  # a level nearer to 0 or 1 is one: the normal quantile ends there


def wilson(wins: float, n: int, level: float = 0.95) -> Estimate:
    """A share of `wins` in `n` with Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001, §3.1.1).

    It stays inside 0 to 1, and near the ends far closer to its level than wins/n ± 1.96 standard errors, though it dips
    there, too: to 84 % at n = 20 and a rate of 0.9 %. A tie may count as half a win; the interval is then a little too
    wide, because half points vary less than coins.
    Raises ValueError for n < 1 or wins outside 0 to n.
    """
    n, wins = number("n", n, most=1e15), number("wins", wins)
    level = number("level", level, least=TINY, most=1 - TINY)
    if not (n >= 1 and 0 <= wins <= n):
        raise ValueError(f"got {wins} wins of {n}; allowed are 0 <= wins <= n, n >= 1")
    z, share = NormalDist().inv_cdf(0.5 + level / 2), wins / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Estimate(share, max(centre - half, 0.0), min(centre + half, 1.0))


def preference(a: Tensor, b: Tensor) -> Estimate:
    """How often `a` beats `b` on the same prompt, both (N,), ties one half, with Wilson's interval."""
    a, b = same_shape(least=2, a=a, b=b)
    return wilson(points(a, b).sum().item(), len(a))


def difference(a: Tensor, b: Tensor) -> Estimate:
    """Mean of a - b over prompts, both (N,), with the paired bootstrap interval.

    Pairing takes out what the prompt does to both: the interval is narrower whenever a and b go up and down together.
    """
    a, b = same_shape(least=2, a=a, b=b)
    return bootstrap(a - b)


def p_value(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Two-sided p-value of "A and B are the same", by flipping the signs of a - b at random (Fisher 1935, §21).

    If the policies were the same, each prompt's difference could as well have had the other sign. 10,000 random flips,
    and the observed one counts too, so the smallest p-value is 1e-4 (Phipson and Smyth 2010).
    Raises ValueError unless a and b are rows of one length with two finite values or more: a flip with nan in it is
    never as extreme as what was seen, and any difference would look real.
    """
    a, b = same_shape(least=2, a=a, b=b)
    d = a - b
    signs = torch.randint(2, (PERMUTATIONS - 1, len(d)), generator=generator(seed), dtype=torch.int8) * 2 - 1
    flipped = (signs.double() @ d).abs()
    return (1 + (flipped >= d.sum().abs() * (1 - 1e-12)).sum().item()) / PERMUTATIONS


def shuffle_p_value(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Two-sided p-value of "groups A and B have the same mean", (N,) and (M,), by dealing values to groups at random.

    For two types of prompts, which have no prompt in common: nothing is paired (Pitman 1937). 10,000 deals, as in
    `p_value`. With groups of one size it also serves where the spreads differ (Romano 1990).
    Raises ValueError unless both are rows of at least two finite values.
    """
    a, b = numbers("a", a, least=2), numbers("b", b, least=2)
    both = torch.cat([a, b])
    deal = torch.rand(PERMUTATIONS - 1, len(both), generator=generator(seed)).argsort(-1)
    apart = both[deal[:, : len(a)]].sum(-1) / len(a) - both[deal[:, len(a) :]].sum(-1) / len(b)
    found = (a.mean() - b.mean()).abs().item()
    return (1 + (apart.abs() >= found * (1 - 1e-12)).sum().item()) / PERMUTATIONS


def power(rate: float, n: int, ties: float = 0.0, alpha: float = 0.05) -> float:
    """Probability that a two-sided test of level `alpha` on n prompts sees a win rate that is truly `rate`, not ½.

    ties: the share of prompts without a winner; they make a half point, and so the spread smaller. Normal
    approximation, as in every table of sample sizes (Lachin 1981).
    """
    rate, ties = number("rate", rate, least=0, most=1), number("ties", ties, least=0, most=1)
    n, alpha = number("n", n, least=1), number("alpha", alpha, least=TINY, most=1 - TINY)
    null, real = _spread(0.5, ties), _spread(rate, ties)
    z, normal = NormalDist().inv_cdf(1 - alpha / 2), NormalDist()
    shift, limit = (rate - 0.5) * math.sqrt(n), z * null
    if real == 0:  # every prompt ends alike
        return float(abs(shift) > limit)
    return normal.cdf((shift - limit) / real) + normal.cdf((-shift - limit) / real)


def sample_size(rate: float, ties: float = 0.0, alpha: float = 0.05, target: float = 0.8) -> int:
    """Prompts needed to see a win rate of `rate` with probability `target`: the smallest n with `power` >= target.

    Raises ValueError for rate ½, which no number of prompts tells from ½.
    """
    alpha = number("alpha", alpha, least=TINY, most=1 - TINY)
    rate, target = number("rate", rate, least=0, most=1), number("target", target, most=1 - TINY)
    if rate == 0.5 or not alpha < target:
        raise ValueError(f"got {rate=}, {target=}; allowed are a rate other than 0.5 and a target between alpha and 1")
    low, high = 0, 1
    while power(rate, high, ties, alpha) < target:
        low, high = high, 2 * high
    while high - low > 1:  # power grows with n
        middle = (low + high) // 2
        low, high = (low, middle) if power(rate, middle, ties, alpha) >= target else (middle, high)
    return high


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values (Holm 1979): below α means rejected, with at most α of ever rejecting a true hypothesis.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none may come out below one before it.
    """
    if not isinstance(p_values, Mapping):
        raise ValueError(f"p_values is a {type(p_values).__name__}; allowed is a mapping from names to p-values")
    p_values = {name: number(f"the p-value of {name!r}", p, least=0, most=1) for name, p in p_values.items()}
    found, worst = {}, 0.0
    for k, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        worst = max(worst, min((len(p_values) - k) * p_values[name], 1.0))
        found[name] = worst
    return {name: found[name] for name in p_values}


def by_group(values: Tensor, groups: Sequence[str]) -> dict[str, Estimate]:
    """The mean of `values` (N,) in each group with its bootstrap interval, groups in the order of the alphabet.

    Raises ValueError if the lengths differ, a group has one value only, or is no text or whole number.
    """
    values, groups = numbers("values", values), [groups] if isinstance(groups, str) else list(groups)
    if len(values) != len(groups):
        raise ValueError(f"got {counted(len(values), 'value')} and {counted(len(groups), 'group')}; give one for each")
    places: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        if not isinstance(group, str | int):
            raise ValueError(f"groups has a {type(group).__name__} at {i}; allowed are texts or whole numbers")
        places.setdefault(group, []).append(i)
    lonely = [group for group, rows in places.items() if len(rows) < 2]
    if lonely:
        raise ValueError(f"group {lonely[0]!r} has one value; allowed is at least two, or there is no interval")
    return {group: bootstrap(values[places[group]]) for group in sorted(places, key=str)}


def at_equal_length(difference: Tensor, lengths: Tensor, seed: int = 0) -> Estimate:
    """The mean difference that is left when both texts are equally long, by a straight line through (length, value).

    difference: A - B of N prompts, (N,). lengths: how much longer A's text is, (N,), any unit. The line's value at 0 is
    the estimate, and its interval comes from the bootstrap over prompts. Dubois et al. 2024 do the same with a logistic
    curve through a judge's votes. It answers for a straight line only: look at the points.
    """
    y, x = same_shape(least=2, difference=difference, lengths=lengths)
    spread = (x - x.mean()).abs().max().item()
    x = x / spread if spread > 0 else x  # any unit: the line's value at 0 stays where it is

    def intercept(x: Tensor, y: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        slope = (centred * y).sum(-1) / centred.square().sum(-1).clamp(min=1e-12)
        return y.mean(-1) - slope * x.mean(-1)

    draw = resamples(len(y), seed)
    return percentiles(intercept(x, y).item(), intercept(x[draw], y[draw]))


def _spread(rate: float, ties: float) -> float:
    """Standard deviation of one prompt's point: 1 for a win, ½ for a tie, 0 for a loss."""
    win, loss = rate - ties / 2, 1 - rate - ties / 2
    if not (win >= -1e-12 and loss >= -1e-12):
        raise ValueError(
            f"a win rate of {rate} with a share {ties} of ties is impossible: wins {win:.3f}, losses {loss:.3f}"
        )
    return math.sqrt(max(win + ties / 4 - rate**2, 0.0))
