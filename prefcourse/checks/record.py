"""The record of what a self-learner has passed, in one file of their own. `progress` shows it.

The file is ~/.prefcourse/progress.json, or what the environment's PREFCOURSE_PROGRESS names.
"""

import json
import os
import tempfile
import time
from pathlib import Path

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
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a progress file ({error}); move it away to start anew") from error


def remember(number: str, name: str) -> None:
    """Note that check `name` of notebook `number` has passed; a file that cannot be written is said once, no more."""
    try:
        found = passed()
        if name in found.get(number, {}):
            return
        found.setdefault(number, {})[name] = time.strftime("%Y-%m-%d")
        _write(file(), json.dumps(found, indent=1, sort_keys=True) + "\n")
    except (OSError, ValueError) as error:
        if str(error) not in _told:
            _told.add(str(error))
            print(f"(your progress is not kept: {error})")


def _write(path: Path, text: str) -> None:
    """In one step: two notebooks that finish at once never leave half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as part:
        part.write(text)
    os.replace(part.name, path)
