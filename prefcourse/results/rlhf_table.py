"""Reading the grid `rlhf-vs-dpo`: every row of the table "DPO against RLHF" as a number with its interval over seeds.

    stored = load("rlhf-vs-dpo")
    gain_at_kl(stored, "dpo", 1.0)                      # what one nat of KL bought
    effect(stored, "rloo", "lr", 3, "gold_reward")      # what a rate three times too high changes

Intervals over seeds are Student's, as all seeds together are one small sample. Differences are taken seed by seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prefcourse.comparison.frontier import curves, gain_at
from prefcourse.evaluate import Estimate, over_seeds
from prefcourse.finite import counted, number, numbers

CHI2 = {2: (0.0506, 7.378), 3: (0.2158, 9.348), 4: (0.4844, 11.143), 5: (0.8312, 12.833), 6: (1.2373, 14.449),
        7: (1.6899, 16.013), 8: (2.1797, 17.535), 9: (2.7004, 19.023)}  # 2.5 % and 97.5 % points  # fmt: skip
THIRD = 0.3333  # of a knob: how the grid writes ⅓


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


def runs(stored: Mapping, method: str, knob: str = "none", times: float = 1, split: str = "test") -> dict[int, dict]:
    """seed → run of a method with one knob multiplied. Raises KeyError if there is none."""
    wanted = {"method": method, "knob": knob, "times": times, "split": split}
    found = {r["setting"]["seed"]: r for r in stored["runs"] if wanted.items() <= r["setting"].items()}
    if not found:
        raise KeyError(f"the stored grid has no run with {wanted}")
    return found


def seeds(stored: Mapping, method: str, of: str | Callable[[dict], float], *which) -> list[float]:
    """One number per seed of the runs `which` (knob, times): a metric by name, or what a function says of a run."""
    read = (lambda run: run["metrics"][of]["value"]) if isinstance(of, str) else of
    return [read(run) for run in runs(stored, method, *which).values()]


def gain(run: Mapping) -> float:
    """Gold reward at the end less that of the reference, on the same prompts."""
    return run["path"][-1]["gain"]


def effect(stored: Mapping, method: str, knob: str, times: float, metric: str, ratio: bool = False) -> Estimate:
    """A metric with one knob wrong less the same with all tuned, seed by seed; with `ratio`, how many times as large.

    Ratios are averaged as logarithms: a KL that doubles in one seed and halves in another has not changed on average.
    """
    wrong, tuned = runs(stored, method, knob, times), runs(stored, method)
    pairs = [[run[seed]["metrics"][metric]["value"] for run in (wrong, tuned)] for seed in wrong]
    if not ratio:
        return over_seeds([value - usual for value, usual in pairs])
    if not all(number(metric, value) > 0 for pair in pairs for value in pair):
        raise ValueError(f"{metric} is 0 or less in some run; allowed are numbers above 0, or there is no ratio")
    return over_seeds([value / usual for value, usual in pairs], factors=True)


def gain_at_kl(stored: Mapping, method: str, kl: float, less: str | None = None) -> Estimate:
    """The gain in gold reward at `kl` nats, over the seeds that go so far; with `less`, minus another method's.

    For each seed, the points of its tuned run and of both other β are fitted by the form that Gao et al. (2023, Sec.
    1) found for best-of-n, gain = d (a - b d) with d = √KL, which is 0 at the reference. There is no extrapolation:
    raises ValueError if fewer than three seeds have a point as far as `kl`.
    """
    runs = [run for run in stored["runs"]
            if run["setting"]["knob"] in ("none", "beta") and run["setting"]["split"] == "test"]  # fmt: skip
    found = curves({"runs": runs})
    return gain_at(found[method], kl, found[less] if less else None, reach=math.inf)


def gain_at_work(stored: Mapping, method: str, work: float) -> Estimate:
    """The gain after `work` forward-token equivalents: between the measured points of a seed's runs, on a line.

    The points are those of the tuned run and, for DPO, the end of the run of three times as many epochs. A seed that
    ends up to 15 % earlier counts with its end. Raises ValueError if fewer than two seeds go so far.
    """
    work, found = number("work", work, above=0), []
    longer = runs(stored, method, "epochs", 3) if method == "dpo" else {}
    for seed, run in runs(stored, method).items():
        path = [*run["path"], *(longer[seed]["path"][-1:] if seed in longer else [])]
        at, gains = zip(*sorted((point["work"], point["gain"]) for point in path), strict=True)
        if at[-1] >= 0.85 * work:
            found.append(float(np.interp(work, at, gains)))
    return over_seeds(found)


def point_seconds(run: Mapping) -> float:
    """Processor seconds of the whole run, the reward model's training included and evaluation not."""
    return run["path"][-1]["seconds"]


def tokens(run: Mapping, way: int) -> int:
    """Tokens through all models of a run: way 0 forward, 1 backward."""
    return sum(pair[way] for pair in run["tokens"].values())


def objective(run: Mapping, beta: float = 0.1) -> float:
    """Gold reward at the end less β times the KL: what all methods were asked to raise."""
    return run["metrics"]["gold_reward"]["value"] - beta * run["metrics"]["kl"]["value"]


def table(stored: Mapping, kl: float) -> list[list[str]]:
    """The measured table "DPO against RLHF": rows of (what, by PPO, by RLOO, by DPO), each number with its interval.

    kl: where gold reward is compared at equal KL, in nats. Work and tokens are in thousands.
    """
    methods = ("ppo", "rloo", "dpo")
    base = {method: list(runs(stored, method).values()) for method in methods}
    own, all_work = ("dpo", "rloo", "ppo"), {}
    for method in own:
        all_work[method] = float(np.mean([run["path"][-1]["work"] for run in base[method]]))

    def row(what: str, of: Callable[[dict], float], spec: str, by: Callable = over_seeds) -> list[str]:
        return [what, *(format(by([of(run) for run in base[method]]), spec) for method in methods)]

    def at(what: str, read: Callable[[str], Estimate]) -> list[str]:
        cells = []
        for method in methods:
            try:
                cells.append(format(read(method), ".2f"))
            except ValueError:  # the runs end before
                cells.append("not reached")
        return [what, *cells]

    def peak(method: str) -> Estimate:
        return over_seeds([run["peak_mb"] for run in runs(stored, method, "memory").values()])

    def worst(method: str) -> str:
        tried = {(r["setting"]["knob"], r["setting"]["times"]) for r in stored["runs"]
                 if r["setting"]["method"] == method and r["setting"]["split"] == "test"}  # fmt: skip
        wrong = [which for which in tried if which[0] not in ("none", "memory")]
        if not wrong:
            return "not measured"
        ratios = [effect(stored, method, *which, "kl", ratio=True) for which in wrong]
        return format(max(ratios, key=lambda ratio: abs(math.log(ratio.value))), ".1f")

    accuracy = format(over_seeds([run["metrics"]["accuracy"]["value"] for run in base["rloo"]]), ".3f")
    share = lambda method: over_seeds(  # noqa: E731
        [run["path"][0]["work"] / run["path"][-1]["work"] for run in base[method]]
    )
    return [
        ["reward model: accuracy on labels", accuracy, accuracy, "none needed"],
        ["reward model: share of the work", format(share("ppo"), ".0%"), format(share("rloo"), ".0%"), "0%"],
        ["models in memory while the policy learns", "3 and a value head", "3", "1 (2 without a cache)"],
        ["peak memory above the libraries (MB)", *(format(peak(method), ".0f") for method in methods)],
        row("forward tokens (thousands)", lambda run: tokens(run, 0) / 1e3, ".0f"),
        row("backward tokens (thousands)", lambda run: tokens(run, 1) / 1e3, ".0f"),
        row("work (thousands)", lambda run: run["path"][-1]["work"] / 1e3, ".0f"),
        row("processor seconds", point_seconds, ".1f"),
        row("gold reward gained (nats)", gain, ".2f"),
        row("KL paid (nats)", lambda run: run["metrics"]["kl"]["value"], ".2f"),
        row("work per nat of gold reward (thousands)", lambda run: run["path"][-1]["work"] / gain(run) / 1e3, ".0f"),
        row("seconds per nat of gold reward", lambda run: point_seconds(run) / gain(run), ".0f"),
        row("gold reward - 0.1 KL", objective, ".2f"),
        at(f"gain at {kl:g} nats of KL", lambda method: gain_at_kl(stored, method, kl)),
        at("gain at DPO's work", lambda method: gain_at_work(stored, method, all_work["dpo"])),
        at("gain at RLOO's work", lambda method: gain_at_work(stored, method, all_work["rloo"])),
        ["KL as a multiple, the worst setting 3 times wrong", worst("ppo"), worst("rloo"), worst("dpo")],
        row("standard deviation of the gain over seeds", gain, ".2f", by=spread),
        row("standard deviation of the KL over seeds", lambda run: run["metrics"]["kl"]["value"], ".2f", by=spread),
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The rows of `table` in Markdown."""
    head = ["", "RLHF by PPO", "RLHF by RLOO", "DPO"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
