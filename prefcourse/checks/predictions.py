"""What a learner has predicted before a result was shown: the first prediction, kept until they ask to start again.

    predictions.note("06", "kl_against_beta", option)     # returns what counts: this option, or the one noted before
    predictions.first("06", "kl_against_beta")            # the option, or None
    predictions.forget("06", "kl_against_beta")

The file lies beside the record of what has passed, and holds a part for each folder in which notebooks run: the
learner's copy and the solutions know nothing of each other. Marks are given without it, from the file that is handed in
alone: `Check.grade`, `python -m prefcourse grade` and nbgrader, under which nothing is written, never read it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from prefcourse.checks import record
from prefcourse.locks import Lock
from prefcourse.preferences import write_whole

GRADERS = ("NBGRADER_EXECUTION", "NBGRADER_VALIDATING", "PREFCOURSE_GRADING_SEED")  # set where others' work runs
Kept = dict[str, dict[str, str]]  # folder → "06.kl_against_beta" → option
_here: Kept = {}  # what this process has noted, also where no file can be written
_told: set[str] = set()


def file() -> Path:
    """Where predictions are kept."""
    return record.file().with_suffix(".predictions.json")


def first(number: str, name: str) -> str | None:
    """The option that was noted first in this folder, None without one."""
    key, folder = f"{number}.{name}", os.getcwd()
    return _here.get(folder, {}).get(key) or _read().get(folder, {}).get(key)


def anywhere(number: str, name: str) -> list[str]:
    """The options noted in any folder."""
    return [options[f"{number}.{name}"] for options in _read().values() if f"{number}.{name}" in options]


def note(number: str, name: str, option: str) -> str:
    """Note `option` unless one was noted before; returns the one that counts."""
    if found := first(number, name):
        return found
    _here.setdefault(os.getcwd(), {})[f"{number}.{name}"] = option
    _change(lambda mine: mine.setdefault(f"{number}.{name}", option))
    return option


def forget(number: str, name: str) -> None:
    """Take back what was noted in this folder."""
    _here.get(os.getcwd(), {}).pop(f"{number}.{name}", None)
    _change(lambda mine: mine.pop(f"{number}.{name}", None))


def _read() -> Kept:
    """The file's content; nothing where there is none, where it is damaged, and under a grader."""
    if any(os.environ.get(name) for name in GRADERS):
        return {}
    try:
        found = json.loads(file().read_text(encoding="utf-8"))
        return {str(folder): {str(k): str(v) for k, v in mine.items()} for folder, mine in found.items()}
    except (OSError, ValueError, AttributeError, RecursionError):  # to predict anew costs a learner one letter
        return {}


def _change(change: Callable[[dict[str, str]], object]) -> None:
    """Change this folder's part of the file, one process at a time; what cannot be written is said once."""
    if any(os.environ.get(name) for name in GRADERS):
        return
    try:
        with Lock(f"{file()}.lock", wait=record.PATIENCE):
            found = _read()
            change(found.setdefault(os.getcwd(), {}))
            write_whole(file(), json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    except (OSError, ValueError) as error:
        if str(error) not in _told:
            _told.add(str(error))
            print(f"(your predictions are kept in this notebook alone: {error})")
