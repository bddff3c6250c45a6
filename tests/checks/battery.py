"""A battery of answers to every check: right ones in unusual styles, and wrong ones that no mutant lists.

    B = Battery()
    B.right("06.dpo_loss", lambda *a: list(loss(*a)))
    B.wrong("06.dpo_loss", lambda *a: 2 * loss(*a), "2 times")      # what a hint that names the mistake has to say

`battery_00_04` and its neighbours hold answers written for one check, `general` those that can be made of any
reference. `test_battery` tries them all. The last argument of `wrong` is a pattern: a hint that names the mistake
matches it, and one that names another mistake does not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class Answer:
    """One answer to the check `check`, such as "06.dpo_loss"; `names`: what its hint has to say, "" if it is right."""

    check: str
    function: Callable
    names: str = ""
    kind: str = "own"


@dataclass(frozen=True)
class Battery:
    """Answers, right and wrong."""

    answers: list[Answer] = field(default_factory=list)

    def right(self, check: str, function: Callable) -> None:
        """An answer that has to pass."""
        self.answers.append(Answer(check, function))

    def wrong(self, check: str, function: Callable, names: str) -> None:
        """An answer that has to fail, with a hint that matches `names`."""
        self.answers.append(Answer(check, function, names))


# ---------------------------------------------------------------------------------------------- from any reference


def changed(value, change: Callable):
    """`value` with `change` made to each of its numbers, tensors and arrays."""
    if isinstance(value, dict):
        return {key: changed(part, change) for key, part in value.items()}
    if isinstance(value, tuple | list) and not all(isinstance(part, float) for part in value):
        return type(value)(changed(part, change) for part in value)
    if isinstance(value, tuple | list):
        return type(value)(change(part) for part in value)
    if isinstance(value, torch.Tensor) and value.dtype != torch.bool:
        return change(value)
    numbers = isinstance(value, float | int | np.floating | np.ndarray) and not isinstance(value, bool)
    return change(value) if numbers else value


def of(reference: Callable, change: Callable) -> Callable:
    """The reference, its result changed."""
    return lambda *arguments: change(reference(*arguments))


def untyped(value):
    """Tensors as lists of rows, numbers as numpy's."""
    return changed(value, lambda part: [*part] if isinstance(part, torch.Tensor) and part.ndim else np.float64(part))


def backwards(value):
    """Arrays with strides that run backwards, as `[::-1]` makes them."""
    return changed(value, lambda part: _turned_twice(part) if np.ndim(part) else part)


def _turned_twice(array) -> np.ndarray:
    array = array.detach().numpy() if isinstance(array, torch.Tensor) else array
    return array[::-1].copy()[::-1]


def general(check: str, reference: Callable, gradient: bool) -> list[Answer]:
    """Answers made of the reference alone. gradient: whether the check follows one, so that types may not change."""

    def wrong(change: Callable, names: str) -> Answer:
        return Answer(check, of(reference, change), names, "general")

    return [
        wrong(lambda value: None, "returns nothing"),
        wrong(lambda value: changed(value, lambda x: -x), "sign|order|turned|exchanged|mean|mirror|reversed|minus"),
        wrong(lambda value: changed(value, lambda x: 3 * x), "3 times|times|beta|twice|square|prior|factor"),
        wrong(lambda value: changed(value, lambda x: x * float("nan")), "nan"),
        wrong(lambda value: changed(value, lambda x: x * 0 + float("inf")), "infinite|never stops"),
        wrong(lambda value: f"{value}", "text|str|dict|things|tensor|gradient|two|return"),
        wrong(lambda value: changed(value, lambda x: x + 0.5), "0.5 too large|offset|amount|too large"),
        *([] if gradient else [Answer(check, of(reference, untyped)), Answer(check, of(reference, backwards))]),
    ]
