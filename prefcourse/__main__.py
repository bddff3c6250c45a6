"""The command line: `python -m prefcourse doctor | train | evaluate | collect | progress | …`. Each has --help."""

import argparse
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from prefcourse import jobs

NEEDED = ("torch", "transformers", "datasets", "numpy", "matplotlib", "ipywidgets", "jupyterlab")
OPTIONAL = ("accelerate", "peft")


def doctor(args: argparse.Namespace) -> int:
    """Say what is installed, on which device and precision we run, and whether the bundled data is whole."""
    ok = True
    print(f"python        {platform.python_version()}")
    for name in (*NEEDED, *OPTIONAL):
        try:
            print(f"{name:13} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing = name in NEEDED
            ok &= not missing
            print(f"{name:13} missing: pip install {name}" if missing else f"{name:13} not installed (optional)")
    try:
        import torch

        from prefcourse.devices import choose_precision
        from prefcourse.world import data_folder, verify

        device = "cuda" if torch.cuda.is_available() else "cpu"
        precision = str(choose_precision("auto", device)).removeprefix("torch.")
        threads = torch.get_num_threads()
        print(f"device        {device}, {threads} thread{'s' * (threads != 1)}, precision {precision}")
        verify(data_folder())
        print("data          all files are there and whole")
        if args.hub or os.environ.get("PREFCOURSE_WORLD") == "gpt2-imdb":
            ok &= _hub_parts()
    except (ImportError, FileNotFoundError, ValueError) as error:
        ok = False
        print(f"problem       {error}")
    print("All is well." if ok else "Something is missing: see above.")
    return 0 if ok else 1


def _hub_parts() -> bool:
    """Say for each part of the world gpt2-imdb whether it can be had, and what to do if one cannot."""
    from prefcourse import hub_world

    names, ok = hub_world.HUB | hub_world.from_environment(), True
    for part, name in names.items():
        there, how = hub_world.reach(part, name)
        ok &= there
        print(f"{part:13} {name}: {how}" if there else f"{part:13} {name} cannot be had: {how}")
    if not ok:
        print(
            "              Check names and connection. On a machine without one, download the parts elsewhere, then\n"
            "              name the folders: PREFCOURSE_BASE, PREFCOURSE_SFT, PREFCOURSE_GOLD, PREFCOURSE_PROMPTS.\n"
            "              The bundled world needs none of them."
        )
    return ok


def bundle_command(args: argparse.Namespace) -> int:
    """Make data/ again from the IMDb reviews."""
    from prefcourse.bundle import build

    build(args.imdb, Path(args.out), Path(args.work), args.redo)
    return 0


def collect_command(args: argparse.Namespace) -> int:
    """Sample two answers to each prompt, ask in the terminal which is better, and keep the labels."""
    from prefcourse.annotate import PreferenceDataCollector, label_in_terminal
    from prefcourse.labels import LabelFile, preference_rows
    from prefcourse.preferences import read_rows, write_rows
    from prefcourse.world import load_model, load_world

    world = load_world(folder=args.world)
    rows = read_rows(args.prompts, ["prompt"]) if args.prompts else world.prompts["train"]
    model = load_model(args.model) if args.model else world.sft
    with LabelFile(args.file) as file:
        collector = PreferenceDataCollector(model, world.tokenizer, name=args.model or "sft", seed=args.seed)
        found = collector.collect([row["prompt"] for row in rows[: args.count]], temperature=args.temperature)
        repeated = sum(pair["metadata"]["duplicates"] for pair in found)
        if repeated:
            print(f"{repeated} answers came out twice or empty and were drawn again.")
        label_in_terminal(found, file, gold=world.gold, seed=args.seed)
        pairs, counts = preference_rows(file.records)
    if args.export:
        write_rows(args.export, pairs)
        print(f"{len(pairs)} pairs in {args.export} ({counts['tie']} ties and {counts['skip']} skips make none).")
    return 0


def progress_command(args: argparse.Namespace) -> int:
    """Say which of the exercises' checks have passed on this machine."""
    from prefcourse.checks import progress

    print(progress.report())
    return 0


def results_command(args: argparse.Namespace) -> int:
    """Run what is missing of a grid of experiments and store its result."""
    from prefcourse.results import write

    share = tuple(int(part) if part.isdecimal() else 0 for part in args.share.split("/", 1))
    path = write(args.name, Path(args.out), Path(args.work), share=share if len(share) == 2 else (0, 0))
    print(path or f"share {args.share} is done; the file is written when all shares are")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, run the command, and turn the errors we foresee into one line."""
    parser = argparse.ArgumentParser(prog="prefcourse", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("doctor", help="what is installed, what is missing, and what to do")
    add.add_argument("--hub", action="store_true", help="also whether the parts of the world gpt2-imdb can be had")
    add.set_defaults(run=doctor)

    jobs.add_train(commands)
    jobs.add_evaluate(commands)

    add = commands.add_parser("bundle", help="make data/ again from the IMDb reviews (about two hours)")
    add.add_argument("--imdb", default="stanfordnlp/imdb", help="name on the hub, or a folder with the parquet files")
    add.add_argument("--out", default="data")
    add.add_argument("--work", default="build", help="folder for the corpus, checkpoints and what each step found")
    add.add_argument("--redo", help="run this step and all after it again")
    add.set_defaults(run=bundle_command)

    add = commands.add_parser(
        "collect",
        help="label pairs in the terminal",
        description="Shows two answers at a time and asks which is better. Every label is on the disk before the next "
        "pair appears; the same command goes on where you stopped.",
    )
    add.add_argument("--file", default="runs/my-labels.jsonl", help="where the labels go (default: %(default)s)")
    add.add_argument("--prompts", help="JSON lines with the column prompt (default: the bundled training prompts)")
    add.add_argument("--count", type=int, default=40, help="how many prompts to use (default: %(default)s)")
    add.add_argument("--model", help="folder of the model that answers (default: the bundled sft)")
    add.add_argument("--temperature", type=float, default=1.0)
    add.add_argument("--seed", type=int, default=0, help="of the answers and of the order in which they are shown")
    add.add_argument("--export", help="also write the pairs as JSON lines with prompt, chosen, rejected")
    add.add_argument("--world", help="folder of another copy of the bundled world")
    add.set_defaults(run=collect_command)

    add = commands.add_parser(
        "progress",
        help="which of the exercises' checks have passed",
        description="Lists, for each exercise notebook, the checks that have passed on this machine, and those still "
        "open. A check that passes in a notebook is noted in ~/.prefcourse/progress.json; PREFCOURSE_PROGRESS names "
        "another file. Delete the file to start anew.",
    )
    add.set_defaults(run=progress_command)

    add = commands.add_parser("results", help="run a grid of experiments and store its result (resumable)")
    add.add_argument("name", help="name of the grid, such as pairs-needed; a wrong name lists them all")
    add.add_argument("--out", default="data/results")
    add.add_argument("--work", default="build/results", help="folder in which every finished run is kept")
    add.add_argument("--share", default="1/1", metavar="K/N", help="run every N-th setting, from the K-th: N processes")
    add.set_defaults(run=results_command)

    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    try:
        if args.command != "doctor":
            from prefcourse.world import quiet

            quiet()
        return args.run(args)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"prefcourse {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
