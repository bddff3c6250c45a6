"""What a learner reads when their function stops, or returns what cannot be used."""

import linecache
from collections.abc import Callable, Mapping

from prefcourse.checks import calls
from prefcourse.checks.showing import said, shown

KNOWN = {  # words of an error → what to look at
    "must be Tensor, not": "a function of torch takes a tensor, and got a number or an array: use math or numpy, or "
    "torch.tensor.",
    "truth value": "an `if` or `and` asks a whole array: compare single numbers, or use any() or all().",
    "Boolean value of Tensor": "an `if` or `and` asks a whole tensor: compare single numbers, or use any() or all().",
    "that requires grad": "a tensor with a gradient does not go to numpy: stay with torch, so that the gradient lives.",
    "does not require grad": "what you differentiate has lost its gradient: a detach, an item() or a copy on its way.",
    "math domain error": "a logarithm or a root of a number that has none: print its argument.",
    "ZeroDivisionError": "you divide by zero: which argument is 0 in this case?",
    "OverflowError": "an exp is too large for a float: stay in logarithms.",
    "KeyError": "a key is not there: print the keys of the dict that the line looks into.",
    "IndexError": "an index is out of range: print it, and the shape of what it goes into.",
    "must match the size": "two shapes do not fit each other: print both, and say which axis is which.",
    "could not be broadcast": "two shapes do not fit each other: print both, and say which axis is which.",
    "cannot be multiplied": "two shapes do not fit each other: print both, and say which axis is which.",
    "same number of dimensions": "gather wants an index with as many axes as the tensor: [..., None] adds one.",
    "not implemented for 'Long'": "this function of torch wants fractions, and got whole numbers: .double() first.",
}


def inputs(case: Mapping[str, object]) -> list[str]:
    """The arguments of a case, a line each."""
    width = max(map(len, case), default=0)
    return [f"    {name:{width}} = {shown(value)}" for name, value in case.items()]


def where(answer: Callable, error: BaseException) -> list[str]:
    """The error in one line, and the line of the learner's own code that was running."""
    lines = [f"    {type(error).__name__}: {said(error)}".rstrip(": ")]
    if steps := calls.inside(answer, error):
        line, code = steps[-1].tb_lineno, steps[-1].tb_frame.f_code
        source = linecache.getline(code.co_filename, line).strip()
        lines.append(f"    in line {line - code.co_firstlineno + 1} of your function: {source}")
    return lines


def unusable(error: BaseException, noted: calls.Answer) -> str:
    """Why an observer cannot use what was returned."""
    value = noted.returned[-1] if noted.returned else None
    if value is None:
        return "your function returns nothing: is its `return` missing?"
    if isinstance(error, calls.Unusable):
        return said(error)
    return "what your function returns has another form than the docstring says: compare type and shape."


def advice(answer: Callable, error: BaseException) -> str:
    """What to look at after an error, by who raised it."""
    if isinstance(error, SystemExit):
        return "do not call exit() or quit(): return what the docstring asks for."
    if isinstance(error, TypeError) and not calls.inside(answer, error) and "argument" in said(error):
        return "keep the function's arguments as they were given, in that order."
    if isinstance(error, UnboundLocalError):
        return "a variable is read before it gets its value here: on some way through your function it is never set."
    if isinstance(error, NameError):
        return "a name is not defined: run the cells above, and look for a typing error."
    if isinstance(error, NotImplementedError) and calls.is_stub(error):
        return "a part of your function is not written yet: this case comes to its `raise NotImplementedError`."
    for words, what in KNOWN.items():
        if words in f"{type(error).__name__}: {said(error)}":
            return what
    return "read the error's last words first, then print the shapes of what the line above works on."
