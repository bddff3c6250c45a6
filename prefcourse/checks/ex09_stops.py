"""Check of exercise notebook 09: where IPO and DPO stop."""

import math

import torch

from prefcourse.checks.core import Case, Limit, exercise

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
