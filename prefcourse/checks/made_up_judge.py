"""A judge for notebook 14 (`ex14`) whose faults are known: how it likes the texts and the place can be told apart.

    case = placed_judge(torch.Generator().manual_seed(0), pairs=400, favour=2.0)
    case["ask"](case["prompts"], case["first"], case["second"])         # like `judges.PairJudge`, log-odds of the first

No language model is asked, so a check takes milliseconds and the right answer is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefcourse.checks.core import Case


@dataclass(frozen=True)
class PlacedJudge:
    """A judge that likes good texts and one of the two places: log-odds that the text in first place is better, (B,).

    worth: text → nats. place: prompt → by how many nats the first place is preferred, whatever stands there.
    """

    worth: dict[str, float]
    place: dict[str, float]

    def __call__(self, prompts: Sequence[str], one: Sequence[str], two: Sequence[str]) -> Tensor:
        odds = [self.worth[a] - self.worth[b] + self.place[x] for x, a, b in zip(prompts, one, two, strict=True)]
        return torch.tensor(odds, dtype=torch.float64)


def placed_judge(draw: torch.Generator, pairs: int, favour: float, slope: float = 1.0) -> Case:
    """A judge of made-up texts, and pairs for it. favour: nats for the first place, more or less by prompt."""
    worth = slope * torch.randn(2 * pairs, generator=draw, dtype=torch.float64)
    place = favour + 0.5 * torch.randn(pairs, generator=draw, dtype=torch.float64)
    prompts = [f"prompt {k}" for k in range(pairs)]
    texts = [f"text {k}" for k in range(2 * pairs)]
    judge = PlacedJudge(dict(zip(texts, worth.tolist(), strict=True)), dict(zip(prompts, place.tolist(), strict=True)))
    return {"ask": judge, "prompts": prompts, "first": texts[:pairs], "second": texts[pairs:]}
