"""What every loss refuses, and how it reads its inputs: the decorator `checked`, and `Loss`, a row of the table.

    @checked(beta=POSITIVE)
    def my_loss(policy_chosen, policy_rejected, *, beta=0.1): ...

Wrong input raises a `ValueError` that names the argument, its value and what is allowed. No gradient flows into a
reference. Half-precision inputs are computed, and returned, in float32.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """Which values a parameter may have, as a test and in words."""

    good: Callable[[Any], bool]
    allowed: str


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


POSITIVE = Rule(lambda v: _is_number(v) and v > 0, "a finite number above 0")
NOT_NEGATIVE = Rule(lambda v: _is_number(v) and v >= 0, "a finite number, 0 or more")
FLIP_RATE = Rule(lambda v: _is_number(v) and 0 <= v < 0.5, "a number in [0, 0.5)")
SMOOTHING = Rule(lambda v: _is_number(v) and 0 < v < 0.5, "a number in (0, 0.5): its logarithm is taken")
NUMBER = Rule(_is_number, "a finite number (for a tensor, its .item())")
_looking = True  # do losses look at the values of their tensors?
REDUCE = Rule(lambda v: v in ("sum", "mean"), '"sum" or "mean"')


def require(good: bool, name: str, value: object, allowed: str) -> None:
    """Raise ValueError, naming the argument, its value and what is allowed, unless it is `good`."""
    if not good:
        raise ValueError(f"{name} is {value}; allowed is {allowed}")


def checked(**rules: Rule) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """A loss whose parameters keep `rules`, by name; all its other arguments are tensors that fit together.

    They are finite, (B,) each, on one device and of one floating-point dtype, but for `desirable`, which is bool, and
    lengths, which are 1 or more; what begins with kl_ may have a size of its own. With reduce="sum" no lengths may be
    given. Raises TypeError, when the loss is defined, for a parameter without a rule or a rule without a parameter.
    """

    def decorate(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        signature = inspect.signature(loss)
        parameters = {name for name, p in signature.parameters.items() if p.default not in (p.empty, None)}
        if wrong := (parameters - set(rules)) | (set(rules) - set(signature.parameters)):
            raise TypeError(f"{loss.__name__}: {', '.join(sorted(wrong))} without a rule, or a rule without it")

        @functools.wraps(loss)
        def checking(*args, **kwargs) -> Tensor:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return loss(*args, **kwargs)  # Python's own message names the function
            bound.apply_defaults()
            given = bound.arguments
            for name, rule in rules.items():
                require(rule.good(given[name]), name, given[name], rule.allowed)
            tensors = {name: value for name, value in given.items() if name not in rules}
            if given.get("reduce") == "sum":  # then the lengths have no use
                for name in [name for name in tensors if name.endswith("_lengths")]:
                    require(tensors.pop(name) is None, name, "given", 'None with reduce="sum", which ignores it')
            check_tensors(tensors)
            given.update({name: _ready(name, value) for name, value in tensors.items()})
            return loss(*bound.args, **bound.kwargs)

        return checking

    return decorate


def holds_reals(value: Tensor) -> bool:
    """Does a tensor hold real numbers, one after another? A sparse one does not, nor one without any ("meta").

    A kind of tensor of its own, as compilers and simulated devices make them, may say "meta" and hold numbers.
    """
    empty = value.is_meta and type(value) in (Tensor, torch.nn.Parameter)
    return value.layout == torch.strided and not empty and not value.is_complex()


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the inputs of a loss, by name, fit together as `checked` says."""
    first = next(iter(tensors.values()))
    for name, value in tensors.items():
        require(isinstance(value, Tensor), name, value, "a tensor of shape (B,)")
        require(value.device == first.device, name, f"on {value.device}", f"one device for all, here {first.device}")
        require(holds_reals(value), name, f"{value.layout} of {value.dtype}", "a dense tensor of real numbers")
        like = tensors["kl_policy"] if name.startswith("kl_") else first  # the KL batch may have a size of its own
        good = value.ndim == 1 and value.numel() > 0 and value.shape == like.shape
        require(good, name, f"of shape {tuple(value.shape)}", f"one shape (B,) for all, here {tuple(like.shape)}")
        if name == "desirable":
            require(value.dtype == torch.bool, name, f"of {value.dtype}", "torch.bool")
        elif not name.endswith("_lengths"):
            good = value.is_floating_point() and value.dtype == first.dtype
            require(good, name, f"of {value.dtype}", f"one floating-point dtype for all, here {first.dtype}")
    _check_values(tensors)


@contextmanager
def trusted() -> Iterator[None]:
    """Within, no loss looks at the values of its tensors: for a loop that reads them itself, once a step.

    On a GPU every look makes the CPU wait until all work up to it is done.
    """
    global _looking
    before, _looking = _looking, False
    try:
        yield
    finally:
        _looking = before


def looking() -> bool:
    """Are values looked at? Not within `trusted`."""
    return _looking


def require_all(good: Callable[[], Tensor], name: str, value: Tensor, allowed: str) -> None:
    """`require` that `good()`, bool, holds everywhere, unless within `trusted`."""
    if _looking:
        require(bool(good().all()), name, value, allowed)


@torch.no_grad()
def _check_values(tensors: Mapping[str, Tensor]) -> None:
    if not _looking:
        return
    # One look at the sum of everything, which is one device sync; we search only if that is not finite.
    if not math.isfinite(sum(value.sum(dtype=torch.float32) for value in tensors.values())):
        for name, value in tensors.items():
            for i in (~value.isfinite()).nonzero()[:1].flatten().tolist():
                require(False, f"{name}[{i}]", value[i].item(), "a finite number")
    for name, value in tensors.items():
        if name.endswith("_lengths"):
            require_all(lambda value=value: value >= 1, name, value, "1 token or more (EOS counts)")


def _ready(name: str, value: Tensor) -> Tensor:
    """`value` as a loss computes with it: references detached, halves as float32."""
    value = value.detach() if name.startswith(("reference", "kl_")) else value
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


@dataclass(frozen=True)
class Loss:
    """One row of `losses.LOSSES`. What a function needs is read from its signature, so the two cannot disagree."""

    function: Callable[..., Tensor]
    formula: str
    reduce: str  # how token log-probs enter: "sum", "mean" or "sum + mean"
    paper: str
    equation: str
    data: str = "paired"  # or "unpaired"
    trl: str | None = None  # TRL's loss_type, or several with a plus; None where it has none. `commands.export` uses it

    def inputs(self, **arguments) -> tuple[str, ...]:
        """Names of what a batch must supply: what has no default, and the lengths if `arguments` have reduce="mean"."""
        parameters = inspect.signature(self.function).parameters.values()
        mean = arguments.get("reduce") == "mean"
        return tuple(p.name for p in parameters if p.default is p.empty or (p.default is None and mean))

    @property
    def defaults(self) -> dict[str, float | str]:
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty and p.default is not None}

    @property
    def needs_reference(self) -> bool:
        return any(name.startswith("reference") for name in self.inputs())

    @property
    def needs_lengths(self) -> bool:
        return any(name.endswith("_lengths") for name in self.inputs())
