"""The form of an answer: its parts by name, the kind of thing it is, its shape. `diagnosis` asks here first."""

from collections.abc import Sequence

import numpy as np

from prefcourse.checks.showing import safely
from prefcourse.checks.values import plain, stacked, wrong_places

Numbers = dict[str, np.ndarray]  # the name of a part, "" where there is one → its numbers


def parts(value: object, like: object) -> Numbers | None:
    """The numbers of an answer by the name of the part, as in `like`; None if it holds anything else."""
    value, like = (safely(lambda thing=thing: plain(thing), otherwise=None) for thing in (value, like))
    if isinstance(value, dict):
        found: Numbers = {}
        for key, part in value.items():
            inner = parts(part, like.get(key) if isinstance(like, dict) else None)
            if inner is None:
                return None
            found |= {f"{key}{'.' + name if name else ''}": numbers for name, numbers in inner.items()}
        return found
    few = isinstance(like, list) and len(like) <= 4 and all(isinstance(part, float) for part in like)
    if few and np.shape(array := stacked(value)) == (len(like),):
        return {f"number {i + 1}": part for i, part in enumerate(array)}
    if isinstance(value, list) and stacked(value) is None:
        others = like if isinstance(like, list) and len(like) == len(value) else value
        inner = [parts(part, other) for part, other in zip(value, others, strict=True)]
        if any(part is None for part in inner):
            return None
        return {f"part {i + 1}{' ' + k if k else ''}": n for i, part in enumerate(inner) for k, n in part.items()}
    array = stacked(value)
    return None if array is None else {"": array}


def broken(found: object, expected: object) -> list[str]:
    """Names of what should be true of an answer, in a report of it, and is not."""
    value, wanted = (safely(lambda thing=thing: plain(thing), otherwise=None) for thing in (found, expected))
    if not isinstance(wanted, dict) or not isinstance(value, dict):
        return []
    return [str(key) for key, true in wanted.items() if true is True and value.get(key) is False]


def listed(names: Sequence[str]) -> str:
    """The names of parts, as they stand in a sentence."""
    return ", ".join(f"`{name}`" if not name.startswith(("number ", "part ")) else name for name in names)


def form(found: object, expected: object) -> str:
    """What is wrong with the kind of thing that was returned."""
    kind, wanted = type(found).__name__, safely(lambda: plain(expected), otherwise=None)
    if found is None and wanted is not None:
        return "your function returns nothing: is its `return` missing?"
    if kind in ("generator", "map", "zip", "filter", "list_iterator"):
        return f"your function returns a {kind}, whose values are not there yet: make a list or a tensor of them."
    value = safely(lambda: plain(found), otherwise=Ellipsis)
    if value is Ellipsis:
        complex_ = kind == "complex" or "complex" in safely(lambda: str(found.dtype), otherwise="")
        return f"your answer is {'complex, a number with an imaginary part' if complex_ else _a(kind)}."
    if isinstance(value, str) and not isinstance(wanted, str):
        return "your answer is a text; return numbers."
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            return f"your answer is {_a(kind)}; return a dict with the keys {', '.join(map(str, wanted))}."
        if missing := [str(key) for key in wanted if key not in value]:
            return f"your dict lacks {', '.join(missing)}."
        extra = [str(key) for key in value if key not in wanted]
        if extra:
            return f"your dict has more than it should: {', '.join(extra)}."
    if isinstance(value, dict) and not isinstance(wanted, dict):
        return "your answer is a dict; return what the docstring says."
    if isinstance(wanted, list) and not isinstance(value, list | np.ndarray):
        return f"return {len(wanted)} things in one tuple; yours is one alone, {_a(kind)}."
    if isinstance(wanted, list) and (isinstance(value, list) or value.ndim) and len(value) != len(wanted):
        return f"return {len(wanted)} things in one tuple, in the order of the docstring; yours has another number."
    for name, one, other in _pairs(value, wanted):
        if one is not None and other is not None and (said := form(one, other)):
            return f"{listed([name])}: {said}"
    array, goal = stacked(value), stacked(wanted)
    if goal is not None and goal.ndim == 0 and array is not None and array.ndim:
        return f"{_shapes(array, goal)}. One number is asked for."
    if array is None and isinstance(value, list) and goal is not None:
        return "the parts of your answer have different shapes, so they do not make one tensor."
    if array is not None and goal is not None and array.shape == goal.shape:
        with np.errstate(all="ignore"):
            bad = ~np.isfinite(array.astype(float)) & np.isfinite(goal.astype(float))
        if bad.any():
            what = "nan, not a number" if np.isnan(array[bad][0]) else "infinite"
            return f"your answer is {what}, where a finite one is expected: look for 0/0, log 0, or a large exp."
    return ""


def _pairs(value: object, wanted: object) -> list[tuple[str, object, object]]:
    """The parts of an answer that has several, by name, with what is expected of each."""
    if isinstance(wanted, dict):
        return [(str(key), value[key], wanted[key]) for key in wanted]
    if isinstance(wanted, list) and stacked(wanted) is None:
        return [(f"part {i + 1}", a, b) for i, (a, b) in enumerate(zip(value, wanted, strict=True))]
    return []


def _shapes(found: np.ndarray, expected: np.ndarray) -> str:
    return f"the shape is {found.shape}; it has to be {expected.shape}"


def _a(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def shape(found: object, expected: object, tol: float) -> str:
    """How shapes differ: a mean, a sum, a part or an axis."""
    mine, goal = parts(found, expected) or {}, parts(expected, expected) or {}
    for key in goal:
        if key not in mine or mine[key].shape == goal[key].shape:
            continue
        a, b, where = mine[key], goal[key], f"{listed([key])}: " if key else ""

        def same(other: np.ndarray, a: np.ndarray = a) -> bool:
            return other.shape == a.shape and not wrong_places(a, other, tol).any()

        said = f"{where}{_shapes(a, b)}"
        for what, other in _shrunk(b).items():
            if same(other):
                return f"{said}. You return {what} of what is asked."
        return f"{said}. Which axis do you sum over, and which one has to stay?"
    return ""


def _shrunk(goal: np.ndarray) -> dict[str, np.ndarray]:
    """What one makes of the right numbers by one step too many."""
    found = {}
    for axis in (None, *range(goal.ndim)):
        found |= {"the mean": goal.mean(axis), "the sum": goal.sum(axis)} if axis is None else {
            f"the mean over axis {axis}": goal.mean(axis), f"the sum over axis {axis}": goal.sum(axis)}  # fmt: skip
    for axis in range(goal.ndim):
        found |= {
            f"the first along axis {axis}": goal.take(0, axis),
            f"the last along axis {axis}": goal.take(-1, axis),
        }
    return found | {"the same numbers, with the axes exchanged,": goal.T, "the numbers in one row": goal.ravel(),
                    "a column": goal[..., None], "a row": goal[None]}  # fmt: skip
