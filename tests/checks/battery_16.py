"""Answers to notebook 16 as learners write them, none of them a listed mutant. See `battery`."""

import numpy as np
import torch
from battery import Battery

B = Battery()
right, wrong = B.right, B.wrong

# ---------------------------------------------------------------------------------------------- 16.answer_mask


def mask(ids, start, end, skip=3, more=0, back=0):
    """From `skip` behind the last start to `more` behind the last end, `back` starts before the last."""
    ids = ids.tolist()
    first = [i for i, token in enumerate(ids) if token == start][-1 - back] + skip
    last = max(i for i, token in enumerate(ids) if token == end) + more
    return [float(first <= i <= last) for i in range(len(ids))]


def after_the_word(ids, end, word, of):
    """From two behind the place of the role's word that `of` picks."""
    ids = ids.tolist()
    first = of([i for i, token in enumerate(ids[:-1]) if word(token, ids[i + 1])]) + 2
    return [float(first <= i <= len(ids) - 1 - ids[::-1].index(end)) for i in range(len(ids))]


def by_role(ids, start, end, assistant):
    """The last turn that begins with `start` and the role."""
    ids = ids.tolist()
    first = max(i for i in range(len(ids) - 1) if ids[i : i + 2] == [start, assistant]) + 3
    return [float(first <= i <= len(ids) - 1 - ids[::-1].index(end)) for i in range(len(ids))]


right("16.answer_mask", by_role)
right("16.answer_mask", lambda ids, s, e, a: mask(ids, s, e))
right("16.answer_mask", lambda ids, s, e, a: np.array(mask(ids, s, e)))
right("16.answer_mask", lambda ids, s, e, a: torch.tensor(mask(ids, s, e)))
wrong("16.answer_mask", lambda ids, s, e, a: after_the_word(ids, e, lambda t, _: t == a, max), "word")
wrong("16.answer_mask", lambda ids, s, e, a: after_the_word(ids, e, lambda t, n: (t, n) == (a, 2), max), "word")
wrong("16.answer_mask", lambda ids, s, e, a: mask(ids, s, e)[1:], "shape|column|place")
wrong("16.answer_mask", lambda ids, s, e, a: mask(ids, s, e, skip=4), "nothing but its end|case|agree|place|rows?")
wrong("16.answer_mask", lambda ids, s, e, a: mask(ids, s, e, back=1), "question|case|agree|place|rows?|too large|start")
wrong("16.answer_mask", lambda ids, s, e, a: [2 * m for m in mask(ids, s, e)], "2 times")
wrong("16.answer_mask", lambda ids, s, e, a: sum(mask(ids, s, e)), "shape|sum")
wrong("16.answer_mask", lambda ids, s, e, a: [*mask(ids, s, e)[1:], 0.0], "one place earlier|place")
wrong("16.answer_mask", lambda ids, s, e, a: [0.0, *mask(ids, s, e)[:-1]], "one place later|place|case|agree")

# ---------------------------------------------------------------------------------------------- 16.pairs_that_fit


def fit(room, weights, depth, width, words, length, again, half=1.0, extra=0):
    """Counted up, one pair after another, in bytes."""
    left, pairs = room * 1_000_000_000 - 16 * weights, 0
    pair = 2 * length * width * 4 * (depth + 17 if again else depth * 17) * half + 8 * words * length
    while left >= pair:
        left, pairs = left - pair, pairs + 1
    return pairs + extra


right("16.pairs_that_fit", fit)
right("16.pairs_that_fit", lambda *a: float(fit(*a)))
right("16.pairs_that_fit", lambda *a: torch.tensor(fit(*a)))
wrong("16.pairs_that_fit", lambda *a: fit(*a, extra=1), "1 too large")
wrong("16.pairs_that_fit", lambda *a: fit(*a, extra=-1), "1 too small")
wrong("16.pairs_that_fit", lambda *a: 2 * fit(*a), "2 times|texts")
wrong("16.pairs_that_fit", lambda *a: [fit(*a)], "one number|shape")
wrong("16.pairs_that_fit", lambda *a: fit(*a[:6], not a[6]), "recompute|checkpointing")
wrong("16.pairs_that_fit", lambda *a: fit(2 * a[0], *a[1:]), "twice `room`|case|too large|not even")
wrong("16.pairs_that_fit", lambda *a: fit(*a, half=0.25), "case|too large|agree|factor|times")
wrong("16.pairs_that_fit", lambda *a: fit(*a[:5], 2 * a[5], a[6]), "twice `length`|case|too small|half")

# ---------------------------------------------------------------------------------------------- 16.shares


def scaled(losses, change=lambda value: value):
    n, rows = len(losses), sum(len(share) for share in losses)
    return [change(float(share.sum())) * n / rows for share in losses]


right("16.shares", scaled)
right("16.shares", lambda losses: torch.tensor(scaled(losses)))
right("16.shares", lambda losses: np.array(scaled(losses)))
wrong("16.shares", lambda losses: [2 * value for value in scaled(losses)], "2 times")
wrong("16.shares", lambda losses: sum(scaled(losses)) / len(losses), "shape|mean")
wrong("16.shares", lambda losses: scaled(losses)[::-1], "order|reversed|rows|case|agree|share|alone")
wrong("16.shares", lambda losses: [float(share.max()) for share in losses], "case|agree|too|rows|share|alone|part")
wrong("16.shares", lambda losses: scaled(losses, lambda value: -value), "sign")
wrong("16.shares", lambda losses: scaled(losses, lambda value: value**2), "square|case|agree|rows|too")
