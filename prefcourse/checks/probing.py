"""What is wrong with an answer, found by trying: the reference on other arguments, the answer on changed ones.

    probe(outcome, answer, reference, tries, tol)       # one sentence, or ""

Where the answer is what the reference makes of `a` and `b` exchanged, or of β = 1, that is the mistake. Where it stays
as it is when β changes, and the reference does not, β has no effect in it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch

from prefcourse.checks.diagnosis import Try
from prefcourse.checks.showing import safely
from prefcourse.checks.values import difference

Case = dict[str, object]
Outcome = Callable[[Callable, Case], object]  # a function and a case → what is observed, or the error

# In words, what else an argument may have been taken for; numbers and tensors alike.
TAKEN: dict[str, Callable[[object], object]] = {
    "as if `{0}` were 1": lambda x: x * 0 + 1,
    "as if `{0}` were 0": lambda x: x * 0,
    "with the sign of `{0}` turned round": lambda x: -x,
    "for 1 / `{0}` in the place of `{0}`": lambda x: 1 / x,
    "for 1 - `{0}` in the place of `{0}`": lambda x: 1 - x,
    "for twice `{0}`": lambda x: 2 * x,
    "for half of `{0}`": lambda x: x / 2,
    "for the square of `{0}`": lambda x: x * x,
    "for the logarithm of `{0}`": lambda x: x.log(),
    "for e to the power of `{0}`": lambda x: x.exp(),
    "with the last axis of `{0}` turned round": lambda x: x.flip(-1),
    "with `{0}` one place later": lambda x: x.roll(1, -1),
    "with `{0}` one place earlier": lambda x: x.roll(-1, -1),
    "with the axes of `{0}` exchanged": lambda x: x.mT.contiguous(),
    "for the mean of `{0}` in each of its places": lambda x: x.mean(-1, keepdim=True).expand_as(x).clone(),
}


def probe(outcome: Outcome, answer: Callable, reference: Callable, tries: Sequence[Try], tol: float) -> str:
    """What an answer does with its arguments, if that explains it; "" if not."""
    tries = [t for t in tries if t.error is None]
    for words, change in _changes(tries):
        changed = [(t, safely(lambda t=t, change=change: change(dict(t.case)), otherwise=None)) for t in tries]
        if any(case is None for _, case in changed):
            continue
        if all(_same(outcome(reference, case), t.found, tol) for t, case in changed):
            return f"your answer is what comes out {words}."
    idle = _without_effect(outcome, answer, reference, tries, tol)
    if tries and len(idle) == len(tries[0].case) > 1:
        return "your answer is the same whatever the arguments are."
    names, have = ", ".join(f"`{name}`" for name in idle), "has" if len(idle) == 1 else "have"
    return f"{names} {have} no effect in your answer." if idle else ""


def _changes(tries: Sequence[Try]) -> Iterator[tuple[str, Callable[[Case], Case]]]:
    if not tries:
        return
    names = [name for name, value in tries[0].case.items() if _counts(value)]
    alike = [pair for pair in combinations(tries[0].case, 2) if all(_exchangeable(t.case, *pair) for t in tries)]
    for a, b in alike:
        yield f"with `{a}` and `{b}` exchanged", lambda case, a=a, b=b: case | {a: case[b], b: case[a]}
    for a, b in alike:
        for kept, lost in ((a, b), (b, a)):
            words = f"with `{kept}` in the place of `{lost}`, too"
            yield words, lambda case, kept=kept, lost=lost: case | {lost: case[kept]}
    for name in names:
        for words, taken in TAKEN.items():
            yield words.format(name), lambda case, name=name, taken=taken: case | {name: _as(case[name], taken)}


def _counts(value: object) -> bool:
    """Whether a value is a number or an array of numbers."""
    return isinstance(value, int | float | torch.Tensor | np.ndarray) and not isinstance(value, bool)


def _exchangeable(case: Case, a: str, b: str) -> bool:
    one, other = case[a], case[b]
    if type(one) is not type(other) or isinstance(one, str | dict):
        return False
    return getattr(one, "shape", None) == getattr(other, "shape", None) and getattr(one, "dtype", 0) == getattr(
        other, "dtype", 0
    )


def _as(value: object, taken: Callable[[object], object]) -> object:
    """A number, tensor or array, changed, in the type that it had."""
    if isinstance(value, torch.Tensor):
        changed = taken(value.int() if value.dtype == torch.bool else value)
        return changed.to(value.dtype)
    if isinstance(value, np.ndarray):
        return taken(torch.from_numpy(value.copy())).numpy()
    return taken(value)


def _without_effect(outcome: Outcome, answer: Callable, reference: Callable, tries: Sequence[Try], tol: float) -> list:
    """Names of arguments that change the reference's result and not the answer's."""
    found = []
    for name in tries[0].case if tries else ():
        idle = False
        for t in (*tries[:1], *tries[-2:]):
            case = safely(lambda t=t, name=name: t.case | {name: _as(t.case[name], _moved)}, otherwise=None)
            if case is None or not _counts(t.case[name]):
                idle = False
                break
            expected, got = outcome(reference, case), outcome(answer, case)
            if (
                isinstance(expected, BaseException)
                or isinstance(got, BaseException)
                or difference(got, t.found, 10 * tol)
            ):
                idle = False
                break
            idle |= not _same(expected, t.expected, tol)
        found += [name] * idle
    return found


def _moved(value: object) -> object:
    """Another value of the same kind: a number that is smaller, a table whose entries have moved, a shorter mask."""
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return value + 1 if isinstance(value, int) else value * 0.7
    if bool(((value == 0) | (value == 1)).all()):
        return value * value.roll(1, -1)
    return value.roll(1, -1)


def _same(one: object, other: object, tol: float) -> bool:
    return not isinstance(one, BaseException) and not difference(one, other, 10 * tol, nan_alike=True)
