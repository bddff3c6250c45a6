"""Simulated annotators: people who prefer the better review more often than not, each in their own way.

    asked = questions(world.pairs["train"])                       # the pairs, sides dealt at random to A and B
    found = panel([Annotator(), Annotator(reliability=3), Annotator(lapse=1)], asked, per_item=2)
    rows = resolve(world.pairs["train"], asked, majority(found.labels))

A click follows Bradley and Terry (1952): the larger the difference in reward, the surer the choice. Reliability
stretches the difference, length and position bias add to it, and a lapse is a click without looking.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefcourse.annotation.agreement import MISSING, A, B, check_labels, expected_agreement, majority_accuracy, sigmoid
from prefcourse.finite import counted, number, numbers, numpy_generator, whole
from prefcourse.preferences import Row

Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]  # GoldReward is one
EXCHANGED = {"chosen": "rejected", "chosen_score": "rejected_score"}


@dataclass(frozen=True)
class Questions:
    """N pairs of responses A and B as annotators judge them. For a plain experiment `Questions(difference)` will do.

    Raises ValueError for numbers that are not finite, and for columns of another length.
    """

    difference: np.ndarray  # (N,) r(A) − r(B), nats
    length: np.ndarray | float = 0.0  # (N,) words of A − words of B
    a_is_chosen: np.ndarray | None = None  # (N,) whether A is the row's `chosen`

    def __post_init__(self):
        difference = numbers("difference", self.difference).numpy()
        length = numbers("length", self.length, ndim=None).numpy()
        sides = (
            None if self.a_is_chosen is None else numbers("a_is_chosen", self.a_is_chosen, low=0, high=1).numpy() == 1
        )
        for name, column in (("length", length), ("a_is_chosen", sides)):
            if column is not None and column.ndim and column.shape != difference.shape:
                many = f"{counted(len(difference), 'question')}"
                raise ValueError(f"{name} has shape {column.shape}; allowed is one for each of {many}")
        for name, column in (("difference", difference), ("length", length), ("a_is_chosen", sides)):
            object.__setattr__(self, name, column)  # frozen, but for tensors and lists, which become arrays

    def __len__(self) -> int:
        return len(self.difference)


def margins(rows: Sequence[Row], reward: Reward | None = None) -> np.ndarray:
    """r(chosen) − r(rejected) of each pair, (N,), in the units of the reward; nats for `world.gold`.

    reward: a function of prompts and completions; without it the columns `chosen_score` and `rejected_score` serve.
    Raises ValueError for a row without them, and for a reward that does not give a number for each row.
    """
    if reward is None:
        for number, row in enumerate(rows, start=1):
            if not {"chosen_score", "rejected_score"} <= row.keys():
                raise ValueError(f"row {number} has no chosen_score and rejected_score; add them or give a reward")
        scores = [[row[f"{side}_score"] for row in rows] for side in ("chosen", "rejected")]
    else:
        prompts = [row["prompt"] for row in rows]
        scores = [reward(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected")]
    chosen, rejected = (numbers("the rewards", side, least=0).numpy() for side in scores)
    if not len(chosen) == len(rejected) == len(rows):
        had = f"{len(chosen)} and {len(rejected)}"
        raise ValueError(f"the reward must give a finite number for each of {counted(len(rows), 'row')}, got {had}")
    return chosen - rejected


def questions(rows: Sequence[Row], reward: Reward | None = None, *, seed: int = 0) -> Questions:
    """Turn pairs into questions: which text is A is drawn by a fair coin, so A is no better than B on average.

    reward: the true one, as in `margins`. Raises ValueError for no rows, or where there is no reward.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("there are no pairs to ask about")
    words = np.array([len(row["chosen"].split()) - len(row["rejected"].split()) for row in rows])
    kept = numpy_generator(seed).random(len(rows)) < 0.5
    sign = np.where(kept, 1, -1)
    return Questions(sign * margins(rows, reward), sign * words, kept)


@dataclass(frozen=True)
class Annotator:
    """Prefers A with probability (1 − lapse) · σ(z) + lapse / 2, where

        z = reliability · (r_a − r_b) + length_bias · (len_a − len_b) + position_bias · (+1 if A is shown first else −1)

    Rewards are in nats, lengths in words. A random clicker has lapse 1. Reliability 1 is the coin of the
    bundled data, 0 sees no difference in reward, 100 picks the better side nearly always, −1 the worse. With
    probability 1 − lapse the annotator looks, and then says "tie" where |z| < `tie`, which is no label.
    """

    reliability: float = 1.0
    length_bias: float = 0.0  # nats per word
    position_bias: float = 0.0  # nats
    lapse: float = 0.0
    tie: float = 0.0  # nats

    def __post_init__(self):
        limits = dict.fromkeys(("reliability", "length_bias", "position_bias"), (-1e15, 1e15))
        for name, (least, most) in (limits | {"lapse": (0, 1), "tie": (0, math.inf)}).items():
            object.__setattr__(self, name, number(name, getattr(self, name), least=least, most=most))

    def logit(self, asked: Questions, a_first) -> np.ndarray:
        """z of each question, (N,). a_first: whether A is shown first, (N,) or one for all."""
        shown = np.where(a_first, 1.0, -1.0)
        return self.reliability * asked.difference + self.length_bias * asked.length + self.position_bias * shown

    def probability(self, asked: Questions, a_first=None) -> np.ndarray:
        """How likely the annotator, made to choose, says A: (N,). Without `a_first` the mean over both orders."""
        if a_first is None:
            return (self.probability(asked, True) + self.probability(asked, False)) / 2
        return (1 - self.lapse) * sigmoid(self.logit(asked, a_first)) + self.lapse / 2

    def accuracy(self, asked: Questions) -> float:
        """The share of questions on which this annotator is expected to pick the better side (equal sides count ½)."""
        p, d = self.probability(asked), asked.difference
        return float(np.where(d > 0, p, np.where(d < 0, 1 - p, 0.5)).mean())

    def label(self, asked: Questions, a_first=None, *, seed: int | Sequence[int] = 0) -> np.ndarray:
        """Click once on each question: A, B, or MISSING for a tie, (N,). Without `a_first` a coin decides the order."""
        rng = np.random.default_rng(seed)
        order, looks, click, blind = rng.random((4, len(asked)))
        z = self.logit(asked, order < 0.5 if a_first is None else a_first)
        seen = np.where(np.abs(z) < self.tie, MISSING, np.where(click < sigmoid(z), A, B))
        return np.where(looks < self.lapse, np.where(blind < 0.5, A, B), seen)


@dataclass(frozen=True)
class Panel:
    """What a panel said: labels and the order shown, a row for each question, a column for each annotator."""

    labels: np.ndarray  # (N, J) A, B, or MISSING where the annotator was not asked or said "tie"
    a_first: np.ndarray  # (N, J) whether A was shown first


def panel(annotators: Sequence[Annotator], asked: Questions, *, per_item: int | None = None, seed: int = 0) -> Panel:
    """Let a panel answer. Each question goes to `per_item` annotators drawn at random (by default to all).

    Everybody sees an order of their own, by a fair coin. Raises ValueError for an empty panel, or if `per_item` is not
    between 1 and its size.
    """
    size = len(annotators)
    per_item = size if per_item is None else per_item
    if not size:
        raise ValueError("the panel is empty; give at least one annotator")
    per_item, rng = whole("per_item", per_item, 1, size), numpy_generator(seed)
    a_first = rng.random((len(asked), size)) < 0.5
    turn = rng.random((len(asked), size)).argsort(-1).argsort(-1)  # each annotator's place in a random order
    columns = [who.label(asked, a_first[:, j], seed=[seed, j]) for j, who in enumerate(annotators)]
    return Panel(np.where(turn < per_item, np.stack(columns, axis=-1), MISSING), a_first)


def forecast(who: Annotator, asked: Questions, sizes: Sequence[int]) -> tuple[float, list[float]]:
    """What to expect of a panel of people like `who`, exactly: the agreement of two, and how often a majority is right.

    right[i] is the mean over the questions of `majority_accuracy` for sizes[i] annotators. Each sees A first half the
    time. Questions with equal sides have no better one and are left out of `right`; raises ValueError if all are so.
    """
    p, uneven = who.probability(asked), asked.difference != 0
    better = np.where(asked.difference > 0, p, 1 - p)[uneven]
    if not len(better):
        raise ValueError("difference is 0 for every question; allowed is one or more with a better side")
    return expected_agreement(p), [float(majority_accuracy(better, n).mean()) for n in sizes]


def exchanged(row: Row) -> Row:
    """The same pair with the other label: texts and scores change sides, and `probability` is that of the new label."""
    other = dict(row)
    for one, two in EXCHANGED.items():
        if one in row and two in row:
            other[one], other[two] = row[two], row[one]
    if "probability" in row:
        other["probability"] = round(1 - row["probability"], 6)
    return other


def flipped(rows: Sequence[Row], share: float, *, seed: int = 0) -> tuple[list[Row], np.ndarray]:
    """`rows` with exactly the given share of labels turned round, drawn at random, and which: (N,) bool."""
    share = number("share", share, least=0, most=1)
    turned = np.zeros(len(rows), dtype=bool)
    turned[numpy_generator(seed).permutation(len(rows))[: round(share * len(rows))]] = True
    return [exchanged(row) if turn else row for row, turn in zip(rows, turned, strict=True)], turned


def resolve(rows: Sequence[Row], asked: Questions, labels: Sequence[int]) -> list[Row]:
    """Pairs labelled anew: `labels` (N,) say A or B of each question; a question left MISSING makes no row.

    Raises ValueError unless rows, questions and labels belong together, and for a label that is none.
    """
    labels = check_labels([labels], categories=2)[0]
    if asked.a_is_chosen is None or not len(rows) == len(asked) == len(labels):
        had = [counted(len(x), what) for x, what in ((rows, "row"), (asked, "question"), (labels, "label"))]
        raise ValueError(f"give the questions made from these rows, and a label for each: got {', '.join(had)}")
    keeps = (labels == A) == asked.a_is_chosen
    return [
        row if keep else exchanged(row)
        for row, keep, label in zip(rows, keeps, labels, strict=True)
        if label != MISSING
    ]
