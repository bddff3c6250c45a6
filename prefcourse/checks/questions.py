"""Questions with options: a prediction before a run, or a step of a proof.

    @choice(points=1)
    def first_loss():
        '''What is the DPO loss before the first step?'''
        return {"ln 2": None, "0": "σ(0) is one half, not 1.", ...}        # None marks the right one

The order of the options comes from a seed that stands in the notebook, so a letter from someone else's class is of no
use; `first_loss.ask(SEED)` prints them.
"""

import random
from collections.abc import Callable, Iterator
from string import ascii_lowercase

from prefcourse import streams
from prefcourse.checks import calls
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

    def judge(self, answer: Callable[[], str], seed: int | None) -> Result:
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
        option = options[letter]
        hint = self.options[option]
        return self.passes(f"“{option}” is right") if hint is None else self.fails([f"not “{option}”"], hint)


def choice(points: int = 1) -> Callable[[Callable], Choice]:
    """Decorator: makes a Choice of a function that returns option → hint, with None for the right option."""
    return lambda function: Choice(function, points)
