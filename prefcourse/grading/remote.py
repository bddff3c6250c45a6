"""A student's function at the check: it looks like the function, and works in another process.

    with Nursery(stripped, secret, imports) as nursery:
        with Remote(nursery, cells, "my_dpo_loss", Limits(seconds=30)) as answer:
            result = checks.ex06.dpo_loss.judge(answer, seed)

A gradient goes through it: what the function returns hangs on the arguments that ask for one. Arguments that the
function changes are changed here too. A function among the arguments runs here, on the check's side; models go there
with their weights and come back with new ones. Only `checks` knows what is right, and it stays in this process.
"""

import os
import signal
import tempfile
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import torch

from prefcourse.grading import wire
from prefcourse.grading.child import rebuilt
from prefcourse.grading.nursery import Limits, Nursery


class Stopped(RuntimeError):
    """The student's process has been ended, or has ended itself."""


class Elsewhere(BaseException):
    """The student's function was called by an observer that has to be where the function is."""


class Remote:
    """The function `name` that `cells` define, in a process of its own. Called like the function."""

    def __init__(self, nursery: Nursery, cells: list[str], name: str, limits: Limits):
        self.__name__, self._left, self.over = name, limits.seconds, ""
        self.stub, self.first, self.lines = False, True, {}  # stub: it is as it was given out. lines: error → line
        self.only_watched = False  # a call raises Elsewhere
        self._functions: list = []
        self._numbers: dict[int, tuple[int, object]] = {}  # id → number, and the object, which must not go away
        self._folder = tempfile.TemporaryDirectory(prefix="prefcourse-", ignore_cleanup_errors=True)
        self._connection, self._pid = nursery.born(Path(self._folder.name), limits)
        try:
            self.held = self._receive()["held"]
            self.loaded = self._exchange({"do": "load", "cells": cells, "name": name})
        except Stopped:
            self.held, self.loaded = [], {"is": "missing", "stopped": None}

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_) -> None:
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        self._connection.close()
        for kill in (os.killpg, os.kill):
            try:
                kill(self._pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue

    # ------------------------------------------------------------------------------------------ messages

    def _receive(self) -> dict:
        """The next message, or Stopped with `over` saying why."""
        if self.over:
            raise Stopped(self.over)
        start = time.monotonic()
        try:
            return wire.receive(self._connection, max(self._left, 0.01))
        except TimeoutError:
            self.over = "it did not end in time"
        except (EOFError, ConnectionError):
            self.over = "its process ended: too much memory or time, or it ended itself"
        except wire.Refused as error:
            self.over = f"its process wrote what no answer looks like: {error}"
        finally:
            self._left -= time.monotonic() - start
        self._end()
        raise Stopped(self.over)

    def _exchange(self, message: dict) -> dict:
        """Send, answer what the other side asks meanwhile, and return its reply."""
        if self.over:
            raise Stopped(self.over)
        try:
            self._connection.settimeout(max(self._left, 0.01))
            wire.send(self._connection, message)
            while (reply := self._receive()).get("is") == "ask":
                wire.send(self._connection, self._asked(reply))
            return reply
        except (TimeoutError, ConnectionError) as error:  # it does not read, or is no more
            self.over = self.over or "its process does not listen any more"
            self._end()
            raise Stopped(self.over) from error
        except (wire.Refused, wire.TooMuch, KeyError, TypeError, AttributeError, IndexError) as error:
            self.over = f"its process wrote what no answer looks like: {error}"
            self._end()
            raise Stopped(self.over) from error

    def _asked(self, message: dict) -> dict:
        """What a function of the check's, which is an argument, returns."""
        function = self._functions[message["function"]]
        try:
            return {"is": "value", "value": wire.encode(function(*map(wire.decode, message["arguments"])))}
        except Exception as error:  # of the student's making: it asked for a row that there is not
            return {"is": "error", "kind": type(error).__name__, "name": type(error).__name__,
                    "arguments": wire.encode([str(error)]), "text": str(error)}  # fmt: skip

    def _value(self, reply: dict) -> object:
        """The value of a reply. Raises the error that it tells of."""
        if reply.get("is") == "value":
            return reply["value"]
        error = rebuilt(reply)
        self.stub = self.stub or (self.first and bool(reply.get("stub")))
        if isinstance(reply.get("line"), int):
            self.lines[f"{type(error).__name__}: {error}"] = reply["line"]
        raise error

    # ------------------------------------------------------------------------------------------ calls

    def __call__(self, *arguments, **settings) -> object:
        """What the function returns for these arguments. Raises what it raises, and Stopped."""
        if self.only_watched:
            raise Elsewhere
        leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
        reply = self._exchange({
            "do": "call", "arguments": [self._encoder()(a) for a in arguments], "grad": torch.is_grad_enabled(),
            "settings": {k: self._encoder()(v) for k, v in settings.items()},
            "random": wire.encode(torch.get_rng_state()),
        })  # fmt: skip
        data = self._value(reply)
        self.first = False
        try:
            self._take_over(arguments, reply)
            return self._hung(data, leaves, int(reply["graph"]))
        except Exception as error:  # whatever comes of numbers, names and shapes that are not those that were sent
            self.over = f"its process wrote what no answer looks like: {error}"
            raise Stopped(self.over) from error

    def observed(self, observer, arguments: tuple) -> object:
        """What `observer`, a function that the notebook has too, sees there of the student's function."""
        reply = self._exchange({
            "do": "observe", "module": observer.__module__, "observer": observer.__name__,
            "arguments": [wire.encode(a) for a in arguments], "grad": torch.is_grad_enabled(),
            "random": wire.encode(torch.get_rng_state()),
        })  # fmt: skip
        return wire.decode(self._value(reply))

    def _hung(self, data: object, leaves: list[torch.Tensor], graph: int) -> object:
        """The value, its tensors hung on the leaves: a gradient through them is asked for there."""
        hanging: list[torch.Tensor] = []

        def collect(part: dict) -> tuple | None:
            if "g" in part:
                hanging.append(wire.decode({k: v for k, v in part.items() if k != "g"}))
                return (("hung", len(hanging) - 1),)
            return None

        if not leaves or not torch.is_grad_enabled():
            return wire.decode(data)
        wire.decode(data, collect)
        if not hanging:
            return wire.decode(data)
        made = iter(_Gradient.apply(self, graph, hanging, *leaves))
        return wire.decode(data, lambda part: (next(made),) if "g" in part else None)

    def backward(self, graph: int, gradients: tuple) -> list:
        """The gradients of the leaves of an earlier call."""
        data = self._value(
            self._exchange({"do": "backward", "graph": graph, "gradients": list(map(wire.encode, gradients))})
        )
        return wire.decode(data)

    def _take_over(self, arguments: tuple, reply: dict) -> None:
        """Do to our arguments and models what the function has done to its copies."""
        random = wire.decode(reply["random"])
        if random.shape == torch.get_rng_state().shape and random.dtype == torch.uint8:
            torch.set_rng_state(random)
        for mine, change in zip(arguments, reply["changed"], strict=True):
            if change is not None:
                _overwrite(mine, wire.decode(change["now"]))
        for number, state in reply["states"].items():
            (model,) = (thing for n, thing in self._numbers.values() if n == int(number))
            model.load_state_dict(wire.decode(state))

    def _encoder(self) -> wire.Encoder:
        return wire.Encoder(self._special)

    def _special(self, value: object) -> dict | None:
        """What is no plain value: a leaf of a gradient, a model, an optimiser, a data class, a function."""
        if isinstance(value, torch.Tensor):
            return wire.encode(value) | {"g": 0} if value.requires_grad and value.is_leaf else None
        if id(value) in self._numbers:
            return {"again": self._numbers[id(value)][0]}
        if isinstance(value, torch.nn.Module):
            config = getattr(value, "config", None)
            return {"model": {
                "number": self._number(value), "module": type(value).__module__, "class": type(value).__name__,
                "config": config.to_dict() if config is not None else None, "training": value.training,
                "state": wire.encode(dict(value.state_dict())),
            }}  # fmt: skip
        if isinstance(value, torch.optim.Optimizer):
            (group,) = value.param_groups
            model = next(m for _, m in self._numbers.values() if isinstance(m, torch.nn.Module)
                         and group["params"][0] in set(m.parameters()))  # fmt: skip
            names = {id(p): name for name, p in model.named_parameters()}
            return {"optimizer": {
                "model": self._numbers[id(model)][0], "class": type(value).__name__, "number": self._number(value),
                "names": [names[id(p)] for p in group["params"]], "settings": wire.encode(value.defaults),
            }}  # fmt: skip
        if is_dataclass(value) and not isinstance(value, type) and not callable(value):
            parts = {f.name: self._encoder()(getattr(value, f.name)) for f in fields(value)}
            return {"object": {"module": type(value).__module__, "class": type(value).__name__, "fields": parts}}
        if callable(value):
            self._functions.append(value)
            return {"function": len(self._functions) - 1}
        return None

    def _number(self, value: object) -> int:
        self._numbers[id(value)] = (len(self._numbers), value)
        return self._numbers[id(value)][0]


class _Gradient(torch.autograd.Function):
    """Hangs tensors that came from the student's process on the leaves that were sent there."""

    @staticmethod
    def forward(ctx, remote: Remote, graph: int, tensors: list[torch.Tensor], *leaves: torch.Tensor) -> tuple:
        ctx.remote, ctx.graph = remote, graph
        return tuple(tensors)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor | None) -> tuple:
        return None, None, None, *ctx.remote.backward(ctx.graph, gradients)


def _overwrite(mine: object, now: object) -> None:
    """Make a changeable value the other one, in place, as the student's function did with its copy."""
    if isinstance(mine, torch.Tensor):
        with torch.no_grad():
            mine.data = now.to(mine.dtype) if now.shape != mine.shape else mine.data.copy_(now)
    elif isinstance(mine, np.ndarray):
        mine[...] = now
    elif isinstance(mine, list):
        mine[:] = now
    else:
        mine.clear()
        mine.update(now)
