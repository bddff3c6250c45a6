"""What is to be seen while something runs: bars and colours in a terminal, lines in a pipe, a display in a notebook.

    for rows in Bar(batches, "train"):              # how far, how long still; gone when it ends
        ...
    with doing("measuring sft on 200 prompts"):     # a spinner in a terminal, a line in a pipe
        ...
    print(styled("All is well.", "green"))

rich does the work in a terminal; without it, as in a pipe, there are plain lines. NO_COLOR switches all colours off,
TQDM_DISABLE all bars. What a command finds goes to stdout by `print`, which goes around a bar.
"""

import atexit
import contextlib
import html
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")
SOME_TIME = 0.2  # seconds between two changes of a notebook's bar
TIED = 1e-5  # nats of reward: a smaller margin, as before the first update, ranks nothing right or wrong


def watched() -> bool:
    """Is there a terminal or a live notebook, and no TQDM_DISABLE?"""
    return (sys.stderr.isatty() or "ipykernel" in sys.modules) and "TQDM_DISABLE" not in os.environ


class Bar(Generic[T]):
    """`items` one by one, with a bar that is gone at their end; `note` is shown beside it.

    Where nobody watches it is silent; but the command line, whose output may be a log, sets `seconds`: a line so often,
    unless `logged` is false, because whoever goes through the items writes lines of their own.
    """

    seconds: ClassVar[float | None] = None

    def __init__(self, items: Sequence[T], name: str, shown: bool = True, logged: bool = True):
        self.items, self.name, self.note, self.logged = items, name, "", logged
        self.shown, self.disable = shown, not (shown and watched())

    def __iter__(self) -> Iterator[T]:
        if not self.shown or "TQDM_DISABLE" in os.environ:
            place = _nowhere
        elif _notebook():
            place = _in_notebook
        elif _on_terminal(sys.stderr):
            place = _in_terminal
        else:
            place = _in_log if self.seconds and self.logged else _nowhere
        with place(self) as show:
            for done, item in enumerate(self.items):
                show(done)
                yield item


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what takes a while now: a spinner that goes away in a terminal, else a line."""
    if not (watched() and _on_terminal(sys.stdout) and _on_terminal(sys.stderr)):
        print(f"{what} ...", flush=True)
        yield
    else:
        with _task(what, None):
            yield


def styled(text: str, style: str, file: Any = None) -> str:
    """`text` in a style of rich's, such as "bold red", if `file` (stdout by default) is a terminal that may have it."""
    if not text or os.environ.get("NO_COLOR") or not _on_terminal(file or sys.stdout):
        return text
    from rich.style import Style

    return Style.parse(style).render(text)


def stop() -> None:
    """Take away what is live in the terminal, before a last word or a traceback."""
    if _live.cache_info().currsize:
        live = _live()
        for task in list(live.task_ids):
            live.remove_task(task)
        live.stop()


def _on_terminal(file: Any) -> bool:
    return bool(file.isatty()) and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None


def _notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def _words(bar: Bar, done: int, began: float) -> str:
    """Name, how far, how long still, and the note."""
    of, left = len(bar.items), ""
    if done:
        left = f"{timedelta(seconds=round((time.monotonic() - began) / done * (of - done)))} left"
    return " · ".join(filter(None, (f"{bar.name} {done}/{of}", left, bar.note)))


@contextlib.contextmanager
def _nowhere(bar: Bar) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@contextlib.contextmanager
def _in_log(bar: Bar) -> Iterator[Callable[[int], None]]:
    began = last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= bar.seconds:
            last = now
            print(_words(bar, done, began), flush=True)

    yield show


@contextlib.contextmanager
def _in_notebook(bar: Bar) -> Iterator[Callable[[int], None]]:
    """A display of its own, emptied at the end. What is written to stderr would stay, in the colour of an error."""
    from IPython.display import HTML, display

    shown, began, last = None, time.monotonic(), -SOME_TIME

    def show(done: int) -> None:
        nonlocal shown, last
        if (now := time.monotonic()) - last < SOME_TIME:
            return
        last, words = now, html.escape(_words(bar, done, began))
        look = HTML(f'<label><progress value="{done}" max="{len(bar.items)}"></progress> {words}</label>')
        if shown is None:
            shown = display(look, display_id=True)
        else:
            shown.update(look)

    try:
        yield show
    finally:
        if shown is not None:
            shown.update(HTML(""))


@contextlib.contextmanager
def _in_terminal(bar: Bar) -> Iterator[Callable[[int], None]]:
    began = time.monotonic()
    with _task(bar.name, len(bar.items)) as update:
        yield lambda done: update(completed=done, description=_words(bar, done, began))


@contextlib.contextmanager
def _task(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A line in the live display, while this lasts."""
    live = _live()
    task = live.add_task(what, total=total)
    live.start()
    try:
        yield partial(live.update, task)
    finally:
        if task in live.task_ids:
            live.remove_task(task)
        if not live.task_ids:
            live.stop()


@cache
def _live():
    """The one live display of this process; bars within bars stand below each other."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    atexit.register(stop)  # after a traceback, the cursor is where it belongs
    columns = SpinnerColumn(), BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    console = Console(stderr=True, highlight=False, no_color=bool(os.environ.get("NO_COLOR")))
    return Progress(
        *columns, console=console, transient=True, refresh_per_second=4, redirect_stdout=sys.stdout.isatty()
    )
