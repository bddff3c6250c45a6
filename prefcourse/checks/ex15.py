"""Checks of exercise notebook 15: the weights of tokens, pass@k, and a question about rewards of plus and minus one.

Exercises 4 and 5, whose mean a group's is and what dynamic sampling reads, stand in `ex15_groups`.
"""

import math

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex15_groups import diet, group_advantages
from prefcourse.checks.questions import choice

__all__ = ["diet", "group_advantages", "pass_at_k", "plus_minus", "token_weights"]

# ---------------------------------------------------------------------------------------------- weights of tokens


def _batches(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, k: int, std: bool, divide_by: str) -> Case:
        rewards = torch.randint(2, (prompts, k), generator=draw).double()
        rewards[:, 0], rewards[:, 1] = 1.0, 0.0  # every group has a contrast
        lengths = torch.randint(3, 30, (prompts, k), generator=draw).double()
        return {"rewards": rewards, "lengths": lengths, "std": std, "divide_by": divide_by, "most": 48}

    fixed = {
        "rewards": torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 1]], dtype=torch.float64),
        "lengths": torch.tensor([[16.0, 4, 8, 12], [10, 20, 5, 5]], dtype=torch.float64),
    }
    dr = fixed | {"std": False, "divide_by": "most", "most": 48}
    flat = {"rewards": torch.tensor([[0.0] * 4, [0, 0, 1, 0]], dtype=torch.float64), "lengths": fixed["lengths"]}
    alike = {"rewards": fixed["rewards"], "lengths": torch.full((2, 4), 7.0, dtype=torch.float64)}
    return [
        dr,
        fixed | {"std": True, "divide_by": "own", "most": 48},
        fixed | {"std": False, "divide_by": "batch", "most": 48},
        Limit("a group has no contrast", flat | {"std": True, "divide_by": "own", "most": 48}),
        Limit("all replies are equally long", alike | {"std": False, "divide_by": "batch", "most": 20}),
        case(3, 6, True, "batch"),
        case(2, 5, True, "most"),
        case(4, 4, False, "own"),
    ]


def _weights(rewards, lengths, std, divide_by, most, *, baseline=None, spread=None, batch=None, own=None) -> Tensor:
    A = rewards - (rewards.mean(-1, keepdim=True) if baseline is None else baseline)
    if std:
        A = A / ((rewards.std(-1, keepdim=True) if spread is None else spread) + 1e-4)
    batch = lengths.mean() if batch is None else batch
    return A / {"own": lengths if own is None else own, "most": float(most), "batch": batch}[divide_by]


@exercise(
    cases=_batches,
    points=3,
    where="The maths: what a group's mean does",
    hint="A = rewards - rewards.mean(-1, keepdim=True), divided by rewards.std(-1, keepdim=True) + 1e-4 if std; then "
    "by lengths, by most, or by lengths.mean() of the whole batch.",
)
def token_weights(rewards, lengths, std, divide_by, most):
    """What multiplies the gradient of each token's log π: advantage over divisor."""
    return _weights(rewards, lengths, std, divide_by, most)


@token_weights.mutant("your mean is that of the whole batch: a reply is compared with those of its own prompt.")
def batch_mean(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, std, divide_by, most, baseline=rewards.mean())


@token_weights.mutant("you subtract one half: the baseline is the group's own mean, however hard the prompt is.")
def one_half(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, std, divide_by, most, baseline=0.5)


@token_weights.mutant("nothing is subtracted in yours: the advantage is the reward less its group's mean.")
def no_baseline(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, std, divide_by, most, baseline=0.0)


@token_weights.mutant("you leave the reply itself out of the mean: that is RLOO. GRPO's mean holds all k rewards.")
def leave_one_out(rewards, lengths, std, divide_by, most):
    k = rewards.shape[-1]
    others = (rewards.sum(-1, keepdim=True) - rewards) / (k - 1)
    return _weights(rewards, lengths, std, divide_by, most, baseline=others)


@token_weights.mutant("the deviation has K - 1 in its denominator, as torch's std has it; yours has K.")
def population(rewards, lengths, std, divide_by, most):
    spread = rewards.std(-1, keepdim=True, unbiased=False)
    return _weights(rewards, lengths, std, divide_by, most, spread=spread)


@token_weights.mutant("you divide by the spread of the whole batch: GRPO takes each group's own.")
def batch_spread(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, std, divide_by, most, spread=rewards.std())


@token_weights.mutant("the standard deviation is missing where `std` is True.")
def never_scaled(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, False, divide_by, most)


@token_weights.mutant("you always divide by the standard deviation: only where `std` is True.")
def always_scaled(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, True, divide_by, most)


@token_weights.mutant("`batch` is the mean length over the whole batch; yours is the mean over each group.")
def group_length(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, std, divide_by, most, batch=lengths.mean(-1, keepdim=True))


@token_weights.mutant("`batch` divides by the *mean* length in the batch; yours divides by the sum.")
def all_tokens(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, std, divide_by, most, batch=lengths.sum())


@token_weights.mutant("the length multiplies in yours: it is the divisor of a sum over tokens.")
def times_length(rewards, lengths, std, divide_by, most):
    return _weights(rewards, lengths, std, divide_by, most, own=1 / lengths)


# ---------------------------------------------------------------------------------------------- pass@k


def _tries(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, n: int, k: int) -> Case:
        right = torch.randint(n + 1, (prompts,), generator=draw)
        right[0] = n // 4
        return {"right": right, "n": n, "k": k}

    few = torch.tensor([0, 1, 2, 5])
    return [
        {"right": few, "n": 8, "k": 2},
        {"right": few, "n": 8, "k": 4},
        Limit("k is 1: the mean reward", {"right": few, "n": 8, "k": 1}),
        Limit("k is n: all samples are taken", {"right": few, "n": 8, "k": 8}),
        Limit("fewer than k samples are wrong", {"right": torch.tensor([7, 6, 1]), "n": 8, "k": 3}),
        Limit("there are 200 samples", {"right": torch.tensor([1, 20, 150]), "n": 200, "k": 100}),
        case(6, 16, 4),
        case(5, 32, 8),
    ]


def _each(right, of) -> Tensor:
    return torch.tensor([float(of(int(c))) for c in right], dtype=torch.float64)


@exercise(
    cases=_tries,
    points=3,
    where="pass@k",
    hint="for each count c: 1 - math.comb(n - c, k) / math.comb(n, k). math.comb is 0 where more are to be drawn than "
    "there are, which is right: then every subset holds a right one.",
)
def pass_at_k(right, n, k):
    """P(at least one of k samples is right), without bias, from how many of n are."""
    return _each(right, lambda c: 1 - math.comb(n - c, k) / math.comb(n, k))


@pass_at_k.mutant("1 - (1 - c/n)^k draws with replacement, and is too low on average: count subsets of k.")
def plug_in(right, n, k):
    return _each(right, lambda c: 1 - (1 - c / n) ** k)


@pass_at_k.mutant("you ask that all k are right: one right sample among the k is enough.")
def all_right(right, n, k):
    return _each(right, lambda c: math.comb(c, k) / math.comb(n, k))


@pass_at_k.mutant("this is the chance that *none* of the k is right: take it from 1.")
def none_right(right, n, k):
    return _each(right, lambda c: math.comb(n - c, k) / math.comb(n, k))


@pass_at_k.mutant("yours asks whether any of the n samples is right: that is pass@n, whatever k is.")
def any_of_n(right, n, k):
    return _each(right, lambda c: c > 0)


@pass_at_k.mutant("this is pass@1, the share of right samples: k is missing.")
def mean_reward(right, n, k):
    return _each(right, lambda c: c / n)


@pass_at_k.mutant("you ask for exactly one right sample among the k: two or more pass as well.")
def exactly_one(right, n, k):
    return _each(right, lambda c: c * math.comb(n - c, k - 1) / math.comb(n, k))


@pass_at_k.mutant(
    "you take `right` for the number of *wrong* samples: n - c of them failed, and k of these make a failure."
)
def wrong_ones(right, n, k):
    return _each(right, lambda c: 1 - math.comb(c, k) / math.comb(n, k))


@pass_at_k.mutant("k times the rate is no probability: it can be above 1, and counts a prompt twice.")
def k_times(right, n, k):
    return _each(right, lambda c: min(k * c / n, 1.0))


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def plus_minus():
    """A verifier pays +1 and -1 in place of 1 and 0. What happens to the gradient of a batch?"""
    return {
        "Dr. GRPO's doubles, GRPO's stays as it is": None,
        "both double: rewards are twice as far apart": "GRPO divides by the spread, which is twice as large as well.",
        "neither changes: the mean is taken off": "the mean takes the shift off; a reward twice as far from it stays "
        "so unless the spread divides it.",
        "wrong replies are pushed down now, which they were not before": "with 0 they were pushed down already: their "
        "advantage is 0 less the group's mean, below 0 wherever one sibling is right.",
    }
