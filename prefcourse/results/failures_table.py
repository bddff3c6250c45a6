"""Reading the grid `failures`: what each arm found, and a table of an arm less another, Holm over all that it shows.

    ends("noise", "dpo", "gain")                       # (seeds, prompts); anything else: one number a seed
    print(found := compare("noise", "held_ranked"))    # means, and each arm less the run that fails, with intervals
    found.says("cdpo", "kl")                           # "+" or "-" where they differ, "=" the same gain, "" neither

Gains are over seeds and prompts, all else over seeds; of KL the logarithm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from prefcourse.comparison.ab_tests import holm
from prefcourse.comparison.crossed import Crossed, crossed, verdicts
from prefcourse.results.answers import factor, over
from prefcourse.results.failures import ARMS, CONTROLS
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import by_prompt, load, table

DIGITS = {"kl": ".1f", "length": ".1f"}  # of a mean in this column; of all others two
Key = tuple[str, str, str]  # an arm, a column, the arm to compare with


@dataclass(frozen=True)
class Comparison:
    """A table of a failure: `means` of each (arm, column), and differences `apart`; Holm's `p` is over all of these.

    Of KL both are in logarithms.
    alike: the differences in gain that are within the protocol's margin, by two one-sided tests, Holm over all gains.
    """

    base: str
    means: Mapping[tuple[str, str], Crossed]
    apart: Mapping[Key, Crossed]
    p: Mapping[Key, float]
    alike: frozenset[Key]

    def says(self, arm: str, column: str, other: str = "") -> str:
        """ "+" if the arm has more than the other (the run that fails, if none is named), "-" if less, "=", or ""."""
        key = arm, column, other or self.base
        if key in self.alike:
            return "="
        return "" if self.p[key] >= PROTOCOL.alpha else "+" if self.apart[key].value > 0 else "-"

    def __str__(self) -> str:
        """The means, then each arm less another; * differs, = the same gain to within the margin."""
        names, columns = (list(dict.fromkeys(key[i] for key in self.means)) for i in (0, 1))
        width = max(map(len, names))
        rows = [" " * width + "".join(f"{name:>23}" for name in columns)]
        for arm in names:
            rows.append(f"{arm:{width}}" + "".join(f"{_number(self.means[arm, c], c):>23}" for c in columns))
        for other in dict.fromkeys(key[2] for key in self.apart):
            rows.append(f"less {other}:")
            for arm in dict.fromkeys(key[0] for key in self.apart if key[2] == other):
                marks = [self.says(arm, c, other) for c in columns]
                marks = [mark if mark == "=" else "*" if mark else " " for mark in marks]
                found = [_number(self.apart[arm, c, other], c, apart=True) for c in columns]
                rows.append(f"{arm:{width}}" + "".join(f"{x:>22}{m}" for x, m in zip(found, marks, strict=True)))
        return "\n".join(row.rstrip() for row in rows)


def _number(found: Crossed, column: str, apart: bool = False) -> str:
    """A mean, or a difference with its sign; of KL a geometric mean, or a multiple."""
    if column != "kl":
        return format(found, ("+" if apart else "") + DIGITS.get(column, ".2f"))
    return f"× {factor(found):.2f}" if apart else format(factor(found), DIGITS[column])


def arms(failure: str) -> list[str]:
    """The arm that fails, then the fixes, then the controls."""
    return [*ARMS[failure], *CONTROLS[failure]]


def kind(failure: str, arm: str) -> str:
    """ "failing run", "fix" or "control"."""
    return "failing run" if arm == arms(failure)[0] else "fix" if arm in ARMS[failure] else "control"


def runs(failure: str, arm: str) -> list[dict]:
    """The stored runs of an arm, one for each seed, in order."""
    return [run for run in _stored() if {"failure": failure, "arm": arm}.items() <= run["setting"].items()]


def paths(failure: str, *some: str) -> dict[str, list[list[dict]]]:
    """Arm → one path a seed: what was measured on the way, on validation prompts. Without names all arms."""
    return {arm: [run["path"] for run in runs(failure, arm)] for arm in some or arms(failure)}


def ends(failure: str, arm: str, what: str) -> Tensor:
    """Gain on test prompts, (seeds, prompts); another metric there, or else what the last look found, (seeds,)."""
    if what == "gain":
        return table(_on_prompts(), what, failure=failure, arm=arm)
    found = [{**run["path"][-1], **{k: x["value"] for k, x in run["metrics"].items()}} for run in runs(failure, arm)]
    return torch.tensor([one[what] for one in found], dtype=torch.float64)


def mean(failure: str, arm: str, what: str, less: str = "") -> Crossed:
    """The mean of `ends`, or of its difference from those of the arm `less`, with its 95 % interval.

    It is over seeds, and of gain over prompts too. Of KL it is of logarithms: see `factor`.
    """
    found = [ends(failure, one, what) for one in (arm, less) if one]
    found = [x.log() for x in found] if what == "kl" else found
    values = found[0] - found[1] if less else found[0]
    return crossed(values) if values.ndim == 2 else over(values.tolist())


def compare(failure: str, *symptoms: str, also: Mapping[str, Sequence[str]] | None = None) -> Comparison:
    """`symptoms`, gain and KL of all arms, and each less the run that fails.

    also: another arm to compare with → the arms that are compared with it.
    """
    base, *others = arms(failure)
    columns, groups = (*symptoms, "gain", "kl"), {base: others} | dict(also or {})
    means = {(arm, c): mean(failure, arm, c) for arm in (base, *others) for c in columns}
    keys = [(arm, c, other) for other, rows in groups.items() for arm in rows for c in columns]
    apart = {key: mean(failure, *key) for key in keys}
    gains = verdicts({key: d for key, d in apart.items() if key[1] == "gain"}, PROTOCOL.margin)
    alike = frozenset(key for key, verdict in gains.items() if verdict.says == "the same")
    p = holm({key: d.p for key, d in apart.items()})
    return Comparison(base, means, apart, p, alike)


@cache
def _stored() -> list[dict]:
    return load("failures")["runs"]


@cache
def _on_prompts() -> list[dict]:
    return by_prompt("failures")
