"""The record of what a self-learner has passed, in one file of their own. `progress` shows it.

The file is ~/.prefcourse/progress.json, or what the environment's PREFCOURSE_PROGRESS names.
"""

import json
import os
import time
from pathlib import Path

from prefcourse.locks import Lock
from prefcourse.preferences import write_whole

PATIENCE = 10.0  # seconds to wait for other notebooks that note something at the same time
_told: set[str] = set()  # what was said once in this process


def file() -> Path:
    """Where progress is kept."""
    return Path(os.environ.get("PREFCOURSE_PROGRESS") or Path.home() / ".prefcourse" / "progress.json")


def passed(path: Path | None = None) -> dict[str, dict[str, str]]:
    """Notebook number → name of each check passed → day of the first time. Raises ValueError for a damaged file."""
    path = path or file()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(number): {str(n): str(day) for n, day in checks.items()} for number, checks in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a progress file ({error}); move it away to start anew") from error


def remember(number: str, name: str) -> None:
    """Note that check `name` of notebook `number` has passed; a file that cannot be written is said once, no more.

    One process at a time reads, adds and writes: of two notebooks that pass at once, none undoes what the other noted.
    """
    path = file()
    try:
        with Lock(f"{path}.lock", wait=PATIENCE):
            found = passed(path)
            if name not in found.get(number, {}):
                found.setdefault(number, {})[name] = time.strftime("%Y-%m-%d")
                write_whole(path, json.dumps(found, indent=1, sort_keys=True) + "\n")
    except (OSError, ValueError) as error:
        if str(error) not in _told:
            _told.add(str(error))
            print(f"(your progress is not kept: {error})")
