"""Several notebooks at once: each worker is a process with the checks, and has a nursery for students' code of its own.

    with Stage(sources, hidden=[folder]) as stage:
        for job, marked in stage.mark_all(jobs, processes=2):
            ...

A worker that dies or hangs is replaced, and its notebook is reported; the others go on.
"""

import ast
import multiprocessing
import os
import queue
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefcourse.grading import confine
from prefcourse.grading.cells import Assignment, read_assignment
from prefcourse.grading.marking import Marked, mark
from prefcourse.grading.nursery import START, Limits, Nursery
from prefcourse.grading.stripped import PACKAGE, lay

CALM = 60.0  # seconds that the check of one exercise may take by itself, its wrong answers included
HEAVY = ("transformers", "numpy", "matplotlib.pyplot", "IPython.core.inputtransformer2")


@dataclass(frozen=True)
class Job:
    """One notebook to mark. expected: the number that was assigned, None to go by its cells."""

    student: str
    path: Path
    secret: str
    limits: Limits
    expected: str | None = None


class Stage:
    """What all workers share: the assignments, and the copy of the package for students' code, removed at the end."""

    def __init__(self, sources: list[Path], hidden: list[Path]):
        self.sources = sources
        self.assignments: dict[str, Assignment] = {a.number: a for a in map(read_assignment, sources)}
        self.hidden = [PACKAGE / "checks", *{path.parent for path in sources}, *hidden]
        self.numbers = list(self.assignments)  # those that will be marked, as far as that is known
        self.workers: list[_Worker] = []
        self.folder = Path(tempfile.mkdtemp(prefix="prefcourse-grade-"))

    def __enter__(self) -> "Stage":
        lay(self.folder, self.sources)
        return self

    def __exit__(self, *_) -> None:
        for worker in self.workers:
            worker.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def mark_all(self, jobs: list[Job], processes: int) -> Iterator[tuple[Job, Marked]]:
        """The jobs as they are done, up to `processes` at once."""
        todo: queue.Queue = queue.Queue()
        done: queue.Queue = queue.Queue()
        for job in jobs:
            todo.put(job)
        many = min(processes, len(jobs))
        self.workers += [_Worker(self) for _ in range(many - len(self.workers))]
        for worker in self.workers[:many]:
            threading.Thread(target=worker.work, args=(todo, done), daemon=True).start()
        for _ in jobs:
            job, marked = done.get()
            if isinstance(marked, BaseException):
                raise marked
            yield job, marked

    @property
    def imports(self) -> list[str]:
        """The modules that given cells of the notebooks to mark import: loaded once, not for every function."""
        found = list(HEAVY)
        for number in self.numbers:
            for cell in self.assignments[number].cells:
                if not cell.solution and re.match(r"(from|import) ", cell.source) and "%" not in cell.source:
                    found += _imported(cell.source)
        return [name for name in dict.fromkeys(found) if not name.startswith("prefcourse.checks")]


def _imported(source: str) -> list[str]:
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


class _Worker:
    """A process, replaced when it is lost, and the thread here that feeds it."""

    def __init__(self, stage: Stage):
        self.stage, self.process, self.pipe, self.ended = stage, None, None, False

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        setup = (self.stage.folder, self.stage.hidden, self.stage.sources, self.stage.imports)
        self.process = context.Process(target=_serve, args=(theirs, *setup), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the main process alone
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def work(self, todo: queue.Queue, done: queue.Queue) -> None:
        while not self.ended:
            try:
                job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((job, self._one(job)))
            except BaseException as error:  # for the main thread to raise
                done.put((job, error))
                return

    def _one(self, job: Job) -> Marked:
        most = max(len(a.tasks) for a in self.stage.assignments.values())
        try:
            if self.process is None:
                self._start()
            self.pipe.send(job)
            if not self.pipe.poll(START + most * (job.limits.seconds + CALM)):
                raise EOFError("it took too long")
            marked = self.pipe.recv()
        except (EOFError, OSError) as error:
            self._kill()
            why = f"marking it was stopped ({str(error) or 'its process ended'}); look at this notebook yourself"
            return Marked(student=job.student, number=job.expected or "", file=str(job.path), problem=why)
        if isinstance(marked, Exception):
            raise marked
        return marked

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def end(self) -> None:
        self.ended = True
        self._kill()


def _serve(pipe, folder: Path, hidden: list[Path], sources: list[Path], imports: list[str]) -> None:
    """The worker's process."""
    confine.private()
    nothing = os.open(os.devnull, os.O_WRONLY)  # libraries warn; the report is made elsewhere
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    import torch

    torch.set_num_threads(1)
    try:
        assignments = {a.number: a for a in map(read_assignment, sources)}
        nursery = Nursery(folder, hidden, imports)
    except Exception as error:
        pipe.recv()
        pipe.send(OSError(str(error)))
        return
    with nursery:
        while True:
            try:
                job = pipe.recv()
            except EOFError:
                return
            pipe.send(_marked(job, assignments, nursery))


def _marked(job: Job, assignments: dict[str, Assignment], nursery: Nursery) -> Marked:
    try:
        return mark(job.path, assignments, nursery, student=job.student, secret=job.secret, limits=job.limits,
                    expected=job.expected)  # fmt: skip
    except Exception as error:  # ours: a class goes on, and a person looks at this one
        why = f"marking it failed ({type(error).__name__}: {str(error)[:300]}); look at this notebook yourself"
        return Marked(student=job.student, number=job.expected or "", file=str(job.path), problem=why)
