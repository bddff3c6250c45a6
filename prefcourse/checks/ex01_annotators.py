"""Checks of exercise notebook 01, exercises 1 to 4: annotators, agreement, what to buy, split. See also `ex01`."""

import math
import random
from collections.abc import Callable, Collection

import numpy as np
import torch

from prefcourse.checks.core import Case, exercise
from prefcourse.checks.questions import choice

# ---------------------------------------------------------------------------------------------- a coin for each pair


def _clicks(draw: torch.Generator) -> list[Case]:
    def case(n: int, reliability: float, lapse: float) -> Case:
        difference = 2 * torch.randn(n, generator=draw, dtype=torch.float64)
        u = torch.rand(n, generator=draw, dtype=torch.float64)
        return {"difference": difference.numpy(), "reliability": reliability, "lapse": lapse, "u": u.numpy()}

    four = {"difference": np.array([2.0, -2.0, 1.0, 0.0]), "u": np.array([0.86, 0.2, 0.65, 0.4])}
    even = np.linspace(-2, 2, 40)
    many = {"difference": even, "u": (7 * np.arange(40) % 40 + 0.5) / 40}
    return [
        {"difference": four["difference"], "reliability": 1.0, "lapse": 0.4, "u": four["u"]},
        {"difference": many["difference"], "reliability": 2.0, "lapse": 0.4, "u": many["u"]},
        case(200, 1.0, 0.2),
        case(200, 0.5, 0.6),
    ]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@exercise(
    cases=_clicks,
    points=1,
    hint="first the probability of A for each pair, (1 - lapse) · σ(reliability · difference) + lapse / 2, then "
    "compare u with it.",
)
def annotator(difference, reliability, lapse, u):
    """The clicks of a simulated annotator: 1 for A, 0 for B."""
    return (u < (1 - lapse) * _sigmoid(reliability * difference) + lapse / 2).astype(int)


@annotator.mutant("your annotator always picks the better text. Bradley–Terry throws a coin: A where u < P(A).")
def always_right(difference, reliability, lapse, u):
    return (difference > 0).astype(int)


@annotator.mutant("a lapse of yours always says B. Who does not look says A half of the time: add lapse / 2.")
def lapse_says_b(difference, reliability, lapse, u):
    return (u < (1 - lapse) * _sigmoid(reliability * difference)).astype(int)


@annotator.mutant(
    "a lapse of yours always says A. Who does not look says A half of the time: add lapse / 2, not lapse."
)
def lapse_says_a(difference, reliability, lapse, u):
    return (u < (1 - lapse) * _sigmoid(reliability * difference) + lapse).astype(int)


@annotator.mutant("nobody lapses in your function: σ is weighted with 1 - lapse, and lapse / 2 is added.")
def no_lapse(difference, reliability, lapse, u):
    return (u < _sigmoid(reliability * difference)).astype(int)


@annotator.mutant("the reliability stands outside the sigmoid or is missing: it multiplies the difference.")
def no_reliability(difference, reliability, lapse, u):
    return (u < (1 - lapse) * _sigmoid(difference) + lapse / 2).astype(int)


@annotator.mutant("these are the probabilities of A, no clicks: compare u with them, and return 1 where u is smaller.")
def probabilities(difference, reliability, lapse, u):
    return (1 - lapse) * _sigmoid(reliability * difference) + lapse / 2


@annotator.mutant("your coin falls the wrong way: u lies below P(A) with probability P(A), so A is where u < P(A).")
def other_way(difference, reliability, lapse, u):
    return 1 - annotator.reference(difference, reliability, lapse, u)


# ---------------------------------------------------------------------------------------------- agreement with lapses


def _agreements(draw: torch.Generator) -> list[Case]:
    fixed = ((0.529, 0.4), (0.58, 0.0), (0.98, 0.5), (0.5, 0.3))  # the third is more than such people can agree
    drawn = torch.rand(3, 2, generator=draw, dtype=torch.float64).tolist()
    return [{"agreement": a, "lapse": lam} for a, lam in (*fixed, *((0.51 + 0.2 * x, 0.1 + 0.3 * y) for x, y in drawn))]


@exercise(
    cases=_agreements,
    points=2,
    hint="with q = (1 - λ) p + λ / 2 two annotators agree with probability 1/2 + 2 (q - 1/2)². Solve for |q - 1/2|, "
    "then for |p - 1/2|, and add 1/2.",
)
def ceiling_with_lapses(agreement, lapse):
    """The ceiling of equally hard pairs from the agreement of two annotators who lapse."""
    return min(1.0, (1 + math.sqrt(2 * agreement - 1) / (1 - lapse)) / 2)


@ceiling_with_lapses.mutant("you leave the lapses out: they lower the agreement, and not what a model can reach.")
def lapses_ignored(agreement, lapse):
    return (1 + math.sqrt(2 * agreement - 1)) / 2


@ceiling_with_lapses.mutant(
    "you divide by (1 - λ)². Both annotators lapse, so the square is under the root; outside it is 1 - λ."
)
def divided_twice(agreement, lapse):
    return min(1.0, (1 + math.sqrt(2 * agreement - 1) / (1 - lapse) ** 2) / 2)


@ceiling_with_lapses.mutant(
    "you multiply by 1 - λ, which gives the accuracy of a person who lapses twice. The way back is to divide."
)
def multiplied(agreement, lapse):
    return min(1.0, (1 + math.sqrt(2 * agreement - 1) * (1 - lapse)) / 2)


@ceiling_with_lapses.mutant("the square root is missing: the agreement goes with the square of |p - 1/2|.")
def no_root(agreement, lapse):
    return min(1.0, (1 + (2 * agreement - 1) / (1 - lapse) ** 2) / 2)


@ceiling_with_lapses.mutant(
    "an accuracy above 1: a measured agreement can be larger than such annotators can have. Return 1 at most."
)
def above_one(agreement, lapse):
    return (1 + math.sqrt(2 * agreement - 1) / (1 - lapse)) / 2


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=1)
def six_hundred_labels():
    """600 labels from people who lapse in 40 % of their clicks. Which reward model ranks fresh pairs better?"""
    return {
        "the one fitted to 600 pairs with one label each": None,
        "the one fitted to 200 pairs with the majority of three": "each of its labels is better, and there are a third "
        "as many. A majority also throws away how sure the three were.",
        "neither: both have seen 600 labels": "the number of labels is the same, what they say is not. Three labels "
        "of one pair repeat each other; a majority makes one bit of three.",
        "neither: with 40 % lapses both stay near a coin": "a label with 40 % lapses still points the right way more "
        "often than not, and a fit averages over hundreds of them.",
    }


# ---------------------------------------------------------------------------------------------- the split


def key(prompt: str) -> str:
    """A prompt without its capitals and with single spaces: prompts with the same key count as one."""
    return " ".join(prompt.lower().split())


def _row(prompt: str, k: int) -> dict:
    return {"prompt": prompt, "chosen": f" good {k}", "rejected": f" bad {k}"}


def _splits(draw: torch.Generator) -> list[Case]:
    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    def case(prompts: int, share: float, variants: bool) -> Case:
        rows = []
        for p in range(prompts):
            for k in range(number(2, 9)):
                name = f"Prompt {p} is"
                rows.append(_row(name.lower() + " " if variants and k % 2 else name, k))
        order = torch.randperm(len(rows), generator=draw).tolist()
        return {"rows": [rows[i] for i in order], "share": share, "seed": number(0, 1000)}

    plain = [_row(f"Prompt {p} is", k) for p in range(10) for k in range(40 if p == 3 else 2)]
    return [
        {"rows": plain, "share": 0.5, "seed": 0},
        {"rows": plain, "share": 0.3, "seed": 1},
        case(12, 0.25, variants=True),
        case(30, 0.2, variants=True),
        case(number(18, 40), 0.3, variants=False),
    ]


def split_report(answer: Callable, rows: list[dict], share: float, seed: int) -> dict:
    """What is true of a split, whichever prompts were drawn; used by the check and in the notebook."""
    train, test = answer(rows, share, seed)
    keys = [{key(row["prompt"]) for row in part} for part in (train, test)]
    prompts = {key(row["prompt"]) for row in rows}
    mark = [[rows.index(row) for row in part] for part in (train, test)]
    others = [answer(rows, share, seed + k)[1] for k in (1, 2, 3)]
    return {
        "no prompt in both": not keys[0] & keys[1],
        f"test has {share:.0%} of the {len(prompts)} prompts": len(keys[1]) == round(share * len(prompts)),
        "each row in one part, once": sorted(mark[0] + mark[1]) == list(range(len(rows))),
        "rows in their old order": all(part == sorted(part) for part in mark),
        "the same seed gives the same split": answer(rows, share, seed) == (train, test),
        "another seed gives another": any(other != test for other in others),
    }


def _keys(rows: list[dict]) -> list[str]:
    """The different keys, in the order in which they come."""
    return list(dict.fromkeys(key(row["prompt"]) for row in rows))


def _parted(rows: list[dict], test: Collection[str], spelled: Callable = key) -> tuple[list[dict], list[dict]]:
    """Train and test: `test` holds the keys of the test set, or the prompts as `spelled`."""
    return [r for r in rows if spelled(r["prompt"]) not in test], [r for r in rows if spelled(r["prompt"]) in test]


@exercise(
    cases=_splits,
    points=2,
    observe=split_report,
    hint="list the different keys in the order in which they come, shuffle the list with random.Random(seed), give the "
    "first round(share · number of keys) to the test set, and let each row follow the key of its prompt.",
)
def split(rows, share, seed):
    """A split into train and test that leaks no prompt."""
    keys = _keys(rows)
    random.Random(seed).shuffle(keys)
    test = set(keys[: round(share * len(keys))])
    return _parted(rows, test)


@split.mutant(
    "you deal pairs, so the pairs of one prompt go to both sides. Deal the prompts; each pair follows its own."
)
def pairs_dealt(rows, share, seed):
    picked = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    train = [row for i, row in enumerate(rows) if i not in picked]
    return train, [row for i, row in enumerate(rows) if i in picked and row not in train]


@split.mutant("two spellings of one prompt stand on different sides: compare keys, not the prompts' texts.")
def spellings(rows, share, seed):
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    random.Random(seed).shuffle(prompts)
    return _parted(rows, prompts[: round(share * len(prompts))], spelled=str)


@split.mutant(
    "nothing leaks, but rows are lost: you deal pairs and throw out of the test set what leaks. Deal prompts."
)
def thrown_out(rows, share, seed):
    picked = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    train = [row for i, row in enumerate(rows) if i not in picked]
    known = {key(row["prompt"]) for row in train}
    return train, [row for i, row in enumerate(rows) if i in picked and key(row["prompt"]) not in known]


@split.mutant("you count rows: the test set gets a share of the prompts, however many pairs each of them has.")
def share_of_rows(rows, share, seed):
    keys = _keys(rows)
    random.Random(seed).shuffle(keys)
    test = set()
    while sum(key(row["prompt"]) in test for row in rows) < share * len(rows):
        test.add(keys[len(test)])
    return _parted(rows, test)


@split.mutant("the seed changes nothing: your test set takes the first prompts of the file. Shuffle them first.")
def not_shuffled(rows, share, seed):
    keys = _keys(rows)
    test = set(keys[: round(share * len(keys))])
    return _parted(rows, test)
