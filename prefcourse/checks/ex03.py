"""Checks of exercise notebook 03: reward models.

Exercise 5, the reply shown first, stands in `ex03_places`; what a climb with too long a step is told, in `ex03_climb`.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex03_climb import cycle
from prefcourse.checks.ex03_places import fit_with_place
from prefcourse.checks.questions import choice

__all__ = ["fit_with_place", "fit_with_prior", "flip_aware_loss", "half_a_temperature", "read_at_eos"]

# ---------------------------------------------------------------------------------------------- labels that flip


def _noisy_pairs(draw: torch.Generator) -> list[Case]:
    def case(n: int, eps: float) -> Case:
        chosen, rejected = 2 * torch.randn(2, n, generator=draw, dtype=torch.float64)
        return {"chosen": chosen, "rejected": rejected, "eps": eps}

    fixed = {
        "chosen": torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64),
        "rejected": torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
    }
    sure = {"chosen": torch.tensor([60.0, -60.0]).double(), "rejected": torch.tensor([-60.0, 60.0]).double()}
    return [
        {**fixed, "eps": 0.2},
        Limit("the model is very sure, Δ = ±120", {**sure, "eps": 0.2}),
        case(4, 0.1),
        case(5, 0.35),
        Limit("nobody flips, ε = 0", case(2, 0.0)),
    ]


@exercise(
    cases=_noisy_pairs,
    points=2,
    where="Step 2 · The likelihood of what we saw",
    hint="the label came out as it did in one of two ways: the chosen text won and nobody flipped, (1 - ε) σ(Δ), or it "
    "lost and somebody did, ε σ(-Δ). The loss is -log of their sum.",
)
def flip_aware_loss(chosen, rejected, eps):
    """The loss of each pair whose label was flipped with probability ε."""
    margin = chosen - rejected
    return -((1 - eps) * margin.sigmoid() + eps * (-margin).sigmoid()).log()


@flip_aware_loss.mutant(
    "you mix two losses. That is label smoothing: its minimum is at a probability nearer to ½ than P. Mix the "
    "probabilities, and take the logarithm of the sum."
)
def smoothed(chosen, rejected, eps):
    margin = chosen - rejected
    return -(1 - eps) * logsigmoid(margin) - eps * logsigmoid(-margin)


@flip_aware_loss.mutant("ε does nothing in your loss: it is the plain loss, which learns the flipped labels.")
def plain(chosen, rejected, eps):
    return -logsigmoid(chosen - rejected)


@flip_aware_loss.mutant("the two ways are exchanged: the label is as it should be with probability 1 - ε.")
def exchanged(chosen, rejected, eps):
    return flip_aware_loss.reference(rejected, chosen, eps)


@flip_aware_loss.mutant("ε is added without its partner: the label was right with 1 - ε, so σ(Δ) is weighed with that.")
def no_complement(chosen, rejected, eps):
    margin = chosen - rejected
    return -(margin.sigmoid() + eps * (-margin).sigmoid()).log()


@flip_aware_loss.mutant("you scale the margin by 1 - 2ε. Near ½ that is what flips do to it; farther out it is not.")
def scaled_margin(chosen, rejected, eps):
    return -logsigmoid((1 - 2 * eps) * (chosen - rejected))


@flip_aware_loss.mutant("that is a probability: the loss is minus its logarithm.")
def probability(chosen, rejected, eps):
    return (-flip_aware_loss.reference(chosen, rejected, eps)).exp()


@flip_aware_loss.mutant("you return the mean of the batch; the exercise asks for one loss per pair, of shape (B,).")
def batch_mean(chosen, rejected, eps):
    return flip_aware_loss.reference(chosen, rejected, eps).mean()


# ---------------------------------------------------------------------------------------------- a fit with a prior


def _tables(draw: torch.Generator) -> list[Case]:
    def case(replies: int, prior: float) -> Case:
        wins = torch.randint(0, 6, (replies, replies), generator=draw).double()
        wins[0, 1], wins[1, 0] = 7.0, 1.0  # never a table without an order
        return {"wins": wins * (1 - torch.eye(replies, dtype=torch.float64)), "prior": prior}

    sweep = torch.tensor([[0.0, 3.0, 3.0], [0.0, 0.0, 2.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    return [{"wins": sweep, "prior": 0.5}, {"wins": sweep.T.contiguous(), "prior": 2.0}, case(4, 0.3), case(5, 1.0)]


def _unfinished(found, wins, prior) -> str:
    """What the gradient says about rewards that are not at the maximum."""
    r = torch.as_tensor(found, dtype=torch.float64)
    if not r.isfinite().all() or r.abs().max() > 15:
        return "your climb runs away: the step is too long, or the prior pulls the wrong way."
    games = wins + wins.T

    def uphill(r: Tensor, prior: float = prior) -> Tensor:
        return (wins - games * (r[..., :, None] - r[..., None, :]).sigmoid()).sum(-1) - prior * r

    surplus = uphill(r, prior=0.0)
    strength = (surplus @ r / (r @ r)).item()
    if (surplus - strength * r).abs().max() < 1e-3:
        return f"your rewards are the maximum for a prior that is {strength / prior:.3g} times as strong."
    gradient = surplus - prior * r
    if gradient.abs().max() < 0.5 and r.mean().abs() < 1e-6:
        size = gradient.abs().max().item()
        return f"you stop on the way, or swing around the top: at your rewards the gradient is still {size:.1g}."
    if r.mean().abs() > 1e-3:  # a climb from 0 keeps the mean at 0
        return ""
    if round_trip := cycle(r, uphill):
        return round_trip
    after = r + torch.logspace(-2, 1, 1001, dtype=torch.float64)[:, None] * gradient  # one more step, of any size
    missed = (uphill(after) + gradient).abs().amax(1).min()  # where it is 0, the step after that one leads to r again
    if missed < 0.05 * gradient.abs().max():  # not there yet, but on its way to a cycle of two points
        return "your climb swings to and fro about the maximum: the step is too long. Try a tenth of it."
    return ""


def _fit(wins: Tensor, prior: float, steps: int = 40, double: bool = False, centred: bool = True) -> Tensor:
    """Newton's method on the penalised likelihood of one prompt."""
    games, r = wins + wins.T, torch.zeros(len(wins), dtype=torch.float64)
    for _ in range(steps):
        p = (r[:, None] - r[None, :]).sigmoid()
        weight = games * p * (1 - p)
        strength = (2 if double else 1) * prior
        gradient = (wins - games * p).sum(1) - strength * r
        curvature = weight.sum(1).diag() - weight + strength * torch.eye(len(r), dtype=torch.float64)
        r = r + torch.linalg.solve(curvature, gradient)
    return r if centred else r - r.min()


@exercise(
    cases=_tables,
    points=3,
    where="Step 4 · The gradient: wins seen minus wins expected",
    explain=_unfinished,
    tol=1e-4,
    hint="uphill with the gradient `wins seen - wins expected - prior · r`, from r = 0, until nothing moves. Then "
    "that gradient must be 0: print it.",
)
def fit_with_prior(wins, prior):
    """The rewards of one prompt that maximise log-likelihood minus prior."""
    return _fit(wins, prior)


@fit_with_prior.mutant(
    "the prior is missing or far too weak: a reply that never loses runs away. Subtract prior · r from the gradient."
)
def no_prior(wins, prior):
    return _fit(wins, 1e-3)


@fit_with_prior.mutant("your prior is twice as strong: the derivative of λ/2 · r² is λ r, not 2 λ r.")
def twice_the_prior(wins, prior):
    return _fit(wins, prior, double=True)


@fit_with_prior.mutant("winners and losers are exchanged: wins[i, j] counts how often i beat j, so rows win.")
def transposed(wins, prior):
    return _fit(wins.T, prior)


@fit_with_prior.mutant("you stop on the way: one step is not enough. Go on until the gradient is 0.")
def one_step(wins, prior):
    return _fit(wins, prior, steps=1)


@fit_with_prior.mutant(
    "these rewards are moved by a constant. Comparisons cannot see it, but the prior puts the mean at 0."
)
def moved(wins, prior):
    return _fit(wins, prior, centred=False)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def half_a_temperature():
    """T = 0.5 was fitted. We divide all rewards by it and keep β. What do we see on fresh pairs and in π_β?"""
    return {
        "the same accuracy, and a larger KL of the best policy": None,
        "the same accuracy, and the same best policy: no order has changed": "accuracy asks for the order alone, the "
        "best policy for differences: r/β with r twice as large is a β half as large.",
        "the same accuracy, and a smaller KL of the best policy": "T below 1 makes margins larger, not smaller: the "
        "model was not sure enough. Larger rewards pay for more nats.",
        "a higher accuracy, and a larger KL of the best policy": "the KL, yes. But a pair is right if Δ > 0, and Δ / T "
        "has the sign of Δ.",
    }


# ---------------------------------------------------------------------------------------------- which token is read


def _hidden_states(draw: torch.Generator) -> list[Case]:
    def case(rows: int, width: int, size: int) -> Case:
        start = torch.randint(2, 5, (rows,), generator=draw)
        length = torch.randint(2, 4, (rows,), generator=draw)
        place = torch.arange(width)
        mask = (place >= start[:, None]) & (place < (start + length)[:, None])
        rand = {"generator": draw, "dtype": torch.float64}
        return {"hidden": torch.randn(rows, width, size, **rand), "mask": mask, "weight": torch.randn(size, **rand)}

    hidden = torch.tensor([[[1.0], [2.0], [4.0], [8.0], [16.0], [32.0]]], dtype=torch.float64)
    mask = torch.tensor([[False, False, True, True, True, False]])
    fixed = {"hidden": hidden, "mask": mask, "weight": torch.ones(1, dtype=torch.float64)}
    full = mask.roll(1, 1)
    full[0, 0] = False
    alone = torch.tensor([[False, False, False, True, False, False]])
    return [
        fixed,
        Limit("a completion reaches the last column, as that of the longest row does", fixed | {"mask": full}),
        Limit("a completion is EOS alone", fixed | {"mask": alone}),
        case(4, 9, 3),
        case(3, 10, 4),
    ]


def _read(hidden: Tensor, place: Tensor, weight: Tensor) -> Tensor:
    """The head's number at one place of each row, (N,)."""
    return hidden[torch.arange(len(hidden)), place] @ weight


def _last(mask: Tensor) -> Tensor:
    return mask.int().cumsum(1).argmax(1)


@exercise(
    cases=_hidden_states,
    points=3,
    where="Optional · The wrong token",
    hint="print the place that you read in each row. It must be the last one where the mask is True, and it depends on "
    "the row.",
)
def read_at_eos(hidden, mask, weight):
    """The reward of each text, read at the last token of its completion."""
    return _read(hidden, _last(mask), weight)


@read_at_eos.mutant(
    "mask.sum(1) - 1 is the place in the completion. The row begins with the prompt, which comes on top."
)
def prompt_forgotten(hidden, mask, weight):
    return _read(hidden, mask.sum(1) - 1, weight)


@read_at_eos.mutant("you read the last column. In all rows but the longest that is padding.")
def last_column(hidden, mask, weight):
    return hidden[:, -1] @ weight


@read_at_eos.mutant("you read one token early, the last word. EOS is the last token that the mask marks.")
def one_early(hidden, mask, weight):
    return _read(hidden, _last(mask) - 1, weight)


@read_at_eos.mutant("you read the first token of the completion: argmax of a mask finds its first True, not its last.")
def first_token(hidden, mask, weight):
    return _read(hidden, mask.int().argmax(1), weight)


@read_at_eos.mutant("you average over the completion. One position has seen all of it: read the reward there.")
def mean_of_completion(hidden, mask, weight):
    return ((hidden @ weight) * mask).sum(1) / mask.sum(1)


@read_at_eos.mutant("you add up the completion. One position has seen all of it: read the reward there.")
def sum_of_completion(hidden, mask, weight):
    return ((hidden @ weight) * mask).sum(1)


@read_at_eos.mutant("you count the tokens of the completion, and read there. Its row begins with the prompt.")
def count_for_place(hidden, mask, weight):
    return _read(hidden, mask.sum(1), weight)


@read_at_eos.mutant("you read one token late, in the padding: the count of tokens is one more than the last place.")
def one_late(hidden, mask, weight):
    return _read(hidden, _last(mask) + 1, weight)
