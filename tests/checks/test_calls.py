"""How a check calls an answer: its state, what the answer changes, and who raised."""

import copy
import functools
import inspect
import math
import random
import warnings

import numpy as np
import pytest
import torch

from prefcourse import checks
from prefcourse.checks import calls
from prefcourse.checks.core import Limit

LOSS = checks.ex06.dpo_loss
ALL = [check for number in checks.NUMBERS for check in checks.of_notebook(number).values()]
EXERCISES = [check for check in ALL if isinstance(check, checks.Exercise)]


def named(check):
    return f"{check.number}.{check.name}"


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "progress.json"))


def state():
    return (
        torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device(), np.geterr(),
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), warnings.filters[:],
    )  # fmt: skip


def spoils(*arguments):
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float16)
    torch.set_default_device("meta")
    np.seterr(all="ignore")
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    warnings.simplefilter("error")
    return 1.0


@pytest.mark.parametrize("check", [*EXERCISES[::7], checks.ex00.twice_as_likely], ids=named)
def test_an_answer_leaves_no_state_behind(check):
    before = state()
    assert not check.judge(spoils, 0).passed
    assert state() == before


def settings(name):
    return {
        "float64": (torch.set_default_dtype, torch.float64, torch.float32),
        "float16": (torch.set_default_dtype, torch.float16, torch.float32),
        "meta": (torch.set_default_device, "meta", None),
        "no gradients": (torch.set_grad_enabled, False, True),
    }[name]


@pytest.mark.parametrize("name", ["float64", "float16", "meta", "no gradients"])
@pytest.mark.parametrize("check", EXERCISES, ids=named)
def test_a_learner_may_work_in_another_state(check, name):
    put, ours, usual = settings(name)
    put(ours)
    before = state()
    try:
        assert check.judge(check.reference, 0).passed
        assert state()[:3] == before[:3]
    finally:
        put(usual)


def test_a_learner_may_work_in_inference_mode_and_with_strict_numpy():
    with torch.inference_mode(), np.errstate(all="raise"):
        assert checks.ex04.rloo_loss.judge(checks.ex04.rloo_loss.reference, 0).passed
        assert checks.ex08.beta_for.judge(checks.ex08.beta_for.reference, 0).passed


def test_switching_gradients_off_inside_an_answer_does_not_hide_that_there_are_none():
    for check in (checks.ex09.kto_loss, checks.ex11.shared_dpo_loss, checks.ex04.rloo_loss):

        def off(*arguments, check=check):
            torch.set_grad_enabled(False)
            return check.reference(*arguments)

        result = check.judge(off, 0)
        assert not result.passed and "gradient" in result.hint


# ---------------------------------------------------------------------------------------------- what an answer changes


def test_changed_arguments_are_told_and_fail_where_the_text_says_so():
    def spoils_loss(*arguments):
        value = LOSS.reference(*arguments)
        arguments[0].zero_()
        return value

    result = LOSS.judge(spoils_loss, 0)
    assert result.passed and "but `policy_chosen` is changed: work on a copy" in result.text

    def trains_in_place(logits, *arguments):
        logits.copy_(checks.ex06.train.reference(logits, *arguments))
        return logits

    result = checks.ex06.train.judge(trains_in_place, 0)
    assert not result.passed and "changes its argument `reference_logits`" in result.hint

    def same(rows, *arguments):
        rows[0]["note"] = 1
        return checks.ex01.split.reference(rows, *arguments)

    assert "changes its argument `rows`" in checks.ex01.split.judge(same, 0).hint
    strict = {named(check) for check in EXERCISES if check.keeps}
    assert strict == {"01.split", "01.pipeline", "06.train", "07.batch"}


def test_asking_for_a_gradient_is_no_change():
    def asks(*arguments):
        arguments[0].requires_grad_()
        return LOSS.reference(*arguments).detach()

    assert "changed" not in LOSS.judge(asks, 0).text


def exchanges(holder, name, value):
    def answer(*arguments):
        setattr(holder, name, value)
        return torch.zeros(1)

    return answer


@pytest.mark.parametrize(
    ("holder", "name"),
    [
        (torch, "equal"), (torch.Tensor, "sum"), (torch.Tensor, "__eq__"), (torch.nn.functional, "logsigmoid"),
        (math, "log"), (np, "isfinite"), (LOSS, "reference"), (LOSS, "observe"), (LOSS, "tol"),
        (checks.Exercise, "judge"), (checks.Exercise, "_failure"), (checks.Check, "passes"),
    ],
)  # fmt: skip
def test_what_an_answer_exchanges_is_put_back_and_told(holder, name):
    before = getattr(holder, name)
    result = LOSS.judge(exchanges(holder, name, lambda *a, **k: ""), 0)
    assert getattr(holder, name) == before
    assert not result.passed and f".{name}" in result.text and "leave it alone" in result.hint
    assert LOSS.judge(LOSS.reference, 0).passed


def test_a_comparison_is_not_the_learners_to_make():
    from prefcourse.checks import core, values

    for module, name in ((core, "difference"), (values, "wrong_places"), (values, "plain")):
        before = getattr(module, name)
        result = LOSS.judge(exchanges(module, name, lambda *a, **k: ""), 0)
        assert getattr(module, name) is before and not result.passed


class Agreeable(torch.Tensor):
    """Says of everything that it is equal."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return torch.tensor(True)


class Float(float):
    def __eq__(self, other):
        return True

    __hash__ = float.__hash__
    __sub__ = __rsub__ = lambda self, other: 0.0


class Text(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


def test_what_is_equal_to_everything_is_not_right():
    assert not LOSS.judge(lambda *a: torch.zeros(1).as_subclass(Agreeable), 0).passed
    assert not checks.ex01.ceiling_with_lapses.judge(lambda *a: Float(7.0), 0).passed
    assert not checks.ex08.beta_for.judge(lambda *a: Text("refuse"), 0).passed


# ---------------------------------------------------------------------------------------------- who raised


def failing(function):
    return LOSS.judge(function, 0)


def test_advice_goes_to_who_raised():
    def unbound(*arguments):
        if not arguments:
            found = 1
        return found

    def torch_of_a_number(*arguments):
        return torch.log(0.3)

    def no_name(*arguments):
        return undefined  # noqa: F821

    assert "read before it gets its value" in failing(unbound).hint
    assert "takes a tensor" in failing(torch_of_a_number).hint
    assert "a name is not defined" in failing(no_name).hint
    assert "keep the function's arguments" in failing(lambda a: a).hint
    assert "keep the function's arguments" in failing(lambda a, b, c, d, e, f, g, h: a).hint
    assert "in line 2 of your function: return torch.log(0.3)" in failing(torch_of_a_number).text


def test_what_cannot_be_used_is_not_called_a_stop_of_the_function():
    clip, optimum, split = checks.ex04.clip_loss, checks.ex05.optimum, checks.ex01.split
    for check, answer, said in (
        (clip, lambda *a: clip.reference(*a).detach(), "no gradient"),
        (clip, lambda *a: clip.reference(*a).detach().numpy(), "no tensor"),
        (optimum, lambda *a: optimum.reference(*a)[0], "two tensors"),
        (split, lambda *a: None, "returns nothing"),
        (checks.ex01.pipeline, lambda *a: None, "returns nothing"),
    ):
        result = check.judge(answer, 0)
        assert "cannot be used in case 1" in result.text and said in result.hint, result


def half_done(logits, temperature):
    if temperature == 0:
        raise NotImplementedError
    return (logits / temperature).softmax(-1)


def test_not_attempted_is_what_the_learner_raises_and_nothing_else():
    def stub(*arguments):
        raise NotImplementedError()

    tempered = checks.ex00.tempered
    assert tempered.judge(stub, 0).status == "not attempted"
    assert tempered.judge(functools.partial(stub), 0).status == "not attempted"
    assert tempered.judge(lambda z, t: z.long().softmax(-1), 0).status == "fail"  # torch's own
    assert tempered.judge(lambda z, t: torch.optim.Optimizer([z], {}).step(), 0).status == "fail"  # torch's, no message
    result = tempered.judge(half_done, 0)
    assert result.status == "fail" and "not written yet" in result.hint
    assert checks.attempt(functools.partial(stub)) is None


def test_only_a_raise_of_ones_own_refuses_a_budget():
    check = checks.ex08.beta_for

    def vague(betas, kls, budget):
        return 1.0 if budget < kls else 2.0

    result = check.judge(vague, 0)
    assert "truth value of an array" in result.text and "refused" not in result.text


def test_a_limit_is_named_where_an_answer_fails_there_alone():
    def cut(*arguments):
        return LOSS.reference(*(a[:, :-1] if isinstance(a, torch.Tensor) else a for a in arguments))

    assert "loses" not in LOSS.judge(cut, 0).hint and "last column" in LOSS.judge(cut, 0).hint

    def big(log_ratios, beta):
        return checks.ex06.ranking_loss.reference(log_ratios.clamp(-20, 20), beta)

    assert "It fails where log-ratios are large" in checks.ex06.ranking_loss.judge(big, 0).hint


@pytest.mark.parametrize("check", EXERCISES, ids=named)
def test_limits_are_fixed_and_arguments_have_their_names(check):
    cases = [check.cases(torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    promises = [[getattr(case, "promise", "") for case in drawn] for drawn in cases]
    assert promises[0] == promises[1]
    if check.observe.__name__ == "<lambda>":  # the answer gets the case as it is
        names = list(inspect.signature(check.reference).parameters)
        assert all(list(case) == names for case in cases[0])


def test_a_limit_is_a_case():
    limit = Limit("β is 0", {"beta": 0.0})
    assert limit == {"beta": 0.0} and copy.deepcopy(list(limit.values())) == [0.0] and limit.promise == "β is 0"


def test_the_function_inside_is_found():
    def function():
        return 1

    class Callable:
        def __call__(self):
            return 1

        def method(self):
            return 2

    wrapped = functools.wraps(function)(lambda: function())
    assert calls.own(functools.partial(function)) is function and calls.own(wrapped) is function
    assert calls.own(Callable().method) is Callable.method and calls.own(Callable()) is Callable.__call__


def test_what_a_check_tries_to_find_a_hint_is_not_seen(capsys):
    seen = []

    def prints(*arguments):
        print("here")
        seen.append(arguments)
        return LOSS.reference(*arguments) + 0.1 * LOSS.reference(*arguments) ** 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not LOSS.judge(prints, 0).passed
        assert not checks.ex08.beta_for.judge(lambda b, k, x: float(k[0]), 0).passed
    cases = len(LOSS.cases(torch.Generator().manual_seed(0)))
    assert capsys.readouterr().out.count("here") == cases < len(seen)
