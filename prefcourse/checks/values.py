"""Comparing what a learner computed with what is expected: one form for every kind of number, then one comparison.

    difference(found, expected, tol=1e-5)       # "" if they agree, else both in words, and the first place that differs
    plain(found)                                # the one form: arrays of float64, bool, text, None, in lists and dicts

What `found` is made of is not ours: it is read once, by type and not by what it says of itself, and from then on only
our own copy is looked at. Where reading fails in any way, it differs.
"""

from collections.abc import Mapping, Sequence, ValuesView
from numbers import Number

import numpy as np
import torch

from prefcourse.checks.showing import safely, shown

LONG = 1_000_000  # entries of a list that are read
DEEP = 8  # lists in lists that are read; a list may hold itself


def difference(found: object, expected: object, tol: float, nan_alike: bool = False) -> str:
    """Where `found` is not `expected`, in words; "" if they agree to `tol`, absolute and relative.

    Numbers, arrays, tensors and lists of them are compared by value and shape, whatever their type; dicts and sequences
    entry by entry. An infinite number agrees with itself alone, and not a number with nothing, or with `nan_alike` with
    itself.
    """
    differs = safely(lambda: _difference(plain(found), plain(expected), tol, nan_alike), otherwise=None)
    return _sides(found, expected) if differs is None else differs


# ---------------------------------------------------------------------------------------------- one form


def plain(value: object, depth: int = 0) -> object:
    """`value` as arrays, numbers, bool, text, None, and lists and dicts of these. TypeError for anything else."""
    if value is None or isinstance(value, bool | np.bool_):
        return value if value is None else bool(value)
    if isinstance(value, str | bytes):
        return (str if isinstance(value, str) else bytes).__getitem__(value, slice(None))  # a subclass may lie
    if isinstance(value, torch.Tensor):
        return _real(_numbers(value))
    if isinstance(value, Number):
        return _real(np.asarray(complex(value) if isinstance(value, complex) else float(value))).item()
    if depth > DEEP:
        raise TypeError(f"lists in lists, deeper than {DEEP}")
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(part, depth + 1) for key, part in value.items()}
    if isinstance(value, Sequence | ValuesView):
        if len(value) > LONG:
            raise TypeError(f"a list of {len(value)} is too long to be an answer")
        return [plain(part, depth + 1) for part in value]
    if isinstance(value, np.ndarray) or hasattr(type(value), "__array__"):  # such as a Series of pandas
        array = np.asarray(value)
        return _real(array) if array.dtype.kind in "biufc" else plain(array.tolist(), depth + 1)
    raise TypeError(f"a {type(value).__name__} is no answer")


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    with torch._C.DisableTorchFunctionSubclass():  # a subclass may answer for itself; its numbers are what counts
        tensor = tensor.detach().cpu().to_dense().resolve_conj().resolve_neg()
        tensor = tensor if tensor.is_complex() or tensor.dtype == torch.bool else tensor.to(torch.float64)
        return tensor.numpy()


def _real(array: np.ndarray) -> np.ndarray:
    """The numbers as float64, or bool; numbers with an imaginary part are none of ours."""
    if array.dtype.kind == "c":
        if not np.array_equal(array.imag, np.zeros_like(array.imag)):
            raise TypeError("complex numbers")
        array = array.real
    return np.array(array, dtype=bool if array.dtype == bool else np.float64, order="C")


def stacked(value: object) -> np.ndarray | None:
    """A plain value as one array: numbers, arrays, and lists of what has one shape; None where that is impossible."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool | float):
        return np.asarray(value)
    if isinstance(value, list):
        parts = [stacked(part) for part in value]
        if all(part is not None for part in parts) and len({part.shape for part in parts}) <= 1:
            return np.stack(parts) if parts else np.zeros(0)
    return None


def wrong_places(found: np.ndarray, expected: np.ndarray, tol: float, nan_alike: bool = False) -> np.ndarray:
    """True where two arrays of one shape differ."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        near = np.isfinite(expected) & (np.abs(found - expected) <= tol * (1 + np.abs(expected)))
    same = (found == expected) | near
    return ~(same | (np.isnan(found) & np.isnan(expected))) if nan_alike else ~same


# ---------------------------------------------------------------------------------------------- one comparison


def _difference(found: object, expected: object, tol: float, nan_alike: bool) -> str:
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return _sides(found, expected)
        if set(found) != set(expected):
            return _sides(sorted(map(str, found)), sorted(map(str, expected)), "the keys of your answer")
        return _first(((f"{key}: ", found[key], value) for key, value in expected.items()), tol, nan_alike)
    if isinstance(expected, list):
        found = list(found) if isinstance(found, np.ndarray) and found.ndim else found
        if not isinstance(found, list):
            return _sides(found, expected)
        if len(found) != len(expected):
            return _sides(found, expected, f"your answer, {len(found)} long where {len(expected)} is expected,")
        entries = enumerate(zip(found, expected, strict=True))
        return _first(((f"[{i}] ", a, b) for i, (a, b) in entries), tol, nan_alike)
    if expected is None or isinstance(expected, str | bytes):
        return "" if type(found) is type(expected) and found == expected else _sides(found, expected)
    if isinstance(expected, bool):
        alike = stacked(found) if not isinstance(found, float) else None
        same = alike is not None and alike.dtype == bool and alike.shape == () and bool(alike) is expected
        return "" if same else _sides(found, expected)
    left, right = stacked(found), stacked(expected)
    if left is None:
        return _sides(found, expected)
    if left.shape != right.shape:
        return _sides(found, expected, f"your answer, of shape {left.shape} instead of {right.shape},")
    wrong = wrong_places(left, right, tol, nan_alike)
    return _sides(left, right) + _first_place(left, right, wrong) if wrong.any() else ""


def _first(entries, tol: float, nan_alike: bool) -> str:
    """The first difference among (label, found, expected)."""
    for label, found, expected in entries:
        if differs := _difference(found, expected, tol, nan_alike):
            return label + differs
    return ""


def _first_place(found: np.ndarray, expected: np.ndarray, wrong: np.ndarray) -> str:
    """The line that names the first of several numbers that differ."""
    if wrong.size == 1:
        return ""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    one, other = _told_apart(found[place].item(), expected[place].item())
    where = f"[{', '.join(map(str, place))}]"
    return f"\nthe first that differs is {where}: {one} instead of {other}; {int(wrong.sum())} of {wrong.size} differ"


def _told_apart(found: object, expected: object) -> tuple[str, str]:
    """Both in one line each, with more digits where five do not tell them apart."""
    one, other = shown(found), shown(expected)
    return (shown(found, digits=12), shown(expected, digits=12)) if one == other else (one, other)


def _sides(found: object, expected: object, name: str = "your answer") -> str:
    width = max(len(name), len("expected"))
    one, other = _told_apart(found, expected)
    return f"{name:{width}}   {one}\n{'expected':{width}}   {other}"
