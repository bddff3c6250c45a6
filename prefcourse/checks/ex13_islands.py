"""Checks of exercise notebook 13, exercise 4: how many numbers of a policy the pairs leave free."""

from collections.abc import Sequence

import torch

from prefcourse.checks.core import Case, Limit, exercise

Pairs = Sequence[tuple[int, int]]


def _graphs(draw: torch.Generator) -> list[Case]:
    def drawn(replies: int, pairs: int) -> Case:
        found = []
        while len(found) < pairs:
            i, j = torch.randint(replies, (2,), generator=draw).tolist()
            found += [(i, j)] if i != j else []
        return {"pairs": found, "replies": replies}

    return [
        {"pairs": [(0, 1), (0, 2), (1, 2)], "replies": 4},
        {"pairs": [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5)], "replies": 6},
        {"pairs": [(4, 3), (3, 2), (2, 1), (1, 0)], "replies": 5},
        {"pairs": [(0, 1), (2, 3), (1, 2), (2, 1), (5, 6)], "replies": 8},
        Limit("there are no pairs at all", {"pairs": [], "replies": 4}),
        Limit("one reply is all there is", {"pairs": [], "replies": 1}),
        *(drawn(replies, pairs) for replies, pairs in ((7, 4), (9, 5), (10, 8), (12, 6), (8, 9), (15, 9))),
    ]


def _islands(pairs: Pairs, replies: int) -> list[int]:
    """The smallest reply that each reply is connected to."""
    island = list(range(replies))
    for _ in range(replies):
        for i, j in pairs:
            island[i] = island[j] = min(island[i], island[j])
    return island


@exercise(
    cases=_graphs,
    points=3,
    where="The maths: what the loss does not see",
    hint="give each reply a number of its own; let every pair take the smaller number of its two, again and again "
    "until nothing changes. The different numbers that are left are the islands; one fewer than islands is free.",
)
def free_shares(pairs, replies):
    """How many numbers of the policy no pair can fix."""
    return len(set(_islands(pairs, replies))) - 1


@free_shares.mutant(
    "you count replies that stand in no pair, as the colleague does. Groups that no pair joins are free, too."
)
def lonely_replies(pairs, replies):
    return replies - len({reply for pair in pairs for reply in pair})


@free_shares.mutant("you count the islands themselves: their shares sum to 1, so one follows from the others.")
def islands_themselves(pairs, replies):
    return len(set(_islands(pairs, replies)))


@free_shares.mutant(
    "you take one number for each pair. A pair that closes a circle, or comes again, says nothing new about the ratios."
)
def one_for_each_pair(pairs, replies):
    return max(replies - 1 - len(pairs), 0)


@free_shares.mutant("a pair given twice counts once in yours, but a circle of pairs still counts as one too many.")
def one_for_each_different_pair(pairs, replies):
    return max(replies - 1 - len({frozenset(pair) for pair in pairs}), 0)


@free_shares.mutant("replies that stand in no pair are forgotten: each of them is an island, too.")
def islands_of_pairs(pairs, replies):
    island = _islands(pairs, replies)
    return max(len({island[reply] for pair in pairs for reply in pair}) - 1, 0)


@free_shares.mutant("you go through the pairs once. A later pair may join islands that were numbered before: repeat.")
def one_pass(pairs, replies):
    island = list(range(replies))
    for i, j in pairs:
        island[i] = island[j] = min(island[i], island[j])
    return len(set(island)) - 1
