"""`python -m prefcourse results NAME`: run a grid of experiments and store its result."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `results` with its arguments."""
    command = commands.add_parser("results", help="run a grid of experiments and store its result (resumable)")
    command.add_argument("name", nargs="?", help="name of the grid, such as pairs-needed; with --list none means all")
    command.add_argument(
        "--list", action="store_true", help="print the grid's points and expected seconds, run nothing"
    )
    command.add_argument(
        "--page", action="store_true", help="write README.md of --out from the files there, run nothing"
    )
    command.add_argument("--out", default="data/results")
    command.add_argument("--work", default="build/results", help="folder in which every finished run is kept")
    command.add_argument(
        "--share", default="1/1", metavar="K/N", help="run every N-th setting, from the K-th: N processes"
    )
    command.set_defaults(run=run, kept="Runs that are done are kept; the same line goes on.")


def run(args: argparse.Namespace) -> int:
    """Run what is missing of a grid of experiments and store its result; or list grids, or write their page."""
    from prefcourse.results import list_grids, page, write

    if args.page:
        print(page.write(Path(args.out)))
        return 0
    if args.list:
        print(list_grids(args.name, Path(args.work)))
        return 0
    if args.name is None:
        raise ValueError("say which grid to run; `python -m prefcourse results --list` names them all")
    share = tuple(int(part) if part.isdecimal() else 0 for part in args.share.split("/", 1))
    path = write(args.name, Path(args.out), Path(args.work), share=share if len(share) == 2 else (0, 0))
    print(path or f"share {args.share} is done; the file is written when all shares are")
    return 0
