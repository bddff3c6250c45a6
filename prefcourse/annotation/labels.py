"""A file of labels that survives anything: append-only JSON lines, one record a line, on disk before we go on.

    with LabelFile("runs/my-labels.jsonl") as file:
        file.append({"prompt": "I have", "response_a": " a cat.", "response_b": " no cat.", "label": "A"})
        file.undo()                     # the last label stops counting; its line stays
        print(len(file.records), file.note)

Nothing is ever rewritten. A label is one line, flushed and synced, so killing the process loses at most the label that
was being written; a torn last line is moved aside and reported when the file is opened again. A lock keeps a second
process out. This module imports nothing heavy.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

Record = dict[str, Any]
LABELS = ("A", "B", "tie", "skip")
TEXTS = ("prompt", "response_a", "response_b")


class LabelFile:
    """An open, locked file of labels. `records` are those that count, in order; `note` says what opening it found."""

    def __init__(self, path: str | Path):
        """Open `path`, making it and its folder where needed.

        Raises BlockingIOError if another process has it open, ValueError for a damaged line that is not the last, and
        OSError where we may not write.
        """
        self.path, self.note = Path(path), ""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(f"{self.path}.lock", "a", encoding="utf-8")  # noqa: SIM115 (it stays open as long as we are)
        try:
            _lock(self._lock)
        except OSError:
            self._lock.close()
            raise BlockingIOError(
                f"{self.path} is open in another window or process. Close it there, or label into another file."
            ) from None
        try:
            self._set_torn_line_aside()
            self._lines = _parse(self.path)
            self._file = open(self.path, "ab")  # noqa: SIM115
        except BaseException:
            self._lock.close()
            raise

    @property
    def records(self) -> list[Record]:
        """The labels that count: all that were appended and not undone."""
        return _counting(self._lines)

    def append(self, record: Record) -> Record:
        """Write one label, and return it with its `id` and its `time` (UTC). On return it is on the disk.

        Raises ValueError, and writes nothing, if it lacks a text or its label is not A, B, tie or skip.
        """
        check_label(record, str(self.path))
        return self._write({"id": self._next(), "time": _now(), **record})

    def undo(self) -> Record | None:
        """The last label that counts stops counting; returns it, or None if there is none."""
        if not self.records:
            return None
        last = self.records[-1]
        self._write({"id": self._next(), "time": _now(), "undo": last["id"]})
        return last

    def close(self) -> None:
        """Close the file and let others in. Closing twice does no harm."""
        self._file.close()
        self._lock.close()

    def __enter__(self) -> "LabelFile":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _next(self) -> int:
        return 1 + max((line["id"] for line in self._lines), default=0)

    def _write(self, record: Record) -> Record:
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._lines.append(record)
        return record

    def _set_torn_line_aside(self) -> None:
        """Move a last line without its end to a file of its own: the process died while it wrote that."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return
        number = next(n for n in range(1, 10_000) if not Path(f"{self.path}.torn-{n}").exists())
        aside = Path(f"{self.path}.torn-{number}")
        aside.write_bytes(content[whole:])  # first a copy, then the cut: nothing is lost in between
        with open(self.path, "r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        self.note = f"The last line of {self.path.name} was torn; it is kept in {aside.name}. Label that pair again."


def read_labels(path: str | Path) -> list[Record]:
    """The labels of a file that count, without a lock; a line that is being written is not seen yet.

    Raises FileNotFoundError if there is none, ValueError for a damaged line, with its number.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of labels. Label some pairs first.")
    return _counting(_parse(Path(path)))


def preference_rows(records: Iterable[Record]) -> tuple[list[Record], dict[str, int]]:
    """Labels → rows {"prompt", "chosen", "rejected"}, and how many labels of each kind there were.

    A tie or a skip makes no row; the counts say how many that were.
    """
    rows, counts = [], Counter(dict.fromkeys(LABELS, 0))
    for record in records:
        check_label(record, f"label {record.get('id', '?')}")
        counts[record["label"]] += 1
        if record["label"] in ("A", "B"):
            a, b = record["response_a"], record["response_b"]
            chosen, rejected = (a, b) if record["label"] == "A" else (b, a)
            rows.append({"prompt": record["prompt"], "chosen": chosen, "rejected": rejected})
    return rows, dict(counts)


def check_label(record: Record, where: str) -> None:
    """Raise ValueError, naming `where` and the field, unless `record` is a label of two different texts."""
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a label is a dict with {', '.join(TEXTS)} and label, got {record!r:.80}")
    for name in TEXTS:
        if name not in record:
            raise ValueError(f"{where}: no '{name}' (there is {', '.join(record) or 'nothing'}). Add it.")
        if not isinstance(record[name], str) or not record[name].strip():
            raise ValueError(f"{where}: '{name}' must be text that is not empty, got {record[name]!r:.80}")
    if record.get("label") not in LABELS:
        raise ValueError(f"{where}: 'label' must be one of {', '.join(LABELS)}, got {record.get('label')!r:.80}")
    if record["response_a"] == record["response_b"]:
        raise ValueError(f"{where}: both responses are {record['response_a']!r:.80}. There is nothing to choose.")


def _parse(path: Path) -> list[Record]:
    """All whole lines of `path`, labels and undos."""
    if not path.exists():
        return []
    lines, ids = [], set()
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):  # the rest after the last \n is torn
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not a line of JSON ({error}). Repair or remove that line.") from None
        if not isinstance(record, dict) or not isinstance(record.get("id"), int) or record["id"] in ids:
            raise ValueError(f"{place}: 'id' must be a whole number of its own, in {record!r:.80}. Repair that line.")
        if "undo" in record:
            if record["undo"] not in ids:
                raise ValueError(f"{place}: 'undo' names label {record['undo']!r}, which is not above it.")
        else:
            check_label(record, place)
        ids.add(record["id"])
        lines.append(record)
    return lines


def _counting(lines: list[Record]) -> list[Record]:
    undone = {line["undo"] for line in lines if "undo" in line}
    return [line for line in lines if "undo" not in line and line["id"] not in undone]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _lock(file) -> None:
    """Take the file's lock or raise OSError at once. It vanishes with the process, however that ends."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
