"""`python -m prefcourse grade FOLDER`: mark what a class has handed in, where a student's code cannot reach."""

import argparse
import os
from pathlib import Path

SEED_VARIABLE = "PREFCOURSE_GRADING_SEED"  # the class's secret


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `grade` with its arguments."""
    command = commands.add_parser(
        "grade",
        help="mark a class's exercise notebooks",
        description="Marks the automatic checks of all notebooks in a folder: FOLDER/*.ipynb, FOLDER/STUDENT/*.ipynb "
        "or nbgrader's submitted/STUDENT/ASSIGNMENT/*.ipynb. Students' functions run in processes of their own, which "
        "hold no answer and no verdict. Writes canvas.csv, moodle.csv, marks.csv, look.md and a page for each student. "
        "What cannot be read or run is reported and stops nothing; Ctrl-C keeps what is marked, and the same line goes "
        f"on. The environment's {SEED_VARIABLE} is the class's secret, from which each student's inputs are drawn; "
        "without it a secret is drawn once and kept in the output folder. See exercises/INSTRUCTORS.md.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="what was handed in")
    command.add_argument("--output", default="grades", metavar="DIR", help="where to write (default: %(default)s)")
    command.add_argument(
        "--notebook", metavar="NN", help="the notebook that was assigned, such as 06 (default: each by its cells)"
    )
    command.add_argument(
        "--source", metavar="DIR", help="the solutions, yours or the course's (default: exercises/solutions)"
    )
    command.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="for one exercise (default: %(default)g)"
    )
    command.add_argument(
        "--memory", type=int, default=2048, metavar="MB", help="for one exercise (default: %(default)s)"
    )
    command.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="notebooks at once (default: %(default)s)",
    )
    command.add_argument("--roster", metavar="CSV", help="the class as Canvas exports it, to fill its columns")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mark the class; 0 if all is well, 2 if a solution handed in as `control` did not get full marks."""
    if not hasattr(os, "fork"):
        raise ValueError(
            "students' code runs in processes that are forked, which Windows does not do. Mark in WSL, on Linux or "
            "macOS, or in the container of exercises/Dockerfile."
        )
    from prefcourse.finite import number, whole
    from prefcourse.grading import classroom, reports
    from prefcourse.grading.nursery import Limits

    limits = Limits(
        number("--seconds", args.seconds, least=0.1, most=86_400), whole("--memory", args.memory, 64, 1_000_000)
    )
    processes = whole("--processes", args.processes, 1, 256)
    secret = os.environ.get(SEED_VARIABLE, "").strip() or None
    out = Path(args.output)
    args.kept = f"What is marked is kept in {out}; the same line goes on."
    outcome = classroom.grade(
        args.folder, sources(args.source), out, secret=secret, notebook=args.notebook, limits=limits,
        processes=processes, roster=Path(args.roster) if args.roster else None,
        say=lambda text: print(text, flush=True),
    )  # fmt: skip
    for word in outcome.words[:20]:
        print(f"look: {reports.flat(word.splitlines()[0])}")
    if len(outcome.words) > 20:
        print(f"look: {len(outcome.words) - 20} more in {out / 'look.md'}")
    print(f"{out}: canvas.csv, moodle.csv, marks.csv, look.md, pages/")
    if outcome.control_failed:
        print(f"The solution handed in as `{classroom.CONTROL}` did not get full marks: the set-up is broken.")
    return 2 if outcome.control_failed else 0


def sources(folder: str | None) -> list[Path]:
    """The solution notebooks: in `folder`, or in the clone around the package or the current folder."""
    from prefcourse.grading.stripped import PACKAGE

    places = [Path(folder)] if folder else [PACKAGE.parent / "exercises" / "solutions", Path("exercises/solutions")]
    for place in places:
        if found := sorted(place.glob("*.ipynb")):
            return [path.resolve() for path in found]
    raise FileNotFoundError(
        f"{places[-1]}: no solution notebooks. Say where they are with --source, such as a clone's exercises/solutions."
    )
