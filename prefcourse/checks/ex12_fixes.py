"""Checks of exercise notebook 12, exercise 1: how fast the chosen token moves, and how strong a fix must be."""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise

REFERENCE = torch.tensor([0.40, 0.45, 0.15], dtype=torch.float64, device="cpu")  # the lesson's three tokens
EMBEDDING = torch.tensor([[0.8, 0.3], [1.0, 0.1], [-1.0, 0.4]], dtype=torch.float64, device="cpu")

# --------------------------------------------------------------------------------------------- how strong a fix must be


def _vocabularies(draw: torch.Generator) -> list[Case]:
    def drawn(words: int, width: int, beta: float, margin: float) -> Case:
        return {
            "policy": torch.randn(words, generator=draw, dtype=torch.float64).softmax(-1),
            "embedding": torch.randn(words, width, generator=draw, dtype=torch.float64),
            "won": 1, "lost": 0, "beta": beta, "margin": margin,
        }  # fmt: skip

    three = {"policy": REFERENCE, "embedding": EMBEDDING, "won": 0, "lost": 1, "beta": 1.0, "margin": 0.0}
    four = {"policy": torch.full((4,), 0.25).double(), "embedding": torch.eye(4, dtype=torch.float64)}
    return [
        three,
        three | {"beta": 0.5, "margin": 1.0},
        Limit("the chosen token rises by itself, so no fix is needed", three | {"won": 2, "lost": 1}),
        Limit("the margin is very negative", three | {"margin": -40.0}),
        four | {"won": 2, "lost": 0, "beta": 0.1, "margin": 0.5},
        drawn(5, 3, 0.3, 0.7),
        drawn(6, 2, 2.0, -0.5),
    ]


def _fixes(policy, embedding, won, lost, weight, mean=None, sign=1.0, power=2, clamp=True) -> dict[str, Tensor]:
    v = embedding[won] - (policy @ embedding if mean is None else mean)
    d = sign * (embedding[won] - embedding[lost])
    lam = -(v @ d) / v.norm() ** power
    lam = lam.clamp(min=0) if clamp else lam
    return {"speed": weight * (v @ d), "lam": lam, "alpha": weight * lam}


def _weight(beta, margin) -> Tensor:
    return beta * torch.sigmoid(torch.tensor(-margin, dtype=torch.float64))


@exercise(
    cases=_vocabularies,
    points=3,
    where="The maths: who gains",
    hint="four lines: v = u_w - E_π[u], d = u_w - u_l, g = β σ(-Δ); then speed = g v · d, λ* = -v · d / |v|² or 0, "
    "and α* = g λ*.",
)
def fixes(policy, embedding, won, lost, beta, margin):
    """How fast the chosen token moves under DPO, and how strong two fixes must be."""
    return _fixes(policy, embedding, won, lost, _weight(beta, margin))


@fixes.mutant("your mean embedding counts every token alike. E_π[u] weighs each by its probability under the policy.")
def plain_mean(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(beta, margin), mean=embedding.mean(0))


@fixes.mutant("d points the wrong way: h moves along u_w - u_l, towards the winner.")
def d_reversed(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(beta, margin), sign=-1.0)


@fixes.mutant("β is missing in the weight of the pair: g = β σ(-Δ), the slope of the loss in the log-ratios.")
def weight_without_beta(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(1.0, margin))


@fixes.mutant("your weight grows with the margin: a pair that is ranked right must pull less, g = β σ(-Δ).")
def weight_of_plus_margin(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(beta, -margin))


@fixes.mutant("you divide by |v|. The push of a fix is along v and its effect on log π(w) is |v|², so divide by that.")
def norm_not_squared(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(beta, margin), power=1)


@fixes.mutant("a negative λ* or α*: where the chosen token rises by itself no fix is needed, so return 0.")
def negative_fix(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(beta, margin), clamp=False)


@fixes.mutant("v is the winner's embedding alone: the mean of all embeddings under the policy is subtracted from it.")
def mean_missing(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(beta, margin), mean=torch.zeros_like(embedding[0]))


@fixes.mutant("α is the λ: an NLL term pushes with α, DPOP with g λ, so α* = g λ*.")
def alpha_is_lam(policy, embedding, won, lost, beta, margin):
    found = _fixes(policy, embedding, won, lost, _weight(beta, margin))
    return found | {"alpha": found["lam"]}


@fixes.mutant("the weight of the pair is missing in the speed: it is g v · d, with g = β σ(-Δ).")
def speed_without_weight(policy, embedding, won, lost, beta, margin):
    found = _fixes(policy, embedding, won, lost, _weight(beta, margin))
    return found | {"speed": found["speed"] / _weight(beta, margin)}


@fixes.mutant("the weight of the pair is in λ in yours: DPOP's fine stands inside the sigmoid, so g cancels there.")
def lam_with_weight(policy, embedding, won, lost, beta, margin):
    found = _fixes(policy, embedding, won, lost, _weight(beta, margin))
    return found | {"lam": found["alpha"]}


@fixes.mutant("winner and loser are exchanged.")
def sides_exchanged(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, lost, won, _weight(beta, margin))


@fixes.mutant("g is β σ(-Δ), and Δ has its β already: you multiply Δ by β once more.")
def beta_twice(policy, embedding, won, lost, beta, margin):
    return _fixes(policy, embedding, won, lost, _weight(beta, beta * margin))
