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


@pytest.mark.parametrize("check", EXERCISES, ids=lambda check: f"{check.number}.{check.name}")
def test_every_mutant_fails_and_the_reference_passes_on_twenty_seeds(check):
    assert not accepted(check, range(20))


def test_a_mutant_that_passes_is_counted():
    made = checks.exercise(cases=lambda draw: [{"x": 1.0}], points=1, hint="…")(lambda x: x)
    made.mutant("none")(lambda x: x * 1.0)
    assert accepted(made, range(3)) == {"<lambda>": 3}
