"""Checks of exercise notebook 10, exercise 3: a mean gain with its paired bootstrap interval. See also `ex10`."""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise

# ---------------------------------------------------------------------------------------------- the narrow interval


def _reviews(draw: torch.Generator) -> list[Case]:
    """Rewards (N, K) of two policies: a prompt moves both, and its own gain."""

    def case(n: int, k: int) -> Case:
        prompt, gain = torch.randn(2, n, 1, generator=draw, dtype=torch.float64)
        dice = torch.randn(2, n, k, generator=draw, dtype=torch.float64)
        return {"a": 2 * prompt + 0.5 + gain + dice[0], "b": 2 * prompt + dice[1]}

    a = torch.tensor([[2.0, 3.0], [-1.0, 0.0], [4.0, 4.5], [0.5, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0], [-1.5, 0.5], [1.0, 2.0], [1.0, 1.5]], dtype=torch.float64)
    one = Limit("there is one review of each prompt", {"a": a[:, :1], "b": b[:, :1]})
    loses = Limit("B is the better one, so that the gain is below 0", {"a": b - 3, "b": a})
    return [{"a": a, "b": b}, one, loses, case(10, 4), case(16, 3)]


RESAMPLES = 2_000


def _resampled(d: Tensor, draws: int = 1) -> list[Tensor]:
    """Numbers of the rows that each resample takes, (RESAMPLES, N), as the exercise says how to draw them."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(len(d), (RESAMPLES, len(d)), generator=generator) for _ in range(draws)]


def _interval(mean: Tensor, means: Tensor, low: float = 0.025) -> tuple[float, float, float]:
    ends = means.quantile(torch.tensor([low, 1 - low], dtype=means.dtype))
    return mean.item(), *ends.tolist()


@exercise(
    cases=_reviews,
    points=3,
    where="Optional · From scratch",
    hint="go in three steps: d (N,) = mean of a over reviews - mean of b over reviews; draw (2000, N) row numbers as "
    "given; means of d over each draw, and their quantiles 0.025 and 0.975.",
)
def gain(a, b):
    """Mean gain of A over B with its paired bootstrap interval, from K reviews of each prompt."""
    d = a.mean(1) - b.mean(1)
    return _interval(d.mean(), d[_resampled(d)[0]].mean(1))


@gain.mutant(
    "you draw reviews, not prompts: the interval forgets that the gain differs between prompts (τ² of *More prompts or "
    "more reviews?*). Average over the K reviews first, then draw from N prompts."
)
def reviews_as_prompts(a, b):
    d = (a - b).flatten()
    return _interval(d.mean(), d[_resampled(d)[0]].mean(1))


@gain.mutant(
    "you draw the prompts of A and of B separately. That throws the pairs away: draw once, and let a prompt bring both "
    "of its rewards along."
)
def unpaired(a, b):
    one, other = _resampled(a, 2)
    return _interval((a.mean(1) - b.mean(1)).mean(), a.mean(1)[one].mean(1) - b.mean(1)[other].mean(1))


@gain.mutant("only the first review of each prompt is used. Average over all K: it shrinks the dice.")
def first_review(a, b):
    return gain.reference(a[:, :1], b[:, :1])


@gain.mutant("your ends are the quantiles of d itself: that says how prompts differ. We ask how the *mean* varies.")
def spread_of_prompts(a, b):
    d = a.mean(1) - b.mean(1)
    return _interval(d.mean(), d)


@gain.mutant("your ends are the quantiles 0.05 and 0.95, which leave 10 % outside. For 95 % take 0.025 and 0.975.")
def ninety(a, b):
    d = a.mean(1) - b.mean(1)
    return _interval(d.mean(), d[_resampled(d)[0]].mean(1), 0.05)


@gain.mutant("the sign is turned round: a gain of A over B is a - b.")
def b_minus_a(a, b):
    return gain.reference(b, a)


@gain.mutant("the order is another one: the mean gain first, then the low and the high end.")
def other_order(a, b):
    mean, low, high = gain.reference(a, b)
    return low, mean, high


@gain.mutant("the first number is the mean over the resamples: take that of the data themselves.")
def mean_of_resamples(a, b):
    d = a.mean(1) - b.mean(1)
    means = d[_resampled(d)[0]].mean(1)
    return _interval(means.mean(), means)


@gain.mutant("that is the normal interval, mean ± 1.96 standard errors. Asked are the quantiles of resampled means.")
def normal(a, b):
    d = a.mean(1) - b.mean(1)
    half = 1.959963984540054 * (d.std() / len(d) ** 0.5).item()
    return d.mean().item(), d.mean().item() - half, d.mean().item() + half


@gain.mutant("your draw has another seed, or other shape: torch.randint(N, (2000, N)) with a generator seeded by 0.")
def other_seed(a, b):
    d = a.mean(1) - b.mean(1)
    return _interval(
        d.mean(), d[torch.randint(len(d), (RESAMPLES, len(d)), generator=torch.Generator().manual_seed(1))].mean(1)
    )
