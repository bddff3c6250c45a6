"""The exercises' checks, tested with right answers, with every mutant, with stubs and with remembered numbers."""

import json
import multiprocessing
import os
import pkgutil
from decimal import Decimal
from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
import torch

from prefcourse import checks
from prefcourse.__main__ import main
from prefcourse.checks import progress, record
from prefcourse.checks.core import SEED_VARIABLE
from prefcourse.checks.showing import shown
from prefcourse.checks.values import difference
from prefcourse.locks import Lock

ALL = [check for number in checks.NUMBERS for check in checks.of_notebook(number).values()]
ANSWERS = [(check, name, k) for check in ALL for k, (name, _, _) in enumerate(check.answers(0))]
SEEDS = (0, 1)


def named(check):
    return f"{check.number}.{check.name}"


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "kept" / "progress.json"))
    monkeypatch.delenv(SEED_VARIABLE, raising=False)


def stub(*arguments):
    raise NotImplementedError


# ---------------------------------------------------------------------------------------------- every check


@pytest.mark.parametrize(("check", "name", "k"), ANSWERS, ids=[f"{named(c)}-{name[:40]}" for c, name, _ in ANSWERS])
def test_the_reference_passes_and_every_mutant_gets_its_own_hint(check, name, k):
    for seed in SEEDS:
        _, answer, hint = list(check.answers(seed))[k]
        result = check.judge(answer, seed)
        if hint is None:
            assert result.status == "pass", result
        else:
            assert (result.status, result.hint) == ("fail", hint), result


@pytest.mark.parametrize("check", ALL, ids=named)
def test_a_stub_is_not_attempted_and_there_are_mutants_enough(check):
    assert check.judge(stub, 0).status == "not attempted"
    hints = [mutant.hint for mutant in check.mutants]
    assert 3 <= len(hints) == len(set(hints))
    assert check.points >= 1 and len(check.title) > 10


@pytest.mark.parametrize("check", [c for c in ALL if isinstance(c, checks.Exercise)], ids=named)
def test_remembered_answers_do_not_pass(check):
    """Someone notes what the reference gives, case by case, and returns that on the next run."""
    notes = [check.outcome(check.reference, case) for case in check.cases(torch.Generator().manual_seed(0))]
    again = [check.outcome(check.reference, case) for case in check.cases(torch.Generator().manual_seed(1))]
    assert len(notes) == len(again) >= 2
    assert any(difference(a, b, check.tol) for a, b in zip(notes, again, strict=True)), "no case is drawn afresh"


@pytest.mark.parametrize("check", [c for c in ALL if isinstance(c, checks.Exercise)], ids=named)
def test_other_failures_are_caught_and_shown_shortly(check):
    def fails(*arguments):
        return undefined_name  # noqa: F821

    result = check.judge(fails, 0)
    assert result.status == "fail" and "in line 2 of your function: return undefined_name" in result.text
    assert "NameError" in result.text and "a name is not defined" in result.hint
    assert check.judge(lambda *a: None, 0).status == "fail"
    assert len(result.text.splitlines()) < 20


def test_every_check_of_the_room_is_found_under_the_number_of_its_notebook():
    names = [found.name for found in pkgutil.iter_modules(checks.__path__, "prefcourse.checks.")]
    there = {id(c): c for name in names for c in vars(import_module(name)).values() if isinstance(c, checks.Check)}
    assert set(there) == {id(check) for check in ALL}
    assert all(check.number == number for number in checks.NUMBERS for check in checks.of_notebook(number).values())


def test_the_count_is_printed(capsys):
    with capsys.disabled():
        mutants = sum(len(check.mutants) for check in ALL)
        print(f"\n{len(ALL)} checks in {len(checks.NUMBERS)} notebooks, {mutants} mutants, each with its own hint")


# ---------------------------------------------------------------------------------------------- the machinery

LAST = checks.ex06.dpo_loss


def test_a_failure_shows_inputs_answer_expected_and_hint():
    text = repr(LAST.judge(dict(LAST_answers())["beta_outside"], 0))
    assert text.startswith("✗ dpo_loss: case 1 of 6 is wrong\n")
    for part in ("beta ", "your answer   [0.039", "expected      [0.25", "Hint: β stands outside"):
        assert part in text


def LAST_answers():
    return [(name, answer) for name, answer, _ in LAST.answers(0)]


def test_an_answer_cannot_spoil_the_inputs_or_the_notebooks_random_numbers():
    def spoils(*arguments):
        value = LAST.reference(*arguments)
        for argument in arguments[:4]:
            argument.zero_()
        torch.rand(3)
        return value

    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    assert LAST.judge(spoils, 0).passed
    assert torch.equal(torch.rand(2), expected)


def test_what_is_no_function_and_what_takes_other_arguments():
    assert "without calling it" in LAST.judge(3.0, 0).hint
    assert "keep the function's arguments" in LAST.judge(lambda a: a, 0).hint
    assert "`return` missing" in LAST.judge(lambda *a: None, 0).hint
    assert LAST.judge(lambda *a: torch.zeros(3), 0).hint  # the general one


def test_grading_raises_and_repeats_with_the_instructors_seed(monkeypatch, capsys):
    assert LAST.grade(LAST.reference) is None  # nbgrader takes a number that a cell returns for its points
    assert "✓ dpo_loss" in capsys.readouterr().out
    with pytest.raises(checks.CheckFailed, match="not attempted"):
        LAST.grade(stub)
    with pytest.raises(checks.CheckFailed) as one:
        LAST.grade(lambda *a: torch.zeros(1, dtype=torch.float64), seed=3)
    assert one.value._render_traceback_() == [str(one.value)]
    seen = []

    def watches(*arguments):
        seen.append(float(arguments[0].sum()))
        return LAST.reference(*arguments)

    monkeypatch.setenv(SEED_VARIABLE, "2027")
    LAST.grade(watches), LAST.grade(watches)
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    monkeypatch.setenv(SEED_VARIABLE, "soon")
    with pytest.raises(ValueError, match="whole number"):
        LAST.grade(LAST.reference)


def test_the_letters_of_a_question_depend_on_the_seed(capsys):
    question = checks.ex06.kl_against_beta
    orders = {tuple(question.lettered(seed).values()) for seed in range(30)}
    assert len(orders) > 5
    question.ask(3)
    said = capsys.readouterr().out
    assert said.splitlines()[1] == f"  a)  {question.lettered(3)['a']}" and all(o in said for o in question.options)
    right = next(letter for letter, option in question.lettered(3).items() if option == question.right)
    for spelled in (f" {right.upper()} ", f"{right})", f"({right})", f"{right}."):
        assert question.judge(lambda spelled=spelled: spelled, 3).passed
    assert "return one letter of a, b, c, d" in question.judge(lambda: "z", 3).hint
    assert "return one letter" in question.judge(lambda: 1 / 0, 3).hint
    assert "without calling it" in question.judge("a", 3).hint
    with pytest.raises(ValueError, match="needs the notebook's seed"):
        question.judge(lambda: "a", None)


def test_attempt_returns_what_a_function_returns_and_survives_a_stub(capsys):
    assert checks.attempt(lambda x: x + 1, 2) == 3
    assert checks.attempt(stub) is None
    assert "stub: not attempted yet" in capsys.readouterr().out


def test_unknown_notebooks_are_named():
    with pytest.raises(ValueError, match="no checks for notebook '77'"):
        checks.of_notebook("77")
    with pytest.raises(AttributeError, match="ex06"):
        checks.ex77  # noqa: B018


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1.0, 1.0 + 1e-7, True), (1, 1.0, True), (1.0, 1.1, False), (float("nan"), float("nan"), False),
        (np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), True), ([1.0, 2.0], torch.tensor([1.0, 2.0]), True),
        (torch.ones(2), torch.ones(2, 1), False), (torch.ones(()), torch.ones(1), False),
        ("a", "a", True), ("a", "b", False), (True, True, True), (1, True, False), (None, None, True),
        (torch.tensor(True), True, True), (None, 1.0, False), (object(), 1.0, False), ("a", 1.0, False),
        ({"a": 1.0}, {"a": 1.0}, True), ({"a": 1.0}, {"b": 1.0}, False), ({"a": 1.0}, {"a": 2.0}, False),
        ((1, "x"), [1, "x"], True), ([1], [1, 2], False), (3, [3], False), (np.array([1, 2]), [1, 2], True),
        (torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool), True),
        (0.0, float("inf"), False), (float("inf"), float("inf"), True), (float("-inf"), float("inf"), False),
        (float("inf"), 0.0, False), (3 + 5j, 3.0, False), (3 + 0j, 3.0, True), (3.0, 3 + 5j, False),
        (torch.ones(2).to_sparse(), torch.ones(2), True), (torch.ones(2, device="meta"), torch.ones(2), False),
        (np.array(["a", "b"]), torch.ones(2), False), ("abc", np.ones(3), False), (np.ones(3), "abc", False),
        (Fraction(1, 4), 0.25, True), (Decimal("0.25"), 0.25, True), (np.longdouble(0.25), 0.25, True),
        ([torch.ones(2), torch.zeros(2)], torch.tensor([[1.0, 1.0], [0.0, 0.0]]), True),
        (np.arange(3.0)[::-1], torch.tensor([2.0, 1.0, 0.0]), True), ([[1.0], [1.0, 2.0]], torch.ones(2, 1), False),
        (np.array([1.0, None], dtype=object), torch.ones(2), False), (range(2), torch.tensor([0.0, 1.0]), True),
        (torch.ones(2, requires_grad=True), [1.0, 1.0], True), (True, 1.0, True), ("1.0", 1.0, False),
        (dict.fromkeys("ab", 1.0).values(), [1.0, 1.0], True), (torch.tensor([float("inf")]), torch.ones(1), False),
        (np.ones(2), {1.0}, False), (np.array([1 + 1j, 2]), np.array([1.0, 2.0]), False),
    ],
)  # fmt: skip
def test_difference(found, expected, same):
    assert (difference(found, expected, 1e-5) == "") == same


class Rude:
    """An answer that cannot be looked at: whatever one asks it raises."""

    def __init__(self, error=ValueError):
        object.__setattr__(self, "error", error)

    def __repr__(self):
        raise object.__getattribute__(self, "error")("no")

    __str__ = __eq__ = __len__ = __iter__ = __bool__ = __float__ = __getitem__ = lambda self, *a: repr(self)
    __hash__ = None


class RudeError(Exception):
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


class Named(str):
    def strip(self, *a):
        raise RuntimeError("no")

    lower = __repr__ = strip


class RudeArray:
    def __array__(self, *a, **k):
        raise ValueError("no")


class RudeDict(dict):
    def items(self):
        raise ValueError("no")

    keys = values = __iter__ = __getitem__ = __contains__ = items


class RudeList(list):
    def __iter__(self):
        raise ValueError("no")

    __len__ = __getitem__ = __iter__


class RudeFloat(float):
    def __float__(self):
        raise ValueError("no")

    __eq__ = __lt__ = __sub__ = __mul__ = lambda self, *a: float(self)
    __hash__ = float.__hash__


def deep():
    found = 1.0
    for _ in range(900):
        found = [found]
    return found


def holds_itself():
    found = [1.0]
    found.append(found)
    return found


def raises(error):
    def answer(*arguments):
        raise error

    return answer


JUNK = {
    "rude": Rude, "rude that exits": lambda: Rude(SystemExit), "list of rude": lambda: [Rude(), Rude()],
    "dict of rude": lambda: {"a": Rude()}, "sparse": lambda: torch.ones(3).to_sparse(),
    "meta": lambda: torch.ones(3, device="meta"), "texts": lambda: np.array(["a", "b", "c"]), "text": lambda: "abc",
    "objects": lambda: np.array([None, Rude()], dtype=object), "itself": holds_itself, "complex": lambda: 3 + 5j,
    "bytes": lambda: b"abc", "generator": lambda: (x for x in (1, 2)), "type": lambda: Rude, "error": RudeError,
    "exit": SystemExit, "named": lambda: Named("a"), "nan": lambda: float("nan"), "set": lambda: {1.0},
    "huge": lambda: np.zeros(300_000), "huge number": lambda: 10**400, "deep": deep, "map": lambda: map(float, "12"),
    "rude array": RudeArray, "rude dict": lambda: RudeDict(a=1.0), "rude list": lambda: RudeList([1.0, 2.0]),
    "rude number": lambda: RudeFloat(1.0), "with gradient": lambda: torch.ones(2, requires_grad=True),
    "range": lambda: range(10**9), "keys": lambda: {Rude: 1.0, (1, 2): 2.0}, "module": torch.nn.Linear(2, 2).float,
    "ragged": lambda: [[1.0], [1.0, 2.0]], "whole": lambda: torch.arange(2).exp().long().log_softmax(-1),
}  # fmt: skip
ERRORS = {
    "rude": RudeError(), "exit": SystemExit(3), "generator": GeneratorExit(), "memory": MemoryError(),
    "group": BaseExceptionGroup("two", [SystemExit(), ValueError()]), "recursion": RecursionError(),
    "named": ValueError(Named("a")), "torch's": NotImplementedError("not implemented for 'Long'"),
}  # fmt: skip


@pytest.mark.parametrize("check", ALL, ids=named)
def test_no_answer_makes_a_check_raise(check):
    for name, make in JUNK.items():
        assert check.judge(lambda *a, make=make: make(), 0).status == "fail", name
    for name, error in ERRORS.items():
        result = check.judge(raises(error), 0)
        assert result.status == "fail" and result.text, name
    assert check.judge(Rude(), 0).status == "fail"  # not even a function
    with pytest.raises(KeyboardInterrupt):
        check.judge(raises(KeyboardInterrupt()), 0)


def test_an_answer_of_another_kind_is_shown_by_its_type_and_an_exit_has_advice():
    assert "a Rude that cannot be shown" in LAST.judge(lambda *a: Rude(), 0).text
    assert "do not call exit()" in LAST.judge(raises(SystemExit(1)), 0).hint
    assert "RudeError" in LAST.judge(raises(RudeError()), 0).text
    assert "3 numbers" not in shown(np.array(["a", "b"])) and shown(np.array(["a", "b"])) == "['a', 'b']"
    assert shown(holds_itself()) == "[1, [1, [1, [1, […, …]]]]]"
    assert len(shown({"a": holds_itself()})) < 120


def test_shown_is_one_short_line():
    model = torch.nn.Linear(2, 2)
    values = [torch.arange(100.0), {"a": list(range(50))}, "x" * 300, model, stub, float("inf"), object(), [None, True]]
    for value in values:
        assert "\n" not in shown(value) and len(shown(value)) < 120
    assert shown(torch.arange(100.0).reshape(4, 25)) == "4 × 25 numbers: 0, 1, 2, …"


# ---------------------------------------------------------------------------------------------- progress


def test_progress_remembers_what_passed_and_nothing_else(capsys):
    assert LAST(stub).status == "not attempted" and LAST(lambda *a: 1.0).status == "fail"
    LAST.grade(LAST.reference)
    assert record.passed() == {}
    assert LAST(LAST.reference).passed and LAST(LAST.reference).passed
    assert list(record.passed()) == ["06"] and list(record.passed()["06"]) == ["dpo_loss"]
    row = next(row for row in progress.table() if row[0] == "06")
    assert row[1] == 1 and row[3] == LAST.points and "ranking_loss" in row[5]
    assert main(["progress"]) == 0
    assert "ranking_loss" in capsys.readouterr().out


def note_twenty(path, number):
    os.environ["PREFCOURSE_PROGRESS"] = path
    for check in range(20):
        record.remember(number, f"check_{check}")


def test_four_notebooks_that_pass_at_once_lose_no_progress(tmp_path):
    path, numbers = tmp_path / "progress.json", ("01", "02", "03", "04")
    context = multiprocessing.get_context("fork")  # which needs no second import of torch
    notebooks = [context.Process(target=note_twenty, args=(str(path), number)) for number in numbers]
    for notebook in notebooks:
        notebook.start()
    for notebook in notebooks:
        notebook.join()
    assert {number: len(names) for number, names in record.passed(path).items()} == dict.fromkeys(numbers, 20)
    assert sorted(os.listdir(tmp_path)) == ["progress.json", "progress.json.lock"]


def test_progress_that_another_process_holds_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "p.json"))
    monkeypatch.setattr(record, "PATIENCE", 0.0)
    with Lock(tmp_path / "p.json.lock"):
        record.remember("06", "dpo_loss")
    assert "not kept: " in (said := capsys.readouterr().out) and "p.json.lock is in use by another process" in said
    record.remember("06", "dpo_loss")
    assert list(record.passed()) == ["06"]


def test_a_damaged_or_unwritable_progress_file_is_told_and_harms_nothing(tmp_path, monkeypatch, capsys):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(path))
    for damaged in ("{", "[1]", json.dumps({"06": 3}), "[" * 100_000):
        path.write_text(damaged, encoding="utf-8")
        assert LAST(LAST.reference).passed
        assert "not a progress file" in capsys.readouterr().out
        assert path.read_text(encoding="utf-8") == damaged
        path.write_text(damaged + " ", encoding="utf-8")
    assert main(["progress"]) == 2
    assert "move it away" in capsys.readouterr().err
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "progress.json" / "deeper"))  # a file is in the way
    assert LAST(LAST.reference).passed
    assert LAST(LAST.reference).passed
    assert capsys.readouterr().out.count("not kept") == 1


def test_the_widget_shows_a_bar_for_each_notebook():
    from prefcourse.widgets import progress as widget

    box = widget()
    rows, again = box.children
    assert [row.children[0].description for row in rows.children] == checks.NUMBERS
    before = next(row.children[0].value for row in rows.children if row.children[0].description == "06")
    LAST(LAST.reference)
    again.click()
    after = next(row.children[0].value for row in rows.children if row.children[0].description == "06")
    assert after - before == LAST.points


def test_the_slope_of_the_discovered_loss_is_autograds_and_wrong_where_every_run_begins():
    h = torch.linspace(-40, 40, 81, dtype=torch.float64, requires_grad=True)
    x, logsigmoid = 0.1 * h, torch.nn.functional.logsigmoid
    m = torch.sigmoid(x / 0.05)
    loss = -(1 - m) * logsigmoid(x) + m * torch.exp(-x)
    assert loss[40].item() == pytest.approx(0.846574, abs=1e-6)
    slope = checks.ex09.discovered_slope.reference(h.detach(), 0.1, 0.05)
    torch.testing.assert_close(slope, torch.autograd.grad(loss.sum(), h)[0])
    assert slope[40].item() == pytest.approx(0.078426, abs=1e-6)
