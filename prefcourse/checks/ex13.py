"""Checks of exercise notebook 13: what no pair contains, self-play, and a taste with copies.

How many numbers the pairs leave free, exercise 4, stands in `ex13_islands`.
"""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex13_islands import free_shares
from prefcourse.checks.questions import choice

__all__ = ["copies", "free_shares", "self_play_round", "unseen"]

# ---------------------------------------------------------------------------------------------- what no pair contains


def _partly_covered(draw: torch.Generator) -> list[Case]:
    def drawn(replies: int, seen: int, beta: float) -> Case:
        rand = {"generator": draw, "dtype": torch.float64}
        covered = torch.zeros(replies, dtype=torch.bool)
        covered[torch.randperm(replies, generator=draw)[:seen]] = True
        reward = 1.5 * torch.randn(replies, **rand)
        return {"reference": torch.randn(replies, **rand).softmax(-1), "reward": reward, "covered": covered,
                "beta": beta}  # fmt: skip

    lesson = {
        "reference": torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64),
        "reward": torch.tensor([-1.0, 0.0, 2.5, -2.0], dtype=torch.float64),
        "covered": torch.tensor([True, True, True, False]),
        "beta": 0.5,
    }
    whole = Limit("every reply stands in a pair", lesson | {"covered": torch.ones(4, dtype=torch.bool)})
    return [lesson, whole, drawn(5, 2, 1.0), drawn(6, 4, 0.3), drawn(7, 3, 2.0)]


def _where_descent_ends(reference, reward, covered, beta, mean=None) -> Tensor:
    mean = reward[covered].mean() if mean is None else mean
    return (reference.log() + torch.where(covered, (reward - mean) / beta, 0.0)).softmax(-1)


@exercise(
    cases=_partly_covered,
    points=3,
    where="Who decides then",
    hint="three lines: the mean of the covered rewards, each alike; log π_ref plus (reward - mean)/β where a reply is "
    "covered and plus 0 where it is not; a softmax.",
)
def unseen(reference, reward, covered, beta):
    """Where gradient descent from the reference ends, if some replies stand in no pair."""
    return _where_descent_ends(reference, reward, covered, beta)


@unseen.mutant(
    "you use what the reply in no pair is worth. No label says anything about it: its number must not enter."
)
def uses_what_nobody_said(reference, reward, covered, beta):
    return (reference.log() + reward / beta).softmax(-1)


@unseen.mutant("the rewards are not centred: descent moves the covered logits by amounts whose sum is 0.")
def not_centred(reference, reward, covered, beta):
    return _where_descent_ends(reference, reward, covered, beta, mean=0.0)


@unseen.mutant(
    "the unseen replies keep their share in yours. Their logits stay; the share changes with the sum of all e^logit."
)
def share_kept(reference, reward, covered, beta):
    tilted = torch.where(covered, reference * (reward / beta).exp(), 0.0)
    kept = reference[~covered].sum()
    return torch.where(covered, tilted / tilted.sum() * (1 - kept), reference)


@unseen.mutant("the unseen replies have probability 0 in yours: nothing in the loss pushes them down.")
def never_unseen(reference, reward, covered, beta):
    tilted = torch.where(covered, reference * (reward / beta).exp(), 0.0)
    return tilted / tilted.sum()


@unseen.mutant(
    "your mean weighs rewards by π_ref. In the logits every covered reply counts alike: take the plain mean."
)
def mean_by_reference(reference, reward, covered, beta):
    weight = reference * covered
    return _where_descent_ends(reference, reward, covered, beta, mean=(weight * reward).sum() / weight.sum())


@unseen.mutant("your mean divides by the number of all replies. Divide by how many are covered.")
def mean_over_all(reference, reward, covered, beta):
    return _where_descent_ends(reference, reward, covered, beta, mean=(reward * covered).sum() / len(reward))


@unseen.mutant("the mean takes in the unseen rewards: average those of covered replies alone.")
def mean_of_all(reference, reward, covered, beta):
    return _where_descent_ends(reference, reward, covered, beta, mean=reward.mean())


@unseen.mutant("β is missing: log π/π_ref is the centred reward divided by β.")
def without_beta(reference, reward, covered, beta):
    return _where_descent_ends(reference, reward, covered, 1.0)


@unseen.mutant("you multiply by β: a large β keeps the policy near the reference, so divide.")
def times_beta(reference, reward, covered, beta):
    return _where_descent_ends(reference, reward, covered, 1 / beta)


@unseen.mutant("the reference is missing: the run begins at the logits log π_ref.")
def from_uniform(reference, reward, covered, beta):
    return _where_descent_ends(torch.ones_like(reference), reward, covered, beta)


@unseen.mutant("you treat an unseen reply as if it were the best of those covered. It stands at their mean.")
def as_if_best(reference, reward, covered, beta):
    return _where_descent_ends(reference, reward, covered, beta, mean=reward[covered].max())


# ---------------------------------------------------------------------------------------------- self-play


def _tastes(draw: torch.Generator) -> list[Case]:
    def drawn(replies: int, eta: float, tau: float) -> Case:
        rand = {"generator": draw, "dtype": torch.float64}
        up = torch.rand(replies, replies, **rand).triu(1)
        taste = up + (1 - up.T).tril(-1) + 0.5 * torch.eye(replies, dtype=torch.float64)
        policy, reference = torch.randn(2, replies, **rand).softmax(-1)
        return {"policy": policy, "reference": reference, "taste": taste, "eta": eta, "tau": tau}

    circle = torch.tensor([[0.5, 0.75, 0.4], [0.25, 0.5, 0.65], [0.6, 0.35, 0.5]], dtype=torch.float64)
    start = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    lesson = {"policy": start.flip(0), "reference": start, "taste": circle, "eta": 0.5, "tau": 0.2}
    free = Limit("nothing pulls the policy to the reference, τ = 0", lesson | {"tau": 0.0})
    return [lesson, free, drawn(4, 1.0, 0.3), drawn(5, 2.0, 0.1), drawn(3, 0.3, 1.0)]


def _round(policy, reference, wins, eta, keep, pull) -> Tensor:
    return (keep * policy.log() + pull * reference.log() + eta * wins).softmax(-1)


@exercise(
    cases=_tastes,
    points=3,
    where="Self-play",
    hint="the logits are (1 - ητ) log π + ητ log π_ref + η P(y ≻ π), with P(y ≻ π) = taste @ policy; then a softmax.",
)
def self_play_round(policy, reference, taste, eta, tau):
    """The next policy of self-play with a pull to the reference."""
    return _round(policy, reference, taste @ policy, eta, 1 - eta * tau, eta * tau)


@self_play_round.mutant("you reward losing: taste[i, j] says that i beats j, so y's wins are its row, taste @ policy.")
def columns_for_rows(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste.T @ policy, eta, 1 - eta * tau, eta * tau)


@self_play_round.mutant("your opponent is the reference. In self-play it is the policy itself, as it is now.")
def against_the_reference(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste @ reference, eta, 1 - eta * tau, eta * tau)


@self_play_round.mutant("every opponent counts alike in yours: weigh a row of the taste by the policy's probabilities.")
def against_all_alike(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste.mean(1), eta, 1 - eta * tau, eta * tau)


@self_play_round.mutant("nothing pulls yours to the reference: mix the logarithms first, 1 - ητ and ητ.")
def no_pull(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste @ policy, eta, 1.0, 0.0)


@self_play_round.mutant("you pull with τ in each round: a step of size η pulls with ητ.")
def pull_without_eta(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste @ policy, eta, 1 - tau, tau)


@self_play_round.mutant(
    "the pull is added on top: what goes to the reference is taken from the policy, (1 - ητ) log π."
)
def pull_on_top(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste @ policy, eta, 1.0, eta * tau)


@self_play_round.mutant("the round starts at the reference in yours: it starts at the policy that the last one left.")
def from_the_reference(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste @ policy, eta, 0.0, 1.0)


@self_play_round.mutant("you mix probabilities. The pull mixes logarithms, a geometric mean.")
def arithmetic_mixture(policy, reference, taste, eta, tau):
    mixed = (1 - eta * tau) * policy + eta * tau * reference
    return _round(mixed, reference, taste @ policy, eta, 1.0, 0.0)


@self_play_round.mutant("the result does not sum to 1: normalise, or take a softmax.")
def not_normalised(policy, reference, taste, eta, tau):
    return ((1 - eta * tau) * policy.log() + eta * tau * reference.log() + eta * (taste @ policy)).exp()


@self_play_round.mutant("you take the best answer to the policy, alone: a step of size η only tilts towards it.")
def best_answer(policy, reference, taste, eta, tau):
    return torch.nn.functional.one_hot((taste @ policy).argmax(), len(policy)).double()


@self_play_round.mutant("η is missing before the win rates.")
def wins_without_eta(policy, reference, taste, eta, tau):
    return _round(policy, reference, taste @ policy, 1.0, 1 - eta * tau, eta * tau)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def copies():
    """Two more copies of praise join the replies; copies tie with each other. What changes for the three kinds?"""
    return {
        "the gaps between Bradley and Terry's rewards, and not the Nash policy's shares": None,
        "neither: a copy tells nobody anything new": "the fit counts comparisons: a reply that beats praise now does "
        "so three times as often, and its reward moves.",
        "both: the game and the fit have other entries now": "three copies of praise share among them what praise had. "
        "No reply of any kind wins more than half against that mixture.",
        "the Nash policy's shares, and not the gaps between rewards": "it is the other way round: rewards come from "
        "sums over the replies that are there, the Nash policy from what nobody can beat.",
    }
