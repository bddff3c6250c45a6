"""`python -m prefcourse progress`: which of the exercises' checks have passed on this machine."""

import argparse


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `progress`."""
    command = commands.add_parser(
        "progress",
        help="which of the exercises' checks have passed",
        description="Lists, for each exercise notebook, the checks that have passed on this machine, and those still "
        "open. A check that passes in a notebook is noted in ~/.prefcourse/progress.json; PREFCOURSE_PROGRESS names "
        "another file. Delete the file to start anew.",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Say which of the exercises' checks have passed on this machine."""
    from prefcourse.checks import progress

    print(progress.report())
    return 0
