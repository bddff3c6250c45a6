"""Rows of one's own on the command line: the arguments that say how a file is to be read, and what became of it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prefcourse.commands.shared import say

if TYPE_CHECKING:
    from prefcourse.preferences import Row


def add(group: argparse._ActionsContainer, what: str) -> None:
    """Add --data and all that says how it is read. what: what --data holds, for its help."""
    group.add_argument("--data", help=what)
    group.add_argument("--split", help="which part of a dataset from the hub or a folder")
    group.add_argument("--subset", help="which configuration of a dataset from the hub")
    group.add_argument(
        "--columns", metavar="NAME=COLUMN,...",
        help="which column is which, such as prompt=question,chosen=good; NAME= leaves a column out",
    )  # fmt: skip
    group.add_argument(
        "--template",
        help="how a conversation becomes text: chat (the tokenizer's template), plain (lines User: and Assistant:) or "
        "none (default: chat for messages where the tokenizer has one)",
    )
    group.add_argument("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used, and say which")
    group.add_argument("--max-length", type=int, help="tokens of prompt and completion together (default: the model's)")
    group.add_argument(
        "--too-long",
        help="longer rows: error; drop; truncate, the completion's end; left, the prompt's beginning (default: error)",
    )


def load(args: argparse.Namespace, tokenizer, source: str | None = None, split: str = "train") -> "list[Row]":
    """The rows of --data, or of another `source` that is read in the same way, with a line on what they are.

    split: of a folder or a data set on the hub, where --split does not name one. Raises ValueError for --columns that
    cannot be read, and what `exchange.load` raises.
    """
    from prefcourse.annotation import exchange

    named, source = (args.split, args.data) if source is None else (None, source)
    return exchange.load(
        source, named or (None if Path(source).is_file() else split), subset=args.subset,
        columns=_columns(args.columns), tokenizer=tokenizer, template=args.template,
        skip_bad=args.skip_bad_rows, say=say,
    )  # fmt: skip


def _columns(text: str | None) -> dict[str, str]:
    """--columns "prompt=question,system=" → {"prompt": "question", "system": ""}."""
    found = {}
    for part in (text or "").split(",") if text else ():
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise ValueError(f"--columns takes NAME=COLUMN,..., such as prompt=question,chosen=good, got {text!r}")
        if name in found:
            raise ValueError(f"--columns names {name} twice: {text!r}")
        found[name] = column
    return found


def require_data(args: argparse.Namespace) -> None:
    """Raise ValueError for an argument that says how --data is read, without --data."""
    for name in ("split", "subset", "columns", "template", "skip_bad_rows"):
        if getattr(args, name) and not args.data:
            raise ValueError(f"--{name.replace('_', '-')} says how rows are read, and --data names none")
