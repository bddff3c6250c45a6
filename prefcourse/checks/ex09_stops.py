"""Checks of exercise notebook 09, exercises 1 and 2: where a loss stops, KTO's reference point. See also `ex09`."""

import math

import torch
from torch import Tensor

from prefcourse.checks.core import Case, exercise

# ---------------------------------------------------------------------------------------------- where a loss stops


def _shares(draw: torch.Generator) -> list[Case]:
    def case() -> Case:
        p, f, s = torch.rand(3, generator=draw).tolist()
        return {"p": 0.55 + 0.4 * p, "flips": 0.05 + 0.3 * f, "strength": 0.1 + s}

    fixed = [{"p": 0.8, "flips": 0.0, "strength": 0.1}, {"p": 0.9, "flips": 0.2, "strength": 0.5}]
    return [*fixed, {"p": 0.3, "flips": 0.1, "strength": 0.2}, case(), case()]


def _stops(p: float, strength: float) -> dict[str, float]:
    return {"ipo": (2 * p - 1) / (2 * strength), "dpo": math.log(p / (1 - p)) / strength}


def _after_flips(p: float, flips: float) -> float:
    return p * (1 - flips) + (1 - p) * flips


@exercise(
    cases=_shares,
    points=2,
    hint="in two steps: the share p' of labels that name y first after the flips, then the h at which the slope of "
    "p' L(h) + (1 - p') L(-h) is zero, once with IPO's square and once with -log σ(βh).",
)
def stops(p, flips, strength):
    """Where IPO and DPO stop when a share p prefers one reply and a share of the labels is flipped."""
    return _stops(_after_flips(p, flips), strength)


@stops.mutant("the flips are missing. A label names y first if it is right, p(1-f), or if it was turned, (1-p)f.")
def flips_ignored(p, flips, strength):
    return _stops(p, strength)


@stops.mutant("only the lost labels are in your share, p(1-f). Turned labels of the other side come in: + (1-p)f.")
def flips_only_lost(p, flips, strength):
    return _stops(p * (1 - flips), strength)


@stops.mutant("your IPO stop is twice too far: the target of a single label is 1/(2τ), so the mean is (2p'-1)/(2τ).")
def no_half(p, flips, strength):
    found = stops.reference(p, flips, strength)
    return {**found, "ipo": 2 * found["ipo"]}


@stops.mutant("your IPO stop is 1/(2τ) for every share. That is the case in which all labels agree, p' = 1.")
def all_agree(p, flips, strength):
    return {**stops.reference(p, flips, strength), "ipo": 1 / (2 * strength)}


@stops.mutant("β is missing in your DPO stop: σ(βh) = p' gives βh, not h.")
def no_beta(p, flips, strength):
    return {**stops.reference(p, flips, strength), "dpo": stops.reference(p, flips, 1.0)["dpo"]}


@stops.mutant("your DPO stop is IPO's. With -log σ the slope is zero where σ(βh) = p': take the logit of p'.")
def both_linear(p, flips, strength):
    found = stops.reference(p, flips, strength)
    return {**found, "dpo": found["ipo"]}


# ---------------------------------------------------------------------------------------------- KTO


def _ratios(draw: torch.Generator) -> list[Case]:
    def case(n: int, shift: float, beta: float) -> Case:
        ratios = 3 * torch.randn(n, n, generator=draw, dtype=torch.float64) + shift
        desirable = torch.rand(n, generator=draw) < 0.5
        desirable[:2] = torch.tensor([True, False])
        return {"log_ratios": ratios, "desirable": desirable, "beta": beta, "lam_d": 1.5, "lam_u": 0.75}

    fixed = torch.tensor([[4.0, 1.0, -3.0], [0.5, -2.0, 2.0], [3.0, 6.0, 1.0]], dtype=torch.float64)
    common = {"desirable": torch.tensor([True, False, True]), "beta": 0.5, "lam_d": 1.0, "lam_u": 2.0}
    return [{"log_ratios": fixed, **common}, {"log_ratios": fixed - 4, **common}, case(4, 3.0, 0.1), case(5, 4.0, 0.3)]


def _with_slopes(answer, log_ratios, *arguments) -> object:
    """The losses, and how their sum pulls on each log-ratio."""
    log_ratios = log_ratios.requires_grad_()
    loss = answer(log_ratios, *arguments)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return loss
    (slope,) = torch.autograd.grad(loss.sum(), log_ratios)
    return {"loss": loss.detach(), "gradient in the log-ratios": slope}


def _mismatched(log_ratios: Tensor, shift: int = -1) -> Tensor:
    return log_ratios.roll(shift, dims=1).diagonal()  # row i, column i + 1


def _kto(log_ratios, desirable, beta, lam_d, lam_u, z0) -> Tensor:
    t = beta * (log_ratios.diagonal() - z0)
    return torch.where(desirable, lam_d * (1 - t.sigmoid()), lam_u * (1 - (-t).sigmoid()))


@exercise(
    cases=_ratios,
    observe=_with_slopes,
    points=4,
    hint="k is the diagonal, (B,). z0 is one number: the mean of the entries (i, i + 1), the last row with column 0, "
    "cut off at 0 and detached. Then one formula for each label, chosen with torch.where.",
)
def kto_loss(log_ratios, desirable, beta, lam_d, lam_u):
    """The KTO loss of each completion from a square of log-ratios, and its gradient."""
    z0 = _mismatched(log_ratios).mean().clamp(min=0).detach()
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, z0)


@kto_loss.mutant(
    "a gradient flows through your z0: the loss could be lowered by moving the reference point. Detach z0; it is a "
    "measurement."
)
def not_detached(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, _mismatched(log_ratios).mean().clamp(min=0))


@kto_loss.mutant(
    "your z0 is the mean of the matched pairs, the very texts that are judged: raise them all and nothing is a gain. "
    "Take prompt i with completion i + 1."
)
def matched(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, log_ratios.diagonal().mean().clamp(min=0).detach())


@kto_loss.mutant("your z0 can be negative. It estimates a KL, which cannot: cut off the mean at 0.")
def no_clamp(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, _mismatched(log_ratios).mean().detach())


@kto_loss.mutant("you cut off each log-ratio at 0 before the mean, which makes z0 too large. Take the mean, then cut.")
def clamped_first(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, _mismatched(log_ratios).clamp(min=0).mean().detach())


@kto_loss.mutant("your undesirable texts are pulled up like the desirable ones: for them the sign in σ turns, z0 - k.")
def undesirable_up(log_ratios, desirable, beta, lam_d, lam_u):
    found = kto_loss.reference(log_ratios, torch.ones_like(desirable), beta, 1.0, 1.0)
    return torch.where(desirable, lam_d, lam_u) * found


@kto_loss.mutant("λ_D and λ_U have changed places: λ_D belongs to the desirable texts.")
def weights_swapped(log_ratios, desirable, beta, lam_d, lam_u):
    return kto_loss.reference(log_ratios, desirable, beta, lam_u, lam_d)


@kto_loss.mutant("rows are prompts and columns are completions: you took prompt i + 1 with completion i.")
def turned(log_ratios, desirable, beta, lam_d, lam_u):
    z0 = _mismatched(log_ratios.T).mean().clamp(min=0).detach()
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, z0)
