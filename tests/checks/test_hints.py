"""Hints in steps: what is wrong first, then where it stands in the lesson, the recipe last and on request."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from battery_00_04 import climb

from prefcourse import checks
from prefcourse.checks import hints
from prefcourse.checks.diagnosis import Try, named
from prefcourse.checks.hints import VARIABLE, Hint
from prefcourse.checks.values import difference

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LOSS = checks.ex06.dpo_loss
EXERCISES = [
    check
    for number in checks.NUMBERS
    for check in checks.of_notebook(number).values()
    if isinstance(check, checks.Exercise)
]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.delenv(VARIABLE, raising=False)


def doubled(*arguments):
    return 2 * LOSS.reference(*arguments)


def test_the_recipe_is_not_shown_before_it_is_asked_for():
    result = LOSS(doubled)
    assert "Hint: your numbers are 2 times what is expected" in result.text
    assert "Where: lesson 06, “Step 5 · Maximum likelihood gives the loss”" in result.text
    assert "More: put .hint() behind the check" in result.text
    assert LOSS.hint not in result.text
    assert result.hint() == LOSS.hint and repr(result.hint()) == LOSS.hint


@pytest.mark.parametrize("check", EXERCISES, ids=lambda check: f"{check.number}.{check.name}")
def test_no_answer_gets_a_recipe_at_its_first_failure(check):
    for answer in (lambda *a: 0, lambda *a: None, lambda *a: 1 / 0, *(m.function for m in check.mutants[:3])):
        result = check.judge(answer, 0)
        assert check.hint not in result.text and result.hint() == check.hint


def test_the_environment_says_how_far_hints_go(monkeypatch):
    monkeypatch.setenv(VARIABLE, "first")
    result = LOSS.judge(doubled, 0)
    assert (
        "Hint: your numbers are 2 times" in result.text and "Where:" not in result.text and ".hint()" not in result.text
    )
    assert LOSS.hint not in str(result.hint()) and "no recipes here" in result.hint()
    monkeypatch.setenv(VARIABLE, "none")
    result = LOSS.judge(doubled, 0)
    assert "Hint" not in result.text and "Where" not in result.text and result.hint == ""
    assert "your answer" in result.text and "expected" in result.text
    assert LOSS.hint not in str(result.hint())
    question = checks.ex06.kl_against_beta
    wrong = next(letter for letter, option in question.lettered(0).items() if option != question.right)
    assert "Hint" not in question.judge(lambda: wrong, 0).text
    monkeypatch.setenv(VARIABLE, "ALL")
    assert f"Recipe: {LOSS.hint}" in LOSS.judge(doubled, 0).text
    with pytest.raises(checks.CheckFailed, match="Recipe"):
        LOSS.grade(doubled)
    monkeypatch.setenv(VARIABLE, "some")
    with pytest.raises(ValueError, match="must be first, all, none"):
        LOSS.judge(doubled, 0)


def test_a_right_answer_has_nothing_to_add():
    result = LOSS.judge(LOSS.reference, 0)
    assert result.hint == "" and result.hint() == "there is nothing to add."
    assert hints.lines(Hint("this"), "") == ["  Hint: this"]


@pytest.mark.parametrize("check", EXERCISES, ids=lambda check: f"{check.number}.{check.name}")
def test_the_place_of_every_exercise_is_a_heading_of_its_lesson(check):
    heading = re.fullmatch(rf"lesson {check.number}, “(.+)”", check.where)[1]
    (notebook,) = NOTEBOOKS.glob(f"{check.number}_*.ipynb")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "markdown" for line in "".join(cell["source"]).splitlines()]
    assert heading in [line.lstrip("# ") for line in lines if line.startswith("#")]


# ---------------------------------------------------------------------------------------------- what is wrong


def said(found, expected, cases=({"beta": 0.5}, {"beta": 2.0}, {"beta": 3.0})):
    """What is said of three answers."""
    pairs = zip(cases, found, expected, strict=True)
    return named([Try(case, a, b, None, "", bool(difference(a, b, 1e-5))) for case, a, b in pairs], 1e-5)


RIGHT = [torch.tensor([1.0, -2.0, 4.0]), torch.tensor([3.0, 5.0, -7.0]), torch.tensor([0.5, 0.25, 2.0])]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, beta: -x, "the sign is wrong"), (lambda x, beta: 3 * x, "3 times what is expected"),
        (lambda x, beta: x / 4, "4 times smaller"), (lambda x, beta: x * beta, "times `beta`"),
        (lambda x, beta: x / beta**2, "divided by the square of `beta`"), (lambda x, beta: x + 7, "7 too large"),
        (lambda x, beta: x + beta, "off by the same amount"), (lambda x, beta: x.abs(), "absolute value"),
        (lambda x, beta: x.flip(0), "order is turned round"), (lambda x, beta: x.roll(1), "one place too far"),
        (lambda x, beta: x.mean(), "You return the mean"), (lambda x, beta: x.sum(), "You return the sum"),
        (lambda x, beta: x[:, None], "You return a column"), (lambda x, beta: x[:2], "Which axis"),
        (lambda x, beta: x.exp(), "e to the power"), (lambda x, beta: 1 - x, "1 minus"),
        (lambda x, beta: x * float("nan"), "nan, not a number"), (lambda x, beta: x / 0, "infinite"),
        (lambda x, beta: torch.cat([x[:2], x[2:] + 1]), "only the last one"),
        (lambda x, beta: torch.cat([x[:1] * beta, x[1:]]), "only the first one"),
        (lambda x, beta: iter(x), "list_iterator|cannot|a "), (lambda x, beta: (v for v in x), "generator"),
        (lambda x, beta: x + 5j, "complex"), (lambda x, beta: "x", "text"), (lambda x, beta: {"x": x}, "a dict"),
        (lambda x, beta: None, "returns nothing"), (lambda x, beta: [x, x[:1]], "different shapes"),
    ],
)  # fmt: skip
def test_how_an_answer_differs_is_said(change, words):
    found = [change(x, beta) for x, beta in zip(RIGHT, (0.5, 2.0, 3.0), strict=True)]
    assert re.search(words, said(found, RIGHT))


def test_the_part_that_is_wrong_is_named():
    right = [{"a": x, "b": 2 * x} for x in RIGHT]
    assert said([{"a": x, "b": -2 * x} for x in RIGHT], right) == "`a` is right. In `b`: the sign is wrong."
    assert said([{"a": x} for x in RIGHT], right) == "your dict lacks b."
    three = [(1.0, 2.0), (2.0, 5.0), (3.0, 7.0)]
    assert said([(a, 2 * b) for a, b in three], three).startswith(
        "number 1 is right. In number 2: your numbers are 2 times"
    )
    assert said([list(np.array(pair) * [1, 2]) for pair in three], three).startswith("number 1 is right.")
    assert "return 2 things" in said([a for a, _ in three], three)


def test_an_argument_without_effect_and_exchanged_arguments_are_named():
    def no_beta(*arguments):
        return LOSS.reference(*arguments[:-1], 1.0) + 0.1

    assert "`beta` has no effect" in LOSS.judge(no_beta, 0).hint

    def exchanged(pc, pr, rc, rr, mc, mr, beta):
        return LOSS.reference(pr, pc, rc, rr, mc, mr, beta)

    assert "`policy_chosen` and `policy_rejected` exchanged" in LOSS.judge(exchanged, 0).hint


def test_the_first_place_that_differs_is_shown():
    found, right = torch.zeros(4, 10), torch.zeros(4, 10)
    found[2, 7] = 1
    assert "the first that differs is [2, 7]: 1 instead of 0; 1 of 40 differ" in difference(found, right, 1e-5)
    near = difference(torch.tensor([1.0, 1.00004]), torch.ones(2), 1e-5)
    assert re.search(r"\[1\]: 1\.00004\d* instead of 1;", near)  # five digits would show twice the same


@pytest.mark.parametrize(
    ("seed", "case", "step", "points"), [(9, 2, 0.7, 3), (0, 3, 0.4, 4), (4, 2, 0.63, 6), (3, 2, 0.58, 8)]
)
def test_a_climb_that_goes_round_is_told_its_cycle_and_its_step(seed, case, step, points):
    check = checks.ex03.fit_with_prior
    table = check.cases(torch.Generator().manual_seed(seed))[case]
    said = check.explain(climb(**table, lr=step, steps=2000), **table)
    assert f"goes round a cycle of {points} points about the maximum" in said
    assert f"steps of {step:.2g} times the gradient" in said and f"Try a tenth of that, {step / 10:.2g}" in said


def test_a_cycle_of_four_reaches_the_learner_and_a_constant_is_not_taken_for_one():
    check = checks.ex03.fit_with_prior
    assert "a cycle of 4 points" in check.judge(lambda wins, prior: climb(wins, prior, lr=0.4, steps=2000), 0).hint
    assert (
        check.judge(lambda wins, prior: climb(wins, prior) + 1, 0).hint
        == "your numbers are 1 too large, in every case."
    )
