"""A check: a reference, the cases it is tried on, and the mutants that explain a failure.

    @exercise(cases=pairs, points=3, hint="Write h = (c - C) - (r - R) on paper first.")
    def dpo_loss(c, r, C, R, beta):
        '''The DPO loss of each pair, (B,) nats.'''
        return -logsigmoid(beta * ((c - C) - (r - R)))

    @dpo_loss.mutant("β stands outside σ: Eq. 7 scales h, before the sigmoid.")
    def beta_outside(c, r, C, R, beta):
        return -beta * logsigmoid((c - C) - (r - R))

`cases` gets a random generator and returns dicts, argument name → value: the fixed cases first, then fresh ones. So an
answer that returns remembered numbers fails. A fixed case that holds one limit of what is promised is a `Limit`, with
the limit in words. `observe` says what is compared when that is more than the value returned, such as a gradient: it
gets the function and the case's arguments. `hint` is the recipe, `where` its place in the lesson, `keeps` that the
arguments may not be changed, `explain` what a wrong value says, from it and the arguments.
"""

import contextlib
import copy
import functools
import inspect
import io
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from prefcourse import streams
from prefcourse.checks import calls, hints, record
from prefcourse.checks.advice import advice, inputs, unusable, where
from prefcourse.checks.diagnosis import Try, named
from prefcourse.checks.hints import Hint
from prefcourse.checks.probing import probe
from prefcourse.checks.showing import safely, said, shown
from prefcourse.checks.values import difference, plain, stacked

SEED_VARIABLE = "PREFCOURSE_GRADING_SEED"  # set by an instructor: hidden tests draw their inputs from it

Case = dict[str, object]


class Limit(dict):
    """A case that holds one limit. promise: what is special, so that "it fails where …" can be completed with it."""

    def __init__(self, promise: str, case: Mapping[str, object]):
        super().__init__(case)
        self.promise = promise


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
    """Verdict of a check: `status` is "not attempted", "pass" or "fail"; `text` is what the learner reads.

    `hint` is a text, what is wrong with this answer; called, `result.hint()`, it gives the recipe.
    """

    status: str
    text: str
    hint: Hint = hints.NOTHING

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    def __repr__(self) -> str:
        return self.text


class Check:
    """What every check has: a name, the number of its notebook, points, mutants, and a verdict on an answer."""

    where = ""  # the place in the lesson where it is taught

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

    def fails(self, lines: list[str], hint: str, recipe: str = "") -> Result:
        hint = Hint(hint, recipe)
        text = [f"✗ {self.name}: {lines[0]}", *lines[1:], *hints.lines(hint, self.where)]
        return Result("fail", "\n".join(text), hints.NOTHING if hints.level() == "none" else hint)

    @property
    def worth(self) -> str:
        return "1 point" if self.points == 1 else f"{self.points} points"


class Exercise(Check):
    """A check of a function that the learner writes. Made by `exercise`, see the head of this module."""

    def __init__(
        self, function: Callable, cases: Callable[[torch.Generator], list[Case]], points: int, hint: str,
        observe: Callable | None = None, tol: float = 1e-5, where: str = "", keeps: bool = False,
        explain: Callable | None = None,
    ):  # fmt: skip
        super().__init__(function, points)
        self.hint, self.tol, self.keeps, self.explain = hint, tol, keeps, explain or (lambda *_: "")
        self.where = f"lesson {self.number}, “{where}”" if where else ""
        self.cases = lambda draw: _settled(cases, draw)
        self.observe = observe or (lambda answer, *arguments: answer(*arguments))

    def mutant(self, hint: str) -> Callable[[Callable], Callable]:
        """Decorator: adds a wrong answer with its hint."""

        def add(function: Callable) -> Callable:
            self.mutants.append(Mutant(function.__name__, function, hint))
            return function

        return add

    def outcome(self, answer: Callable, case: Case) -> object:
        """What `answer` does with a copy of `case`: what is observed, or the error it raised. Draws repeat."""
        found, error, _ = self._call(answer, case)
        return found if error is None else error

    def _call(self, answer: Callable, case: Case) -> tuple[object, BaseException | None, calls.Answer]:
        """What is observed, the error or None, and the notes of the call."""
        noted = calls.Answer(answer, list(inspect.signature(self.reference).parameters))
        with calls.steady():
            try:
                return self.observe(noted, *map(copy.deepcopy, case.values())), None, noted
            except KeyboardInterrupt:  # somebody waits no longer
                raise
            except BaseException as error:  # a learner's function may fail in any way, by exit() too: theirs to read
                return None, error, noted

    def judge(self, answer: Callable, seed: int | None) -> Result:
        if not callable(answer):
            return self.not_a_function(answer)
        cases = self.cases(torch.Generator().manual_seed(secrets.randbelow(2**31) if seed is None else seed))
        tries, guard, failed, notes = [], calls.Guard(self, type(self), Exercise, Check), None, []
        for i, case in enumerate(cases):
            found, error, noted = self._call(answer, case)
            notes.append(noted)
            if exchanged := guard.put_back():
                told = f"your function exchanges {exchanged[0]}, which everybody uses"
                return self.fails([told], "leave it alone: the check goes on with what stood there before.")
            if i == 0 and calls.is_stub(noted.raised):
                return self.not_attempted()
            expected, ours, _ = self._call(self.reference, case)
            if ours is not None:
                raise ours
            differs = "" if error else difference(found, expected, self.tol)
            tries.append(Try(case, found, expected, error, getattr(case, "promise", ""), bool(error or differs)))
            if failed is None and tries[-1].wrong:
                failed = i, differs, noted
            if error:
                break
        if failed is not None:
            return self._failure(answer, cases, tries, *failed)
        changed = list(dict.fromkeys(name for noted in notes for name in noted.changed))
        return self._agreed(len(cases), changed)

    def _agreed(self, cases: int, changed: list[str]) -> Result:
        if not changed:
            return self.passes(f"all {cases} cases agree")
        what = ", ".join(f"`{name}`" for name in changed)
        if self.keeps:
            told = f"what you return is right in all {cases} cases, and arguments are no longer what they were"
            return self.fails([told], f"your function changes its argument {what}. Work on a copy.", self.hint)
        are = "is" if len(changed) == 1 else "are"
        return self.passes(f"all {cases} cases agree, but {what} {are} changed: work on a copy")

    def _failure(
        self, answer: Callable, cases: list[Case], tries: list[Try], i: int, differs: str, noted: calls.Answer
    ) -> Result:
        """The verdict on an answer that is wrong in case `i` first."""
        error, last = tries[i].error, tries[-1].error
        outcomes = [t.found if t.error is None else t.error for t in tries]
        with warnings.catch_warnings():  # of numpy, in what we try; the learner has seen those of the answer
            warnings.simplefilter("ignore")
            hint = self._diagnosis(cases[: len(tries)], outcomes) or self._described(answer, tries, i)
        if error is None:
            told = [f"case {i + 1} of {len(cases)} is wrong", *inputs(cases[i])]
            told += [f"    {line}" for line in differs.splitlines()]
            if last is not None and not hint:
                hint = f"in case {len(tries)} it even stops: {type(last).__name__}."
            return self.fails(told, hint or "work this case by hand, and print your steps beside it.", self.hint)
        if noted.raised is not error:  # the answer had returned
            told = [f"what you return cannot be used in case {i + 1} of {len(cases)}", *inputs(cases[i])]
            told.append(f"    your answer   {shown(noted.returned[-1] if noted.returned else None)}")
            return self.fails(told, hint or unusable(error, noted), self.hint)
        told = [f"your function stopped in case {i + 1} of {len(cases)}", *inputs(cases[i]), *where(answer, error)]
        if not hint and tries[i].promise:
            hint = f"it stops where {tries[i].promise}."
        return self.fails(told, hint or advice(answer, error), self.hint)

    def _diagnosis(self, cases: list[Case], answers: list[object]) -> str:
        """The hint of the first mutant that does what the answer did in every case; "" if there is none."""
        for mutant in self.mutants:
            pairs = zip(cases, answers, strict=True)
            if all(self._same(self.outcome(mutant.function, case), found) for case, found in pairs):
                return mutant.hint
        return ""

    def _described(self, answer: Callable, tries: list[Try], i: int) -> str:
        """What is wrong with the values of an answer that no mutant knows, "" if it stopped or nothing can be said."""
        if tries[i].error is not None:
            return ""
        tell = functools.partial(probe, self.outcome, answer, self.reference, tries, self.tol)
        with contextlib.redirect_stdout(io.StringIO()):  # the answer is called again, and may print
            explained = safely(lambda: self.explain(_whole(tries[i].found), *tries[i].case.values()), otherwise="")
            return explained or safely(lambda: named(tries, self.tol, tell), otherwise="")  # what it reads is not ours

    def _same(self, one: object, other: object) -> bool:
        if isinstance(one, BaseException) or isinstance(other, BaseException):
            return type(one) is type(other) and said(one) == said(other)
        return not difference(one, other, self.tol, nan_alike=True)


def exercise(**settings) -> Callable[[Callable], Exercise]:
    """Decorator: makes an Exercise of its reference. Settings: cases, points, hint, and if needed observe, tol."""
    return lambda function: Exercise(function, **settings)


def attempt(answer: Callable, *arguments):
    """Call the learner's function for what it returns; None and one line while it is a stub."""
    try:
        return answer(*arguments)
    except NotImplementedError:
        streams.tolerate()
        print(f"○ {getattr(calls.own(answer), '__name__', 'your function')}: not attempted yet")
        return None


def _whole(found: object) -> object:
    """What was found as one array, or as a list or dict of arrays where its parts have different shapes."""
    array = stacked(value := plain(found))
    return value if array is None else array


def _settled(cases: Callable[[torch.Generator], list[Case]], draw: torch.Generator) -> list[Case]:
    with calls.steady():
        return cases(draw)
