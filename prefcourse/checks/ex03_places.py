"""Check of exercise notebook 03, exercise 5: rewards from a judge who likes the reply that is shown first."""

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex03_climb import cycle

Fit = tuple[Tensor, Tensor]  # rewards (Y,), nats for the first place ()


def _shows(draw: torch.Generator) -> list[Case]:
    def case(replies: int, favour: float, prior: float) -> Case:
        rand = {"generator": draw, "dtype": torch.float64}
        r = torch.randn(replies, **rand)
        shown = torch.randint(2, 9, (replies, replies), generator=draw).double()
        shown *= 1 - torch.eye(replies, dtype=torch.float64)
        won = torch.binomial(shown, (r[:, None] - r + favour).sigmoid(), generator=draw)
        return {"won": won, "shown": shown, "prior": prior}

    shown = torch.tensor([[0.0, 6.0, 4.0], [2.0, 0.0, 5.0], [3.0, 3.0, 0.0]], dtype=torch.float64)
    won = torch.tensor([[0.0, 5.0, 4.0], [2.0, 0.0, 4.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    fixed = {"won": won, "shown": shown, "prior": 0.5}
    upper = torch.ones(3, 3, dtype=torch.float64).triu(1)
    return [
        fixed,
        Limit("each pair was shown in one order alone", fixed | {"won": won * upper, "shown": shown * upper}),
        Limit("the first place won every time", fixed | {"won": shown}),
        case(4, 1.0, 0.3),
        case(5, -0.8, 1.0),
    ]


def _fit(won: Tensor, shown: Tensor, prior: float, place: bool = True, place_prior: bool = True) -> Fit:
    """Newton's method in the rewards and the place; `place` says whether there is one."""
    replies = len(won)
    i, j = (index.flatten() for index in torch.meshgrid(torch.arange(replies), torch.arange(replies), indexing="ij"))
    one = torch.eye(replies, dtype=torch.float64)
    features = torch.cat([one[i] - one[j], torch.full((len(i), 1), float(place), dtype=torch.float64)], 1)  # (Y², Y+1)
    wins, games = won.flatten(), shown.flatten()
    pull = torch.full((replies + 1,), float(prior), dtype=torch.float64)
    pull[-1] = prior if place_prior else 1e-3
    found = torch.zeros(replies + 1, dtype=torch.float64)
    for _ in range(40):
        p = (features @ found).sigmoid()
        gradient = features.T @ (wins - games * p) - pull * found
        curvature = features.T @ (features * (games * p * (1 - p))[:, None]) + pull.diag()
        found = found + torch.linalg.solve(curvature, gradient)
    return found[:-1], found[-1]


def _unfinished(found, won, shown, prior) -> str:
    """What the gradient says about rewards and a place that are not at the maximum."""
    r, b = (torch.as_tensor(part, dtype=torch.float64) for part in found)
    if r.shape != (len(won),) or b.numel() != 1:
        return ""
    if not (r.isfinite().all() and b.isfinite()) or max(r.abs().max(), b.abs()) > 15:
        return "your climb runs away: the step is too long, or the prior pulls the wrong way."

    def uphill(x: Tensor) -> Tensor:  # (..., Y + 1), the rewards and b
        surplus = won - shown * (x[..., :-1, None] - x[..., None, :-1] + x[..., -1:, None]).sigmoid()
        return torch.cat([surplus.sum(-1) - surplus.sum(-2), surplus.sum((-2, -1))[..., None]], -1) - prior * x

    here = torch.cat([r, b.reshape(1)])
    gradient = uphill(here)
    if gradient.abs().max() < 0.5:
        size = gradient.abs().max().item()
        return f"you stop on the way, or swing around the top: at your numbers the gradient is still {size:.1g}."
    return cycle(here, uphill) if r.mean().abs() < 1e-3 else ""  # a climb from 0 keeps the mean of the rewards at 0


@exercise(
    cases=_shows,
    points=3,
    where="Step 4 · The gradient: wins seen minus wins expected",
    explain=_unfinished,
    tol=1e-4,
    hint="surplus = won - shown · σ(r_i - r_j + b). Uphill: r gains its row of surplus and loses its column, b gains "
    "the sum of all; each minus prior times itself. Go on until all of these are 0.",
)
def fit_with_place(won, shown, prior):
    """The rewards and the bias for the first place that maximise log-likelihood minus prior."""
    return _fit(won, shown, prior)


@fit_with_place.mutant(
    "the place is missing: your rewards explain alone what the first place adds. Put b into σ(r_i - r_j + b)."
)
def no_place(won, shown, prior):
    return _fit(won, shown, prior, place=False)


@fit_with_place.mutant("your b is that of the second place: it is added to the log-odds of the reply shown first.")
def second_place(won, shown, prior):
    r, b = _fit(won, shown, prior)
    return r, -b


@fit_with_place.mutant(
    "the prior is missing at b: where the first place wins every time, b runs away without it. b has a prior, too."
)
def place_runs_away(won, shown, prior):
    return _fit(won, shown, prior, place_prior=False)


@fit_with_place.mutant(
    "a reply is also shown second: it loses what the others win against it. Subtract the surplus of its column."
)
def row_alone(won, shown, prior):
    x = torch.zeros(len(won) + 1, dtype=torch.float64)
    for _ in range(30):  # Newton's method on "row of surplus = prior · r", which is no gradient of anything
        p = (x[:-1, None] - x[None, :-1] + x[-1]).sigmoid()
        surplus, w = won - shown * p, shown * p * (1 - p)
        wrong = torch.cat([surplus.sum(1), surplus.sum()[None]]) - prior * x
        slope = torch.zeros(len(x), len(x), dtype=torch.float64)
        slope[:-1, :-1], slope[:-1, -1] = w - w.sum(1).diag(), -w.sum(1)
        slope[-1, :-1], slope[-1, -1] = w.sum(0) - w.sum(1), -w.sum()
        x = x - torch.linalg.solve(slope - prior * torch.eye(len(x), dtype=torch.float64), wrong)
    return x[:-1], x[-1]


@fit_with_place.mutant("winners and losers are exchanged: won[i, j] counts how often i, shown first, beat j.")
def exchanged(won, shown, prior):
    return _fit(shown - won, shown, prior)


@fit_with_place.mutant(
    "you take shown for wins of the second reply. It counts all comparisons, those that i won among them."
)
def shown_as_lost(won, shown, prior):
    return _fit(won, won + shown, prior)


@fit_with_place.mutant("your prior is twice as strong: the derivative of λ/2 · r² is λ r, not 2 λ r.")
def twice_the_prior(won, shown, prior):
    return _fit(won, shown, 2 * prior)
