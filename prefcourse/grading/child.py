"""The process in which students' functions run. It knows no answers: it lies in the copy that `stripped` makes.

A nursery is started once, imports the slow libraries, and makes a process for each function by forking, in
milliseconds. That process is confined, runs the cells that the function needs, and then answers calls:

    {"do": "load", "cells": [...], "name": "my_dpo_loss"}   → {"is": "ready", "callable": true}
    {"do": "call", "arguments": [...]}                      → {"is": "value", ...} or {"is": "error", ...}

Arguments that are functions stay with the check: a call of one is sent there and answered while the student's waits.
"""

import os
import signal
import socket as sockets
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

import torch

from prefcourse.grading import confine, wire

OPTIMIZERS = ("SGD", "Adam", "AdamW")


def nursery(descriptor: int) -> None:
    """Make a process for each request until the other end closes: {"folder", "memory", "seconds", "readable"}."""
    control = sockets.socket(fileno=descriptor)
    control.settimeout(None)
    confine.private()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for them
    names = wire.receive(control, None)["import"]
    for name in names:
        try:
            import_module(name)
        except ImportError:
            continue  # the cells will say so
    wire.send(control, {"is": "ready"})
    while True:
        try:
            message, descriptors, _, _ = sockets.recv_fds(control, 1, 1)
            if not message:
                return
            request = wire.receive(control, None)
        except (OSError, EOFError):
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _born(sockets.socket(fileno=descriptors[0]), request)
        os.close(descriptors[0])
        wire.send(control, {"pid": pid})


def _born(connection: sockets.socket, request: dict) -> None:
    """The life of one process. It does not return."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)  # what is printed is of no use here, 10 MB of it neither
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        keep = connection.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, 4096)
        connection.settimeout(None)
        os.environ["TMPDIR"] = tempfile.tempdir = request["folder"]
        held = confine.confine(Path(request["folder"]), request["memory"], request["seconds"], request["readable"])
        wire.send(connection, {"is": "born", "held": held})
        Serving(connection).forever()
    finally:
        os._exit(0)


class Serving:
    """One student's function, called from outside."""

    def __init__(self, connection: sockets.socket):
        self.connection, self.scope, self.files = connection, {"__name__": "__main__"}, set()
        self.function: object = None
        self.known: dict[int, object] = {}  # models and optimisers, by the number that the check gave them
        self.graphs: list[tuple[list, list]] = []  # (inputs, outputs) of calls through which a gradient may go

    def forever(self) -> None:
        """Answer until the other end closes."""
        while True:
            try:
                message = wire.receive(self.connection, None)
            except (EOFError, OSError):
                return
            try:
                answer = getattr(self, f"_{message['do']}")(message)
            except BaseException as error:  # a student's code may raise anything
                answer = self._error(error)
            try:
                wire.send(self.connection, answer)
            except wire.TooMuch as error:
                wire.send(self.connection, self._error(error))

    # ------------------------------------------------------------------------------------------ cells

    def _load(self, message: dict) -> dict:
        """Run the cells. A cell that fails ends there, as in a notebook, and what it has defined stays."""
        from IPython.core.inputtransformer2 import TransformerManager

        stopped = None
        self.scope |= {"get_ipython": _no_ipython, "display": lambda *a, **k: None}
        for number, source in enumerate(message["cells"]):
            name = f"<cell {number}>"
            self.files.add(name)
            try:
                code = TransformerManager().transform_cell(source)
                exec(compile(code, name, "exec"), self.scope)
            except BaseException as error:
                stopped = self._error(error)
        if message["name"] not in self.scope:
            return {"is": "missing", "stopped": stopped}
        self.function = self.scope[message["name"]]
        return {"is": "ready", "callable": callable(self.function), "kind": type(self.function).__name__}

    def _error(self, error: BaseException) -> dict:
        """An error as plain data: the name of the built-in kind it is, its arguments, and where it arose."""
        kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins")
        plain = [a if isinstance(a, str | int | float | bool | None) else str(a) for a in error.args]
        plain = [a[:2000] if isinstance(a, str) else a for a in plain[:4]]
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if frame.filename in self.files]
        first = getattr(getattr(self.function, "__code__", None), "co_firstlineno", 1)
        return {
            "is": "error", "kind": kind, "name": type(error).__name__, "arguments": wire.encode(plain),
            "text": str(error)[:2000], "line": mine[-1].lineno - first + 1 if mine else None,
            "stub": isinstance(error, NotImplementedError) and not error.args and bool(frames)
            and frames[-1].filename in self.files,
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------ calls

    def _call(self, message: dict) -> dict:
        """Call the function with what was sent."""
        arguments = [wire.decode(data, self._theirs) for data in message["arguments"]]
        settings = {key: wire.decode(data, self._theirs) for key, data in message["settings"].items()}
        leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
        before = [wire.encode(a) if _plain(a) else None for a in arguments]
        torch.set_rng_state(wire.decode(message["random"]))
        with torch.set_grad_enabled(message["grad"]):
            found = self.function(*arguments, **settings)
        outputs: list[torch.Tensor] = []

        def special(value: object) -> dict | None:
            if isinstance(value, torch.Tensor) and value.requires_grad and leaves:
                outputs.append(value)
                return wire.encode(value) | {"g": len(outputs) - 1}
            return None

        answer = {"is": "value", "value": wire.Encoder(special)(found), "random": wire.encode(torch.get_rng_state())}
        after = [wire.encode(a) if was is not None else None for a, was in zip(arguments, before, strict=True)]
        changed = [None if now == was else {"now": now} for now, was in zip(after, before, strict=True)]
        self.graphs.append((leaves, outputs))
        models = {n: m for n, m in self.known.items() if isinstance(m, torch.nn.Module)}
        states = {str(n): wire.encode(dict(m.state_dict())) for n, m in models.items()}
        return answer | {"graph": len(self.graphs) - 1, "changed": changed, "states": states}

    def _backward(self, message: dict) -> dict:
        """The gradients of an earlier call's leaves, given those of its outputs."""
        leaves, outputs = self.graphs[message["graph"]]
        given = [wire.decode(data) for data in message["gradients"]]
        pairs = [(out, g) for out, g in zip(outputs, given, strict=True) if g is not None]
        found = torch.autograd.grad(
            [out for out, _ in pairs], leaves, [g for _, g in pairs], retain_graph=True, allow_unused=True
        )
        return {"is": "value", "value": wire.encode(list(found))}

    def _observe(self, message: dict) -> dict:
        """Let an observer that the notebook itself has, such as `run_bill`, watch the function."""
        observer = getattr(import_module(message["module"]), message["observer"])
        arguments = [wire.decode(data, self._theirs) for data in message["arguments"]]
        torch.set_rng_state(wire.decode(message["random"]))
        with torch.set_grad_enabled(message["grad"]):
            return {"is": "value", "value": wire.encode(observer(self.function, *arguments)), "observed": True}

    def _theirs(self, data: dict) -> tuple | None:
        """What the check sends beside plain values: leaves of a gradient, functions, models, optimisers, batches."""
        if "g" in data:
            return (wire.decode({k: v for k, v in data.items() if k != "g"}).requires_grad_(),)
        ((kind, value),) = data.items()
        if kind == "function":
            return (lambda *arguments: self._ask(value, arguments),)
        if kind == "again":
            return (self.known[value],)
        if kind == "object":
            fields = {name: wire.decode(part, self._theirs) for name, part in value["fields"].items()}
            return (getattr(import_module(value["module"]), value["class"])(**fields),)
        if kind == "model":
            self.known[value["number"]] = _model(value)
            return (self.known[value["number"]],)
        if kind == "optimizer":
            of = dict(self.known[value["model"]].named_parameters())
            make = getattr(torch.optim, value["class"])
            self.known[value["number"]] = make([of[name] for name in value["names"]], **wire.decode(value["settings"]))
            return (self.known[value["number"]],)
        return None

    def _ask(self, number: int, arguments: tuple) -> object:
        """Call a function of the check's, which runs there."""
        wire.send(self.connection, {"is": "ask", "function": number, "arguments": [wire.encode(a) for a in arguments]})
        reply = wire.receive(self.connection, None)
        if reply["is"] == "error":
            raise rebuilt(reply)
        return wire.decode(reply["value"])


def rebuilt(message: dict) -> BaseException:
    """The error of a message, as one of the built-in kinds."""
    import builtins

    kind = getattr(builtins, str(message.get("kind")), RuntimeError)
    if not (isinstance(kind, type) and issubclass(kind, Exception | SystemExit)):
        return RuntimeError(f"{message.get('name')}: {message.get('text')}")
    try:
        return kind(*wire.decode(message["arguments"]))
    except (TypeError, wire.Refused, KeyError):  # some kinds want more
        return RuntimeError(f"{message.get('name')}: {message.get('text')}")


def _plain(value: object) -> bool:
    return isinstance(value, list | dict | set | torch.Tensor) or type(value).__module__ == "numpy"


def _model(value: dict) -> torch.nn.Module:
    """A model from its class, configuration and weights."""
    state = wire.decode(value["state"])
    kind = getattr(import_module(value["module"]), value["class"])
    if value["config"] is not None:
        model = kind(kind.config_class.from_dict(value["config"]))
        model.load_state_dict(state)
    else:  # one of the course's own, with parameters and nothing else
        model = kind.__new__(kind)
        torch.nn.Module.__init__(model)
        for name, tensor in state.items():
            model.register_parameter(name, torch.nn.Parameter(tensor))
    return model.train(value["training"])


def _no_ipython():
    """Stands for IPython's shell in cells with magics, which do nothing here."""

    class Nothing:
        def __getattr__(self, name):
            return lambda *arguments, **settings: None

    return Nothing()


if __name__ == "__main__":
    nursery(int(sys.argv[1]))
