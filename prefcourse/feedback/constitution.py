"""AI feedback from a small constitution: readable rules judge, no person does.

    judge = Constitution(RULES)                       # a reward: judge(prompts, completions) -> (B,) nats
    rows = ai_labels(world.pairs["train"], judge)     # the same pairs, labelled anew
    agreement(rows, judge, world.gold)                # how often the two judges rank a pair alike
    Constitution(RULES).without("tone")               # a rule taken out

A rule is a principle in words and a function that says how far a text keeps it, from 0 to 1. A constitution adds the
scores up, each times its weight. So it is a reward like any other, and a pair of texts is labelled by Bradley and
Terry's coin. In life a language model reads the principle and judges (Bai et al. 2022, Sec. 4): see
`prefcourse.feedback.judges`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prefcourse.annotation.annotators import Annotator, Reward, margins, questions, resolve
from prefcourse.evaluate import Estimate, bootstrap, repetition
from prefcourse.finite import counted, number
from prefcourse.preferences import Row

# Words of our own choice: what somebody writes down in two minutes. The gold reward has 13,563 weights; we use none.
_KIND = """good great excellent wonderful perfect best fun funny enjoy enjoyed love loved beautiful nice liked superb
amazing brilliant fantastic recommend"""
_UNKIND = """bad worst awful terrible boring poor stupid waste hate hated dull horrible lame wrong ridiculous
disappointed disappointing unfortunately avoid mess"""
KIND, UNKIND = frozenset(_KIND.split()), frozenset(_UNKIND.split())
REASON = re.compile(r"\b(because|since|due to|thanks to|that's why|the reason|so that)\b", re.IGNORECASE)
OWN_VOICE = re.compile(r"\b(I|I'm|I've|I'd|I'll|my|me)\b")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


def tone(prompt: str, completion: str) -> float:
    """1 if the completion has more kind words than unkind ones, 0 if fewer, ½ if as many."""
    words = _WORD.findall(completion.lower())
    return 0.5 + 0.5 * float(np.sign(sum(w in KIND for w in words) - sum(w in UNKIND for w in words)))


def reason(prompt: str, completion: str) -> float:
    """1 if it says why (because, since, due to ...), else 0."""
    return float(bool(REASON.search(completion)))


def voice(prompt: str, completion: str) -> float:
    """1 if the review speaks for itself (I, my, me), else 0."""
    return float(bool(OWN_VOICE.search(prompt + completion)))


def brief(prompt: str, completion: str) -> float:
    """1 up to 10 words in prompt and completion, 0 from 30, in between a line."""
    return min(1.0, max(0.0, (30 - len((prompt + completion).split())) / 20))


def fresh(prompt: str, completion: str) -> float:
    """1 less the share of word pairs that stood in the text before."""
    return 1 - repetition(prompt + completion, 2)


@dataclass(frozen=True)
class Rule:
    """A principle as a judge would read it, and how far a text keeps it: score(prompt, completion), from 0 to 1."""

    name: str
    principle: str
    score: Callable[[str, str], float]
    weight: float = 2.0  # nats that a text gains by keeping it wholly


RULES = (
    Rule("tone", "Choose the response that is friendlier about the film.", tone),
    Rule("reason", "Choose the response that gives a reason for its opinion.", reason),
    Rule("voice", "Choose the response that speaks for its author alone, in the first person.", voice),
    Rule("brief", "Choose the shorter response.", brief),
    Rule("fresh", "Choose the response that repeats itself less.", fresh),
)


@dataclass(frozen=True)
class Constitution:
    """A weighted set of rules. It is a reward: called with prompts and completions it gives their scores, (B,) nats."""

    rules: tuple[Rule, ...] = RULES

    def __post_init__(self):
        if not self.rules:
            raise ValueError("a constitution needs at least one rule")
        for rule in self.rules:
            number(f"the weight of rule {rule.name!r}", rule.weight)
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError(f"each rule needs a name of its own, got {', '.join(names)}")

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        weights = torch.tensor([rule.weight for rule in self.rules], dtype=torch.float64)
        return self.by_rule(prompts, completions) @ weights

    def by_rule(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """How far each text keeps each rule, (B, K). Raises ValueError for a rule that leaves the range from 0 to 1."""
        if len(prompts) != len(completions):
            had = f"{counted(len(prompts), 'prompt')} and {counted(len(completions), 'completion')}"
            raise ValueError(f"got {had}; give one for each")
        rows = [[rule.score(x, y) for rule in self.rules] for x, y in zip(prompts, completions, strict=True)]
        found = torch.tensor(rows, dtype=torch.float64).view(len(rows), len(self.rules))
        for k, rule in enumerate(self.rules):
            if not bool(((found[:, k] >= 0) & (found[:, k] <= 1)).all()):
                worst = found[:, k][~((found[:, k] >= 0) & (found[:, k] <= 1))][0].item()
                raise ValueError(f"rule {rule.name!r} gave {worst:g}; a score lies between 0 and 1")
        return found

    def without(self, *names: str) -> "Constitution":
        """The same without the rules `names`. Raises ValueError for a name that is none of its rules."""
        return Constitution(tuple(rule for rule in self.rules if rule.name not in self._known(names)))

    def weighted(self, **weights: float) -> "Constitution":
        """The same with other weights, rule by rule: `weighted(tone=3, brief=0.5)`; in nats."""
        self._known(weights)
        return Constitution(tuple(replace(r, weight=weights.get(r.name, r.weight)) for r in self.rules))

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        if strangers := set(names) - {rule.name for rule in self.rules}:
            raise ValueError(
                f"there is no rule {', '.join(sorted(strangers))}; the rules are: "
                f"{', '.join(rule.name for rule in self.rules)}"
            )
        return names


def ai_labels(rows: Sequence[Row], judge: Reward, *, reliability: float = 1.0, seed: int = 0) -> list[Row]:
    """The same pairs, chosen and rejected by `judge`: a coin of probability σ(reliability · (s_a - s_b)).

    reliability: 1 takes the judge's scores for log-odds; 100 makes it choose the better score nearly always. A tie is a
    fair coin. All other columns of a row follow its texts (`annotators.exchanged`).
    """
    asked = questions(rows, judge, seed=seed)
    return resolve(rows, asked, Annotator(reliability=reliability).label(asked, seed=seed))


def agreement(rows: Sequence[Row], judge: Reward, other: Reward | None = None) -> Estimate:
    """How often two judges rank a pair alike; where either of them sees a tie, the pair counts one half.

    Without `other` we ask how often `judge` agrees with the labels that the rows carry.
    """
    ours = np.sign(margins(rows, judge))
    theirs = np.ones(len(rows)) if other is None else np.sign(margins(rows, other))
    return bootstrap(0.5 + 0.5 * ours * theirs)
