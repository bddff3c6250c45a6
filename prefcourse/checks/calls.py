"""Calling a learner's function: always in the same state, apart from who looks at what it returns.

    with steady():                       # our settings and dice; whatever is changed inside is put back
        answer = Answer(function, names)
        observed = observe(answer, *arguments)
    answer.raised, answer.returned, answer.changed         # its error, what it gave, the arguments it changed

`Guard` puts back what an answer exchanges in torch, numpy, math or in the checks themselves.
"""

import dis
import math
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType, TracebackType

import numpy as np
import torch

from prefcourse.checks.showing import safely

NOT_THEIRS = {"numpy", "torch", "scipy", "pandas"} | (sys.stdlib_module_names - {"__main__"})
LONG = 1_000_000  # entries of a list that are looked at
NUMPYS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}  # what numpy itself begins with


@contextmanager
def settled() -> Iterator[None]:
    """float32 and the CPU by default, gradients on, numpy's own handling of errors; afterwards all as it was."""
    dtype, device, filters, kept = torch.get_default_dtype(), _default_device(), warnings.filters, warnings.filters[:]
    with torch.inference_mode(False), torch.enable_grad(), np.errstate(**NUMPYS):
        try:
            torch.set_default_dtype(torch.float32)
            if torch.get_default_device().type != "cpu":
                torch.set_default_device("cpu")
            yield
        finally:
            torch.set_default_dtype(dtype)
            if _default_device() != device:
                torch.set_default_device(device)
            warnings.filters = filters
            filters[:] = kept


@contextmanager
def steady() -> Iterator[None]:
    """`settled`, and the random numbers of torch, numpy and `random` begin at 0; afterwards they go on as before."""
    ours, numpys = random.getstate(), np.random.get_state()
    with settled(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(numpys)


def _default_device() -> torch.device | None:
    """What was given to torch.set_default_device; torch.get_default_device does not tell the CPU from nothing."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


# ---------------------------------------------------------------------------------------------- the answer's own call


class Answer:
    """A learner's function as an observer gets it: it notes what was returned, what was raised, what was changed."""

    def __init__(self, function: Callable, names: list[str]):
        self.function, self.names = function, names
        self.raised: BaseException | None = None
        self.returned: list[object] = []
        self.changed: list[str] = []

    def __call__(self, *arguments):
        before = [_frozen(argument) for argument in arguments]
        try:
            with settled():  # what it sets is its own affair, also while the observer looks
                value = self.function(*arguments)
        except BaseException as error:
            self.raised = error
            raise
        self.returned.append(value)
        if not isinstance(value, torch.Tensor | np.ndarray) and safely(lambda: len(value), otherwise=0) > LONG:
            raise Unusable("what your function returns is far too long.")
        for name, was, now in zip(self.names, before, map(_frozen, arguments), strict=False):
            if name not in self.changed and not safely(lambda was=was, now=now: _alike(was, now), otherwise=True):
                self.changed.append(name)
        return value


def _frozen(value: object) -> object:
    """The numbers and texts in an argument, copied; of models and functions nothing."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _frozen(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(_frozen, value)) if type(value) in (list, tuple, set) else None
    return value if isinstance(value, str | int | float | None) else None


def _alike(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and bool(((one == other) | (one != one)).all())
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other


class Unusable(Exception):
    """An observer says with it what is wrong with what the answer returned."""


# ---------------------------------------------------------------------------------------------- who raised


def own(function: Callable) -> Callable:
    """The function that the learner wrote, inside of partials, decorators, methods and objects that can be called."""
    for _ in range(10):
        if isinstance(function, partial):
            function = function.func
        elif inner := safely(lambda f=function: f.__dict__.get("__wrapped__"), otherwise=None):
            function = inner
    if hasattr(function, "__func__"):
        return function.__func__
    return function if hasattr(function, "__code__") else type(function).__call__


def frames(error: BaseException) -> list[TracebackType]:
    """The steps of an error's traceback, the outermost first."""
    found, step = [], error.__traceback__
    while step is not None:
        found.append(step)
        step = step.tb_next
    return found


def inside(function: Callable, error: BaseException) -> list[TracebackType]:
    """Those steps of a traceback that are in the learner's own code: the function, or the file that it stands in."""
    code = getattr(own(function), "__code__", None)
    return [step for step in frames(error) if code and step.tb_frame.f_code.co_filename == code.co_filename]


def by_hand(error: BaseException) -> bool:
    """Whether a `raise` that is written down raised an error, and not one that stands in a library."""
    if not (steps := frames(error)):
        return False
    last = steps[-1]
    codes = {i.offset: i.opname for i in dis.get_instructions(last.tb_frame.f_code)}
    home = str(last.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    return codes.get(last.tb_lasti) == "RAISE_VARARGS" and home not in NOT_THEIRS


def is_stub(error: BaseException | None) -> bool:
    """Whether an error is the `raise NotImplementedError()` of a function that is not written yet."""
    return type(error) is NotImplementedError and not error.args and by_hand(error)


# ---------------------------------------------------------------------------------------------- what is everybody's


class Guard:
    """What stands in the libraries and in the checks before an answer runs; `put_back` undoes what it exchanged."""

    def __init__(self, *more: object):
        ours = [module for name, module in list(sys.modules.items()) if name.startswith("prefcourse.checks")]
        self.before = [(holder, dict(vars(holder))) for holder in (*LIBRARIES, *ours, *more)]

    def put_back(self) -> list[str]:
        """The names of what had been exchanged, such as "torch.Tensor.sum"."""
        found = []
        for holder, before in self.before:
            now = vars(holder)
            if now.keys() == before.keys() and all(now[name] is value for name, value in before.items()):
                continue
            for name, value in before.items():
                if now.get(name, holder) is not value and (callable(value) or not isinstance(holder, ModuleType)):
                    setattr(holder, name, value)
                    found.append(f"{getattr(holder, '__name__', type(holder).__name__)}.{name}")
            for name in now.keys() - before.keys() if isinstance(holder, type) else ():
                if any(name in vars(base) for base in holder.__mro__[1:]):  # it hides what the class had
                    delattr(holder, name)
                    found.append(f"{holder.__name__}.{name}")
        return found


LIBRARIES = (torch, torch.Tensor, torch.nn.functional, torch.autograd, np, math)
