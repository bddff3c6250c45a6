"""Preference data from elsewhere and for elsewhere: TRL's formats, parquet, JSON lines, `datasets`, the hub.

    rows = load("trl-lib/ultrafeedback_binarized", split="train")   # a hub name, a folder, a file, or a Dataset
    save(rows, "pairs.parquet")                                     # or .jsonl
    dataset = to_dataset(unpaired(rows))                            # for TRL's KTOTrainer

Inside the course a pair is text: prompt, chosen, rejected. `load` brings other shapes into that form: pairs whose
prompt is the beginning that both texts share, and conversations, lists of {"role", "content"}. What it cannot use is
an error that names the line and the field; nothing is dropped in silence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prefcourse.boundary import told
from prefcourse.preferences import PAIRED, UNPAIRED, Row, check_rows, read_rows, write_rows

if TYPE_CHECKING:
    from datasets import Dataset

Messages = Sequence[Mapping[str, str]]
FOLDER = ("*.parquet", "*/*.parquet", "*.jsonl")  # one of them makes a folder a data set
ROLES = ("system", "user", "assistant")


def load(
    source: "str | Path | Dataset | Sequence[Row]", split: str | None = None, *,
    render: Callable[[Messages], str] | None = None,
) -> list[Row]:  # fmt: skip
    """Rows with prompt, chosen, rejected, or with prompt, completion, label, from any of these sources:

    a .jsonl or .parquet file, a `datasets.Dataset`, a list of dicts, a folder or hub name (then `split` is read, train
    by default).
    render: turns the messages of a conversation into text, for example by a tokenizer's chat template; by default
    `plain`. Further columns are kept. Raises FileNotFoundError for a missing file, ValueError with line and field.
    """
    rows, where = _read(source, split)
    return _check([_normal(row, f"{where}, line {n}", render or plain) for n, row in enumerate(rows, start=1)], where)


def save(rows: Sequence[Row], path: str | Path) -> None:
    """Write pairs or unpaired rows to a .jsonl or .parquet file, after checking them. Raises ValueError otherwise."""
    path = Path(path)
    _check(rows, str(path))
    if path.suffix == ".jsonl":
        write_rows(path, rows)
    elif path.suffix == ".parquet":
        path.parent.mkdir(parents=True, exist_ok=True)
        to_dataset(rows).to_parquet(path)
    else:
        raise ValueError(f"{path}: the name must end in .jsonl or .parquet")


def to_dataset(rows: Sequence[Row]) -> "Dataset":
    """A `datasets.Dataset` in TRL's preference format, or its unpaired one, further columns kept."""
    from datasets import Dataset

    return Dataset.from_list(_check(rows, "rows"))


def unpaired(rows: Iterable[Row]) -> list[Row]:
    """Each pair as two rows, as TRL does it: all chosen ones with label True, then all rejected ones with False."""
    rows = check_rows(list(rows), where="rows")
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
        for row in rows
    ]


def check_splits(splits: Mapping[str, Sequence[Row]]) -> None:
    """Raise ValueError, with both places, if a prompt stands in more than one split."""
    home: dict[str, tuple[str, int]] = {}
    for name, rows in splits.items():
        for number, row in enumerate(check_rows(list(rows), ["prompt"], where=name), start=1):
            split, first = home.setdefault(row["prompt"], (name, number))
            if split != name:
                raise ValueError(
                    f"{name}, line {number}: the prompt {row['prompt']!r:.60} stands in {split}, line {first}, too. "
                    "Split by prompt: `split_by_prompt`."
                )


def shared_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt, chosen, rejected of a pair whose prompt is the beginning that both texts share.

    We cut before the last space or line break of that beginning, so that no word is cut in two and neither rest is
    empty; TRL's `extract_prompt` cuts at the first character that differs. Both agree where whole words differ.
    Raises ValueError if nothing is shared.
    """
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    cut = max(chosen.rfind(" ", 0, same), chosen.rfind("\n", 0, same))
    if cut <= 0 or not chosen[:cut].strip():
        raise ValueError("there is no 'prompt', and chosen and rejected share no beginning that could be one")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def plain(messages: Messages) -> str:
    """Messages as text: a line "User: …", "Assistant: …" or "System: …" each."""
    return "\n".join(f"{m['role'].capitalize()}: {m['content'].strip()}" for m in messages)


def _read(source, split: str | None) -> tuple[list[Row], str]:
    if isinstance(source, str | Path):
        path, where = Path(source), str(source)
        if not where.strip():
            raise FileNotFoundError("the name of the data is empty. Give a file, a folder, or a name on the hub.")
        if path.suffix in (".jsonl", ".parquet") and split is not None:
            raise ValueError(f"{path}: a file has no splits, so there is no {split!r} in it. Leave the split out.")
        if path.suffix == ".jsonl":
            return read_rows(path, ()), where
        if path.suffix == ".parquet":
            return _parquet(path), where
        if path.suffix:
            raise ValueError(f"{path}: cannot read a file that ends in {path.suffix}; use .jsonl or .parquet")
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: neither a folder nor a file that ends in .jsonl or .parquet")
        split = split or "train"
        return _data_set(where, split), f"{where} ({split})"
    rows = source.to_list() if hasattr(source, "to_list") else list(source)
    return rows, "data"


def _parquet(path: Path) -> list[Row]:
    """The rows of a parquet file, read anew: from its cache, `datasets` may take an earlier file of that name."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.")
    from datasets import Dataset

    with told(f"{path}: cannot be read as parquet", "Write it again."), TemporaryDirectory() as cache:
        return Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True).to_list()


def _data_set(where: str, split: str) -> list[Row]:
    """The rows of a split of a folder of parquet files, or of a data set on the hub."""
    from datasets import load_dataset

    if (folder := Path(where)).is_dir() and not any(any(folder.glob(name)) for name in FOLDER):
        # `datasets` would search all that is below, be it the whole disk
        raise FileNotFoundError(f"{where}: a folder without a file of data, such as train-00000-of-00001.parquet.")
    with told(f"{where} ({split}): cannot be read as a data set"):
        try:
            return load_dataset(where, split=split).to_list()
        except OSError as error:
            if error.errno and error.filename:  # not of the data: of the folder where `datasets` keeps its copies
                raise OSError(f"{error.filename}: {error.strerror}. Name another place for copies in HF_HOME") from None
            raise


def _normal(row: Any, where: str, render: Callable[[Messages], str]) -> Row:
    """One row of any known shape → a row of texts."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be a dict of columns, got {row!r:.80}")
    sides = ("chosen", "rejected") if "chosen" in row or "rejected" in row else ("completion",)
    for side in sides:
        if side not in row:
            raise ValueError(f"{where}: no '{side}' (there is {', '.join(row) or 'nothing'})")
        if row[side] is None:
            raise ValueError(f"{where}: '{side}' is null. Remove the row or fill it in.")
    row = dict(row)
    talks = [name for name in ("prompt", *sides) if isinstance(row.get(name), list)]
    if talks:
        texts = [name for name in ("prompt", *sides) if isinstance(row.get(name), str)]
        if texts:
            raise ValueError(f"{where}: '{talks[0]}' is a conversation and '{texts[0]}' is text; use one form for all")
        row |= _conversation(row, sides, where, render)
    elif "prompt" not in row and len(sides) == 2 and all(isinstance(row[side], str) for side in sides):
        try:
            row["prompt"], row["chosen"], row["rejected"] = shared_prompt(row["chosen"], row["rejected"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return row


def _conversation(row: Row, sides: Sequence[str], where: str, render: Callable[[Messages], str]) -> Row:
    """Columns of messages → texts: the prompt ends with "Assistant:", a completion is the assistant's last message."""
    for name in ("prompt", *sides):
        for number, message in enumerate(row.get(name) or (), start=1):
            place = f"{where}: '{name}', message {number}"
            if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
                raise ValueError(f"{place} must have role and content, got {message!r:.80}")
            if message["role"] not in ROLES:
                raise ValueError(f"{place} has the role {message['role']!r}; there are {', '.join(ROLES)}")
            if not isinstance(message["content"], str):
                raise ValueError(f"{place}: 'content' must be text, got {message['content']!r:.80}")
    talks = {side: list(row[side]) for side in sides}
    prompt = list(row.get("prompt") or ())
    if not prompt and len(sides) == 2:  # implicit: the messages that both share
        chosen, rejected = talks.values()
        prompt = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))]
        talks = {side: talk[len(prompt) :] for side, talk in talks.items()}
    if not prompt:
        raise ValueError(f"{where}: there is no 'prompt', and the conversations share no message that could be one")
    for side, talk in talks.items():
        if len(talk) != 1 or talk[0]["role"] != "assistant":
            raise ValueError(
                f"{where}: '{side}' must add one message of the assistant to the prompt, got {len(talk)}: "
                f"{[message['role'] for message in talk]}"
            )
        if not talk[0]["content"].strip():
            raise ValueError(f"{where}: '{side}' is empty. Remove the row or fill it in.")
    answer = {side: " " + talk[0]["content"].strip() for side, talk in talks.items()}
    return {"prompt": render(prompt) + "\nAssistant:", **answer}


def _check(rows: Sequence[Row], where: str) -> list[Row]:
    rows = list(rows)
    if not rows:
        raise ValueError(f"{where}: there are no rows")
    kind = PAIRED if isinstance(rows[0], dict) and "chosen" in rows[0] else (*UNPAIRED, "label")
    return check_rows(rows, kind, where=where)
