"""Comparing what a learner computed with what is expected, and showing values in one line."""

import math
from collections.abc import Mapping, Sequence
from numbers import Number

import numpy as np
import torch

MOST = 8  # numbers of a tensor that are shown


def difference(found: object, expected: object, tol: float) -> str:
    """Where `found` is not `expected`, in words; "" if they agree to `tol`, absolute and relative.

    Numbers, arrays and tensors are compared by value and shape, whatever their type; dicts and sequences entry by
    entry. Not a number agrees with nothing.
    """
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            return _sides(found, expected)
        if set(found) != set(expected):
            return _sides(sorted(map(str, found)), sorted(map(str, expected)), "the keys of your answer")
        return _first(((f"{key}: ", found[key], value) for key, value in expected.items()), tol)
    if isinstance(expected, str | bytes | bool | None) and not isinstance(found, torch.Tensor | np.ndarray | np.bool_):
        return "" if type(found) is type(expected) and found == expected else _sides(found, expected)
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if isinstance(found, torch.Tensor | np.ndarray):
            found = found.tolist()
        if not isinstance(found, Sequence) or isinstance(found, str):
            return _sides(found, expected)
        if len(found) != len(expected):
            return _sides(found, expected, f"your answer, {len(found)} long where {len(expected)} is expected,")
        return _first(((f"[{i}] ", a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))), tol)
    if not isinstance(expected, Number | torch.Tensor | np.ndarray):
        return "" if found == expected else _sides(found, expected)
    try:
        left, right = (torch.as_tensor(value).detach().cpu().double() for value in (found, expected))
    except (TypeError, ValueError, RuntimeError):
        return _sides(found, expected)
    if left.shape != right.shape:
        return _sides(found, expected, f"your answer, of shape {tuple(left.shape)} instead of {tuple(right.shape)},")
    agree = (left == right) | ((left - right).abs() <= tol * (1 + right.abs()))
    return "" if bool(agree.all()) else _sides(found, expected)


def _first(entries, tol: float) -> str:
    """The first difference among (label, found, expected)."""
    for label, found, expected in entries:
        if differs := difference(found, expected, tol):
            return label + differs
    return ""


def _sides(found: object, expected: object, name: str = "your answer") -> str:
    width = max(len(name), len("expected"))
    return f"{name:{width}}   {shown(found)}\n{'expected':{width}}   {shown(expected)}"


def shown(value: object) -> str:
    """`value` in one line: numbers to five digits, long things cut, models and functions by name."""
    if isinstance(value, torch.Tensor | np.ndarray):
        value = torch.as_tensor(value).detach().cpu()
        if value.numel() > MOST:
            head = ", ".join(shown(v) for v in value.flatten()[:3].tolist())
            return f"{' × '.join(map(str, value.shape))} numbers: {head}, …"
        return shown(value.tolist())
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "…")
    if isinstance(value, Mapping):
        return "{" + _join(f"{key}: {shown(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + _join(map(shown, value)) + "]"
    if isinstance(value, torch.nn.Module) or callable(value):
        return f"({getattr(value, '__name__', type(value).__name__)})"
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "…"


def _join(parts) -> str:
    parts = list(parts)
    return ", ".join(parts[:MOST] + ["…"] * (len(parts) > MOST))
