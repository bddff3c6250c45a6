"""Checks of exercise notebook 01, the project's pipeline and the desk at which it buys labels. See also `ex01`."""

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex01_split import key

# ---------------------------------------------------------------------------------------------- the pipeline


class Desk:
    """Where a pipeline buys labels: `desk(i)` asks one annotator about candidate i and returns "A" or "B".

    difference: r(A) - r(B) of each candidate, (N,), nats. Each call asks another person, who lapses with probability
    `lapse` and costs one label; `bought` lists the labels as (i, label).
    """

    def __init__(self, difference: Sequence[float], lapse: float, seed: int):
        self._difference, self._lapse, self._rng = difference, lapse, random.Random(seed)
        self.bought: list[tuple[int, str]] = []

    def __call__(self, i: int) -> str:
        p = (1 - self._lapse) / (1 + math.exp(-self._difference[i])) + self._lapse / 2
        self.bought.append((i, "A" if self._rng.random() < p else "B"))
        return self.bought[-1][1]


def _pair(prompt: str, one: str, other: str) -> tuple:
    return key(prompt), frozenset((one.strip(), other.strip()))


def _usable(candidate: dict, held_out: set[str]) -> bool:
    a, b = candidate["a"].strip(), candidate["b"].strip()
    return bool(a and b and a != b and key(candidate["prompt"]) not in held_out)


def pipeline_report(rows: list[dict], candidates: list[dict], desk: Desk, held_out: set[str], budget: int) -> dict:
    """Whether a pipeline kept its contract, gate by gate: what is checked, and what the notebook prints."""
    pairs = [_pair(c["prompt"], c["a"], c["b"]) for c in candidates]
    exact = {(c["prompt"], frozenset((c["a"], c["b"]))) for c in candidates}
    votes: dict[tuple, int] = {}
    for i, label in desk.bought:
        text = (pairs[i], candidates[i]["a" if label == "A" else "b"].strip())
        votes[text] = votes.get(text, 0) + 1
    kept = [_pair(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    count = [
        [votes.get((k, row[side].strip()), 0) for side in ("chosen", "rejected")]
        for k, row in zip(kept, rows, strict=True)
    ]
    worth = {p for p, c in zip(pairs, candidates, strict=True) if _usable(c, held_out)}
    return {
        f"buys no more than {budget} labels": len(desk.bought) <= budget,
        "and at least half as many as it could": 2 * len(desk.bought) >= min(budget, len(worth)) and bool(rows),
        "keeps the prompts of the test set out": not any(k[0] in held_out for k in kept),
        "keeps only two different texts that are not empty": all(len(k[1]) == 2 and "" not in k[1] for k in kept),
        "keeps each pair once": len(set(kept)) == len(kept),
        "pays only for pairs that it can use": all(_usable(candidates[i], held_out) for i, _ in desk.bought),
        "leaves prompts and texts as they were": all(
            (row["prompt"], frozenset((row["chosen"], row["rejected"]))) in exact for row in rows
        ),
        "calls chosen what has more votes": all(won > lost for won, lost in count),
    }


def _collections(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, budget: int) -> Case:
        candidates = []
        for p in range(prompts):
            texts = [f" is number {k} of {p}." for k in range(4)]
            # some pairs come twice, turned round; some are one text
            ends = [(0, 1), (2, 3), (1, 0), (0, 0)][: 2 + p % 3]
            candidates += [{"prompt": f"Film {p}" + " " * (p % 2), "a": texts[i], "b": texts[j]} for i, j in ends]
            if p % 4 == 0:
                candidates.append({"prompt": f"Film {p}", "a": texts[0], "b": "  "})
        order = torch.randperm(len(candidates), generator=draw).tolist()
        return {
            "candidates": [candidates[i] for i in order],
            "held_out": {key(f"FILM {p}") for p in range(0, prompts, 3)},
            "budget": budget,
            "seed": int(torch.randint(1000, (), generator=draw)),
        }

    texts = [
        *(("Film 1", " fine.", " dull."), ("Film 2", " good.", " "), ("Film  2", " good.", "good. ")),
        *(("FILM 3", " fine.", " dull."), ("film 1", " dull.", " fine."), ("Film 4", " great.", " so so.")),
    ]
    small = [dict(zip(("prompt", "a", "b"), text, strict=True)) for text in texts]
    spaced = [("The  film", " fine.", " dull."), ("the film", " dull.", " fine."), ("A  book", " good.", " poor.")]
    spaced += [("The film", " great.", " bad."), ("a book", " long.", " short."), ("The plot", " thin.", " thick.")]
    spaced = [dict(zip(("prompt", "a", "b"), text, strict=True)) for text in spaced]
    budgets = torch.randint(16, 30, (2,), generator=draw).tolist()
    return [
        {"candidates": small, "held_out": {"film 3"}, "budget": 10, "seed": 0},
        Limit(
            "spellings differ in the spaces between the words",
            {"candidates": spaced, "held_out": {"a book"}, "budget": 20, "seed": 0},
        ),
        case(45, 31),
        *(case(40, budget) for budget in budgets),
    ]


def _inspected(answer: Callable, candidates: list[dict], held_out: set[str], budget: int, seed: int) -> dict:
    difference = np.random.default_rng(seed).normal(size=len(candidates))
    desks = [Desk(difference.tolist(), lapse=0.4, seed=seed) for _ in range(4)]
    given = copy.deepcopy(candidates)
    rows = answer(candidates, desks[0], held_out, budget, seed)
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        raise Unusable("return a list of rows, each a dict with prompt, chosen and rejected.")
    if any(not {"prompt", "chosen", "rejected"} <= set(row) for row in rows):
        raise Unusable("each row needs prompt, chosen and rejected.")
    orders = [_asked(desks[0])]
    for other, desk in zip((seed, seed + 1, seed + 2), desks[1:], strict=True):
        again = answer(copy.deepcopy(given), desk, held_out, budget, other)
        orders.append(_asked(desk))
        steered = other != seed or list(again) == list(rows)
        if not steered:
            break
    return pipeline_report(rows, given, desks[0], held_out, budget) | {
        "the same seed gives the same rows": steered,
        "what is random follows the seed": len(given) < 20
        or not _drawn_blindly(answer, orders, given, held_out, budget),
    }


def _asked(desk: Desk) -> list[int]:
    """The candidates in the order in which they were first asked about."""
    return list(dict.fromkeys(i for i, _ in desk.bought))


def _drawn_blindly(
    answer: Callable, orders: list[list[int]], candidates: list[dict], held_out: set, budget: int
) -> bool:
    """Whether the order is a draw that no seed steers: the same for each, not the file's, and not by what is in it."""
    first = orders[0]
    if any(order != first for order in orders) or first in (sorted(first), sorted(first)[::-1]):
        return False
    desk = Desk([0.0] * len(candidates), lapse=0.4, seed=0)
    answer(copy.deepcopy(candidates[1:] + candidates[:1]), desk, held_out, budget, 0)
    places = [i for i in _asked(desk) if i in first]
    return places == [i for i in first if i in places]  # the texts have moved, and the order of the places has not


def _collect(candidates, ask, held_out, budget, seed, *, gates=True, late=False, leak=False, twice=False, votes=1,
             keep=lambda a, b: a != b, spend=True, spelled=key):  # fmt: skip
    """One way to keep the contract; each keyword breaks one part of it."""
    rows, seen, bought = [], set(), 0
    order = list(range(len(candidates)))
    random.Random(seed).shuffle(order)
    for i in order:
        c = candidates[i]
        a, b = c["a"].strip(), c["b"].strip()
        pair = spelled(c["prompt"]), frozenset((a, b))
        refused = (gates and not (a and b and a != b)) or (spelled(c["prompt"]) in held_out and not leak)
        if (refused and not late) or (pair in seen and not twice):
            continue
        if spend and bought + votes > budget:
            break
        for_a = sum(ask(i) == "A" for _ in range(votes))
        bought += votes
        seen.add(pair)
        if not refused and keep(for_a, votes - for_a):
            chosen, rejected = ("a", "b") if for_a >= votes - for_a else ("b", "a")
            rows.append({"prompt": c["prompt"], "chosen": c[chosen], "rejected": c[rejected]})
    return rows


@exercise(
    cases=_collections,
    points=3,
    observe=_inspected,
    keeps=True,
    where="The pipeline",
    hint="the part of the contract that is False stands above. Go through the candidates in a random order; refuse "
    "before you pay; count the labels; write the row from the votes.",
)
def pipeline(candidates, ask, held_out, budget, seed):
    """A pipeline from candidates to rows, within a budget of labels."""
    return _collect(candidates, ask, held_out, budget, seed)


@pipeline.mutant("your pipeline buys more labels than it may: count the calls of ask, and stop before the budget ends.")
def no_budget(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, seed, spend=False)


@pipeline.mutant("prompts of the test set are among your rows: compare key(prompt) with held_out before you ask.")
def leaks(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, seed, leak=True)


@pipeline.mutant("you ask first and refuse afterwards. The gates that need no label come before the desk.")
def refuses_late(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, seed, late=True)


@pipeline.mutant("empty texts or twice the same text get through: strip both sides and compare them.")
def no_text_gate(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, seed, gates=False)


@pipeline.mutant("a pair comes twice, perhaps with its sides exchanged: remember the key and the set of both texts.")
def duplicates(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, seed, twice=True)


@pipeline.mutant(
    "your rows are not the candidates' texts. Strip to compare; the space at a text's beginning stays in the row."
)
def texts_changed(candidates, ask, held_out, budget, seed):
    rows = _collect(candidates, ask, held_out, budget, seed)
    return [{name: text.strip() for name, text in row.items()} for row in rows]


@pipeline.mutant("your order is not steered by the seed: draw with random.Random(seed), not with the general `random`.")
def general_random(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, random.randrange(10**9))


@pipeline.mutant("the loser of the vote is your chosen text: chosen is the one with more votes.")
def turned(candidates, ask, held_out, budget, seed):
    rows = _collect(candidates, ask, held_out, budget, seed)
    return [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


@pipeline.mutant("prompts are compared with their spaces inside: two spellings are one prompt, compare key(prompt).")
def prompts_stripped(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, seed, spelled=lambda prompt: prompt.strip().lower())


@pipeline.mutant("your seed is a constant: random.Random(seed) takes the one that is given.")
def constant_seed(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, 0)


@pipeline.mutant("some of your rows have no majority: a tie is no label. Leave the pair out, or ask an odd number.")
def ties(candidates, ask, held_out, budget, seed):
    return _collect(candidates, ask, held_out, budget, seed, votes=2, keep=lambda a, b: True)
