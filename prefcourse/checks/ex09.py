"""Checks of exercise notebook 09: where IPO and DPO stop, and ORPO. Exercise 2, KTO, stands in `ex09_kto`."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex09_kto import kto_loss
from prefcourse.checks.questions import choice

__all__ = ["hardest_pull", "kto_loss", "orpo_loss", "stops"]

# ---------------------------------------------------------------------------------------------- where a loss stops


def _shares(draw: torch.Generator) -> list[Case]:
    def case() -> Case:
        p, f, s = torch.rand(3, generator=draw).tolist()
        return {"p": 0.55 + 0.4 * p, "flips": 0.05 + 0.3 * f, "strength": 0.1 + s}

    fixed = [{"p": 0.8, "flips": 0.0, "strength": 0.1}, {"p": 0.9, "flips": 0.2, "strength": 0.5}]
    rare = Limit("most prefer the other reply, p below ½", {"p": 0.3, "flips": 0.1, "strength": 0.2})
    torn = Limit("half prefer each, p = ½", {"p": 0.5, "flips": 0.1, "strength": 0.2})
    return [*fixed, rare, torn, case(), case()]


def _stops(p: float, strength: float) -> dict[str, float]:
    return {"ipo": (2 * p - 1) / (2 * strength), "dpo": math.log(p / (1 - p)) / strength}


def _after_flips(p: float, flips: float) -> float:
    return p * (1 - flips) + (1 - p) * flips


@exercise(
    cases=_shares,
    points=2,
    where="Where does each loss stop?",
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


@stops.mutant("your DPO never stops: that is so only if all labels agree, p' = 1. Here some name the other reply.")
def never(p, flips, strength):
    return {**stops.reference(p, flips, strength), "dpo": math.inf}


@stops.mutant("your stops stand under each other's names.")
def exchanged(p, flips, strength):
    found = stops.reference(p, flips, strength)
    return {"ipo": found["dpo"], "dpo": found["ipo"]}


@stops.mutant("your DPO stop is multiplied by β: σ(βh) = p' gives βh, so divide by β.")
def times_beta(p, flips, strength):
    found = stops.reference(p, flips, strength)
    return {**found, "dpo": found["dpo"] * strength**2}


@stops.mutant("your DPO stop is log p'. The inverse of σ is the logit, log(p' / (1 - p')).")
def logarithm_alone(p, flips, strength):
    return {**stops.reference(p, flips, strength), "dpo": math.log(_after_flips(p, flips)) / strength}


@stops.mutant("β is missing in your DPO stop: σ(βh) = p' gives βh, not h.")
def no_beta(p, flips, strength):
    return {**stops.reference(p, flips, strength), "dpo": stops.reference(p, flips, 1.0)["dpo"]}


@stops.mutant("your DPO stop is IPO's. With -log σ the slope is zero where σ(βh) = p': take the logit of p'.")
def both_linear(p, flips, strength):
    found = stops.reference(p, flips, strength)
    return {**found, "dpo": found["ipo"]}


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
    where="Step 2 · Why odds",
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
