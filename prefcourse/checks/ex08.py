"""Checks of exercise notebook 08: β and the KL trade-off. Here β for a budget of KL, and the reading of a stored sweep.

Exercises 1 and 2, the exact curve, stand in `ex08_frontier`.
"""

import math

import numpy as np
import torch

from prefcourse.checks.calls import by_hand
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex08_frontier import curve, slopes
from prefcourse.checks.questions import choice
from prefcourse.evaluate import T975

__all__ = ["beta_for", "curve", "kl_by_beta", "slopes", "three_times_beta"]

# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def three_times_beta():
    """Plain gradient descent on a table, 20 small steps. With β three times as large, KL to the reference is then …"""
    return {
        "about nine times as large": None,
        "about three times as large": "h is three times as large, as each pull β(P - σ(βh)) is. But near the reference "
        "KL grows with the square of the distance.",
        "about the same": "that is Adam, which divides by the size of the gradient. Plain gradient descent takes steps "
        "in proportion to it, so to β.",
        "about a third, or less": "that is true of the optimum π*, where βh is fixed by the labels. After 20 small "
        "steps the run is nowhere near it.",
    }


# ---------------------------------------------------------------------------------------------- β for a budget


def _measured(draw: torch.Generator) -> list[Case]:
    betas = np.array([0.05, 0.1, 0.5, 2.0])
    falls = [20.0, 9.0, 4.0, 1.5]

    def case(order: list[int], budget: float) -> Case:
        kls = np.array(falls) * (0.8 + 0.4 * torch.rand(1, generator=draw).item())
        return {"betas": betas[order], "kls": kls[order], "budget": budget}

    return [
        {"betas": betas, "kls": np.array(falls), "budget": 6.0},
        *(
            Limit(promise, {"betas": betas, "kls": np.array(falls), "budget": budget})
            for promise, budget in (
                ("the budget lies below all that was measured", 1.0),
                ("the budget lies above all that was measured", 100.0),
                ("the budget is the smallest KL that was measured", 1.5),
                ("the budget is the largest KL that was measured", 20.0),
            )
        ),
        case([3, 2, 1, 0], 5.0), case([2, 0, 3, 1], 7.0), case([0, 1, 2, 3], 3.0),
    ]  # fmt: skip


def _refusing(answer, betas, kls, budget) -> object:
    """The answer, or "refused" where its own `raise ValueError` says so; one that numpy raises is an error."""
    try:
        return answer(betas, kls, budget)
    except ValueError as error:
        if by_hand(error):
            return "refused"
        raise


def _read(betas, kls, budget, order=None, x=np.log, y=np.log, back=np.exp, refuse=True) -> float:
    order = np.argsort(kls) if order is None else order
    if refuse and not min(kls) <= budget <= max(kls):
        raise ValueError("outside of what was measured")
    return float(back(np.interp(x(budget), x(kls[order]), y(betas[order]))))


def _same(value):
    return value


@exercise(
    cases=_measured,
    observe=_refusing,
    points=3,
    where="From scratch: β for a KL budget",
    hint="np.interp(x, xp, fp) needs xp rising. Sort both arrays by KL, take logarithms of all three, interpolate, and "
    "undo the logarithm. First refuse a budget outside of the measured range with ValueError.",
)
def beta_for(betas, kls, budget):
    """The β whose runs have spent `budget`, between measured ones."""
    return _read(betas, kls, budget)


@beta_for.mutant(
    "np.interp gets its x values in the order of β, where KL falls. It needs them rising and does not complain: sort "
    "by KL. And a budget outside of the measured range must be refused."
)
def falling(betas, kls, budget):
    return _read(betas, kls, budget, slice(None), refuse=False)


@beta_for.mutant("outside of the measured KL np.interp returns its last value without a word. Raise ValueError there.")
def clamped(betas, kls, budget):
    return _read(betas, kls, budget, refuse=False)


@beta_for.mutant("a budget above all that was measured must be refused, too, with ValueError.")
def only_below(betas, kls, budget):
    return _read(betas, kls, budget, refuse=budget < min(kls))


@beta_for.mutant("a budget below all that was measured must be refused, too, with ValueError.")
def only_above(betas, kls, budget):
    return _read(betas, kls, budget, refuse=budget > max(kls))


@beta_for.mutant(
    "a budget that is exactly the smallest or the largest KL has an answer: refuse what lies outside alone."
)
def ends_refused(betas, kls, budget):
    if budget in (min(kls), max(kls)):
        raise ValueError
    return _read(betas, kls, budget)


@beta_for.mutant("you refuse every budget.")
def all_refused(betas, kls, budget):
    raise ValueError


@beta_for.mutant("you return the β of the run that comes nearest. Interpolate between the runs on either side.")
def nearest(betas, kls, budget):
    if not min(kls) <= budget <= max(kls):
        raise ValueError
    return float(betas[np.abs(kls - budget).argmin()])


@beta_for.mutant("that is log β: take exp at the end.")
def log_beta(betas, kls, budget):
    return math.log(_read(betas, kls, budget))


@beta_for.mutant("you turn the arrays round, which helps only if β was rising. Sort by KL: any order may come in.")
def turned_round(betas, kls, budget):
    return _read(betas, kls, budget, slice(None, None, -1))


@beta_for.mutant("you interpolate without logarithms. β and KL are scales: draw straight lines in log KL and log β.")
def no_logarithm(betas, kls, budget):
    return _read(betas, kls, budget, x=_same, y=_same, back=_same)


@beta_for.mutant("β is interpolated without a logarithm. Interpolate log β, then take exp.")
def plain_beta(betas, kls, budget):
    return _read(betas, kls, budget, y=_same, back=_same)


@beta_for.mutant("KL is taken without a logarithm. Use log KL for the measured values and for the budget.")
def plain_kl(betas, kls, budget):
    return _read(betas, kls, budget, x=_same)


# ---------------------------------------------------------------------------------------------- reading the sweep


def _sweeps(draw: torch.Generator) -> list[Case]:
    """KL at the step that is asked for: (β, learning rate) → one value per seed."""

    def case(seeds: int, step: int) -> Case:
        size = {(0.1, 2e-4): 2.0, (0.1, 8e-4): 9.0, (1.0, 2e-4): 0.8}
        kl = {key: (size[key] * (0.5 + torch.rand(seeds, generator=draw))).tolist() for key in size}
        return {"kl": kl, "lr": 2e-4, "step": step}

    return [case(3, 40), case(3, 120), Limit("there are seven seeds", case(7, 40)), case(4, 10)]


def _on_runs(answer, kl, lr, step) -> object:
    """What `answer` makes of runs in the form of a stored result; along a path KL grows with the step."""
    runs = [
        {
            "setting": {"beta": beta, "lr": rate, "seed": seed},
            "path": [{"step": s, "kl": value * s / step, "gain": 0.1 * s} for s in (10, 40, 120)],
        }
        for (beta, rate), values in kl.items()
        for seed, value in enumerate(values)
    ]
    return answer(runs, lr, step)


def _by_beta(runs, lr, step, average=None, keep=lambda run, lr: run["setting"]["lr"] == lr, last=False) -> dict:
    found: dict[float, list[float]] = {}
    for run in runs:
        if keep(run, lr):
            point = run["path"][-1] if last else next(p for p in run["path"] if p["step"] == step)
            found.setdefault(run["setting"]["beta"], []).append(point["kl"])
    return {beta: (average or _geometric)(np.array(values)) for beta, values in found.items()}


def _geometric(values, factor=None, ddof=1, root=True) -> tuple[float, ...]:
    logs = np.log(values)
    half = (factor or T975[len(logs) - 1]) * logs.std(ddof=ddof) / (math.sqrt(len(logs)) if root else 1)
    return tuple(float(np.exp(logs.mean() + k * half)) for k in (0, -1, 1))


@exercise(
    cases=_sweeps,
    observe=_on_runs,
    points=3,
    where="Choosing β for a KL budget",
    hint="print the list of KL values that you collect for each β: as many as seeds, all at one rate and step. Then "
    "work with their logarithms: mean, T975[n - 1] · sd / √n with n - 1 in the sd, and exp at the end.",
)
def kl_by_beta(runs, lr, step):
    """KL at a step for each β of a stored sweep, with an interval over seeds."""
    return _by_beta(runs, lr, step)


@kl_by_beta.mutant("runs of other learning rates are mixed in: β = 0.1 was run at three. Keep those with the given lr.")
def rates_mixed(runs, lr, step):
    return _by_beta(runs, lr, step, lambda v: _geometric(v, T975.get(len(v) - 1, 2.365)), keep=lambda run, lr: True)


@kl_by_beta.mutant("you take the last point of each path. A path has several: find the one with the given step.")
def last_point(runs, lr, step):
    return _by_beta(runs, lr, step, last=True)


@kl_by_beta.mutant("you average KL itself. Average log KL and take exp at the end, for the interval too.")
def arithmetic(runs, lr, step):
    def average(values):
        half = T975[len(values) - 1] * values.std(ddof=1) / math.sqrt(len(values))
        return tuple(float(values.mean() + k * half) for k in (0, -1, 1))

    return _by_beta(runs, lr, step, average)


@kl_by_beta.mutant("your factor is 1.96, which is for many values. Three seeds know little: take T975[n - 1] = 4.3.")
def normal_factor(runs, lr, step):
    return _by_beta(runs, lr, step, lambda values: _geometric(values, 1.96))


@kl_by_beta.mutant("T975 is read at n. Its argument is n - 1, the degrees of freedom.")
def factor_of_n(runs, lr, step):
    return _by_beta(runs, lr, step, lambda values: _geometric(values, T975[len(values)]))


@kl_by_beta.mutant("these are logarithms: take exp of all three numbers at the end.")
def no_exp(runs, lr, step):
    return {beta: tuple(map(math.log, three)) for beta, three in _by_beta(runs, lr, step).items()}


@kl_by_beta.mutant("you return low, KL, high. Asked is KL first, then the two ends.")
def other_order(runs, lr, step):
    return {beta: (low, kl, high) for beta, (kl, low, high) in _by_beta(runs, lr, step).items()}


@kl_by_beta.mutant("the ends are right. The first number is not the mean of KL: take exp of the mean of log KL.")
def arithmetic_middle(runs, lr, step):
    def average(values):
        return (float(values.mean()), *_geometric(values)[1:])

    return _by_beta(runs, lr, step, average)


@kl_by_beta.mutant("your interval is that of one seed. The mean of n seeds varies less: divide by √n.")
def one_seed(runs, lr, step):
    return _by_beta(runs, lr, step, lambda values: _geometric(values, root=False))


@kl_by_beta.mutant("your standard deviation divides by n. From few values take n - 1 (ddof=1).")
def divided_by_n(runs, lr, step):
    return _by_beta(runs, lr, step, lambda values: _geometric(values, ddof=0))
