"""The protocol of all grids: how settings are chosen, on what they are reported, and what may then be said.

    try in a cross            each setting varied alone, the others at the middle of their values: `cross`
    choose on validation      every candidate, two seeds: the highest gold reward at a KL of at most 6 nats
    report on test            the one that was chosen, eight other seeds, the first 400 test prompts, 80 of each type
    intervals                 over seeds and prompts, crossed; differences paired with the baseline's
    a family                  Holm over all that one figure or table shows; "the same" only by two one-sided tests

    choices = choose(tried, by=("method",))      # "method=ipo" → Choice(settings={"lr": …, "tau": …}, …)
    check_splits(world)                          # before hours of computing: does the world have all splits?

A cross of a rate and a knob, three values each, is five candidates where the square is nine: it takes half the time,
and misses a best pair of which both are away from the middle. `Choice.edges` says where a wider range might do better.
Rates are such that a run of this length stays near the KL limit at one of them: at 1e-3 the losses on pairs go to 40
nats and more, and nothing is left to choose.

A stored file carries `described()`, every setting tried with what it got, and what was chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefcourse.worlds.world import World


@dataclass(frozen=True)
class Protocol:
    """What is fixed before a grid is run. KL, margins and budgets are in nats."""

    version: int = 3
    choose_on: str = "validation"
    choose_seeds: tuple[int, ...] = (90, 91)  # none of them reported on
    tries: str = "in a cross, if no list is given: each setting varied alone, the others at the middle of their values"
    most_kl: float = 6.0  # the limit
    report_on: str = "test"
    prompts: int = 400  # the first of them, on the way and at the end; the main job's evaluation takes all
    seeds: int = 8
    margin: float = 0.15  # of "the same", in gold reward
    budgets: tuple[float, ...] = (1.5, 3.0)  # KLs at which methods are compared
    alpha: float = 0.05
    rule: str = "the highest mean gold reward of the settings whose mean KL is within the limit; if none is, least KL"
    intervals: str = "95 %, seeds and prompts crossed, differences paired by seed and prompt"
    family: str = "Holm over the comparisons of one figure or table"
    equal_kl: str = "gain at a KL by d (a - b d) and by d (a - b log d), d = √KL; said where they disagree"


PROTOCOL = Protocol()


@dataclass(frozen=True)
class Choice:
    """Settings chosen from `tried` candidates. within: is their mean KL at most the protocol's?

    edges: names of settings at the end of the range that was tried, where a wider range might do better.
    """

    settings: dict[str, Any]
    gold: float
    kl: float
    within: bool
    tried: int
    edges: tuple[str, ...]


def described() -> dict[str, Any]:
    """The protocol as a stored file carries it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(PROTOCOL).items()}


def check_splits(world: World) -> None:
    """Raises ValueError, naming it, if the world lacks a split to learn from, to choose on or to report on."""
    for split in ("train", PROTOCOL.choose_on, PROTOCOL.report_on):
        for what, of in (("prompts", world.prompts), ("pairs", world.pairs)):
            if not of.get(split):
                raise ValueError(
                    f"the world {world.name!r} has no {what} of the split {split!r}; it has "
                    f"{', '.join(of) or 'none'}. Settings are chosen on {PROTOCOL.choose_on} and reported on "
                    f"{PROTOCOL.report_on}: make the world with all three splits (`python -m prefcourse bundle`)."
                )


def group(setting: Mapping, by: Sequence[str]) -> str:
    """For what settings are chosen: "method=ipo", or "all" where one choice serves the whole grid."""
    return ", ".join(f"{name}={setting[name]}" for name in by) or "all"


def choose(tried: Sequence[Mapping], by: Sequence[str] = ()) -> dict[str, Choice]:
    """Group → what the rule chooses. tried: {"setting", "gold", "kl"} of each run on validation prompts.

    A candidate is what a setting says besides `by` and the seed; its gold and KL are means over its seeds. Of equals
    the first tried wins. Raises ValueError if a candidate lacks a seed that another of its group has.
    """
    found: dict[str, dict[tuple, list[Mapping]]] = {}
    for run in tried:
        rest = tuple((k, v) for k, v in run["setting"].items() if k not in by and k != "seed")
        found.setdefault(group(run["setting"], by), {}).setdefault(rest, []).append(run)
    return {name: _chosen(name, candidates) for name, candidates in found.items()}


def _chosen(name: str, candidates: Mapping[tuple, list[Mapping]]) -> Choice:
    seeds = {tuple(sorted(run["setting"]["seed"] for run in runs)) for runs in candidates.values()}
    if len(seeds) > 1:
        raise ValueError(f"candidates of {name!r} were tried with different seeds: {sorted(seeds)}; run the missing")
    means = {
        settings: tuple(sum(run[what] for run in runs) / len(runs) for what in ("gold", "kl"))
        for settings, runs in candidates.items()
    }
    within = {settings: mean for settings, mean in means.items() if mean[1] <= PROTOCOL.most_kl}
    if within:
        best = max(within, key=lambda settings: within[settings][0])
    else:
        best = min(means, key=lambda settings: means[settings][1])
    edges = []
    for key, value in best:
        values = sorted({v for settings in means for k, v in settings if k == key and isinstance(v, int | float)})
        if len(values) > 1 and value in (values[0], values[-1]):
            edges.append(key)
    gold, kl = means[best]
    return Choice(dict(best), round(gold, 4), round(kl, 4), bool(within), len(means), tuple(edges))


def candidates(seeds: Sequence[int] = PROTOCOL.choose_seeds, **values: Sequence) -> list[dict[str, Any]]:
    """Every combination of `values` for each seed: what is tried on validation."""
    settings: list[dict[str, Any]] = [{}]
    for name, options in values.items():
        settings = [{**s, name: option} for s in settings for option in options]
    return [{**s, "seed": seed} for s in settings for seed in seeds]


def cross(seeds: Sequence[int] = PROTOCOL.choose_seeds, **values: Sequence) -> list[dict[str, Any]]:
    """The middle of all `values`, then each of them varied alone, for each seed: what is tried on validation.

    The middle of two values is the second.
    """
    middle = {name: options[len(options) // 2] for name, options in values.items()}
    arms = [{**middle, name: option} for name, options in values.items() for option in options]
    settings = [middle, *(arm for arm in arms if arm != middle)]
    return [{**s, "seed": seed} for s in settings for seed in seeds]
