"""What is wrong with an answer that no mutant knows: its form, a limit, a factor, a row, an argument without effect.

    named(tries, tol, probe)           # one sentence, or ""

The sentence says how the learner's numbers differ from the expected ones, over all cases; it never says what to write.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prefcourse.checks.forms import broken, form, listed, parts, shape
from prefcourse.checks.showing import safely
from prefcourse.checks.values import plain, stacked, wrong_places


@dataclass(frozen=True)
class Try:
    """One case, what the answer made of it (or the error), and what is expected. `promise`: the limit, if it is one."""

    case: Mapping[str, object]
    found: object
    expected: object
    error: BaseException | None = None
    promise: str = ""
    wrong: bool = False


def named(tries: Sequence[Try], tol: float, probe: Callable[[], str] = str) -> str:
    """What is wrong with an answer, in one sentence; "" if nothing can be said. The first try that is wrong decides.

    probe: what `probing` finds; it is asked after what can be seen at once, and before the vague.
    """
    first = next(t for t in tries if t.wrong)
    kind = form(first.found, first.expected) if first.error is None else ""
    if first.promise and all(not t.wrong for t in tries if not t.promise):
        return f"your answer agrees elsewhere. It fails where {first.promise}." + (f" There {kind}" if kind else "")
    if kind:
        return kind
    compared = [(t, parts(t.found, t.expected), parts(t.expected, t.expected)) for t in tries if t.error is None]
    compared = [(t, a, b) for t, a, b in compared if a is not None and b is not None and a.keys() == b.keys()]
    if not compared:
        return probe()
    if any(a[k].shape != b[k].shape for _, a, b in compared for k in b):
        return shape(first.found, first.expected, tol) or probe()
    faults = [k for _, a, b in compared for k in b if wrong_places(a[k], b[k], tol).any()]
    gates = broken(first.found, first.expected)
    if not faults or set(faults) <= set(gates):
        return f"this does not hold: {', '.join(gates)}." if gates else ""
    at_fault = [
        (t.case, a[faults[0]].astype(float), b[faults[0]].astype(float)) for t, a, b in compared if faults[0] in b
    ]
    said = _relation(at_fault, tol) or probe()
    if not said and (gates or first.promise):
        return f"this does not hold: {', '.join(gates)}." if gates else f"it fails first where {first.promise}."
    said = said or _places(at_fault, tol)
    if not faults[0]:
        return said
    right = [key for key in compared[0][2] if key not in faults]
    well = f"{listed(right)} {'is' if len(right) == 1 else 'are'} right. " if right else ""
    return f"{well}In {listed(faults[:1])}: {said}" if said else f"{well}Look at {listed(faults[:1])}." if well else ""


# ---------------------------------------------------------------------------------------------- how numbers are related

Compared = list[tuple[Mapping[str, object], np.ndarray, np.ndarray]]  # case, found, expected


def _relation(compared: Compared, tol: float) -> str:
    """How the learner's numbers follow from the expected ones, in every case."""

    def always(change: Callable[[np.ndarray], np.ndarray]) -> bool:
        with np.errstate(all="ignore"):
            return all(not wrong_places(a, change(b), 10 * tol, True).any() for _, a, b in compared)

    for what, change in CHANGES.items():
        if safely(lambda change=change: always(change), otherwise=False):
            return what
    return _factor(compared, tol) or _offset(compared, tol)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the sign is wrong.": lambda b: -b,
    "you return the absolute value: the sign is lost.": np.abs,
    "yours is 1 minus what is expected: the two outcomes are exchanged.": lambda b: 1 - b,
    "yours is one over what is expected: a fraction is upside down.": lambda b: 1 / b,
    "you return the logarithm of what is expected.": np.log,
    "you return minus the logarithm of what is expected.": lambda b: -np.log(b),
    "you return e to the power of what is expected: its logarithm is asked.": np.exp,
    "you return the square of what is expected: a root is missing.": np.square,
    "you return the root of what is expected.": np.sqrt,
    "the order is turned round along the last axis.": lambda b: b[..., ::-1],
    "the order is turned round along the first axis.": lambda b: b[::-1],
    "yours is one place too far along the last axis.": lambda b: np.roll(b, 1, -1),
    "yours is one place too early along the last axis.": lambda b: np.roll(b, -1, -1),
    "rows and columns are exchanged.": lambda b: b.T,
    "yours is cut off at 0: numbers below 0 are allowed.": lambda b: b.clip(min=0),
    "yours is cut off at 1: numbers above 1 are allowed.": lambda b: b.clip(max=1),
    "all your numbers are 0.": np.zeros_like,
    "all your numbers are 1.": np.ones_like,
    "each row of yours is divided by its sum.": lambda b: b / b.sum(-1, keepdims=True),
    "the mean is subtracted from yours.": lambda b: b - b.mean(-1, keepdims=True),
    "your numbers are rounded.": np.round,
    "you take the mean over all rows and give it to each.": lambda b: np.broadcast_to(b.mean(0), b.shape),
}


def _factor(compared: Compared, tol: float) -> str:
    """A factor that is the same for all numbers of a case, and what it is."""
    factors = []
    for case, a, b in compared:
        use = np.abs(b) > 1e-9
        if not use.any() and not wrong_places(a, b, tol).any():
            continue
        if not use.any() or wrong_places(a[~use], b[~use], tol).any():
            return ""
        ratios = a[use] / b[use]
        if not np.isfinite(ratios).all() or np.ptp(ratios) > 100 * tol * (1 + abs(ratios.flat[0])):
            return ""
        factors.append((case, float(ratios.flat[0])))
    if len(factors) < 2 or sum(np.size(b) for _, _, b in compared) < 3:
        return ""
    known = {
        name: [sizes[name] for case, _ in factors if name in (sizes := _sizes(case))] for name in _sizes(compared[0][0])
    }
    values = np.array([factor for _, factor in factors])
    if np.ptp(values) <= 100 * tol * (1 + abs(values[0])):
        what = f"{values[0]:.4g} times" if abs(values[0]) >= 1 else f"{1 / values[0]:.4g} times smaller than"
        return f"your numbers are {what} what is expected, in every case: a constant factor is wrong."
    for name, sizes in known.items():
        if len(sizes) == len(values):
            size = np.array(sizes, dtype=float)
            for power, words in POWERS.items():
                with np.errstate(all="ignore"):
                    if np.allclose(values, size**power, rtol=1e-3) or np.allclose(values, -(size**power), rtol=1e-3):
                        turned = ", and the sign is wrong" if values[0] < 0 else ""
                        return f"your numbers are what is expected {words.format(name)}{turned}."
    if all(np.size(b) > 1 for _, _, b in compared):
        return "all numbers of a case are off by one factor, which differs between cases: what is each divided by?"
    return ""


POWERS = {1: "times {}", -1: "divided by {}", 2: "times the square of {}", -2: "divided by the square of {}",
          0.5: "times the root of {}", -0.5: "divided by the root of {}"}  # fmt: skip


def _sizes(case: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a case by which an answer may be multiplied or divided: its scalars, lengths and sums of masks."""
    found: dict[str, float] = {}
    for name, value in case.items():
        array = safely(lambda value=value: stacked(plain(value)), otherwise=None)
        if array is None:
            continue
        if array.ndim == 0:
            found |= {f"`{name}`": float(array), f"1 - `{name}`": 1 - float(array), f"1 + `{name}`": 1 + float(array)}
        else:
            for axis, length in enumerate(array.shape):
                found |= {f"{length_name}": size for length_name, size in (
                    (f"the length of `{name}` (axis {axis})", length),
                    (f"the length of `{name}` (axis {axis}) minus 1", length - 1))}  # fmt: skip
            found[f"the number of entries of `{name}`"] = array.size
            found[f"the sum of `{name}`"] = float(array.sum())
    return found


def _offset(compared: Compared, tol: float) -> str:
    """A number that is added everywhere."""
    gaps = [a - b for _, a, b in compared]
    if any(not np.isfinite(gap).all() or np.ptp(gap) > 100 * tol for gap in gaps) or sum(g.size for g in gaps) < 3:
        return ""
    first = [float(gap.flat[0]) for gap in gaps]
    if np.ptp(first) <= 100 * tol:
        return f"your numbers are {abs(first[0]):.4g} too {'large' if first[0] > 0 else 'small'}, in every case."
    if all(gap.size > 1 for gap in gaps):
        return (
            "all numbers of a case are off by the same amount: a term is missing, or is one too many, for all of them."
        )
    return ""


def _places(compared: Compared, tol: float) -> str:
    """Which numbers are wrong, if some are right."""
    wrong = [wrong_places(a, b, tol) for _, a, b in compared]
    first = next(i for i, w in enumerate(wrong) if w.any())
    good = [i + 1 for i, w in enumerate(wrong) if not w.any()]
    if wrong[first].size > 1 and not wrong[first].all() and wrong[first].ndim:
        rows = wrong[first].reshape(len(wrong[first]), -1).any(-1).nonzero()[0].tolist()
        if all(w.shape and w[-1].all() and not w[:-1].any() for w in wrong if w.any()):
            return "only the last one is wrong: what is different at the end?"
        if all(w.shape and w[0].all() and not w[1:].any() for w in wrong if w.any()):
            return "only the first one is wrong: what is different at the beginning?"
        if len(rows) < len(wrong[first]):
            return f"rows {_some(rows)} are wrong, and the others are right: what is different there?"
        columns = wrong[first].reshape(-1, wrong[first].shape[-1]).any(0).nonzero()[0].tolist()
        if len(columns) < wrong[first].shape[-1]:
            return f"columns {_some(columns)} are wrong, and the others are right: what is different there?"
    if good:
        agree = f"case {good[0]} agrees" if len(good) == 1 else f"cases {_some(good)} agree"
        return f"{agree}, case {first + 1} does not: compare their inputs."
    larger, smaller = (all((np.sign(side) * (a - b) >= 0).all() for _, a, b in compared) for side in (1, -1))
    if (larger or smaller) and sum(np.size(b) for _, _, b in compared) > 3:
        return f"your numbers are too {'large' if larger else 'small'}, wherever they are wrong."
    return ""


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
