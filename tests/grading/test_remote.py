"""A function in a process of its own: gradients, changed arguments, models and callbacks; and what it cannot reach."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

pytest.importorskip("resource", reason="students' code runs in processes that are forked")

from prefcourse import checks
from prefcourse.checks import ex11_bill
from prefcourse.checks.made_up_judge import PlacedJudge
from prefcourse.grading import confine, marking
from prefcourse.grading.cells import read_assignment
from prefcourse.grading.nursery import Limits, Nursery
from prefcourse.grading.remote import Remote, Stopped
from prefcourse.grading.stripped import PACKAGE, lay

pytestmark = [pytest.mark.slow, pytest.mark.posix]
ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "exercises" / "solutions").glob("*.ipynb"))
ASSIGNMENTS = {a.number: a for a in map(read_assignment, SOURCES)}
LIMITS = Limits(seconds=20)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what holds a process is Linux's")


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """What a classmate has handed in."""
    path = tmp_path_factory.mktemp("class") / "ben.ipynb"
    path.write_text("{}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def nursery(tmp_path_factory, secret):
    copy = lay(tmp_path_factory.mktemp("copy"), SOURCES)
    hidden = [PACKAGE / "checks", ROOT / "exercises", secret.parent]
    with Nursery(copy, hidden, ["torch", "numpy", "transformers", "prefcourse.lesson"]) as nursery:
        yield nursery


@pytest.fixture
def there(nursery):
    """Makes the function `f` of a source, in a process of its own."""
    open_ = []

    def make(source: str, **limits) -> Remote:
        open_.append(Remote(nursery, ["import os, torch", source], "f", Limits(**{"seconds": 20, **limits})))
        return open_[-1]

    yield make
    for remote in open_:
        remote.__exit__()


@pytest.mark.parametrize("number", ASSIGNMENTS)
def test_every_solution_gets_full_marks_through_the_same_door(nursery, number):
    path = ROOT / "exercises" / "solutions" / f"{ASSIGNMENTS[number].name}.ipynb"
    marked = marking.mark(path, ASSIGNMENTS, nursery, student="control", secret="7", limits=LIMITS)
    assert [m.text for m in marked.marks if m.status != "pass"] == []
    assert (marked.number, marked.points, marked.notes) == (number, ASSIGNMENTS[number].points, [])


def test_all_checks_but_one_have_observer_reference_and_comparison_here():
    """That one's observer gives models to the function and counts what it does with them: it has to be there."""
    assert {("11", "bill")} == marking.WATCHED_THERE
    assert checks.ex11.bill.observe is ex11_bill._watched  # of which the notebook shows a part: it holds no answer


MISTAKES = {  # check → the hint that it must get, and the answer
    "kto_loss": (
        "a gradient flows",
        """
def f(h, d, b, lam_d, lam_u):
    z = h.roll(-1, 1).diagonal().mean().clamp(min=0)
    t = b * (h.diagonal() - z)
    return torch.where(d, lam_d * (1 - t.sigmoid()), lam_u * (1 - (-t).sigmoid()))""",
    ),
    "bill": (
        "the evaluations are in the bill",
        """
from prefcourse.comparison import costs
from prefcourse.checks.ex11 import learn, score
def f(policy, reference, batches, measure):
    meter = costs.Meter(policy=policy, reference=reference)
    with meter:
        for ids in batches:
            score(reference, ids)
            learn(policy, ids)
            measure()
    return meter.work""",
    ),
    "step": (
        "are still there in the second",
        """
from torch.nn.functional import logsigmoid
from prefcourse.logprobs import sequence_logps
def f(policy, optimizer, batch, stored, beta):
    c, r = (sequence_logps(policy, batch) - stored).chunk(2)
    loss = -logsigmoid(beta * (c - r)).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    return loss.item()""",
    ),
    "judgement": (
        "ask the same question twice",
        """
def f(ask, x, one, two):
    s = ask(x, one, two)
    return {'judgement': (s - s) / 2, 'bias': (s + s) / 2}""",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_its_own_hint_from_there_too(there, name):
    """Gradients, models that are trained, optimisers and functions among the arguments all go through."""
    check = next(c for n in checks.NUMBERS for c in checks.of_notebook(n).values() if c.name == name)
    hint, source = MISTAKES[name]
    result = marking.verdict(check, there(source), 3)
    assert result.status == "fail" and hint in result.hint


def test_a_gradient_goes_through_the_function_and_none_where_it_does_not_depend(there):
    f = there("def f(a, b, c):\n    return {'x': (a * b).sum(), 'y': [a.exp()], 'n': 3}, c.detach()")
    a, b, c = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(3))
    found, constant = f(a, b, c)
    assert found["x"].item() == 5.0 and found["n"] == 3 and not constant.requires_grad
    gradients = torch.autograd.grad(found["x"] + found["y"][0].sum(), (a, b, c), allow_unused=True)
    assert torch.allclose(gradients[0], b + a.exp()) and torch.allclose(gradients[1], a) and gradients[2] is None
    with torch.no_grad():
        assert not f(a, b, c)[0]["x"].requires_grad


def test_arguments_that_the_function_changes_are_changed_here(there):
    f = there("def f(t, rows, table, model):\n    t += 1\n    rows.pop()\n    table['a'] = rows\n"
              "    with torch.no_grad():\n        model.logits.zero_()\n    return torch.rand(1)")  # fmt: skip
    t, rows, table, model = torch.zeros(2), [1, 2], {}, checks.ex07.Table(torch.ones(2))
    torch.manual_seed(3)
    drawn = f(t, rows, table, model)
    assert t.tolist() == [1, 1] and rows == [1] and table == {"a": [1]} and not model.logits.any()
    after = torch.rand(1)
    torch.manual_seed(3)
    assert [drawn, after] == [torch.rand(1), torch.rand(1)]


def test_a_function_among_the_arguments_runs_here_and_its_error_reaches_the_other_side(there):
    f = there("def f(ask):\n    try:\n        ask(['x'], ['good'], ['no such text'])\n    except KeyError:\n"
              "        return ask(['x'], ['good'], ['poor'])")  # fmt: skip
    assert f(PlacedJudge({"good": 1.0, "poor": -1.0}, {"x": 0.5})).tolist() == [2.5]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while True: pass", "in time"),
        ("os._exit(0)", "process ended"),
        ("os.kill(os.getpid(), 11)", "process ended"),
        ("import sys; [sys.stdout.write('x' * 10**6) for _ in range(10)]", None),
        ("[os.write(n, b'\\0\\0\\0\\2hi') for n in range(3, 9)]", "no answer looks like"),
    ],
)
def test_what_does_not_answer_is_stopped_and_said(there, body, words):
    f = there(f"def f():\n    {body}\n    return 1", seconds=2)
    if words is None:
        assert f() == 1
        return
    with pytest.raises((Stopped, OSError)):
        f()
        f()
    assert words in f.over


def test_errors_keep_their_kind_their_words_and_their_line(there):
    for kind, text in (("ValueError", "no"), ("KeyError", "k"), ("ZeroDivisionError", "by 0"), ("SystemExit", "1")):
        f = there(f"def f(x):\n    y = x\n    raise {kind}({text!r})")
        with pytest.raises((Exception, SystemExit)) as raised:
            f(1)
        assert type(raised.value).__name__ == kind and raised.value.args == (text,)
        assert list(f.lines.values()) == [3]
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):  # theirs is not ours
        there("def f():\n    raise KeyboardInterrupt")()


@LINUX
@pytest.mark.parametrize(
    "body",
    [
        "open({secret!r}).read()",
        "os.listdir({folder!r})",
        "open({checks!r}).read()",
        "open({solution!r}).read()",
        "open('/tmp/a-trace', 'w')",
        "open({copy!r}, 'a')",
        "os.listdir('/home')",
        "open(f'/proc/{{os.getppid()}}/environ').read()",
        "open('/etc/passwd').read()",
    ],
)
def test_files_of_others_are_closed_to_it(nursery, there, secret, body):
    copy = next(place for place in nursery.readable[::-1] if Path(place, "prefcourse", "losses.py").is_file())
    body = body.format(
        secret=str(secret), folder=str(secret.parent), checks=str(PACKAGE / "checks" / "ex00.py"),
        solution=str(SOURCES[0]), copy=copy + "/prefcourse/losses.py",
    )  # fmt: skip
    f = there(f"def f():\n    try:\n        {body}\n    except PermissionError:\n        return 'refused'")
    if "files" not in f.held:
        pytest.skip("this kernel has no Landlock")
    assert f() == "refused"


@LINUX
def test_it_has_no_network_little_memory_and_a_folder_of_its_own(there):
    f = there(
        "import socket, tempfile\n"
        "def f(what):\n"
        "    if what == 'memory':\n"
        "        return len(bytearray(2_000_000_000))\n"
        "    if what == 'folder':\n"
        "        with tempfile.TemporaryFile() as file:\n"
        "            return file.write(b'x'), os.environ.get('PREFCOURSE_GRADING_SEED')\n"
        "    server = socket.create_server(('127.0.0.1', 0))\n",
        memory=500,
    )
    assert {"time", "memory"} <= set(f.held)
    with pytest.raises(MemoryError):
        f("memory")
    assert f("folder") == (1, None)
    if "network" in f.held:
        with pytest.raises((OSError, RuntimeError)):
            f("network")


def test_what_may_be_read_is_taken_apart_around_what_is_secret(tmp_path):
    for name in ("site/torch/a.py", "site/prefcourse/checks/ex00.py", "site/prefcourse/losses.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = confine._without(tmp_path, [(tmp_path / "site" / "prefcourse" / "checks").resolve()])
    assert sorted(found) == [str(tmp_path / "site" / "prefcourse" / "losses.py"), str(tmp_path / "site" / "torch")]


def test_a_set_up_whose_solution_fails_marks_nobody(tmp_path):
    """Such as an environment without the package: then the honest get nothing either."""
    notebook = nbformat.read(SOURCES[0], as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("math.log(", "math.log2(")
    (tmp_path / "source").mkdir()
    (tmp_path / "handed-in").mkdir()
    nbformat.write(notebook, tmp_path / "source" / SOURCES[0].name)
    (tmp_path / "handed-in" / f"ada_{SOURCES[0].name}").write_text(
        SOURCES[0].read_text(encoding="utf-8"), encoding="utf-8"
    )
    line = [sys.executable, "-m", "prefcourse", "grade", "handed-in", "--source", "source", "--processes", "1"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert "the set-up is broken: the solution of notebook 00, handed in as `control`, gets 8 of 11" in done.stderr
    assert "another base" in done.stderr
    assert not list((tmp_path / "grades" / "kept").iterdir())


def test_a_check_that_cannot_stand_an_answer_stops_nothing(nursery, monkeypatch, tmp_path):
    def stopped(self, answer, seed):
        raise RuntimeError("ours")

    monkeypatch.setattr(checks.Choice, "judge", stopped)
    marked = marking.mark(SOURCES[0], ASSIGNMENTS, nursery, student="ada", secret="7", limits=LIMITS)
    assert [m.status for m in marked.marks] == ["pass", "pass", "broken", "pass"]
    assert marking.Marked.from_data(json.loads(json.dumps(marked.as_data()))) == marked


def test_a_nursery_that_was_ended_is_replaced(nursery, there):
    nursery._process.kill()
    nursery._process.wait()
    assert there("def f():\n    return 7")() == 7
