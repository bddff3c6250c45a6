"""Checks of exercise notebook 09: IPO, KTO, ORPO and relatives."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, exercise
from prefcourse.checks.questions import choice

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
