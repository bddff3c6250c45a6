"""No listed wrong answer passes by luck: all mutants on 20 seeds. `tests/soak_checks.py` does it with 200."""

import pytest
from soak_checks import accepted

from prefcourse import checks

EXERCISES = [
    check
    for number in checks.NUMBERS
    for check in checks.of_notebook(number).values()
    if isinstance(check, checks.Exercise)
]


LONG = {"split", "step", "sweep", "bill"}
MARKED = [pytest.param(c, marks=[pytest.mark.slow] * (c.name in LONG), id=f"{c.number}.{c.name}") for c in EXERCISES]


@pytest.mark.parametrize("check", MARKED)
def test_every_mutant_fails_and_the_reference_passes_on_twenty_seeds(check):
    assert not accepted(check, range(20))


def test_a_mutant_that_passes_is_counted():
    def doubled(x):
        """Twice a number, for a test."""
        return 2 * x

    made = checks.exercise(cases=lambda draw: [{"x": 1.0}], points=1, hint="…")(doubled)
    made.mutant("none")(lambda x: x + x)
    assert accepted(made, range(3)) == {"<lambda>": 3}
