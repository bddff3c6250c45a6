"""Answers to notebook 15 as learners write them, none of them a listed mutant. See `battery`."""

from math import lgamma

import numpy as np
import torch
from battery import Battery

B = Battery()
right, wrong = B.right, B.wrong
SOME = "case|too|agree|wrong|right|rows|place|only|mean|sum|large|small|no effect|factor"

# ---------------------------------------------------------------------------------------------- 15.token_weights


def weights(r, n, std, by, most, eps=1e-4, centre=None):
    """Row by row, as one would in numpy."""
    r, n = r.numpy(), n.numpy()
    A = r - (r.mean(1)[:, None] if centre is None else centre(r))
    A = A / (r.std(1, ddof=1)[:, None] + eps) if std else A
    return A / (n if by == "own" else most if by == "most" else n.mean())


right("15.token_weights", weights)
right("15.token_weights", lambda *a: torch.stack([torch.as_tensor(row) for row in weights(*a)]))
wrong("15.token_weights", lambda *a: weights(*a, centre=lambda r: np.median(r, 1)[:, None]), SOME)
wrong("15.token_weights", lambda *a: weights(*a, centre=lambda r: r.max()), SOME)
wrong(
    "15.token_weights",
    lambda r, n, std, by, most: weights(r, n, std, by, 2 * most),
    "twice `most`|most|2 times|one factor",
)
wrong("15.token_weights", lambda *a: weights(*a).sum(1), "shape|sum")
wrong("15.token_weights", lambda r, n, std, by, most: weights(r, n, std, "own", most), SOME)
wrong("15.token_weights", lambda r, n, std, by, most: weights(1 - r, n, std, by, most), "1 - `rewards`|sign")
wrong("15.token_weights", lambda *a: np.abs(weights(*a)), "absolute|sign")

# ---------------------------------------------------------------------------------------------- 15.pass_at_k


def by_product(right_, n, k):
    found = np.ones(len(right_))
    for j in range(k):
        found *= np.clip(n - np.asarray(right_) - j, 0, None) / (n - j)
    return 1 - found


def by_lgamma(right_, n, k):
    def one(c):
        if n - c < k:
            return 1.0
        return 1 - np.exp(lgamma(n - c + 1) - lgamma(n - c - k + 1) - lgamma(n + 1) + lgamma(n - k + 1))

    return [one(int(c)) for c in right_]


right("15.pass_at_k", by_product)
right("15.pass_at_k", by_lgamma)
wrong("15.pass_at_k", lambda c, n, k: by_product(c, n, k).mean(), "mean|shape")
wrong("15.pass_at_k", lambda c, n, k: by_product(c, n + 1, k), SOME)
wrong("15.pass_at_k", lambda c, n, k: by_product(c, n, max(k - 1, 1)), SOME)
wrong("15.pass_at_k", lambda c, n, k: by_product(c, n, k)[1:], "shape|place")
wrong("15.pass_at_k", lambda c, n, k: 100 * by_product(c, n, k), "100 times")
wrong("15.pass_at_k", lambda c, n, k: by_product(c, n, k).round(), SOME)

# ---------------------------------------------------------------------------------------------- 15.group_advantages


def by_dict(rewards, owner):
    found = {}
    for r, own in zip(rewards.tolist(), owner, strict=True):
        found.setdefault(own, []).append(r)
    return [r - sum(found[own]) / len(found[own]) for r, own in zip(rewards.tolist(), owner, strict=True)]


def by_matrix(rewards, owner):
    same = (torch.tensor(owner)[:, None] == torch.tensor(owner)[None]).double()
    return rewards - same @ rewards / same.sum(1)


right("15.group_advantages", by_dict)
right("15.group_advantages", by_matrix)
wrong("15.group_advantages", lambda r, o: by_matrix(r, o) / (r.std() + 1e-4), SOME)
wrong("15.group_advantages", lambda r, o: by_matrix(r, o).abs(), "absolute|sign")
wrong("15.group_advantages", lambda r, o: by_matrix(r, o)[:, None], "column|shape")
wrong("15.group_advantages", lambda r, o: by_matrix(r, o[::-1]), SOME)
wrong("15.group_advantages", lambda r, o: by_matrix(r, o) * 2, "2 times")

# ---------------------------------------------------------------------------------------------- 15.diet


def kept(rates, k, chance=None):
    chance = chance or (lambda p: 1 - p**k - (1 - p) ** k)
    c = np.array([chance(p) for p in rates.tolist()])
    return {"share": c / c.sum(), "draws": len(c) / c.sum()}


right("15.diet", kept)
right("15.diet", lambda rates, k: {name: torch.as_tensor(value) for name, value in kept(rates, k).items()})
wrong("15.diet", lambda rates, k: kept(rates, k)["share"], "dict")
wrong("15.diet", lambda rates, k: kept(rates, k) | {"draws": len(rates) * kept(rates, k)["draws"]}, "right|times|draws")
wrong("15.diet", lambda rates, k: kept(rates, k + 1), SOME)
wrong("15.diet", lambda rates, k: kept(rates, k, lambda p: 1 - p**k * (1 - p) ** k), SOME)
wrong("15.diet", lambda rates, k: kept(rates, k) | {"share": kept(rates, k)["share"] * 100}, "100 times")
wrong("15.diet", lambda rates, k: kept(rates, k) | {"draws": kept(rates, k)["draws"] - 1}, "1 too small|right")
