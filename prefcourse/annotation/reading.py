"""Where rows come from: a file, a folder, or a data set on the hub, read as they are.

    for number, row in read("pairs.jsonl.gz"): ...

A row that cannot be read, such as a line that is not JSON, comes as the error that says why; `layouts` decides.
"""

import csv
import gzip
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefcourse.boundary import told
from prefcourse.preferences import Row, json_lines

Source = Any  # a name or path, a `datasets.Dataset`, or rows
Numbered = list[tuple[int, Any]]  # the number of a row, from 1, and the row or the ValueError it is
ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
FOLDER = ("*.parquet", "*/*.parquet", "*.jsonl", "*.json", "*.csv", "*.jsonl.gz", "*.json.gz", "*.csv.gz")


def read(source: Source, split: str | None = None, subset: str | None = None) -> tuple[Numbered, str]:
    """The rows of `source` with their numbers, and what the source is called in messages.

    source: a .jsonl, .json, .csv or .parquet file, the first three also as .gz; a folder or a name on the hub, of which
    `split` is read (train by default) from the configuration `subset`; a `datasets.Dataset`; a list of rows.
    Raises FileNotFoundError for a file that is not there, ValueError for one that cannot be read at all.
    """
    if not isinstance(source, str | Path):
        rows = source.to_list() if hasattr(source, "to_list") else list(source)
        return list(enumerate(rows, start=1)), "data"
    path, where = Path(source), str(source)
    if not where.strip():
        raise FileNotFoundError("the name of the data is empty. Give a file, a folder, or a name on the hub.")
    ending = _ending(path)
    if path.is_dir() or (ending is None and not path.exists()):
        return _data_set(where, split or "train", subset)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a file, nor a folder.")
    if ending is None:
        raise ValueError(
            f"{path}: cannot read a file that ends in {path.suffix or path.name}; use {', '.join(ENDINGS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. Give one of {', '.join(ENDINGS)}, a folder, or a name on the hub."
        )
    for name, given in (("split", split), ("subset", subset)):
        if given is not None:
            raise ValueError(f"{path}: a file has no {name}s, so there is no {given!r} in it. Leave the {name} out.")
    if ending == ".jsonl":
        return json_lines(path), where
    how = {".json": _json, ".csv": _csv, ".parquet": _parquet}[ending]
    return list(enumerate(how(path), start=1)), where


def _ending(path: Path) -> str | None:
    """The kind of file that a name means, whatever its case; None for a name that means no file we can read."""
    name = path.name.lower().removesuffix(".gz")
    found = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    return None if found == ".parquet" and path.name.lower().endswith(".gz") else found


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix.lower() == ".gz" else data


def _json(path: Path) -> list[Any]:
    """The rows of a JSON file: a list of them, or an object that holds one list."""
    with told(f"{path}: not JSON", "It must hold a list of rows."):
        data = _bytes(path).strip()
        if data[:1] == b"{" and b"\n{" in data:  # JSON lines under another name
            return [json.loads(line) for line in data.splitlines() if line.strip()]
        found = json.loads(data)
    lists = [found] if isinstance(found, list) else [v for v in dict(found).values() if isinstance(v, list)]
    if len(lists) != 1:
        raise ValueError(f"{path}: must hold a list of rows, got {type(found).__name__} with {len(lists)} lists.")
    return lists[0]


def _csv(path: Path) -> list[Row]:
    """The rows of a CSV file. Every cell is text, be it "3" or empty: `datasets` would make numbers of answers."""
    with told(f"{path}: cannot be read as CSV", "Write it again, in UTF-8."):
        rows = list(csv.DictReader(io.StringIO(_bytes(path).decode("utf-8-sig"), newline=""), strict=True))
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(
                f"{path}, row {number}: has not as many cells as the header. Put texts with commas in quotes."
            )
    return rows


def _parquet(path: Path) -> list[Row]:
    """The rows of a parquet file, read anew: from its cache, `datasets` may take an earlier file of that name."""
    from datasets import Dataset

    with told(f"{path}: cannot be read as parquet", "Write it again."), TemporaryDirectory() as cache:
        return Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True).to_list()


def _data_set(where: str, split: str, subset: str | None) -> tuple[Numbered, str]:
    """The rows of a split of a folder of files, or of a data set on the hub."""
    from datasets import load_dataset

    if (folder := Path(where)).is_dir() and not any(any(folder.glob(name)) for name in FOLDER):
        # `datasets` would search all that is below, be it the whole disk
        raise FileNotFoundError(f"{where}: a folder without a file of data, such as train-00000-of-00001.parquet.")
    name = f"{where} ({', '.join(part for part in (subset, split) if part)})"
    with told(f"{name}: cannot be read as a data set"):
        try:
            return list(enumerate(load_dataset(where, subset, split=split).to_list(), start=1)), name
        except OSError as error:
            if error.errno and error.filename:  # not of the data: of the folder where `datasets` keeps its copies
                raise OSError(f"{error.filename}: {error.strerror}. Name another place for copies in HF_HOME") from None
            raise
