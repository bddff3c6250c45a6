"""Preference data from elsewhere and for elsewhere: TRL's formats, Alpaca's, HH's, files, `datasets`, the hub.

    rows = load("trl-lib/ultrafeedback_binarized", split="train")   # a hub name, a folder, a file, or a Dataset
    save(rows, "pairs.parquet")                                     # or .jsonl
    dataset = to_dataset(unpaired(rows))                            # for TRL's KTOTrainer

Inside the course a pair is text: prompt, chosen, rejected. `load` brings other layouts into that form (`layouts`), and
messages through a chat template (`prefcourse.chat`). What it cannot use is an error that names the line and the field;
nothing is dropped in silence.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from prefcourse import chat
from prefcourse.annotation.layouts import SIDES, Talk, messages_of, renamed, understand
from prefcourse.annotation.reading import Numbered, Source, read
from prefcourse.finite import counted
from prefcourse.preferences import PAIRED, UNPAIRED, Row, check_rows, fault, write_rows

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 10  # bad rows that are named one by one


def load(
    source: Source, split: str | None = None, *, subset: str | None = None, columns: Mapping[str, str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None, template: str | None = None, skip_bad: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Rows with prompt, chosen, rejected, or with prompt, completion and perhaps label, as texts.

    source, split, subset: as `reading.read` takes them. columns: which column is which, {"prompt": "question"}; ""
    leaves one out. tokenizer: whose chat template makes messages into text. template: "chat", "plain" (lines "User: …")
    or "none"; by default "chat" for messages where there is one. Further columns are kept.
    skip_bad: leave out rows that cannot be used. say: told in a line what was recognised, and what was left out.

    Raises FileNotFoundError for a missing file, and ValueError with line and field: for one bad row alone, for several
    the first ten and how many there are of each kind.
    """
    numbered, where = read(source, split, subset)
    if not numbered:
        raise ValueError(f"{where}: no rows. Give at least one.")
    talks, bad = _understood(numbered, columns or {})
    how = chat.choose(template, bool(talks) and talks[0][1].messages, tokenizer)
    rows = _as_texts(talks, bad, tokenizer, how)
    _require_good(bad, where, len(numbered), skip_bad or not bad)
    if not rows:
        raise ValueError(f"{where}: none of the {counted(len(numbered), 'row')} can be used.")
    if say:
        say(_recognised(talks, how, where, len(rows), len(bad)))
        for line in oddities(rows):
            say(line)
    return rows


def load_prompts(
    source: Source, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> list[str]:  # fmt: skip
    """The column prompt of `source`, texts or messages, as texts; `template` as in `load`.

    Raises FileNotFoundError, and ValueError that names the line.
    """
    numbered, where = read(source)
    texts = []
    for number, row in numbered:
        try:
            if isinstance(row, ValueError):
                raise row
            prompt = row.get("prompt") if isinstance(row, dict) else None
            how = chat.choose(template, isinstance(prompt, list), tokenizer)
            if said := fault(row, ["prompt"]) if not isinstance(prompt, list) else None:
                raise ValueError(said)
            if how != "none":
                talk = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt.strip()}]
                prompt, _ = chat.render(messages_of("prompt", talk), [], tokenizer, how)
            texts.append(prompt)
        except ValueError as error:
            raise ValueError(f"{where}, line {number}: {error}") from None
    if not texts:
        raise ValueError(f"{where}: no rows. Give at least one.")
    return texts


def _understood(numbered: Numbered, columns: Mapping[str, str]) -> tuple[list[tuple[int, Talk]], dict[int, str]]:
    """What the rows mean, by number, and what is wrong with those that cannot be used."""
    talks, bad, labelled = [], {}, False
    for number, row in numbered:
        try:
            if isinstance(row, ValueError):  # it could not even be read
                raise row
            talk = understand(renamed(row, columns) if isinstance(row, dict) else row)
            kind = set(talks[0][1].answers) if talks else set(talk.answers)
            if set(talk.answers) != kind:
                raise ValueError(f"no {' and '.join(map(repr, kind))} as in the rows before")
            labelled = labelled or "label" in talk.rest
            if labelled and "completion" in talk.answers and "label" not in talk.rest:
                raise ValueError("no column 'label', which the rows before have")
            talks.append((number, talk))
        except ValueError as error:
            bad[number] = str(error)
    return talks, bad


def _as_texts(
    talks: Sequence[tuple[int, Talk]], bad: dict[int, str], tokenizer: PreTrainedTokenizerBase | None, template: str
) -> list[Row]:
    """The rows as texts; what is wrong with one goes to `bad`."""
    rows = []
    for number, talk in talks:
        try:
            row = {"prompt": talk.prompt, **talk.answers} if not talk.messages else None
            if row and talk.prompt is None:
                del row["prompt"]
            columns = PAIRED if "chosen" in talk.answers else (*UNPAIRED, *(["label"] if "label" in talk.rest else []))
            if row and (said := fault(row | talk.rest, columns)):
                raise ValueError(said)
            if not row or template != "none":
                row = _rendered(talk, tokenizer, "plain" if template == "none" else template)
            if said := fault(row | talk.rest, columns):
                raise ValueError(said)
            if talk.messages != talks[0][1].messages:
                here, there = ("messages", "text") if talk.messages else ("text", "messages")
                raise ValueError(f"is {here}, and the rows before are {there}. Make two files of them.")
            rows.append(row | talk.rest)
        except ValueError as error:
            bad[number] = str(error)
    return rows


def _rendered(talk: Talk, tokenizer: PreTrainedTokenizerBase | None, template: str) -> Row:
    """Prompt and answers of a row through a template. A text becomes the user's turn, a dialogue of HH its turns."""
    prompt, answers = talk.prompt, talk.answers
    if not talk.messages:
        prompt = (chat.dialogue(prompt) or [])[:-1] or [{"role": "user", "content": prompt.strip()}]
        answers = {side: [{"role": "assistant", "content": text.strip()}] for side, text in answers.items()}
    tools = talk.rest.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools or None  # TRL takes both
    text, said = chat.render(prompt, list(answers.values()), tokenizer, template, tools)
    return {"prompt": text, **dict(zip(answers, said, strict=True))}


def _require_good(bad: Mapping[int, str], where: str, count: int, skip: bool) -> None:
    """Raise ValueError with the first bad rows, and how many there are of each kind."""
    if skip:
        return
    first = [f"line {number}: {bad[number]}" for number in sorted(bad)[:SHOWN]]
    if len(bad) == 1:
        raise ValueError(f"{where}, {first[0]}")
    listed = "\n  ".join(first)
    raise ValueError(
        f"{where}: {len(bad):,} of {counted(count, 'row')} cannot be used ({_kinds(bad)}). The first:\n  {listed}\n"
        "Mend them, or leave them out: --skip-bad-rows (skip_bad=True)."
    )


def _kinds(bad: Mapping[int, str]) -> str:
    """How many bad rows there are of each kind; what a message says of one row alone is left out."""
    kinds = Counter(re.split(r", got |: | \(|\. ", said)[0].rstrip(".") for said in bad.values())
    return "; ".join(f"{n:,} times: {kind}" for kind, n in kinds.most_common())


def _recognised(talks: Sequence[tuple[int, Talk]], template: str, where: str, rows: int, bad: int) -> str:
    """A line on what the rows are, how they become text, and what is left out."""
    layouts = Counter(talk.layout for _, talk in talks)
    shapes = " and ".join(layout for layout, _ in layouts.most_common())
    ways = "through the tokenizer's chat template", "as lines User: and Assistant:", "as they are"
    how = dict(zip(chat.TEMPLATES, ways, strict=True))
    skipped = f"; {counted(bad, 'row')} left out that cannot be used" if bad else ""
    return f"{where}: {counted(rows, 'row')}, layout {shapes}, {how[template]}{skipped}"


def oddities(rows: Sequence[Row]) -> list[str]:
    """What is odd about good rows, in a sentence each: repeated, contradictory, glued together, doubled, one-sided."""
    found, pairs = [], "chosen" in rows[0]
    sides = SIDES if pairs else ("completion", "label")
    keys = Counter(tuple(row.get(name) for name in ("prompt", *sides)) for row in rows)
    if again := len(rows) - len(keys):
        found.append(f"{counted(again, 'row')} repeat{'s' * (again == 1)} an earlier one.")
    turned = sum(1 for prompt, a, b in keys if (prompt, b if pairs else a, a if pairs else not b) in keys) // 2
    if turned:
        found.append(f"{counted(turned, 'pair')} stand{'s' * (turned == 1)} there both ways round: labels contradict.")
    answers = [row[side] for row in rows for side in sides if side != "label"]
    prompts = [row["prompt"] for row in rows for side in sides if side != "label"]
    glued = sum(p[-1].isalnum() and a[0].isalnum() for p, a in zip(prompts, answers, strict=True))
    if glued:
        found.append(
            f"{counted(glued, 'answer')} begin{'s' * (glued == 1)} with a letter right behind the prompt's last, "
            "without a space or line break between them. Is a chat template meant (--template chat)?"
        )
    doubled = sum(a.startswith(p) for p, a in zip(prompts, answers, strict=True))
    if doubled:
        found.append(
            f"{counted(doubled, 'answer')} begin{'s' * (doubled == 1)} with the whole prompt, which then comes twice. "
            "Do the answers hold it already? Then leave the column out (--columns prompt=)."
        )
    labels = Counter(row["label"] for row in rows if "label" in row)
    if labels and max(labels.values()) > 4 * max(min(labels[True], labels[False]), 1):
        found.append(
            f"labels: {labels[True]:,} desirable, {labels[False]:,} undesirable. KTO wants their weights in balance: "
            "--parameter desirable_weight=… or undesirable_weight=…"
        )
    return found


def leaked(rows: Sequence[Row], test: Sequence[Row]) -> str | None:
    """How many prompts of `test` are among `rows`, in a sentence; None if none is."""
    shared = len({row["prompt"] for row in rows} & {row["prompt"] for row in test})
    return (
        f"{counted(shared, 'prompt')} of the test rows {'is' if shared == 1 else 'are'} trained on, too."
        if shared
        else None
    )


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
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for side in SIDES for row in rows
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


def _check(rows: Sequence[Row], where: str) -> list[Row]:
    rows = list(rows)
    if not rows:
        raise ValueError(f"{where}: there are no rows")
    kind = PAIRED if isinstance(rows[0], dict) and "chosen" in rows[0] else (*UNPAIRED, "label")
    return check_rows(rows, kind, where=where)
