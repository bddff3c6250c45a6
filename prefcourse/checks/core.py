"""A check: a reference, the cases it is tried on, and the mutants that explain a failure.

    @exercise(cases=pairs, points=3, hint="Write h = (c - C) - (r - R) on paper first.")
    def dpo_loss(c, r, C, R, beta):
        '''The DPO loss of each pair, (B,) nats.'''
        return -logsigmoid(beta * ((c - C) - (r - R)))

    @dpo_loss.mutant("β stands outside σ: Eq. 7 scales h, before the sigmoid.")
    def beta_outside(c, r, C, R, beta):
        return -beta * logsigmoid((c - C) - (r - R))

`cases` gets a random generator and returns dicts, argument name → value: the fixed cases first, then fresh ones. So an
answer that returns remembered numbers fails. `observe` says what is compared when that is more than the value returned,
such as a gradient: it gets the function and the case's arguments.
"""

import copy
import linecache
import os
import secrets
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType

import torch

from prefcourse import streams
from prefcourse.checks import record
from prefcourse.checks.values import difference, said, shown

SEED_VARIABLE = "PREFCOURSE_GRADING_SEED"  # set by an instructor: hidden tests draw their inputs from it

Case = dict[str, object]


class CheckFailed(AssertionError):
    """What `grade` raises. In a notebook it shows as the result alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@dataclass(frozen=True)
class Mutant:
    """A wrong answer that learners give, and the hint for whoever gives it."""

    name: str
    function: Callable
    hint: str


@dataclass(frozen=True)
class Result:
    """Verdict of a check: `status` is "not attempted", "pass" or "fail"; `text` is what the learner reads."""

    status: str
    text: str
    hint: str = ""

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    def __repr__(self) -> str:
        return self.text


class Check:
    """What every check has: a name, the number of its notebook, points, mutants, and a verdict on an answer."""

    def __init__(self, function: Callable, points: int):
        self.reference, self.name, self.points = function, function.__name__, points
        self.number = function.__module__.rpartition(".")[2][2:4]  # prefcourse.checks.ex07_step → 07
        self.title = (function.__doc__ or "").strip().splitlines()[0]
        self.mutants: list[Mutant] = []

    def __call__(self, answer: Callable, seed: int | None = None) -> Result:
        """Try `answer` and remember for `python -m prefcourse progress` if it passed. Never raises over an answer."""
        streams.tolerate()  # the verdict has a ✓, and is printed next
        result = self.judge(answer, seed)
        if result.passed:
            record.remember(self.number, self.name)
        return result

    def grade(self, answer: Callable, seed: int | None = None) -> None:
        """The instructor's hidden test: prints the verdict, or raises CheckFailed unless `answer` passes.

        It returns nothing: nbgrader takes what a cell returns for a number of points.

        Without `seed` it takes the environment's PREFCOURSE_GRADING_SEED, so that marks can be given again exactly.
        """
        if seed is None and (text := os.environ.get(SEED_VARIABLE, "")):
            if not text.isdecimal():
                raise ValueError(f"{SEED_VARIABLE} is {text!r}; it must be a whole number such as 2027")
            seed = int(text)
        result = self.judge(answer, seed)
        if not result.passed:
            raise CheckFailed(result.text)
        streams.tolerate()
        print(result.text)

    def judge(self, answer: Callable, seed: int | None) -> Result:
        """The verdict alone: nothing is remembered, nothing raised over an answer."""
        raise NotImplementedError

    def answers(self, seed: int) -> Iterator[tuple[str, Callable, str | None]]:
        """Name, answer and the hint it must get, None for the right one: what the tests of the checks go through."""
        yield "reference", self.reference, None
        for mutant in self.mutants:
            yield mutant.name, mutant.function, mutant.hint

    def not_attempted(self) -> Result:
        return Result("not attempted", f"○ {self.name}: not attempted yet ({self.worth})")

    def not_a_function(self, answer: object) -> Result:
        return self.fails([f"got {shown(answer)}"], "give the check your function itself, without calling it.")

    def passes(self, how: str) -> Result:
        return Result("pass", f"✓ {self.name}: {how} ({self.worth})")

    def fails(self, lines: list[str], hint: str) -> Result:
        return Result("fail", "\n".join([f"✗ {self.name}: {lines[0]}", *lines[1:], f"  Hint: {hint}"]), hint)

    @property
    def worth(self) -> str:
        return "1 point" if self.points == 1 else f"{self.points} points"


class Exercise(Check):
    """A check of a function that the learner writes. Made by `exercise`, see the head of this module."""

    def __init__(
        self, function: Callable, cases: Callable[[torch.Generator], list[Case]], points: int, hint: str,
        observe: Callable | None = None, tol: float = 1e-5,
    ):  # fmt: skip
        super().__init__(function, points)
        self.cases, self.hint, self.tol = cases, hint, tol
        self.observe = observe or (lambda answer, *arguments: answer(*arguments))

    def mutant(self, hint: str) -> Callable[[Callable], Callable]:
        """Decorator: adds a wrong answer with its hint."""

        def add(function: Callable) -> Callable:
            self.mutants.append(Mutant(function.__name__, function, hint))
            return function

        return add

    def outcome(self, answer: Callable, case: Case) -> object:
        """What `answer` does with a copy of `case`: what is observed, or the error it raised. Draws repeat."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                return self.observe(answer, *copy.deepcopy(list(case.values())))
            except KeyboardInterrupt:  # somebody waits no longer
                raise
            except BaseException as error:  # a learner's function may fail in any way, by exit() too: theirs to read
                return error

    def judge(self, answer: Callable, seed: int | None) -> Result:
        if not callable(answer):
            return self.not_a_function(answer)
        seed = secrets.randbelow(2**31) if seed is None else seed
        cases = self.cases(torch.Generator().manual_seed(seed))
        answers = []
        for i, case in enumerate(cases):
            answers.append(found := self.outcome(answer, case))
            if isinstance(found, NotImplementedError) and not found.args:  # the stub's; torch's have a message
                return self.not_attempted()
            expected = self.outcome(self.reference, case)
            if isinstance(expected, BaseException):
                raise expected  # ours, not the learner's
            if isinstance(found, BaseException):
                told = [
                    f"your function stopped in case {i + 1} of {len(cases)}",
                    *_inputs(case),
                    *_where(answer, found),
                ]
                return self.fails(told, self._diagnosis(cases[: i + 1], answers) or _advice(found))
            if differs := difference(found, expected, self.tol):
                told = [f"case {i + 1} of {len(cases)} is wrong", *_inputs(case)]
                told += [f"    {line}" for line in differs.splitlines()]
                if found is None:
                    return self.fails(told, "your function returns nothing: is its `return` missing?")
                answers += [self.outcome(answer, later) for later in cases[i + 1 :]]
                return self.fails(told, self._diagnosis(cases, answers) or self.hint)
        return self.passes(f"all {len(cases)} cases agree")

    def _diagnosis(self, cases: list[Case], answers: list[object]) -> str:
        """The hint of the first mutant that does what the answer did in every case; "" if there is none."""
        for mutant in self.mutants:
            outcomes = [self.outcome(mutant.function, case) for case in cases]
            if all(self._same(a, b) for a, b in zip(outcomes, answers, strict=True)):
                return mutant.hint
        return ""

    def _same(self, one: object, other: object) -> bool:
        if isinstance(one, BaseException) or isinstance(other, BaseException):
            return type(one) is type(other) and said(one) == said(other)
        return not difference(one, other, self.tol)


def exercise(**settings) -> Callable[[Callable], Exercise]:
    """Decorator: makes an Exercise of its reference. Settings: cases, points, hint, and if needed observe, tol."""
    return lambda function: Exercise(function, **settings)


def attempt(answer: Callable, *arguments):
    """Call the learner's function for what it returns; None and one line while it is a stub."""
    try:
        return answer(*arguments)
    except NotImplementedError:
        streams.tolerate()
        print(f"○ {getattr(answer, '__name__', 'your function')}: not attempted yet")
        return None


def _inputs(case: Case) -> list[str]:
    width = max(map(len, case), default=0)
    return [f"    {name:{width}} = {shown(value)}" for name, value in case.items()]


def _where(answer: Callable, error: BaseException) -> list[str]:
    """The error in one line, and the line of the learner's own code that was running."""
    lines = [f"    {type(error).__name__}: {said(error)}".rstrip(": ")]
    code = answer.__code__ if isinstance(answer, FunctionType | MethodType) else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    if frames:
        source = linecache.getline(frames[-1].filename, frames[-1].lineno).strip()
        lines.append(f"    in line {frames[-1].lineno - code.co_firstlineno + 1} of your function: {source}")
    return lines


def _advice(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "do not call exit() or quit(): return what the docstring asks for."
    if isinstance(error, TypeError) and "argument" in said(error):
        return "keep the function's arguments as they were given, in that order."
    if isinstance(error, NameError):
        return "a name is not defined: run the cells above, and look for a typing error."
    return "read the error's last words first, then print the shapes of what the line above works on."
