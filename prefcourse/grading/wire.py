"""Arguments and answers as plain data between the check and a student's process: JSON, never a pickle.

    send(socket, {"value": encode(torch.ones(2))})
    decode(receive(socket, wait=5.0)["value"])

Numbers, text, containers, arrays and tensors keep their kind. Anything else goes through the caller's `special`, or
arrives as an `Opaque` that can only be named. What a student's process writes is checked before it is used.
"""

import base64
import json
import math
import socket as sockets
import struct
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch

MOST_BYTES = 64_000_000  # of a message
MOST_PARTS = 500_000  # values in it, counted with all that containers hold
DEEPEST = 40  # containers in containers
DTYPES = {str(d).removeprefix("torch."): d for d in (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128,
)}  # fmt: skip


class TooMuch(ValueError):
    """A value that is too large, or too deep, to be sent."""


class Refused(ValueError):
    """A message that is not what this module writes."""


class Opaque:
    """Stands for a value that cannot be sent, such as a generator or a model: it equals nothing and has a name."""

    def __init__(self, name: str):
        self._name = name

    def __repr__(self) -> str:
        return self._name


# ---------------------------------------------------------------------------------------------- there


class Encoder:
    """`special` is asked first; it returns plain data, or None for a value that is not its own."""

    def __init__(self, special: Callable[[object], dict | None] = lambda value: None):
        self.special, self.parts, self.bytes = special, 0, 0

    def __call__(self, value: object, depth: int = 0) -> object:
        """`value` as plain data. Raises TooMuch."""
        self.parts += 1
        if self.parts > MOST_PARTS or depth > DEEPEST:
            raise TooMuch("the value is too large or too deep: a container may hold itself")
        if (found := self.special(value)) is not None:
            return found
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if value is None or isinstance(value, bool | str):
            self._count(4 * len(value) if isinstance(value, str) else 0)
            return str(value) if isinstance(value, str) else value
        if isinstance(value, int):
            self._count(value.bit_length())  # of which JSON needs a third, in digits
            return int(value) if value.bit_length() < 10_000 else {"o": "int"}
        if isinstance(value, float):
            return {"f": value.hex()}
        if isinstance(value, complex):
            return {"c": [value.real.hex(), value.imag.hex()]}
        if isinstance(value, Fraction | Decimal):
            return {"q": [type(value).__name__, str(value)]}
        return self._container(value, depth + 1)

    def _container(self, value: object, depth: int) -> dict:
        for kind, names in (("l", list), ("t", tuple), ("s", set), ("z", frozenset)):
            if isinstance(value, names):
                return {kind: [self(part, depth) for part in list(value)]}
        if isinstance(value, dict):
            return {"d": [[self(key, depth), self(part, depth)] for key, part in list(value.items())]}
        return {"o": getattr(value, "__name__", None) if isinstance(value, type) else type(value).__name__}

    def _count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > MOST_BYTES // 2:  # base64 makes four of three
            raise TooMuch(f"the value is larger than {MOST_BYTES // 2_000_000} MB")

    def _tensor(self, value: torch.Tensor) -> dict:
        name = str(value.dtype).removeprefix("torch.")
        if name not in DTYPES or value.device.type == "meta":
            return {"o": f"tensor of {name} on {value.device.type}"}
        self._count(value.numel() * value.element_size())
        flat = value.detach().cpu().to_dense().resolve_conj().resolve_neg().reshape(-1).contiguous()
        raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        return {"T": [name, list(value.shape), base64.b64encode(raw).decode()]}

    def _array(self, value: np.ndarray | np.generic) -> dict:
        kind = "N" if isinstance(value, np.ndarray) else "n"
        if value.dtype.kind in "USO":
            return {"U": [list(value.shape), [self(part, 1) for part in np.asarray(value).ravel().tolist()], kind]}
        if value.dtype.kind not in "biufc" or value.dtype.itemsize > 16:
            return {"o": f"array of {value.dtype}"}
        if value.dtype in (np.longdouble, np.clongdouble):
            value = np.asarray(value).astype(float if value.dtype == np.longdouble else complex)
        self._count(value.nbytes)
        return {kind: [value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]}


def encode(value: object) -> object:
    """`value` as plain data. Raises TooMuch."""
    return Encoder()(value)


# ---------------------------------------------------------------------------------------------- and back


def decode(data: object, special: Callable[[dict], tuple | None] = lambda data: None) -> object:
    """The value of plain data; `special` returns a tuple of one value for data that is its own. Raises Refused."""
    if data is None or isinstance(data, bool | int | str | float):
        return data
    try:
        if (found := special(data)) is not None:
            return found[0]
        return _decoded(data, lambda part: decode(part, special))
    except Refused:
        raise
    except (ValueError, TypeError, KeyError, ArithmeticError, RuntimeError, RecursionError, AttributeError) as error:
        raise Refused(f"a message that nobody reads: {error}") from error


def _decoded(data: dict, inner: Callable) -> object:
    ((kind, value),) = ((k, v) for k, v in data.items() if k != "g")
    if kind == "f":
        return float.fromhex(value)
    if kind == "c":
        return complex(*map(float.fromhex, value))
    if kind == "q":
        return {"Fraction": Fraction, "Decimal": Decimal}[value[0]](value[1])
    if kind in ("l", "t", "s", "z"):
        return {"l": list, "t": tuple, "s": set, "z": frozenset}[kind](inner(part) for part in value)
    if kind == "d":
        return {inner(key): inner(part) for key, part in value}
    if kind == "T":
        name, shape, raw = value
        dtype, raw = DTYPES[name], bytearray(base64.b64decode(raw, validate=True))
        _require(shape, len(raw), dtype.itemsize)
        if dtype == torch.bool:
            raw, dtype = bytearray(b != 0 for b in raw), torch.bool
        return (torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)).reshape(shape)
    if kind in ("N", "n"):
        dtype, raw = np.dtype(value[0]), base64.b64decode(value[2], validate=True)
        if dtype.kind not in "biufc":
            raise Refused("an array of what are no numbers")
        _require(value[1], len(raw), dtype.itemsize)
        array = np.frombuffer(raw, dtype=dtype).reshape(value[1]).copy()
        return array if kind == "N" else array[()]
    if kind == "U":
        array = np.array([inner(part) for part in value[1]]).reshape(value[0])
        return array if value[2] == "N" else array[()]
    if kind == "o":
        return Opaque(str(value)[:80])
    raise Refused(f"no value is of the kind {kind!r}")


def _require(shape: list[int], size: int, each: int) -> None:
    if len(shape) > 32 or any(type(n) is not int or not 0 <= n <= MOST_BYTES for n in shape):
        raise Refused("a shape that no array has")
    if math.prod(shape) * each != size:
        raise Refused("fewer numbers than the shape says, or more")


# ---------------------------------------------------------------------------------------------- messages


def send(connection: sockets.socket, message: dict) -> None:
    """Write one message. Raises OSError if nobody reads, TooMuch if it is too long."""
    raw = json.dumps(message, ensure_ascii=True).encode()
    if len(raw) > MOST_BYTES:
        raise TooMuch(f"the message is larger than {MOST_BYTES // 1_000_000} MB")
    connection.sendall(struct.pack("!I", len(raw)) + raw)


def receive(connection: sockets.socket, wait: float | None) -> dict:
    """Read one message. Raises TimeoutError after `wait` seconds, EOFError at the end, Refused for what is none."""
    end = None if wait is None else time.monotonic() + wait
    (size,) = struct.unpack("!I", _exactly(connection, 4, end))
    if size > MOST_BYTES:
        raise Refused("a message that is too long")
    try:
        message = json.loads(_exactly(connection, size, end))
    except (ValueError, RecursionError) as error:
        raise Refused("a message that is not JSON") from error
    if not isinstance(message, dict):
        raise Refused("a message that is no table")
    return message


def _exactly(connection: sockets.socket, size: int, end: float | None) -> bytes:
    raw = bytearray()
    while len(raw) < size:
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left)
        if not (piece := connection.recv(min(size - len(raw), 1 << 20))):
            raise EOFError("the process has ended")
        raw += piece
    return bytes(raw)
