"""Which checks a self-learner has passed, in one file of their own: `python -m prefcourse progress`.

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


def table() -> list[tuple[str, int, int, int, int, list[str]]]:
    """A row for each exercise notebook: number, checks passed, checks, points, points there are, what is open."""
    from prefcourse import checks  # the checks import this module

    done, rows = passed(), []
    for number in checks.NUMBERS:
        mine = checks.of_notebook(number).values()
        have = [check for check in mine if check.name in done.get(number, {})]
        left = [check.name for check in mine if check not in have]
        rows.append((number, len(have), len(mine), sum(c.points for c in have), sum(c.points for c in mine), left))
    return rows


def report() -> str:
    """The table as text."""
    lines, rows = ["notebook  passed   points  still open"], table()
    for number, have, all_, points, worth, left in rows:
        names = ", ".join(left) if left else "done"
        lines.append(f"{number:8}  {have:2} of {all_:<2} {points:4} / {worth:<3} {names}")
    have, all_, points, worth = (sum(row[k] for row in rows) for k in (1, 2, 3, 4))
    lines.append(f"{'all':8}  {have:2} of {all_:<2} {points:4} / {worth:<3}")
    return "\n".join([*lines, f"kept in {file()}"])
