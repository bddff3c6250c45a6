"""Reading the grid `rlhf-vs-dpo`: what a wrong setting changes, how seeds spread, and the table of lesson 11.

    stored, each = load("rlhf-vs-dpo"), by_prompt("rlhf-vs-dpo")
    forest("rlhf-vs-dpo", "method", "dpo", BUDGETS, knob=CURVE)      # gains at equal KL, as for any grid
    effect(each, "rloo", "lr", 3)                                    # what a rate three times too high changes
    paths(each, "rloo")[0]                                           # seed 0 on its way, all points on the same prompts
    markdown(table(stored, each, kl=1.5))

Gain and KL are known by prompt: their intervals are over seeds and prompts. Costs, spreads and multiples of a KL are
one number a seed, and their intervals Student's over seeds. Differences are taken seed by seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prefcourse.comparison.crossed import Crossed, crossed, objective, paired, student_tail
from prefcourse.comparison.equal_kl import gain_at_kl, measured
from prefcourse.evaluate import Estimate, over_seeds
from prefcourse.finite import counted, number, numbers, same_shape
from prefcourse.results.answers import over
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import table as at_ends

CHI2 = {2: (0.0506, 7.378), 3: (0.2158, 9.348), 4: (0.4844, 11.143), 5: (0.8312, 12.833), 6: (1.2373, 14.449),
        7: (1.6899, 16.013), 8: (2.1797, 17.535), 9: (2.7004, 19.023)}  # 2.5 % and 97.5 % points  # fmt: skip
THIRD = 0.3333  # of a knob: how the grid writes ⅓
BETA = 0.1  # the price of a nat: the same objective for all
BUDGETS = (
    PROTOCOL.budgets[0] / 2,
    *PROTOCOL.budgets,
)  # KLs to compare at; RL on the true reward ends before the others
CURVE = ("none", "beta")  # knobs whose runs lie on a method's curve of gain against KL


def spread(values: Sequence[float]) -> Estimate:
    """The standard deviation over 3 to 10 seeds, with the 95 % interval of a normal sample (by chi-squared).

    Raises ValueError for another number of values, and for one that is not finite.
    """
    values = numbers("values", values, least=0)
    free = len(values) - 1
    if free not in CHI2:
        raise ValueError(f"got {counted(len(values), 'seed')}; allowed are 3 to 10")
    (few, many), found = CHI2[free], float(np.std(values.numpy(), ddof=1))
    return Estimate(found, found * math.sqrt(free / many), found * math.sqrt(free / few))


def p_of_spreads(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """p-value of "both spread equally over seeds", for numbers of the same seeds, which may go together.

    Two paired samples have the same variance exactly if their sum and their difference are not correlated (Pitman 1939,
    Morgan 1939). Raises ValueError for fewer than three seeds.
    """
    ours, theirs = same_shape(least=3, ours=ours, theirs=theirs)
    r = float(torch.corrcoef(torch.stack([ours + theirs, ours - theirs]))[0, 1])
    if not abs(r) < 1:  # one of them does not spread at all, or neither does
        return float(math.isnan(r))
    free = len(ours) - 2
    return 2 * student_tail(abs(r) * math.sqrt(free / (1 - r * r)), free)


def runs(stored: Mapping, method: str, knob: str = "none", times: float = 1) -> dict[int, dict]:
    """seed → run of a method with one knob multiplied. Raises KeyError if there is none."""
    wanted = {"method": method, "knob": knob, "times": times}
    found = {r["setting"]["seed"]: r for r in stored["runs"] if wanted.items() <= r["setting"].items()}
    if not found:
        raise KeyError(f"the stored grid has no run with {wanted}")
    return found


def ends(each: Sequence[Mapping], method: str, knob: str = "none", times: float = 1) -> tuple[Tensor, Tensor]:
    """Gain and KL at the end of the runs of a method with one knob multiplied, (seeds, prompts) each."""
    gain, kl = (at_ends(each, what, method=method, knob=knob, times=times) for what in ("gain", "kl"))
    return gain, kl


def paths(each: Sequence[Mapping], method: str, knob: str = "none", times: float = 1) -> dict[int, list[dict]]:
    """seed → points of the run, with gain and KL as means over the prompts that are stored, the same at each point.

    A run's own `path` mixes two sets of prompts: its end is measured on all of the protocol's, the points before it on
    the first ones only. Raises KeyError if there is no such run.
    """
    found = {}
    for seed, run in runs({"runs": each}, method, knob, times).items():
        before = len(run["path"]) - len(run["gain"])  # the start, where both are 0, has no row
        means = zip(run["path"][before:], run["gain"].mean(1).tolist(), run["kl"].mean(1).tolist(), strict=True)
        found[seed] = [*run["path"][:before], *({**point, "gain": gain, "kl": kl} for point, gain, kl in means)]
    return found


def wrong(each: Sequence[Mapping], method: str) -> list[tuple[str, float]]:
    """The knobs of a method that were set wrong, and how many times too high."""
    settings = [run["setting"] for run in each if run["setting"]["method"] == method]
    return list(dict.fromkeys((s["knob"], s["times"]) for s in settings if s["knob"] != "none"))


def effect(each: Sequence[Mapping], method: str, knob: str, times: float) -> tuple[Crossed, Crossed, Crossed]:
    """What one wrong knob changes: the gain, the logarithm of the KL's multiple, and the objective, gain - BETA KL.

    Gain and objective are over seeds and prompts, the multiple over seeds. Multiples are averaged as logarithms: a KL
    that doubles in one seed and halves in another has not changed on average; `answers.factor` takes the logarithm
    away. Raises ValueError if the KL of a run is 0 or less.
    """
    (gain, kl), (usual, usual_kl) = ends(each, method, knob, times), ends(each, method)
    both = [[number("kl", value, above=0) for value in side.mean(1).tolist()] for side in (kl, usual_kl)]
    multiple = over([math.log(ours / theirs) for ours, theirs in zip(*both, strict=True)])
    return paired(gain, usual), multiple, objective(gain - usual, kl - usual_kl, BETA)


def gain_at_work(each: Sequence[Mapping], method: str, work: float) -> Estimate:
    """The gain after `work` forward-token equivalents: between the measured points of a seed's runs, on a line.

    The points are those of the tuned run and, for DPO, the end of the run of three times as many epochs. A seed that
    ends up to 15 % earlier counts with its end. Raises ValueError if fewer than two seeds go so far.
    """
    work, found = number("work", work, above=0), []
    longer = paths(each, method, "epochs", 3) if method == "dpo" else {}
    for seed, path in paths(each, method).items():
        points = [*path, *longer.get(seed, [])[-1:]]
        at, gains = zip(*sorted((point["work"], point["gain"]) for point in points), strict=True)
        if at[-1] >= 0.85 * work:
            found.append(float(np.interp(work, at, gains)))
    return over_seeds(found)


def tokens(run: Mapping, way: int) -> int:
    """Tokens through all models of a run: way 0 forward, 1 backward."""
    return sum(pair[way] for pair in run["tokens"].values())


def table(stored: Mapping, each: Sequence[Mapping], kl: float) -> list[list[str]]:
    """The measured table "DPO against RLHF": rows of (what, by PPO, by RLOO, by DPO), each number with its interval.

    stored, each: the grid by `results.load` and by `results.by_prompt`. kl: where gains are compared at equal KL, in
    nats. Work and tokens are in thousands.
    """
    methods = ("ppo", "rloo", "dpo")
    base = {method: list(runs(stored, method).values()) for method in methods}
    found = {method: ends(each, method) for method in methods}
    on_curve = [run for run in each if run["setting"]["knob"] in CURVE]

    def over_runs(of: Callable[[dict], float], method: str) -> Estimate:
        return over_seeds([of(run) for run in base[method]])

    def row(what: str, of: Callable[[str], Estimate], spec: str = ".2f") -> list[str]:
        return [what, *(format(of(method), spec) for method in methods)]

    def reached(what: str, of: Callable[[str], Estimate]) -> list[str]:
        cells = [what]
        for method in methods:
            try:
                cells.append(format(of(method), ".2f"))
            except ValueError:  # the runs end before
                cells.append("not reached")
        return cells

    def cost(what: str, of: Callable[[dict], float], spec: str = ".0f") -> list[str]:
        return row(what, lambda method: over_runs(of, method), spec)

    def work(method: str) -> float:
        return over_runs(lambda run: run["path"][-1]["work"], method).value

    def peak(method: str) -> Estimate:
        return over_seeds([run["peak_mb"] for run in runs(stored, method, "memory").values()])

    accuracy = format(over_runs(lambda run: run["metrics"]["accuracy"]["value"], "rloo"), ".3f")
    return [
        ["reward model: accuracy on labels", accuracy, accuracy, "none needed"],
        cost("reward model: share of the work", lambda run: run["path"][0]["work"] / run["path"][-1]["work"], ".0%"),
        ["models in memory while the policy learns", "3 and a value head", "3", "1 (2 without a cache)"],
        row("peak memory above the libraries (MB)", peak, ".0f"),
        cost("forward tokens (thousands)", lambda run: tokens(run, 0) / 1e3),
        cost("backward tokens (thousands)", lambda run: tokens(run, 1) / 1e3),
        cost("work (thousands)", lambda run: run["path"][-1]["work"] / 1e3),
        cost("processor seconds", lambda run: run["path"][-1]["seconds"], ".1f"),
        row("gold reward gained (nats)", lambda method: crossed(found[method][0])),
        row("KL paid (nats)", lambda method: crossed(found[method][1])),
        row(f"objective gained: gold reward - {BETA:g} KL", lambda method: objective(*found[method], BETA)),
        reached(f"gain at {kl:g} nats of KL", lambda m: gain_at_kl(measured(on_curve, method=m), kl).square_root),
        reached("gain at the work of one DPO run", lambda method: gain_at_work(each, method, work("dpo"))),
        reached("gain at the work of one RLOO run", lambda method: gain_at_work(each, method, work("rloo"))),
        row("standard deviation of the gain over seeds", lambda method: spread(found[method][0].mean(1).tolist())),
        row("standard deviation of the KL over seeds", lambda method: spread(found[method][1].mean(1).tolist())),
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The rows of `table` in Markdown."""
    head = ["", "RLHF by PPO", "RLHF by RLOO", "DPO"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
