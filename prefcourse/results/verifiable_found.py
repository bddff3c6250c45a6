"""What the stored runs of lesson 15 say, computed: rates, differences with Holm's correction, paths of training.

    rates("dr")                       # pass rates of Dr. GRPO, (seeds, test prompts)
    rows, p = differences()           # each arm less Dr. GRPO: pass rate, KL, tokens of wrong samples; one family
    gaps, p = pass_gaps()             # pass@k of Dr. GRPO less SFT's, for each k; one family
    changed, p = hacked()             # what training on the sloppy verifier changed, by both verifiers and gold

Keys of `rows` and `p` are (arm, measure), k, or a verifier's name. All need the grids to be stored (FileNotFoundError).
"""

import math
from collections.abc import Hashable, Mapping

from torch import Tensor

from prefcourse.comparison.ab_tests import holm
from prefcourse.comparison.crossed import Crossed, crossed, paired
from prefcourse.results.answers import over, seeds_of
from prefcourse.results.store import by_prompt, load, table
from prefcourse.results.verifiable import ARMS, BASELINE, KS

MEASURES = {"pass_1": "pass rate (share)", "kl": "KL to SFT (nats)", "length_wrong": "tokens of wrong samples"}
CHANGES = tuple(arm for arm, switches in ARMS.items() if switches)


def rates(arm: str, what: str = "pass_1") -> Tensor:
    """What runs of `arm` found on each test prompt, (seeds, prompts): pass_1, pass_8, pass_32 or kl."""
    return table(by_prompt("verifiable"), what, arm=arm)


def trained_on(verifier: str, what: str) -> Tensor:
    """The same of the grid `verifier`: sloppy, strict, kl, parts or gold; "sft" is not trained."""
    return table(by_prompt("verifier"), what, trained_on=verifier)


def paths(arm: str) -> list[list[dict[str, float]]]:
    """The path of training of each seed, a point a step; nan where a step has no such number."""
    runs = [run["path"] for run in load("verifiable")["runs"] if run["setting"]["arm"] == arm]
    return [[{name: math.nan if x is None else x for name, x in point.items()} for point in run] for run in runs]


def differences() -> tuple[dict[tuple[str, str], Crossed], dict[tuple[str, str], float]]:
    """(arm, measure) → the arm's mean less Dr. GRPO's, paired by seed and prompt (tokens: by seed), and Holm's p."""
    tokens = seeds_of(load("verifiable"), "length_wrong", "arm")  # arm → seed → tokens
    rows: dict[tuple[str, str], Crossed] = {}
    for arm in CHANGES:
        for what in ("pass_1", "kl"):
            rows[arm, what] = paired(rates(arm, what), rates(BASELINE, what))
        both = sorted(tokens[arm].keys() & tokens[BASELINE].keys())
        rows[arm, "length_wrong"] = over([tokens[arm][seed] - tokens[BASELINE][seed] for seed in both])
    return rows, family(rows)


def pass_curve(arm: str) -> dict[int, tuple[float, float, float]]:
    """k → pass@k of an arm on test prompts, as value, low, high."""
    found = {k: crossed(rates(arm, f"pass_{k}")) for k in KS}
    return {k: (e.value, e.low, e.high) for k, e in found.items()}


def pass_gaps() -> tuple[dict[int, Crossed], dict[int, float]]:
    """k → pass@k of Dr. GRPO less SFT's, and Holm's p over all k."""
    rows = {k: paired(rates(BASELINE, f"pass_{k}"), rates("sft", f"pass_{k}")) for k in KS}
    return rows, family(rows)


def hacked(verifier: str = "sloppy") -> tuple[dict[str, Crossed], dict[str, float]]:
    """What training on `verifier` changed: both verifiers' rates, words for parts, gold reward; and Holm's p."""
    names = ("sloppy", "strict", "parts", "gold")
    rows = {name: paired(trained_on(verifier, name), trained_on("sft", name)) for name in names}
    return rows, family(rows)


def family(rows: Mapping[Hashable, Crossed]) -> dict:
    """Holm's p of every row."""
    adjusted = holm({str(key): row.p for key, row in rows.items()})
    return {key: adjusted[str(key)] for key in rows}
