"""A class: who has handed in what, marked once, kept as it is done, and written as tables and pages.

    outcome = grade(Path("submitted"), sources, Path("grades"), secret="31415")

The folder holds plain files (`ada_06_the_dpo_loss.ipynb`), a folder for each student (`ada/06_the_dpo_loss.ipynb`) or
nbgrader's `submitted/ada/ex06/06_the_dpo_loss.ipynb`; the names of Canvas's and Moodle's downloads are understood.
"""

import hashlib
import json
import re
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path

from prefcourse.boundary import sha256
from prefcourse.checks import NUMBERS
from prefcourse.grading import reports, suspicion
from prefcourse.grading.cells import hands_in, read_notebook
from prefcourse.grading.marking import Marked
from prefcourse.grading.nursery import Limits
from prefcourse.grading.stripped import PACKAGE
from prefcourse.grading.workers import Job, Stage
from prefcourse.preferences import write_whole

CONTROL = "control"  # the solution handed in under this name must get full marks
SECRET, KEPT = "secret", "kept"  # in the output folder
CANVAS = re.compile(r"(?P<who>[^_]+)_(?:LATE_)?(?P<id>\d+)_\d+_(?P<file>.+)")
MOODLE = re.compile(r"(?P<who>.+)_\d+_assignsubmission_file_?")


@dataclass(frozen=True)
class Submission:
    """One file of a student's. canvas: the student's number in Canvas, where the file's name has it."""

    student: str
    path: Path
    canvas: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the marks that count, and words for the one who marks."""

    marked: list[Marked]
    words: list[str]
    control_failed: bool = False


def collect(folder: Path, names: list[str], out: Path | None = None) -> tuple[list[Submission], list[str]]:
    """The submissions below a folder, and the students whose folder has none. names: of the notebooks. out: not there.

    Raises FileNotFoundError if there is nothing at all.
    """
    folder = folder / "submitted" if (folder / "submitted").is_dir() else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Give the one with what was handed in.")
    found, without = [], []
    for path in sorted(folder.glob("*.ipynb")):
        found.append(_plain(path, names))
    folders = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for student in sorted(p for p in folders if out is None or p.resolve() != out.resolve()):
        theirs = [p for p in sorted(student.glob("*.ipynb")) + sorted(student.glob("*/*.ipynb"))
                  if not any(part.startswith(".") for part in p.relative_to(folder).parts)]  # fmt: skip
        name = m["who"] if (m := MOODLE.fullmatch(student.name)) else student.name
        found += [Submission(name, path) for path in theirs]
        without += [] if theirs else [name]
    if not found:
        raise FileNotFoundError(
            f"{folder}: no notebook in it. Expected {folder}/NAME.ipynb, {folder}/STUDENT/NAME.ipynb or "
            f"{folder}/STUDENT/ASSIGNMENT/NAME.ipynb."
        )
    return found, without


def _plain(path: Path, names: list[str]) -> Submission:
    stem = re.sub(r"( ?\(\d+\)|-\d+)$", "", path.stem)  # a second download, a second try
    if found := CANVAS.fullmatch(stem):
        return Submission(found["who"], path, found["id"])
    for name in names:
        stem = stem.replace(name, "")
    return Submission(re.sub(r"( ?\(\d+\)|-\d+)$", "", stem.strip(" _-")).strip(" _-") or path.stem, path)


def grade(
    folder: Path, sources: list[Path], out: Path, *, secret: str | None = None, notebook: str | None = None,
    limits: Limits | None = None, processes: int = 2, roster: Path | None = None, say=print,
) -> Outcome:  # fmt: skip
    """Mark a class and write tables and pages into `out`; what is there from an earlier run is not marked again.

    secret: of the class; without one it is drawn once and kept in `out`. notebook: the number that was assigned.
    Raises FileNotFoundError for a folder without notebooks and ValueError for a set-up whose own solution fails.
    """
    limits = limits or Limits()
    with Stage(sources, [folder, out]) as stage:
        if notebook is not None and notebook not in stage.assignments:
            raise ValueError(f"there is no notebook {notebook!r}; there are {', '.join(stage.assignments)}")
        found, without = collect(folder, [a.name for a in stage.assignments.values()], out)
        known = reports.read_roster(roster) if roster else []
        (out / KEPT).mkdir(parents=True, exist_ok=True)
        secret = secret or _secret(out / SECRET)
        stage.numbers = [notebook] if notebook else _numbers(found, stage)
        version = _version(stage, limits)
        jobs = {_key(s, secret, notebook, version): Job(s.student, s.path, secret, limits, notebook) for s in found}
        marked = {key: m for key in jobs if (m := _kept(out / KEPT / f"{key}.json")) is not None}
        if marked:
            say(f"{reports.of(len(marked), 'notebook')} marked before, {len(jobs) - len(marked)} to mark")
        left = {job: key for key, job in jobs.items() if key not in marked}
        if left:
            control = [Job(CONTROL, _source(stage, n), secret, limits, n) for n in stage.numbers]
            _require_control(control, stage, processes, say)
        for job, one in stage.mark_all(list(left), processes):
            write_whole(out / KEPT / f"{left[job]}.json", json.dumps(one.as_data(), ensure_ascii=True))
            marked[left[job]] = one
            say(f"{len(marked):4} of {len(jobs)}  {reports.line(one)}")
        outcome = _outcome([marked[key] for key in jobs], without)
        reports.write(out, outcome.marked, outcome.words, stage.assignments, found, known)
        return outcome


def _numbers(found: list[Submission], stage: Stage) -> list[str]:
    numbers = set()
    for submission in found:
        try:
            with warnings.catch_warnings(action="ignore"):  # what Python thinks of students' code is not news
                assignment = hands_in(read_notebook(submission.path), stage.assignments)
        except ValueError:
            continue
        numbers |= {assignment.number} if assignment else set()
    return sorted(numbers)


def _source(stage: Stage, number: str) -> Path:
    return next(path for path in stage.sources if path.stem == stage.assignments[number].name)


def _require_control(control: list[Job], stage: Stage, processes: int, say) -> None:
    """The solutions, through the same door: anything but full marks is a broken set-up, a ValueError."""
    for job, marked in stage.mark_all(control, processes):
        whole = stage.assignments[job.expected].points
        if marked.problem or marked.points != whole:
            bad = next((m.text for m in marked.marks if m.points < m.worth), marked.problem)
            raise ValueError(
                f"the set-up is broken: the solution of notebook {job.expected}, handed in as `{CONTROL}`, gets "
                f"{marked.points} of {whole} points. Nobody was marked. With another SEED the letters of the solution "
                f"are others: `prefcourse.authoring.exercises --assign` writes both. What failed first:\n{bad}"
            )
        say(f"control  notebook {job.expected}: the solution gets {marked.points} of {whole} points")


def _secret(path: Path) -> str:
    """The class's secret: drawn once, kept where only its owner reads it."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"{secrets.randbelow(10**12)}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _version(stage: Stage, limits: Limits) -> str:
    """Changes when checks, marking, solutions or limits do: then all is marked anew."""
    rooms = [p for room in ("checks", "grading") for p in sorted((PACKAGE / room).glob("*.py"))]
    digest = hashlib.sha256(repr(limits).encode())
    for path in [*rooms, *stage.sources]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _key(submission: Submission, secret: str, notebook: str | None, version: str) -> str:
    """The name under which a mark is kept: another file, student or set-up has another."""
    try:
        content = sha256(submission.path) if submission.path.is_file() else "no file"
    except OSError:
        content = "unreadable"
    parts = (submission.student, str(submission.path), content, secret, str(notebook), version)
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _kept(path: Path) -> Marked | None:
    try:
        return Marked.from_data(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _changed(file: str) -> float:
    try:
        return Path(file).stat().st_mtime
    except OSError:
        return 0.0


def _outcome(marked: list[Marked], without: list[str]) -> Outcome:
    """Of several files for one notebook the newest that can be marked counts; words on what a person should look at."""
    words, best = [], {}
    loose = [m.held for m in marked if m.held]
    missing = [what for what in ("files", "network", "memory") if any(what not in held for held in loose)]
    if missing:
        words.append(
            f"Here students' code was not kept from: {', '.join(missing)}. Mark in a container; see the guide."
        )
    for one in sorted(marked, key=lambda m: (not m.problem, not m.elsewhere, _changed(m.file), m.file)):
        if (older := best.get((one.student, one.number))) and not older.elsewhere:
            words.append(f"{one.student}: {Path(older.file).name} does not count, {Path(one.file).name} does")
        best[one.student, one.number] = one
    kept = sorted(best.values(), key=lambda m: (m.student, m.number))
    words += [f"{name}: the folder has no notebook" for name in without]
    words += [f"{m.student}: {m.problem}" for m in kept if m.problem]
    words += [f"{m.student}: {k.text}" for m in kept for k in m.marks if k.status in ("broken", "stopped")]
    words += [f"{m.student}, {note}" for m in kept for note in m.notes]
    for number in NUMBERS:
        same = suspicion.alike({m.student: m.prints for m in kept if m.number == number})
        words += [f"{student}, notebook {number}: {word}" for student in sorted(same) for word in same[student]]
    failed = [m for m in kept if m.student == CONTROL and (m.problem or any(k.points < k.worth for k in m.marks))]
    return Outcome(kept, words, bool(failed))
