"""Preference data: what a pair and an unpaired example look like, how we check them, and how they become a batch.

A pair is a dict with the columns `prompt, chosen, rejected` (TRL's names); an unpaired example is a dict with
`prompt, completion, label`. Files are JSON lines, one row a line. `collate_pairs` turns rows into a `Batch`.
"""

import gzip
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prefcourse.boundary import half_of_one, told
from prefcourse.chat import special_ids
from prefcourse.layout import Layout, lay_out, send

Row = dict[str, Any]
PAIRED, UNPAIRED = ("prompt", "chosen", "rejected"), ("prompt", "completion")


@dataclass(frozen=True)
class Batch:
    """Token ids of N sequences, right-padded, and the mask of what a loss may see.

    input_ids: (N, T) prompt, completion, then padding. A causal model never looks right, so padding needs no mask.
    completion_mask: (N, T) True on the completion, EOS included. It is built from lengths, never as
        `input_ids != pad`: GPT-2 pads with EOS, and that comparison would erase the EOS we want to learn.
    For B pairs, N = 2B: rows 0..B-1 are the chosen completions, rows B..2B-1 the rejected ones.
    """

    input_ids: torch.Tensor
    completion_mask: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """(N,) completion lengths in tokens, EOS included."""
        return self.completion_mask.sum(-1)

    @cached_property
    def layout(self) -> Layout:
        """Where its distinct tokens stand, without the last of each row, from which nothing is predicted."""
        return lay_out(self.input_ids.cpu(), self.completion_mask.cpu()).to(self.input_ids.device)

    @cached_property
    def whole_layout(self) -> Layout:
        """Where all its distinct tokens stand."""
        return lay_out(self.input_ids.cpu(), self.completion_mask.cpu(), ends=True).to(self.input_ids.device)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`, its layout with it."""
        moved = Batch(send(self.input_ids, device), send(self.completion_mask, device))
        vars(moved)["layout"] = self.layout.to(device)
        return moved


def read_rows(path: str | Path, columns: Sequence[str] = PAIRED) -> list[Row]:
    """Read JSON lines and check them.

    Raises FileNotFoundError if there is no such file, and ValueError with file, line and field if a row is not right.
    """
    path = Path(path)
    if not path.is_file():
        expected = f"with the columns {', '.join(columns)}" if columns else "with a row a line"
        found = "a folder, not a file" if path.is_dir() else "not a file" if path.exists() else "no such file"
        raise FileNotFoundError(f"{path}: {found}. Expected JSON lines {expected}.")
    rows = json_lines(path)
    for number, row in rows:
        if isinstance(row, ValueError):
            raise ValueError(f"{path}, line {number}: {row}") from row
    return check_rows([row for _, row in rows], columns, where=str(path))


def json_lines(path: Path) -> list[tuple[int, Any]]:
    """The numbers of the lines of a file, from 1, and the row of each, or the ValueError that says why there is none.

    Blank lines at the end are none; the file may be compressed by gzip.
    """
    with told(f"{path}: cannot be read"):
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).rstrip().splitlines()
    rows = []  # (str.splitlines would cut at U+2028 too)
    for number, line in enumerate(lines, start=1):
        try:
            with told("not JSON", "Each line holds one row."):
                rows.append((number, json.loads(line, object_pairs_hook=_each_key_once)))
        except ValueError as error:
            rows.append((number, error))
    return rows


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Python would take the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return found


def check_rows(rows: Iterable[Row], columns: Sequence[str] = PAIRED, where: str = "rows") -> list[Row]:
    """Return `rows` as a list if each has `columns` as non-empty strings, and chosen differs from rejected.

    The label of an unpaired row, where there is one, must be a bool.

    Raises ValueError that names `where`, the row's number (from 1), the field and what to do.
    """
    rows = list(rows)
    if not rows:
        raise ValueError(f"{where}: no rows. Give at least one.")
    for number, row in enumerate(rows, start=1):
        if said := fault(row, columns):
            raise ValueError(f"{where}, line {number}: {said}")
    return rows


def fault(row: Any, columns: Sequence[str] = PAIRED) -> str | None:
    """What is wrong with a row, as `check_rows` asks for it, or None."""
    if not isinstance(row, dict):
        return f"expected a dict of columns{': ' * bool(columns)}{', '.join(columns)}, got {row!r:.80}."
    for column in columns:
        if column not in row:
            return f"no column '{column}' (it has {', '.join(map(str, row))}). Add or rename it."
        if column == "label":
            continue
        if not isinstance(row[column], str):
            return f"'{column}' must be text, got {row[column]!r:.80}."
        if half := half_of_one(row[column]):
            return f"'{column}': {half}"
        if not row[column].strip():
            return f"'{column}' is empty. Remove the row or fill it in."
    if "completion" in columns and not isinstance(row.get("label", True), bool):
        return f"'label' must be true or false, got {row['label']!r:.80}."
    if "rejected" in columns and row["chosen"] == row["rejected"]:
        return f"chosen and rejected are the same text: {row['chosen']!r:.80}. Remove the row."
    return None


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write `rows` as JSON lines, making the folder."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all: first under another name, then in its place. Makes the folder.

    Lines end in LF on Windows, too: what is written there has the bytes, and the checksum, that it has elsewhere.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


def split_by_prompt(rows: Sequence[Row], shares: dict[str, float], seed: int = 0) -> dict[str, list[Row]]:
    """Deal `rows` to splits so that all rows of a prompt land in one of them: no prompt leaks from train to test.

    shares: split name → share of the prompts; they must sum to 1. Raises ValueError if they do not.
    """
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares must sum to 1, got {shares}")
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    random.Random(seed).shuffle(prompts)
    home, begin, total = {}, 0, 0.0
    for name, share in shares.items():
        total += share
        end = round(total * len(prompts))
        home.update(dict.fromkeys(prompts[begin:end], name))
        begin = end
    return {name: [row for row in rows if home[row["prompt"]] == name] for name in shares}


def encode(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of prompt and completion, tokenised apart, one EOS at the end of the completion.

    The space between them belongs to the completion: then the tokens are those of the whole text, and a model that
    has only seen whole texts is not surprised at the border. Raises ValueError for an empty prompt or completion.
    """
    if not prompt or not completion:
        raise ValueError(f"prompt and completion must not be empty, got {prompt!r} and {completion!r:.80}")
    return encode_prompts([prompt], tokenizer)[0], encode_completions([completion], tokenizer)[0]


def encode_prompts(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each prompt: after the BOS, once, if the tokenizer puts one before a text, and never with an EOS.

    A chat template may have written the BOS already; some tokenizers would end the prompt.
    """
    if not prompts:
        return []
    text = "a"
    bare, whole = (tokenizer(text, add_special_tokens=adds)["input_ids"] for adds in (False, True))
    starts = [k for k in range(len(whole) - len(bare) + 1) if whole[k : k + len(bare)] == bare]
    first = whole[: starts[0]] if starts else []  # what it puts before a text
    rows = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    return [ids if ids[: len(first)] == first else [*first, *ids] for ids in rows]


def encode_completions(completions: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each completion, with one token at the end that ends it.

    That is the mark with which the text ends, if it ends with one, as after a chat template; what a template writes
    behind it is left out. Otherwise it is the tokenizer's EOS. Raises ValueError for a text that goes on after its EOS.
    """
    if not completions:
        return []
    return [_ended(ids, tokenizer) for ids in tokenizer(list(completions), add_special_tokens=False)["input_ids"]]


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    marks = special_ids(tokenizer)
    if marks.isdisjoint(ids):
        return [*ids, tokenizer.eos_token_id]
    last = max(k for k, i in enumerate(ids) if i in marks)
    ends = not tokenizer.decode(ids[last + 1 :]).strip()  # nothing but space behind it
    body = ids[:last] if ends else ids
    if tokenizer.eos_token_id in body:
        raise ValueError(
            f"a completion goes on after its end, {tokenizer.eos_token}: {tokenizer.decode(ids)!r:.120}. A model would "
            "learn to stop there. Cut it, or make two rows of it."
        )
    return ids[: last + 1] if ends else [*ids, tokenizer.eos_token_id]


def collate(sequences: Sequence[tuple[list[int], list[int]]], pad_id: int = 0) -> Batch:
    """Stack (prompt_ids, completion_ids) into a `Batch`, padded on the right to the longest."""
    width = max(len(prompt) + len(completion) for prompt, completion in sequences)
    input_ids = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for i, (prompt, completion) in enumerate(sequences):
        end = len(prompt) + len(completion)
        input_ids[i, :end] = torch.tensor(prompt + completion)
        mask[i, len(prompt) : end] = True
    return Batch(input_ids, mask)


def collate_pairs(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """B pairs → a `Batch` of 2B sequences: the chosen completions first, then the rejected ones."""
    chosen = [encode(row["prompt"], row["chosen"], tokenizer) for row in rows]
    rejected = [encode(row["prompt"], row["rejected"], tokenizer) for row in rows]
    return collate(chosen + rejected, tokenizer.pad_token_id)
