"""Checks of exercise notebook 09: a prediction, ORPO, and a loss that a machine found.

Exercise 1 stands in `ex09_stops`, exercise 2, KTO, in `ex09_kto`.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex09_kto import kto_loss
from prefcourse.checks.ex09_stops import stops
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
        Limit(
            "a text is nearly certain, its log-probability -1e-17",
            fixed([-1e-17, -2.0], [-3.0, -4e-18], [4.0, 4.0], [2.0, 2.0]),
        ),
        Limit(
            "a text is next to impossible, -2000 nats a token",
            fixed([-8000.0, -2.0], [-3.0, -6000.0], [4.0, 4.0], [2.0, 3.0]),
        ),
        case(0.1), case(1.0),
    ]  # fmt: skip


def _with_slopes(answer, chosen, rejected, Lc, Lr, lam) -> object:
    """The losses, and how their sum pulls on each side."""
    sides = [side.requires_grad_() for side in (chosen, rejected)]
    loss = answer(*sides, Lc, Lr, lam)
    if loss is None:
        return None
    if isinstance(loss, list | tuple) and loss and all(isinstance(part, Tensor) for part in loss):
        loss = torch.stack(list(loss))
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Unusable("your loss has no gradient in the log-probs: no detach, item, float or numpy on its way.")
    slopes = torch.autograd.grad(loss.sum(), sides, allow_unused=True)
    names = ("gradient in chosen", "gradient in rejected")
    given = zip(names, sides, slopes, strict=True)
    found = {name: torch.zeros_like(side) if slope is None else slope for name, side, slope in given}
    return {"loss": loss.detach()} | found


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
    observe=_with_slopes,
    points=3,
    where="ORPO: why odds, and why no reference",
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


@orpo_loss.mutant("chosen and rejected are exchanged: the NLL is that of the chosen text, whose odds are to be larger.")
def sides_exchanged(chosen, rejected, Lc, Lr, lam):
    return _orpo(rejected, chosen, Lr, Lc, lam)


@orpo_loss.mutant("you compare probabilities in the sigmoid: it takes the difference of their log odds.")
def of_probabilities(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam, odds=torch.exp)


@orpo_loss.mutant("the NLL is missing: ORPO has no reference, and the first term is what holds the chosen text.")
def nll_missing(chosen, rejected, Lc, Lr, lam):
    return _orpo(chosen, rejected, Lc, Lr, lam) + chosen / Lc


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
    where="Optional · From scratch",
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
