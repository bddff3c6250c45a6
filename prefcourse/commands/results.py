"""`python -m prefcourse results NAME`: run a grid of experiments and store its result."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `results` with its arguments."""
    command = commands.add_parser("results", help="run a grid of experiments and store its result (resumable)")
    command.add_argument("name", help="name of the grid, such as pairs-needed; a wrong name lists them all")
    command.add_argument("--out", default="data/results")
    command.add_argument("--work", default="build/results", help="folder in which every finished run is kept")
    command.add_argument(
        "--share", default="1/1", metavar="K/N", help="run every N-th setting, from the K-th: N processes"
    )
    command.set_defaults(run=run, kept="Runs that are done are kept; the same line goes on.")


def run(args: argparse.Namespace) -> int:
    """Run what is missing of a grid of experiments and store its result."""
    from prefcourse.results import write

    share = tuple(int(part) if part.isdecimal() else 0 for part in args.share.split("/", 1))
    path = write(args.name, Path(args.out), Path(args.work), share=share if len(share) == 2 else (0, 0))
    print(path or f"share {args.share} is done; the file is written when all shares are")
    return 0
