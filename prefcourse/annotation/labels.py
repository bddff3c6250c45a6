"""A file of labels that survives anything: append-only JSON lines, one record a line, on disk before we go on.

    with LabelFile(my_labels()) as file:
        file.append({"prompt": "I have", "response_a": " a cat.", "response_b": " no cat.", "label": "A"})
        file.undo()                     # the last label stops counting; its line stays
        print(len(file.records), file.note)
    merge_labels("ada.jsonl", "ben.jsonl", into="all.jsonl", annotators=("ada", "ben"))

Nothing is ever rewritten. A label is one line, written and synced at once, so killing the process loses at most the
label that was being written; a torn last line is moved aside and reported when the file is opened again. A label that
could not be written, as on a full disk, leaves no trace. The file itself is locked, so no second process gets in. This
module imports nothing heavy.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefcourse.locks import Lock

Record = dict[str, Any]
LABELS = ("A", "B", "tie", "skip")
TEXTS = ("prompt", "response_a", "response_b")


def my_labels() -> Path:
    """The file of your own labels, the same from every folder: ~/.prefcourse/my-labels.jsonl.

    The environment's PREFCOURSE_LABELS names another one.
    """
    return Path(os.environ.get("PREFCOURSE_LABELS") or Path.home() / ".prefcourse" / "my-labels.jsonl")


class LabelFile:
    """An open, locked file of labels. `records` are those that count, in order; `note` says what opening it found."""

    def __init__(self, path: str | Path):
        """Open `path`, making it and its folder where needed.

        Raises BlockingIOError if another process has it open, ValueError for a damaged line that is not the last, and
        OSError where we may not write.
        """
        self.path, self.note = Path(path), ""
        self._lock = Lock(
            path, f"{path} is open in another window or process. Close it there, or label into another file."
        )
        try:
            self._file = self._lock.file  # through which we write: whoever gets another file gets another lock, too
            self._file.seek(0)
            content = self._file.readall()
            self._lines, whole = _parse(content, self.path)
            if whole < len(content):
                self._set_aside(content[whole:], whole)
        except BaseException:
            self.close()
            raise

    @property
    def records(self) -> list[Record]:
        """The labels that count: all that were appended and not undone."""
        return _counting(self._lines)

    def append(self, record: Record) -> Record:
        """Write one label, and return it with its `id` and its `time` (UTC). On return it is on the disk.

        The file gives the id: one that the record brings from another file is replaced, its time is kept. Raises
        ValueError, and writes nothing, if it lacks a text, its label is not A, B, tie or skip, it has an `undo`, or
        JSON cannot hold it; OSError, and leaves the file as it was, where writing fails.
        """
        check_label(record, str(self.path))
        if "undo" in record:
            raise ValueError(f"{self.path}: a label has no 'undo'. Leave it out; `undo()` takes the last label back.")
        return self._write({"id": None, "time": _now()} | record)

    def undo(self) -> Record | None:
        """The last label that counts stops counting; returns it, or None if there is none. Raises as `append`."""
        if not self.records:
            return None
        last = self.records[-1]
        self._write({"id": None, "time": _now(), "undo": last["id"]})
        return last

    def close(self) -> None:
        """Close the file and let others in. Closing twice does no harm."""
        self._lock.release()

    def __enter__(self) -> "LabelFile":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _write(self, record: Record) -> Record:
        """Append a line with the next id, whole or not at all. We keep what a reader will find there."""
        ids = {line["id"] for line in self._lines}
        line = _as_line(record | {"id": 1 + max(ids, default=0)}, str(self.path))
        kept = [*self._lines, _record(line, ids, str(self.path))]
        if self._file.closed:
            raise ValueError(f"{self.path} was closed, and nothing was written. Open it again.")
        if not self._lock.held:
            raise OSError(f"{self.path} was deleted, moved or replaced meanwhile; nothing was written. Open it again.")
        size, before = os.fstat(self._file.fileno()).st_size, self._lines
        try:
            self._write_bytes(line if self._ends_a_line(size) else b"\n" + line)
            self._lines = kept
        except BaseException as error:  # Ctrl-C, too
            self._lines = before
            self._take_back(size)
            if not isinstance(error, OSError):
                raise
            said = f"{error.strerror}; this label was not written, those before it are safe. Mend that and label again"
            raise OSError(error.errno, said, str(self.path)) from error
        return kept[-1]

    def _write_bytes(self, rest: bytes) -> None:
        while rest:  # a disk that gets full takes a part
            rest = rest[os.write(self._file.fileno(), rest) :]
        os.fsync(self._file.fileno())

    def _ends_a_line(self, size: int) -> bool:
        """Whether the file ends with a line's end, as editors do not always leave it."""
        self._file.seek(max(size - 1, 0))
        return self._file.read(1) in (b"\n", b"")

    def _take_back(self, size: int) -> None:
        try:
            os.ftruncate(self._file.fileno(), size)
        except OSError:
            self.close()  # half a line stays, and nothing may be written behind it; the next opening moves it aside

    def _set_aside(self, torn: bytes, whole: int) -> None:
        """Move a torn last line to a file of its own: the process died while it wrote that."""
        number = next(n for n in range(1, 10_000) if not Path(f"{self.path}.torn-{n}").exists())
        aside = Path(f"{self.path}.torn-{number}")
        aside.write_bytes(torn)  # first a copy, then the cut: nothing is lost in between
        os.ftruncate(self._file.fileno(), whole)
        os.fsync(self._file.fileno())
        self.note = f"The last line of {self.path.name} was torn; it is kept in {aside.name}. Label that pair again."


def read_labels(path: str | Path) -> list[Record]:
    """The labels of a file that count, without a lock; a line that is being written is not seen yet.

    Raises FileNotFoundError if there is none, ValueError for a damaged line, with its number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of labels. Label some pairs first.")
    return _counting(_parse(path.read_bytes(), path)[0])


def merge_labels(*sources: str | Path, into: str | Path, annotators: Sequence[str] = ()) -> list[Record]:
    """Append the labels of the files `sources` that count to the file `into`; returns those that were added.

    annotators: a name for each file, written into its labels, for files whose labels all say "me". Ids are given anew.
    A label that `into` has already, equal in all but the id, is not added, even if it was undone there: merging again
    adds what is new. Two people's labels of one pair are two labels. Raises as `read_labels` and `LabelFile` do, for a
    source before anything is written, and ValueError where the names are not as many as the files.
    """
    if annotators and len(annotators) != len(sources):
        raise ValueError(f"{len(sources)} files need as many annotators, got {len(annotators)}: {annotators!r:.80}")
    extra = [{"annotator": name} for name in annotators] or [{}] * len(sources)
    found = [record | new for path, new in zip(sources, extra, strict=True) for record in read_labels(path)]
    added = []
    with LabelFile(into) as file:
        there = {_without_id(line) for line in file._lines}
        for record in found:
            if (content := _without_id(record)) not in there:
                there.add(content)
                added.append(file.append(record))
    return added


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
            raise ValueError(f"{where}: no '{name}' (there is {', '.join(map(str, record)) or 'nothing'}). Add it.")
        if not isinstance(record[name], str) or not record[name].strip():
            raise ValueError(f"{where}: '{name}' must be text that is not empty, got {record[name]!r:.80}")
        if halves := [c for c in record[name] if "\ud800" <= c <= "\udfff"]:
            raise ValueError(f"{where}: '{name}' holds half a character, {halves[0]!a}, which no file can. Remove it.")
    if record.get("label") not in LABELS:
        raise ValueError(f"{where}: 'label' must be one of {', '.join(LABELS)}, got {record.get('label')!r:.80}")
    if record["response_a"] == record["response_b"]:
        raise ValueError(f"{where}: both responses are {record['response_a']!r:.80}. There is nothing to choose.")


def _parse(content: bytes, path: Path) -> tuple[list[Record], int]:
    """All lines, labels and undos, and how many bytes they are; after those comes a torn last line, if any.

    A last line without its end counts if it is complete: our own would not be, but editors leave it so.
    """
    lines, ids = [], set()
    pieces = content.split(b"\n")
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            lines.append(_record(piece, ids, f"{path}, line {number}"))
        except ValueError:
            if number < len(pieces):
                raise
            return lines, len(content) - len(piece)
        ids.add(lines[-1]["id"])
    return lines, len(content)


def _record(line: bytes, ids: set[int], place: str) -> Record:
    """One line, checked; `ids` are those of the lines above."""
    try:
        record = json.loads(line, object_pairs_hook=_each_key_once)
    except KeyError as error:
        raise ValueError(f"{place}: the key {error} stands there twice. Remove one of them.") from None
    except RecursionError:
        raise ValueError(f"{place}: too many brackets within brackets. Repair or remove that line.") from None
    except ValueError as error:
        raise ValueError(f"{place}: not a line of JSON ({error}). Repair or remove that line.") from None
    if not isinstance(record, dict) or type(record.get("id")) is not int or record["id"] in ids:  # True is an int, too
        raise ValueError(f"{place}: 'id' must be a whole number of its own, in {record!r:.80}. Repair that line.")
    if "undo" not in record:
        check_label(record, place)
    elif type(record["undo"]) is not int or record["undo"] not in ids:
        raise ValueError(f"{place}: 'undo' names label {record['undo']!r:.80}, which is not above it. Repair it.")
    return record


def _each_key_once(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise KeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return record


def _as_line(record: Record, place: str) -> bytes:
    try:
        return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{place}: JSON cannot hold this label ({error}). Change or leave out that field.") from None


def _without_id(record: Record) -> str:
    return json.dumps({**record, "id": None}, sort_keys=True)


def _counting(lines: list[Record]) -> list[Record]:
    undone = {line["undo"] for line in lines if "undo" in line}
    return [line for line in lines if "undo" not in line and line["id"] not in undone]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
