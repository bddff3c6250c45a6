"""Numbers that can be trusted: finite, of the shape that was asked for, and never stretched to fit each other.

    a, b = same_shape(least=2, a=a, b=b)            # two rows (N,) float64 on the CPU, for a statistic
    logps, old = together(logps=logps, old=old)     # tensors as they are, gradients kept, for a training loop
    number("alpha", alpha, above=0, below=1)
    whole("k", k, least=2)
    counted(1, "prompt"), counted(2, "prompt")      # "1 prompt", "2 prompts"

nan compares as False with everything, so a test such as `x <= 0` lets it through, and one nan among 400 values turns a
p-value into nonsense. Everything here raises a ValueError that names the argument, says what it is and what is allowed.
"""

import math
import sys
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from prefcourse import loss_inputs

MOST = sys.float_info.max
LARGE = 1e100  # no measurement is larger, and squares and sums of such numbers are still finite
LARGE_FLOAT32 = 1e15  # the same in float32
MOST_COUNTED = 10**9


def counted(count: int, thing: str, things: str = "") -> str:
    """ "1 prompt", "2 prompts"; `things` is the plural where it is not thing + s."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


# ------------------------------------------------------------------------------------------------ one number


def number(name: str, value, *, least=-MOST, most=MOST, above=-math.inf, below=math.inf):
    """`value`, a finite number from `least` to `most`, `above` and `below` not included, as an int or a float.

    With most=math.inf it may be infinite. Raises ValueError for anything else: nan, a text, an array.
    """
    found = _plain(value)
    good = isinstance(found, Real) and least <= found <= most and (found <= MOST or found == math.inf)
    if not (good and found > above and (below == math.inf or found < below)):
        kind = "a number" if most == math.inf else "a finite number"
        strict = " and".join(f" {word} {x:g}" for word, x in (("above", above), ("below", below)) if math.isfinite(x))
        ends = "".join(f", {x:g} or {word}" for x, word in ((least, "more"), (most, "less")) if abs(x) < MOST)
        both = f" from {least:g} to {most:g}" if max(abs(least), abs(most)) < MOST else strict + ends
        raise ValueError(f"{name} is {_shown(value)}; allowed is {kind}{both}")
    return found if isinstance(found, int) else float(found)


def whole(name: str, value, least: int = 1, most: int = MOST_COUNTED) -> int:
    """`value`, a whole number from `least` to `most`, as an int: 3 and 3.0 are. Raises ValueError for anything else."""
    found = _plain(value)
    if not (isinstance(found, Real) and least <= found <= most and found == int(found)):
        upper = f"{least} or more" if most >= MOST_COUNTED else f"{least} to {most:,}"
        raise ValueError(f"{name} is {_shown(value)}; allowed is a whole number, {upper}")
    return int(found)


def generator(seed: int) -> torch.Generator:
    """torch's random numbers from `seed`. Raises ValueError unless it is a whole number of at most 64 bits."""
    return torch.Generator().manual_seed(whole("seed", seed, -(2**63), 2**63 - 1))


def numpy_generator(seed: int) -> np.random.Generator:
    """NumPy's random numbers from `seed`. Raises ValueError unless it is a whole number, 0 or more."""
    return np.random.default_rng(whole("seed", seed, 0, 2**128))


# ------------------------------------------------------------------------------------------------ many


def numbers(name: str, values, *, ndim: int | None = 1, least: int = 1, low=-LARGE, high=LARGE) -> Tensor:
    """`values` as float64 on the CPU, without gradient: finite, from `low` to `high`, in `ndim` dimensions (None: any).

    values: a tensor, an array, or (nested) lists; `least` is how many there must be along the first dimension.
    Raises ValueError for other things, another shape, too few, and values that are not finite.
    """
    found = _tensor(name, values)
    if (ndim is not None and found.ndim != ndim) or (len(found) if found.ndim else found.numel()) < least:
        allowed = "one row, (N,)" if ndim == 1 else f"{ndim} dimensions" if ndim is not None else "any shape"
        raise ValueError(f"{name} has shape {tuple(found.shape)}; allowed is {allowed}, at least {least} long")
    _refuse(name, found, low, high)
    return found


def same_shape(*, ndim: int | None = 1, least: int = 1, **arrays) -> list[Tensor]:
    """Each of `arrays` as `numbers` gives it, all of one shape. Raises ValueError: nothing is repeated to fit."""
    found = {name: _tensor(name, values) for name, values in arrays.items()}
    _refuse_shapes(found)
    return [numbers(name, values, ndim=ndim, least=least) for name, values in found.items()]


def together(**tensors: Tensor) -> list[Tensor]:
    """`tensors` of one shape with their gradients: halves and whole numbers as float32, all else as it is.

    For functions inside a training loop: within `loss_inputs.trusted` no values are looked at. Raises ValueError.
    """
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not loss_inputs.holds_reals(value):
            raise ValueError(f"{name} is {_shown(value)}; allowed is a tensor of real numbers")
    _refuse_shapes(tensors)
    found = {n: v if v.dtype in (torch.float32, torch.float64) else v.float() for n, v in tensors.items()}
    if loss_inputs.looking():
        for name, value in found.items():
            large = LARGE if value.dtype == torch.float64 else LARGE_FLOAT32
            _refuse(name, value.detach(), -large, large)
    return list(found.values())


def mask_like(mask: Tensor, like: Tensor) -> Tensor:
    """`mask` as bool, of the shape of `like`; 0 and 1 count as False and True. Raises ValueError for another one."""
    if not isinstance(mask, Tensor) or mask.shape != like.shape:
        raise ValueError(f"mask is {_shown(mask)}; allowed is a tensor of shape {tuple(like.shape)}")
    if mask.dtype != torch.bool and loss_inputs.looking() and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask holds other numbers than 0 and 1; allowed are True and False")
    return mask.bool()


def _tensor(name: str, values) -> Tensor:
    """`values` as float64 on the CPU, whatever they are made of. Raises ValueError for what is not real numbers."""
    try:
        if isinstance(values, Tensor):
            good = loss_inputs.holds_reals(values)
            found = values.detach().cpu().double() if good else None
        else:
            array = np.asarray(values)
            good = array.dtype.kind in "biuf"  # no text, no object, no complex number
            found = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)) if good else None
            found = found.reshape(array.shape) if good else None
    except Exception:  # lists of unequal length, a tensor without values: whatever it is, these are no numbers
        found = None
    if found is None and isinstance(values, list | tuple) and not values:
        return torch.zeros(0, dtype=torch.float64)
    if found is None:
        raise ValueError(f"{name} is {_shown(values)}; allowed are real numbers: a tensor, an array or a list of them")
    return found


def _refuse(name: str, found: Tensor, low: float, high: float) -> None:
    good = (found >= low) & (found <= high)  # False for nan
    if bool(good.all()):
        return
    at = tuple(int(i) for i in (~good).nonzero()[0])
    first = f"the first is {found[at].item():g}" + (f" at {at[0] if len(at) == 1 else at}" if at else "")
    wrong = int((~good).sum())
    many = f"{wrong:,} of {counted(found.numel(), 'value')} {'is' if wrong == 1 else 'are'}"
    if not bool(found.isfinite().all()):
        raise ValueError(
            f"{name}: {many} not finite, {first}; allowed are finite numbers. Mend what made it, or leave that place "
            "out on purpose, here and in what is compared with it."
        )
    raise ValueError(f"{name}: {many} outside {low:g} to {high:g}, {first}. Mend what made it.")


def _refuse_shapes(arrays: dict[str, Tensor]) -> None:
    shapes = {tuple(value.shape) for value in arrays.values()}
    if len(shapes) > 1:
        had = ", ".join(f"{name} {tuple(value.shape)}" for name, value in arrays.items())
        raise ValueError(f"the shapes differ: {had}; allowed is one shape for all, because nothing is repeated to fit")


def _plain(value):
    """A tensor, array or NumPy scalar that holds one number as that number; anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        return value.item() if isinstance(value, np.ndarray) or loss_inputs.holds_reals(value) else value
    return value


def _shown(value) -> str:
    """`value` in a few words, whatever it is."""
    kind = type(value).__name__
    kind = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        kept = f", {value.layout} on {value.device}" if isinstance(value, Tensor) else ""
        return f"{kind} of shape {tuple(value.shape)}, {value.dtype}{kept}"
    try:
        return f"{value!r:.60}" if isinstance(value, Real | str | None) else kind
    except Exception:  # a whole number too long to be written
        return kind
