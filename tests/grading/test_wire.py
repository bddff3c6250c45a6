"""Values go to a student's process and back as they were, and what is no value is refused there."""

import math
import socket
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefcourse.grading import wire

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def there_and_back(value):
    left, right = socket.socketpair()
    with left, right:
        wire.send(left, {"value": wire.encode(value)})
        return wire.decode(wire.receive(right, 5.0)["value"])


@given(PLAIN)
def test_plain_values_come_back_equal_and_of_their_type(value):
    back = there_and_back(value)
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("dtype", wire.DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_tensors_come_back_bit_for_bit(dtype, shape):
    value = (torch.arange(math.prod(shape)).reshape(shape) % 2).to(dtype)
    back = there_and_back(value)
    assert back.dtype == dtype and torch.equal(back, value)


def test_arrays_numbers_and_odd_strides():
    array = np.arange(6.0).reshape(2, 3)[:, ::-1]
    back = there_and_back([array, np.float32(0.1), np.int64(3), np.array(["a", "b"]), array.T > 2])
    assert np.array_equal(back[0], array) and back[1:3] == [np.float32(0.1), 3] and back[1].dtype == np.float32
    assert back[3].tolist() == ["a", "b"] and back[4].dtype == bool
    assert math.isnan(there_and_back(math.nan)) and there_and_back(-math.inf) == -math.inf
    assert there_and_back((Fraction(1, 3), Decimal("0.1"))) == (Fraction(1, 3), Decimal("0.1"))
    assert torch.equal(there_and_back(torch.tensor([1 + 2j]).conj()), torch.tensor([1 - 2j]))
    assert torch.equal(there_and_back(torch.eye(2).to_sparse()), torch.eye(2))


@pytest.mark.parametrize(
    "value",
    [(n for n in "ab"), object(), torch.nn.Linear(1, 1), len, int, 10**20_000],
    ids=["generator", "object", "model", "function", "type", "huge number"],
)
def test_what_cannot_be_sent_arrives_by_name_and_equals_nothing(value):
    back = there_and_back(value)
    assert isinstance(back, wire.Opaque) and back != value and repr(back)


def test_what_is_too_much_is_refused_before_it_is_built():
    itself = []
    itself += [itself, itself]
    for value in (itself, torch.zeros(1).expand(10**12), "x" * 20_000_000, [0] * 600_000):
        with pytest.raises(wire.TooMuch):
            wire.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        {"T": ["float64", [10**9, 10**9], ""]}, {"T": ["float64", [-1], ""]}, {"T": ["float64", [1], "AAAA"]},
        {"T": ["object", [1], "AAAA"]}, {"N": ["O", [1], "AAAAAAAAAAA="]}, {"N": ["<f8", [2], "AAAAAAAAAAA="]},
        {"T": ["float64", [1.5], "AAAAAAAAAAA="]}, {"f": "much"}, {"q": ["eval", "1"]}, {"l": 3}, {"d": [[1]]},
        {"d": [[{"l": []}, 1]]}, {"s": [{"l": []}]}, {"no such": 1}, {}, {"l": [], "t": []}, {"c": [1, 2]}, [1],
        {"U": [[2], ["a"], "N"]},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_student_forges_is_refused_in_one_way(data):
    with pytest.raises(wire.Refused):
        wire.decode(data)


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\0\0\0\2hi", b"\0\0\0\1[", b"\0\0\0\4null", b"\0\0\0\2[]"])
def test_a_message_that_is_none_is_refused(raw):
    left, right = socket.socketpair()
    with left, right:
        left.sendall(raw)
        left.shutdown(socket.SHUT_WR)
        with pytest.raises((wire.Refused, EOFError)):
            wire.receive(right, 5.0)


def test_waiting_ends():
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"\0\0")
        with pytest.raises(TimeoutError):
            wire.receive(right, 0.05)
