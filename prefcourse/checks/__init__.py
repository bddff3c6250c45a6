"""The exercises' checks: reference, wrong answers and hints side by side, `exNN` for exercise notebook NN.

    from prefcourse import checks

    checks.ex06.dpo_loss(my_dpo_loss)          # not attempted, pass, or fail with the first failing case and a hint
    checks.ex06.first_loss.ask(SEED)           # the options of a question, in the order of this seed
    checks.ex06.first_loss.record(my_prediction, SEED)    # before the result: the first prediction is the one scored
    runs = checks.attempt(my_sweep)            # None while `my_sweep` is a stub: an unsolved notebook runs to its end

How a check finds its hint: next to each reference stand the wrong answers that learners really give, its *mutants*.
An answer that fails is compared with them, and the mutant that computes the same tells which mistake was made.

What no mutant knows is described: its form, a limit, a factor, an argument without effect. `result.hint()` gives the
recipe; PREFCOURSE_HINTS holds it back.

In which order to read: `core` is what a check is and how it finds its verdict, `calls` how it calls an answer, `values`
how two values are compared and `showing` how they are shown, `diagnosis` and `probing` what is said of a wrong one,
`hints` in which steps; `questions` a check with options; then any `exNN`. Where one module grew too long, its first
exercises stand beside it, as in `ex07_step`, and `exNN` imports them. `record` keeps what has passed and `predictions`
what was predicted, `progress` shows it.
"""

import pkgutil
import re
from importlib import import_module

from prefcourse.checks.core import Check, CheckFailed, Exercise, Limit, Mutant, Result, attempt, exercise
from prefcourse.checks.questions import Choice, choice

__all__ = ["Check", "CheckFailed", "Choice", "Exercise", "Limit", "Mutant", "Result", "attempt", "choice", "exercise"]

NUMBERS = sorted(m.name[2:] for m in pkgutil.iter_modules(__path__) if re.fullmatch(r"ex\d\d", m.name))


def of_notebook(number: str) -> dict[str, Check]:
    """Name → check of one exercise notebook, such as "06", in the order of its module: imported ones first."""
    if number not in NUMBERS:
        raise ValueError(f"there are no checks for notebook {number!r}; there are {', '.join(NUMBERS)}")
    return {c.name: c for c in vars(import_module(f"prefcourse.checks.ex{number}")).values() if isinstance(c, Check)}


def __getattr__(name: str):
    if name.startswith("ex") and name[2:] in NUMBERS:  # loaded when first used: a notebook needs one of them
        return import_module(f"prefcourse.checks.{name}")
    raise AttributeError(f"prefcourse.checks has no {name!r}; it has ex{', ex'.join(NUMBERS)}")
