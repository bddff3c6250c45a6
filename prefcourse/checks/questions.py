"""Questions with options: a prediction before a run, or a step of a proof.

    @choice(points=1)
    def first_loss():
        '''What is the DPO loss before the first step?'''
        return {"ln 2": None, "0": "σ(0) is one half, not 1.", ...}        # None marks the right one

The order of the options comes from a seed that stands in the notebook, so a letter from someone else's class is of no
use; `first_loss.ask(SEED)` prints them.

A prediction is made once: `first_loss.record(my_prediction, SEED)` writes it down, `if first_loss.predicted():` keeps
the result back until then, and a call `first_loss(my_prediction, SEED)` scores what was recorded first. `.judge` and
`.grade` look at the letter that they are given alone.
"""

import random
from collections.abc import Callable, Iterator
from string import ascii_lowercase

from prefcourse import streams
from prefcourse.checks import calls, predictions, record
from prefcourse.checks.core import Check, Mutant, Result
from prefcourse.checks.showing import said, shown


class Choice(Check):
    """A check of a letter. The hint of each wrong option says what leads there and what it overlooks."""

    def __init__(self, function: Callable[[], dict[str, str | None]], points: int):
        super().__init__(function, points)
        self.options = function()
        (self.right,) = (option for option, hint in self.options.items() if hint is None)
        self.mutants = [Mutant(option, function, hint) for option, hint in self.options.items() if hint is not None]

    def lettered(self, seed: int) -> dict[str, str]:
        """Letter → option, in the order of `seed`."""
        order = sorted(self.options)
        random.Random(f"{seed} {self.name}").shuffle(order)
        return dict(zip(ascii_lowercase, order, strict=False))

    def ask(self, seed: int) -> None:
        """Print the options."""
        streams.tolerate()  # they have Greek letters
        print(self.title)
        for letter, option in self.lettered(seed).items():
            print(f"  {letter})  {option}")

    def answers(self, seed: int) -> Iterator[tuple[str, Callable[[], str], str | None]]:
        for letter, option in self.lettered(seed).items():
            yield option, lambda letter=letter: letter, self.options[option]

    # ------------------------------------------------------------------------------------------ predictions

    def record(self, answer: Callable[[], str], seed: int) -> None:
        """Write a prediction down, and print what counts from now on. A stub or no letter is said, and not recorded."""
        streams.tolerate()
        option = self._option(answer, seed)
        if isinstance(option, Result):
            print(option.text)
            return
        counts = self._counts(predictions.note(self.number, self.name, option), option)
        letter = next(letter for letter, other in self.lettered(seed).items() if other == counts)
        print(f"● {self.name}: recorded {letter}) {counts}")
        if counts != option:
            print(self._otherwise(option))

    def predicted(self) -> bool:
        """Whether a prediction is recorded; if not, that is said, and what shows the result has to wait."""
        found = predictions.first(self.number, self.name) in self.options
        if not found:
            streams.tolerate()
            print(f"○ {self.name}: record your prediction first: write it above, and run the cells from there on")
        return found

    def forget(self) -> None:
        """Start again: the recorded prediction is taken back."""
        streams.tolerate()
        predictions.forget(self.number, self.name)
        print(f"○ {self.name}: no prediction is recorded any more")

    def __call__(self, answer: Callable[[], str], seed: int | None = None) -> Result:
        """Score the prediction that was recorded first, this one if there is none. Never raises over an answer."""
        streams.tolerate()  # the verdict has a ✓, and is printed next
        option = self._option(answer, seed)
        if isinstance(option, Result):
            return option
        counts = self._counts(predictions.note(self.number, self.name, option), option)
        result = self._verdict(counts, "" if counts == option else self._otherwise(option))
        if result.passed:
            record.remember(self.number, self.name)
        return result

    def _counts(self, noted: str, option: str) -> str:
        """What was noted, or `option` in place of one that the question no longer has."""
        if noted in self.options:
            return noted
        predictions.forget(self.number, self.name)
        return predictions.note(self.number, self.name, option)

    def _otherwise(self, option: str) -> str:
        again = f"checks.ex{self.number}.{self.name}.forget()"
        return f"    you recorded this first, so it counts; now you say “{option}”. To start again: {again}"

    # ------------------------------------------------------------------------------------------ the verdict

    def judge(self, answer: Callable[[], str], seed: int | None) -> Result:
        option = self._option(answer, seed)
        return option if isinstance(option, Result) else self._verdict(option)

    def _verdict(self, option: str, remark: str = "") -> Result:
        hint = self.options[option]
        if hint is not None:
            return self.fails([f"not “{option}”", *([remark] if remark else [])], hint)
        result = self.passes(f"“{option}” is right")
        return Result(result.status, f"{result.text}\n{remark}") if remark else result

    def _option(self, answer: Callable[[], str], seed: int | None) -> str | Result:
        """The option that an answer names; a Result that says why it names none."""
        if seed is None:
            raise ValueError(f"{self.name} needs the notebook's seed: checks.ex{self.number}.{self.name}(answer, SEED)")
        if not callable(answer):
            return self.not_a_function(answer)
        try:
            with calls.steady():
                found = answer()
        except KeyboardInterrupt:  # somebody waits no longer
            raise
        except BaseException as error:  # theirs to read
            if calls.is_stub(error):
                return self.not_attempted()
            told = f"your function stopped: {type(error).__name__}: {said(error)}".rstrip(": ")
            return self.fails([told], "return one letter.")
        options = self.lettered(seed)
        letter = found.lower().strip(" ().:\n") if type(found) is str else ""
        if letter not in options:
            return self.fails([f"your answer is {shown(found)}"], f"return one letter of {', '.join(options)}.")
        return options[letter]


def choice(points: int = 1) -> Callable[[Callable], Choice]:
    """Decorator: makes a Choice of a function that returns option → hint, with None for the right option."""
    return lambda function: Choice(function, points)
