"""`python -m prefcourse bundle`: make data/ again from the IMDb reviews."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `bundle` with its arguments."""
    command = commands.add_parser("bundle", help="make data/ again from the IMDb reviews (about two hours)")
    command.add_argument(
        "--imdb", default="stanfordnlp/imdb", help="name on the hub, or a folder with the parquet files"
    )
    command.add_argument("--out", default="data")
    command.add_argument("--work", default="build", help="folder for the corpus, checkpoints and what each step found")
    command.add_argument("--redo", help="run this step and all after it again")
    command.set_defaults(run=run, kept="Steps that are done are kept; the same line goes on.")


def run(args: argparse.Namespace) -> int:
    """Make data/ again from the IMDb reviews."""
    from prefcourse.bundle import build

    build(args.imdb, Path(args.out), Path(args.work), args.redo)
    return 0
