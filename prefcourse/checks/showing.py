"""Values and errors of somebody else's making in one line each. Nothing here raises, whatever it is given."""

import math
from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np
import torch

MOST = 8  # numbers of a tensor that are shown
DEEP = 4  # lists in lists that are shown; a list may hold itself


def shown(value: object, digits: int = 5) -> str:
    """`value` in one line: numbers to `digits`, long things cut, models and functions by name. Never raises."""
    # Its repr may raise, or it is a tensor without values: then its type is what can be said.
    return safely(lambda: _shown(value, digits), otherwise=f"a {type(value).__name__} that cannot be shown")


def _shown(value: object, digits: int, depth: int = 0) -> str:
    def inner(part: object) -> str:
        return _shown(part, digits, depth + 1) if depth < DEEP else "…"

    if isinstance(value, torch.Tensor | np.ndarray):
        value = value.detach().cpu().to_dense() if isinstance(value, torch.Tensor) else value
        if math.prod(value.shape) > MOST:
            what = "texts" if isinstance(value, np.ndarray) and value.dtype.kind in "US" else "numbers"
            head = ", ".join(inner(v) for v in value.flatten()[:3].tolist())
            return f"{' × '.join(map(str, value.shape))} {what}: {head}, …"
        return _shown(value.tolist(), digits, depth)
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.{digits}g}" if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "…")
    if isinstance(value, Mapping):
        return "{" + _join(f"{key}: {inner(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + _join(map(inner, value)) + "]"
    if isinstance(value, torch.nn.Module) or callable(value):
        return f"({getattr(value, '__name__', type(value).__name__)})"
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else text[:97] + "…"


def said(error: BaseException) -> str:
    """The first line of what an error says, "" if nothing or if even asking fails."""
    return safely(lambda: next(iter(str(error).strip().splitlines()), ""), otherwise="")


def safely(look: Callable[[], object], otherwise: object) -> object:
    """What `look` finds at an object of somebody else's making, or `otherwise` if that raises anything at all."""
    try:
        return look()
    except KeyboardInterrupt:  # somebody waits no longer
        raise
    except BaseException:
        return otherwise


def _join(parts) -> str:
    parts = list(islice(parts, MOST + 1))
    return ", ".join(parts[:MOST] + ["…"] * (len(parts) > MOST))
