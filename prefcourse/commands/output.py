"""The folder that `train` writes: what may be replaced there, the record and the figure, and what a stop leaves."""

import argparse
import importlib.metadata
import json
import shlex
from pathlib import Path

from prefcourse.boundary import sha256

CHECKPOINTS, RECORD = "checkpoints", "run.json"


def require_free(args: argparse.Namespace) -> None:
    """Raise ValueError if a finished model, or the one to start from, would be overwritten unasked."""
    from prefcourse.training.checkpoint import latest
    from prefcourse.worlds.models import ADAPTERS

    out = Path(args.output)
    if args.overwrite or not out.exists():
        return
    if args.model and Path(args.model).exists() and out.samefile(args.model):
        raise ValueError(f"{out} is the model to start from, which would be overwritten. Choose another --output.")
    goes_on = args.resume and latest(out / CHECKPOINTS)  # of the same run, as `find` makes sure
    if any((out / name).is_file() for name in ("config.json", ADAPTERS)) and not goes_on:
        raise ValueError(
            f"{out} holds a finished model, which would be overwritten. Choose another --output, or say --overwrite."
        )


def interrupted(args: argparse.Namespace) -> str:
    """What is kept of a run that was stopped by Ctrl-C, and how to go on."""
    if args.saved:
        return f"The model is in {args.output}; what it writes was not measured to the end, and there is no {RECORD}."
    from prefcourse.training.checkpoint import latest

    if args.checkpoint_every and latest(Path(args.output) / CHECKPOINTS):
        return f"{Path(args.output) / CHECKPOINTS} has what was trained so far; the same line with --resume goes on."
    return "Nothing is kept of this run. With --checkpoint-every STEPS the next one can go on with --resume."


def write(out: Path, args: argparse.Namespace, settings: dict, results: dict, history: dict) -> None:
    """run.json: the command, settings, versions, the SHA-256 of the model beside it, results and history."""
    from prefcourse.training.history import null_for_nan

    record = {
        "command": shlex.join(["python", "-m", "prefcourse", *args.argv]),
        "start": {name: getattr(args, name) for name in ("model", "reference", "template", "columns", "max_length")},
        "settings": settings,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "model": {file.name: sha256(file) for file in sorted(out.glob("*.safetensors"))},
        "results": {side: {k: vars(v) for k, v in found.items()} for side, found in results.items()},
        "history": history,
    }
    (out / RECORD).write_text(json.dumps(null_for_nan(record), indent=1, allow_nan=False), encoding="utf-8")


def draw(out: Path, loss: str, arguments: dict, history: dict) -> Path:
    """training.png: the curves of the run."""
    from prefcourse import plots
    from prefcourse.losses import LOSSES

    plots.use_style()
    beta = arguments.get("beta", LOSSES[loss].defaults.get("beta", 1.0))
    shown = {k: v for k, v in history.items() if k not in ("eos_rate", "length")}  # a panel for each is too many
    figure = plots.training_curves(shown, beta=beta if "rewards/margins" in history else None)
    return plots.save(figure, out / "training.png")
