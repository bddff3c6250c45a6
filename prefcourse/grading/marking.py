"""The verdicts on one notebook: each check on the student's function, which runs elsewhere.

    marked = mark(path, assignments, nursery, secret="31415", student="ada", limits=Limits())

Nothing that a student hands in stops it: what cannot be read, run or found is said, and earns no points.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from prefcourse import checks
from prefcourse.checks.core import Check, Exercise, Result
from prefcourse.grading import suspicion
from prefcourse.grading.cells import Assignment, HandedIn, Task, hands_in, read_notebook
from prefcourse.grading.nursery import Limits, Nursery
from prefcourse.grading.remote import Elsewhere, Remote
from prefcourse.grading.wire import Opaque

# Observers that must be where the function is: they give it models and count what it does with them. The notebook has
# them too, so they hold no answer; what they say is compared here.
WATCHED_THERE = {("11", "bill")}


@dataclass(frozen=True)
class Mark:
    """What one check gave. status: "pass", "fail", "not attempted", "missing", "stopped" or "broken" (that is ours)."""

    check: str
    points: int
    worth: int
    status: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Marked:
    """A notebook with its marks. problem: why there are none, or what is odd about the file; "" as a rule."""

    student: str
    number: str
    file: str
    marks: list[Mark] = field(default_factory=list)
    problem: str = ""
    elsewhere: bool = False  # is it another notebook than the one that was assigned?
    notes: list[str] = field(default_factory=list)  # for the instructor: deleted cells, cells that deserve a question
    written: dict[str, bool] = field(default_factory=dict)  # grade_id → is there an answer?
    prints: dict[str, list[str]] = field(default_factory=dict)  # of the code, to find notebooks that are alike
    held: list[str] = field(default_factory=list)  # what the system offered to hold the process

    @property
    def points(self) -> int:
        return sum(mark.points for mark in self.marks)

    def as_data(self) -> dict:
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict) -> "Marked":
        return cls(**{**data, "marks": [Mark(**mark) for mark in data["marks"]]})


def seed_of(secret: str, student: str, number: str) -> int:
    """The seed of a student's hidden inputs: nobody who does not know the class's secret can tell it."""
    words = f"{secret}\n{student}\n{number}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.sha256(words).digest()[:4], "big") >> 1


def mark(
    path: Path, assignments: dict[str, Assignment], nursery: Nursery, *, student: str, secret: str,
    limits: Limits, expected: str | None = None,
) -> Marked:  # fmt: skip
    """Mark one notebook. expected: the number of the one that was assigned; without it the notebook's cells say it."""
    number = expected or ""
    try:
        handed_in = read_notebook(path)
        found = hands_in(handed_in, assignments)
    except ValueError as error:
        number = number or next((n for n in assignments if f"{n}_" in path.name), "")
        return _nothing(student, number, path, assignments, str(error))
    if found is None:
        return _nothing(student, number, path, assignments, f"{path.name}: none of its cells belongs to an exercise")
    if expected and found.number != expected:
        told = f"{path.name}: it is notebook {found.name}, and {assignments[expected].name} was assigned"
        return replace(_nothing(student, number, path, assignments, told), elsewhere=True)
    marks, held = [], []
    for task in found.tasks:
        try:
            done, held = judge(task, found, handed_in, nursery, seed_of(secret, student, found.number), limits)
        except Exception as error:  # ours: the check cannot stand the answer, or the process said what makes no sense
            text = f"✗ {task.check}: the check itself stopped ({type(error).__name__}: {error}); a person looks at it"
            done = Mark(task.check, 0, task.points, "broken", text[:1000])
        marks.append(done)
    return Marked(
        student=student, number=found.number, file=str(path), marks=marks, held=held,
        notes=suspicion.deleted(handed_in, found) + suspicion.odd(handed_in, found),
        written={name: suspicion.answered(handed_in.written.get(name, "")) for name in found.written},
        prints=suspicion.prints(handed_in, found),
    )  # fmt: skip


def _nothing(student: str, number: str, path: Path, assignments: dict[str, Assignment], problem: str) -> Marked:
    tasks = assignments[number].tasks if number in assignments else []
    marks = [Mark(t.check, 0, t.points, "missing", f"✗ {t.check}: there is no answer to check") for t in tasks]
    return Marked(student=student, number=number, file=str(path), marks=marks, problem=problem)


def judge(
    task: Task, assignment: Assignment, handed_in: HandedIn, nursery: Nursery, seed: int, limits: Limits
) -> tuple[Mark, list[str]]:  # fmt: skip
    """The mark of one check, and what held the student's process meanwhile."""

    def told(status: str, text: str, hint: str = "") -> Mark:
        return Mark(task.check, task.points if status == "pass" else 0, task.points, status, text, hint)

    check = checks.of_notebook(assignment.number)[task.check]
    answer = handed_in.answer(task)
    if answer is None:
        return told("missing", f"✗ {task.check}: `{task.function}` is not in the notebook"), []
    sources = handed_in.cells_for(task, assignment)
    with Remote(nursery, sources, task.function, limits) as remote:
        if remote.over:
            return told("stopped", f"✗ {task.check}: the cells of `{task.function}` were stopped: {remote.over}"), []
        if remote.loaded.get("is") != "ready":
            why = _why(remote.loaded.get("stopped"))
            return told("missing", f"✗ {task.check}: `{task.function}` is not defined{why}"), remote.held
        result = verdict(check, remote, task.seed if task.seed is not None else seed)
        if remote.over and not result.passed:
            return told("stopped", f"✗ {task.check}: `{task.function}` was stopped: {remote.over}"), remote.held
        text = result.text
        for error, line in remote.lines.items():
            text = text.replace(error, f"{error}\n    in line {line} of your function", 1)
        return told(result.status, text, result.hint), remote.held


def _why(stopped: dict | None) -> str:
    return f": its cells stop with {stopped['name']}: {stopped['text']}" if stopped else ""


def verdict(check: Check, remote: Remote, seed: int) -> Result:
    """What the check says of the function there."""
    if not remote.loaded["callable"]:
        return check.judge(Opaque(str(remote.loaded["kind"])[:80]), seed)
    if (check.number, check.name) in WATCHED_THERE:
        check = copy.copy(check)
        check.observe = _there(check, remote)
    result = check.judge(remote, seed)
    return check.not_attempted() if remote.stub else result


def _there(check: Exercise, remote: Remote) -> Callable:
    """The check's observer, which watches the student's function there, and all others here."""
    watch = check.observe

    def observe(answer: Callable, *arguments: object) -> object:
        sent = copy.deepcopy(arguments)
        remote.only_watched = True
        try:
            return watch(answer, *arguments)
        except Elsewhere:  # `answer` was the student's, perhaps in a wrapper
            return remote.observed(watch, sent)
        finally:
            remote.only_watched = False

    return observe
