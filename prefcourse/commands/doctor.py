"""`python -m prefcourse doctor`: what is installed, what is missing, and what to do."""

import argparse
import importlib.metadata
import os
import platform

from prefcourse.terminal import styled
from prefcourse.training.optional import trouble

NEEDED = ("torch", "transformers", "datasets", "numpy", "matplotlib", "ipywidgets", "jupyterlab", "rich")
OPTIONAL = ("accelerate", "peft")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `doctor` with its arguments."""
    command = commands.add_parser("doctor", help="what is installed, what is missing, and what to do")
    command.add_argument("--hub", action="store_true", help="also whether the parts of the world gpt2-imdb can be had")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Say what is installed, on which device and precision we run, and whether the bundled data is whole."""
    print(f"python        {platform.python_version()}")
    ok = all([_package(name) for name in (*NEEDED, *OPTIONAL)])
    try:
        import torch

        from prefcourse.training.devices import choose_precision
        from prefcourse.worlds.bundled import data_folder, verify

        device = "cuda" if torch.cuda.is_available() else "cpu"
        precision = str(choose_precision(None, device)).removeprefix("torch.")
        threads = torch.get_num_threads()
        print(f"device        {device}, {threads} thread{'s' * (threads != 1)}, precision {precision}")
        verify(data_folder())
        print("data          all files are there and whole")
        if args.hub or os.environ.get("PREFCOURSE_WORLD") == "gpt2-imdb":
            ok &= _hub_parts()
    except (ImportError, FileNotFoundError, ValueError) as error:
        ok = False
        print(f"problem       {error}")
    verdict = ("All is well.", "green") if ok else ("Something is missing or does not work: see above.", "red")
    print(styled(*verdict))
    return 0 if ok else 1


def _package(name: str) -> bool:
    """Say which version there is, and for an optional package whether it works; False if something has to be done."""
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(f"{name:13} missing: pip install {name}" if name in NEEDED else f"{name:13} not installed (optional)")
        return name not in NEEDED
    reason = trouble(name) if name in OPTIONAL else None  # the others are imported below
    print(f"{name:13} {reason or found}")
    return reason is None


def _hub_parts() -> bool:
    """Say for each part of the world gpt2-imdb whether it can be had, and what to do if one cannot."""
    from prefcourse.worlds import hub

    names, ok = hub.HUB | hub.from_environment(), True
    for part, name in names.items():
        there, how = hub.reach(part, name)
        ok &= there
        print(f"{part:13} {name}: {how}" if there else f"{part:13} {name} cannot be had: {how}")
    if not ok:
        print(
            "              Check names and connection. On a machine without one, download the parts elsewhere, then\n"
            "              name the folders: PREFCOURSE_BASE, PREFCOURSE_SFT, PREFCOURSE_GOLD, PREFCOURSE_PROMPTS.\n"
            "              The bundled world needs none of them."
        )
    return ok
