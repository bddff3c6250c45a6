"""Rewards: a number for each (prompt, completion). `GoldReward` is the ground truth of the bundled world.

In life nobody has the true reward. Here we make one, so that every method can be measured against it.
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_CLAUSE_END = re.compile(r"[.!?;:,]")


def ngrams(text: str) -> list[str]:
    """The words of `text` in lower case, and each two neighbours that no punctuation parts."""
    found = []
    for clause in _CLAUSE_END.split(text.lower()):
        words = _WORD.findall(clause)
        found += words
        found += [f"{a} {b}" for a, b in pairwise(words)]
    return found


class GoldReward:
    """r*(x, y): the log-odds, in nats, that the review x + y is positive. 0 is undecided, +2 means odds of e² : 1.

    A logistic regression on words and pairs of words: the reward is a bias plus the weight of every n-gram, counted as
    often as it occurs. Nothing is hidden: `weights["wonderful"]` is what the word adds. That also makes it easy to
    cheat, as every learnt reward is; see lesson 12.
    """

    def __init__(self, weights: dict[str, float], bias: float = 0.0):
        self.weights, self.bias = weights, bias

    @classmethod
    def load(cls, path: str | Path) -> "GoldReward":
        """Read the weights from a JSON file with the keys `bias` and `weights`."""
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(stored["weights"], stored["bias"])

    def score(self, text: str) -> float:
        """The log-odds of one text."""
        return self.bias + sum(self.weights.get(n, 0.0) for n in ngrams(text))

    def explain(self, text: str) -> list[tuple[str, float]]:
        """What each n-gram of `text` with a weight adds, strongest first."""
        parts = [(n, self.weights[n]) for n in ngrams(text) if n in self.weights]
        return sorted(parts, key=lambda part: -abs(part[1]))

    def strongest(self, count: int = 20) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """The `count` most positive and the `count` most negative n-grams with their weights."""
        ranked = sorted(self.weights.items(), key=lambda item: item[1])
        return ranked[::-1][:count], ranked[:count]

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> torch.Tensor:
        """r*(x, y) for each prompt x with its completion y: (B,) float32, nats of log-odds."""
        if len(prompts) != len(completions):
            raise ValueError(f"got {len(prompts)} prompts and {len(completions)} completions; give one for each")
        return torch.tensor([self.score(x + y) for x, y in zip(prompts, completions, strict=True)])
