"""Checks of exercise notebook 16, exercise 2: how many pairs fit on a GPU. See also `ex16`."""

import math

import torch

from prefcourse.checks.core import Case, Limit, exercise

GB = 1e9  # bytes


def _machines(draw: torch.Generator) -> list[Case]:
    def case(room: float, layers: int, width: int, length: int, recompute: bool) -> Case:
        parameters = 12 * layers * width**2 + 50_257 * width
        shape = {"parameters": parameters, "layers": layers, "width": width, "vocabulary": 50_257}
        return {"room": room, **shape, "length": length, "recompute": recompute}

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    return [
        case(16, 12, 768, 256, False),
        case(16, 12, 768, 256, True),
        Limit("not even the weights fit", case(16, 48, 1600, 512, True)),
        case(24, 36, 1280, 300, True),
        case(80, 48, 1600, 400 + drawn(0, 200), False),
        case(40 + drawn(0, 30), 24, 1024, 100 + drawn(0, 300), True),
        case(40 + drawn(0, 30), 12, 768, 100 + drawn(0, 300), False),
    ]


def _fits(
    room, parameters, layers, width, vocabulary, length, recompute, each=16, texts=2, kept=4, tables=2, unit=GB,
    rounded=math.floor, least=0,
):  # fmt: skip
    numbers = layers + 17 if recompute else 17 * layers
    pair = kept * width * numbers * texts * length + tables * 4 * vocabulary * length
    return max(rounded((room * unit - each * parameters) / pair), least)


@exercise(
    cases=_machines,
    points=3,
    where="6 · Memory: what fits on this GPU?",
    hint="16 bytes for each weight go first. A pair has T = 2 · length tokens and C = length scored ones: "
    "4 · D · T · (17 L, or L + 17) + 8 · C · V bytes. Divide what is left by that, round down, and never below 0.",
)
def pairs_that_fit(room, parameters, layers, width, vocabulary, length, recompute):
    """The most pairs that a GPU has room for at a time; 0 if none."""
    return _fits(room, parameters, layers, width, vocabulary, length, recompute)


@pairs_that_fit.mutant(
    "what you keep for the backward pass is half of what it should be: a pair has two texts, 2 · length tokens, and a "
    "number in float32 takes 4 bytes."
)
def one_text(*case):
    return _fits(*case, texts=1)


@pairs_that_fit.mutant("the logits are missing: a scored token has V numbers in float32, and as many in its gradient.")
def without_logits(*case):
    return _fits(*case, tables=0)


@pairs_that_fit.mutant("the logits have a gradient, too: two tables, 8 bytes for each scored token and word.")
def one_table(*case):
    return _fits(*case, tables=1)


@pairs_that_fit.mutant("a trained weight takes 16 bytes: itself, its gradient, and *two* averages of Adam.")
def twelve_bytes(*case):
    return _fits(*case, each=12)


@pairs_that_fit.mutant("there is no reference beside the model here: its log-probs were computed once. 16 bytes.")
def with_reference(*case):
    return _fits(*case, each=20)


@pairs_that_fit.mutant("only the weights themselves are in yours. Gradient and Adam take three times as much again.")
def weights_alone(*case):
    return _fits(*case, each=4)


@pairs_that_fit.mutant("your GB has 1,073,741,824 bytes. Here it has a billion, as in the lesson.")
def gibibytes(*case):
    return _fits(*case, unit=2**30)


@pairs_that_fit.mutant("you round up: the last pair does not fit any more.")
def rounded_up(*case):
    return _fits(*case, rounded=math.ceil)


@pairs_that_fit.mutant("where not even the weights fit your number is below 0. None fit: return 0.")
def below_zero(*case):
    return _fits(*case, least=-math.inf)


@pairs_that_fit.mutant("gradient checkpointing changes nothing in yours: with it L + 17 numbers are kept, not 17 L.")
def always_all(room, parameters, layers, width, vocabulary, length, recompute):
    return _fits(room, parameters, layers, width, vocabulary, length, False)
