"""Checks of exercise notebook 09: IPO, KTO, ORPO and relatives. Exercises 1 and 2 are in `ex09_stops`."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, exercise
from prefcourse.checks.ex09_stops import kto_loss, stops
from prefcourse.checks.questions import choice

__all__ = ["discovered_slope", "hardest_pull", "kto_loss", "orpo_loss", "stops"]

# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def hardest_pull():
    """A wrong pair, 20 nats the other way: who pulls hardest, as a multiple of its pull on a fresh pair?"""
    return {
        "IPO, then DPO, then hinge, then KTO": None,
        "DPO, then IPO, then hinge, then KTO": "DPO's pull is βσ(-βh): from β/2 it can at most double. IPO's is "
        "2(1/(2τ) - h), a straight line in h without a cap.",
        "KTO, then IPO, then DPO, then hinge": "KTO's pull is a bell: largest at k = z0, it falls on both sides. What "
        "is far on the wrong side is left alone.",
        "hinge, then IPO, then DPO, then KTO": "hinge is a straight line left of its corner, so its pull is β there, "
        "everywhere the same. A pull that grows needs a loss that bends, such as a square.",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- ORPO, stable


def _texts(draw: torch.Generator) -> list[Case]:
    """Summed log-probs and lengths; the second case has texts that are nearly certain."""

    def case(lam: float) -> Case:
        lengths = torch.randint(2, 9, (2, 3), generator=draw).double()
        sums = -lengths * (0.1 + 2 * torch.rand(2, 3, generator=draw, dtype=torch.float64))
        return {"chosen": sums[0], "rejected": sums[1], "Lc": lengths[0], "Lr": lengths[1], "lam": lam}

    def fixed(chosen: list, rejected: list, Lc: list, Lr: list) -> Case:
        rows = (torch.tensor(values, dtype=torch.float64) for values in (chosen, rejected, Lc, Lr))
        return dict(zip(("chosen", "rejected", "Lc", "Lr"), rows, strict=True)) | {"lam": 0.5}

    return [
        fixed([-4.0, -1.0], [-6.0, -9.0], [8.0, 2.0], [3.0, 30.0]),
        fixed([-1e-17, -2.0], [-3.0, -4e-18], [4.0, 4.0], [2.0, 2.0]),
        case(0.1), case(1.0),
    ]  # fmt: skip


def _spelled(values: Tensor) -> list:
    """Numbers as they are; what is not finite by its name, so that it can be compared and read."""
    return [v if math.isfinite(v) else f"not finite: {v}" for v in values.detach().tolist()]


def _finite(answer, chosen, rejected, Lc, Lr, lam) -> object:
    sides = [side.requires_grad_() for side in (chosen, rejected)]
    loss = answer(*sides, Lc, Lr, lam)
    if not isinstance(loss, Tensor) or not loss.requires_grad or loss.ndim != 1:
        return loss
    slopes = torch.autograd.grad(loss.sum(), sides, allow_unused=True)
    names = ("gradient in chosen", "gradient in rejected")
    found = {name: _spelled(slope) for name, slope in zip(names, slopes, strict=True) if slope is not None}
    return {"loss": _spelled(loss)} | found


def _log_odds(m: Tensor) -> Tensor:
    return m - torch.log(-torch.expm1(m))


def _unstable(m: Tensor) -> Tensor:
    return torch.log(m.exp() / (1 - m.exp()))


def _orpo(chosen, rejected, Lc, Lr, lam, odds=_log_odds, mean=True, nll_mean=True) -> Tensor:
    mc, mr = (chosen / Lc, rejected / Lr) if mean else (chosen, rejected)
    nll = -chosen / Lc if nll_mean else -chosen
    return nll - lam * logsigmoid(odds(mc) - odds(mr))


@exercise(
    cases=_texts,
    observe=_finite,
    points=3,
    hint="first the means mc and mr per token, then log odds(m) = m - log(1 - eᵐ), with torch.expm1 for 1 - eᵐ, then "
    "-mc - λ log σ(log odds(mc) - log odds(mr)). Print each line for the first case.",
)
def orpo_loss(chosen, rejected, Lc, Lr, lam):
    """The ORPO loss of each pair, by means, and finite with finite gradients for texts that are nearly certain."""
    return _orpo(chosen, rejected, Lc, Lr, lam)


@orpo_loss.mutant(
    "both faults are still there: the odds are taken of the whole text's probability, and 1 - p loses its digits."
)
def the_colleague(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, odds=_unstable, mean=False)


@orpo_loss.mutant(
    "your odds are those of the whole text, e to the sum, which is nearly 0 for any long one: then odds are ratios, "
    "and the longer side looks worse. Use the mean per token."
)
def sum_for_mean(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, mean=False)


@orpo_loss.mutant("for p near 1 your 1 - p is 0 in floating point, and its log -∞. -torch.expm1(m) keeps the digits.")
def loses_digits(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, odds=_unstable)


@orpo_loss.mutant("for p near 1 your 1 - p is 0 in floating point, and its log -∞. Use -torch.expm1(m) for 1 - eᵐ.")
def loses_digits_in_logs(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, odds=lambda m: m - torch.log(1 - m.exp()))


@orpo_loss.mutant(
    "you keep 1 - p away from 0 by force. That hides the NaN and gives a wrong number and no gradient; use torch.expm1."
)
def held_away(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, odds=lambda m: m - torch.log((1 - m.exp()).clamp(min=1e-12)))


@orpo_loss.mutant("your first term is the sum -c. ORPO's NLL is per token, -c / Lc, as its odds are.")
def nll_summed(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, nll_mean=False)


@orpo_loss.mutant("that is the ratio p_c / p_r. ORPO compares odds: log odds(m) = m - log(1 - eᵐ).")
def ratio(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, odds=lambda m: m)


# ---------------------------------------------------------------------------------------------- a discovered loss


def _margins(draw: torch.Generator) -> list[Case]:
    def case() -> Case:
        beta, tau = (0.05 + 0.4 * torch.rand(2, generator=draw)).tolist()
        return {"h": 3 * torch.randn(5, generator=draw, dtype=torch.float64) / beta, "beta": beta, "tau": tau}

    fixed = torch.tensor([0.0, -1.0, 0.5, 2.0, -30.0, 30.0], dtype=torch.float64)
    return [{"h": fixed, "beta": 0.1, "tau": 0.05}, {"h": fixed / 5, "beta": 0.5, "tau": 0.3}, case(), case()]


def _discovered(h, beta, tau, chain=True, swapped=False, per_tau=True, inner=None) -> Tensor:
    """dL/dh of (1 - m) ℓ(x) + m e^(-x) at x = βh, m = σ(x/τ); the arguments after `tau` make the wrong ones."""
    x = beta * h
    m = (x / tau if inner is None else inner).sigmoid()
    logistic, exponential = (1 - m, m) if not swapped else (m, 1 - m)
    blend = m * (1 - m) / (tau if per_tau else 1) * ((-x).exp() + logsigmoid(x)) * (-1 if swapped else 1)
    return beta * (-logistic * (-x).sigmoid() - exponential * (-x).exp() + (blend if chain else 0))


@exercise(
    cases=_margins,
    points=3,
    hint="with x = βh and m = σ(x/τ) the product rule has three terms: (1 - m) times the slope of ℓ, m times the slope "
    "of e^(-x), and the slope of m, m(1 - m)/τ, times what it moves between, e^(-x) - ℓ(x). Then all of it times β.",
)
def discovered_slope(h, beta, tau):
    """The slope in h of the discovered loss, (B,), its blend's own slope included."""
    return _discovered(h, beta, tau)


@discovered_slope.mutant(
    "that is the colleague's reasoning as a formula: you hold the blend m fixed. It moves with h, too; its slope is "
    "m(1 - m)/τ, times e^(-x) - ℓ(x)."
)
def blend_held_fixed(h, beta, tau):
    return _discovered(h, beta, tau, chain=False)


@discovered_slope.mutant("your slope is the one in βh. dL/dh has one more factor β.")
def beta_forgotten(h, beta, tau):
    return _discovered(h, beta, tau) / beta


@discovered_slope.mutant(
    "the slope of σ(x/τ) in x is m(1 - m)/τ: your τ is missing, and with τ = .05 that is a factor 20."
)
def tau_forgotten(h, beta, tau):
    return _discovered(h, beta, tau, per_tau=False)


@discovered_slope.mutant("m and 1 - m have changed places: m belongs to e^(-x).")
def blend_swapped(h, beta, tau):
    return _discovered(h, beta, tau, swapped=True)


@discovered_slope.mutant("that is the pull, -dL/dh. The slope of the loss has the other sign.")
def pull_for_slope(h, beta, tau):
    return -_discovered(h, beta, tau)


@discovered_slope.mutant("your slope of m has its sign turned: m rises in h, and moves weight from ℓ(x) to e^(-x).")
def blend_falls(h, beta, tau):
    return 2 * _discovered(h, beta, tau, chain=False) - _discovered(h, beta, tau)


@discovered_slope.mutant("the blend is σ(βh/τ), and you take σ(h/τ): the β belongs inside.")
def beta_outside_blend(h, beta, tau):
    return _discovered(h, beta, tau, inner=h / tau)
