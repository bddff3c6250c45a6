"""`python -m prefcourse export`: a run of `train` as a script for another library, with its data beside it."""

import argparse
import json
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from prefcourse.commands import output, train

HELP = """\
Write a script that does with TRL what a run of ours does, and its data as JSON lines in TRL's format. Who runs it needs
TRL and not prefcourse. What cannot be translated is said here and at the top of the script, each with its reason.

  python -m prefcourse export --to trl runs/dpo
      a finished run: its run.json knows the line and the settings; options that you add take their places
  python -m prefcourse export --to trl --loss ipo --parameter reduce=mean --data my.jsonl --model gpt2
      a run that has not been: the options are those of `train`

Both go to the folder trl in the run's folder (--output), or to --into. The bundled model, if the run begins with it, is
copied there; a model of your own is read from where it is.
"""
SCRIPT, ROWS = "train_trl.py", "rows.jsonl"
TRANSLATED = {  # options of `train` that the script or its data follows
    "loss", "beta", "parameter", "data", "split", "model", "reference", "lora", "world", "lr", "epochs", "steps",
    "batch_size", "micro_batch", "gradient_checkpointing", "schedule", "precision", "max_length", "too_long", "log_dir",
    "seed", "checkpoint_every", "merge", "subset", "columns", "template", "skip_bad_rows",
}  # fmt: skip
OURS = {"output", "overwrite"}  # where our run writes; here, where the script goes and whether it may be replaced
LEFT_OUT = {  # options for which TRL has nothing, each with the reason
    "every": "a look at samples and their KL every so many steps. TRL's trainer draws none; it logs every step's loss.",
    "sample_tokens": "the length of those samples.",
    "eval_data": "rows that are ranked on the way. TRL's trainer takes such as eval_dataset; the script only trains.",
    "dry_run": "a word beforehand. The script has none; this command has said how many rows and steps there are.",
    "show_batch": "a look at the first batch. TRL's trainer shows none.",
    "max_kl": "a stop at a KL. TRL's trainer does not measure the KL of samples.",
    "resume": "TRL cannot read our checkpoints, so the script begins anew.",
}


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `export` with its arguments: its own, and those of `train`."""
    command = commands.add_parser(
        "export", help="write a run as a script for TRL", description=HELP, parents=[_of_train()], add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    own = command.add_argument_group("export")
    own.add_argument("folder", nargs="?", metavar="RUN", help="folder of a finished run")
    own.add_argument("--to", required=True, choices=("trl",), help="the library")
    own.add_argument("--into", help="folder for the script and its data (default: OUTPUT/trl)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the script and its data, and say what is not translated."""
    from prefcourse.commands.trl_losses import translate
    from prefcourse.training import saving
    from prefcourse.training.objective import Objective

    asked = _with_run(args) if args.folder else args
    into = Path(asked.into or Path(asked.output) / "trl")
    if (into / SCRIPT).exists() and not args.overwrite:
        raise ValueError(
            f"{into / SCRIPT} is there, and may have been changed. Choose another --into, or say --overwrite."
        )
    saving.require_writable(into)
    arguments = train._loss_arguments(asked)
    Objective.find(asked.loss, arguments)  # refuses what `train` would
    loss = translate(asked.loss, arguments)
    try:
        _write(asked, loss, into)
    except FileNotFoundError as error:
        if not args.folder:
            raise
        raise FileNotFoundError(
            f"{error} Paths of a run count from where it was started: start this command there, or add --data, --model "
            "or --reference with the place of today."
        ) from None
    return 0


def _write(args: argparse.Namespace, loss, into: Path) -> None:
    """Write script, rows and, where it begins with that, the bundled model; print what was written and what differs."""
    from prefcourse.commands.trl_losses import TRL
    from prefcourse.commands.trl_run import START, plan
    from prefcourse.commands.trl_script import text
    from prefcourse.finite import counted
    from prefcourse.preferences import write_rows
    from prefcourse.worlds.bundled import data_folder

    found = plan(args, loss.trainer)
    differences = [*left_out(args), *found.differences, *loss.differences]
    into.mkdir(parents=True, exist_ok=True)
    write_rows(into / ROWS, found.rows)
    if not args.model:
        shutil.copytree(Path(args.world or data_folder()) / "sft", into / START, dirs_exist_ok=True)
    head = _head(args, loss.trainer, differences)
    (into / SCRIPT).write_text(text(loss, found.options, head), encoding="utf-8")
    steps, size = counted(found.options.steps, "step"), counted(args.batch_size, "example")
    print(f"{into / SCRIPT}: {loss.trainer}Trainer of TRL {TRL}, {steps} of {size}")
    print(f"{into / ROWS}: {counted(len(found.rows), 'row')}")
    print(f"{into / START}: the bundled sft" if not args.model else f"The model is read from {args.model}.")
    print("Not as in our run:")
    for difference in differences:
        print(textwrap.fill(difference, 118, initial_indent="  - ", subsequent_indent="    "))


def left_out(args: argparse.Namespace) -> list[str]:
    """What the options of `train` ask for that is not translated, with reasons."""
    found = []
    for name, value in _values(args).items():
        idle = value == (0 if name == "every" else _defaults()[name])  # our run looks at samples unless told 0
        if name in TRANSLATED | OURS or idle:
            continue
        reason = LEFT_OUT.get(name, "this command does not know the option, so the script goes without it.")
        found.append(f"{' '.join(_flag(name, value))}: {reason}")
    return found


def _head(args: argparse.Namespace, trainer: str, differences: Sequence[str]) -> str:
    """The first lines of the script: comments."""
    from prefcourse.commands.trl_losses import TRL

    given = {name: value for name, value in _values(args).items() if value != _defaults()[name]}
    line = shlex.join(["python", "-m", "prefcourse", "train", *(w for n, v in given.items() for w in _flag(n, v))])
    lines = [
        f"With TRL, in a script that needs no prefcourse, what this line does:\n\n    {line}\n",
        f'    pip install "trl=={TRL}"{" peft" if args.lora else ""}',
        f"    python {SCRIPT}\n    accelerate launch --multi_gpu --num_processes 4 {SCRIPT}    # on four GPUs\n",
        f"{ROWS}, beside it, has the rows in the order of our first epoch. The trained model goes to model, the losses",
        f"to log.json. {trainer}Trainer gets our numbers; where it computes something else, a few lines stand here.",
        "\nNot as in our run:\n",
        *(textwrap.fill(d, 116, initial_indent="- ", subsequent_indent="  ") for d in differences),
    ]
    return "\n".join(f"# {part}".rstrip() for text in lines for part in text.split("\n"))


def _with_run(args: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `args.folder`, as its run.json has them, and in their places those that `args` adds."""
    path = Path(args.folder) / output.RECORD
    if not Path(args.folder).is_dir():
        raise FileNotFoundError(f"{args.folder}: no such folder. Name the --output of a finished run.")
    if not path.is_file():
        raise FileNotFoundError(
            f"{args.folder}: no {output.RECORD} there, so no run of `train` has ended there. Give train's options."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        words, settings = shlex.split(record["command"]), dict(record["settings"])
        if words[:4] != ["python", "-m", "prefcourse", "train"]:
            raise ValueError("its command is not `python -m prefcourse train`")
        settled = [w for n in train.SETTINGS if settings.get(n) is not None for w in _flag(n, settings[n])]
        found = _of_train().parse_args([*words[4:], *settled])  # the settings: defaults may have been others then
        if _of_train().parse_args(words[4:]).every == 0:  # of which the settings say how often a line was printed
            found.every = 0
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not the record of a run that can be exported ({error}).") from None
    found.output = args.folder
    commands = argparse.ArgumentParser().add_subparsers()
    add(commands)
    return commands.choices["export"].parse_args(args.argv[1:], namespace=found)


class _Refusing(argparse.ArgumentParser):
    """A parser that raises ValueError in place of ending the program."""

    def error(self, message: str) -> None:
        raise ValueError(message)


def _of_train() -> argparse.ArgumentParser:
    """The parser of the command `train`."""
    commands = _Refusing().add_subparsers()
    train.add(commands)
    return commands.choices["train"]


def _defaults() -> dict:
    """The options of `train` by name, with their defaults."""
    ours = {"run", "kept", "saved"}  # what `train` sets for the command line itself
    return {name: value for name, value in vars(_of_train().parse_args([])).items() if name not in ours}


def _values(args: argparse.Namespace) -> dict:
    """The options of `train` by name, with their values in `args`."""
    return {name: getattr(args, name) for name in _defaults()}


def _flag(name: str, value) -> list[str]:
    """An option with its value, as words of a command line."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, list):
        return [word for one in value for word in (flag, str(one))]
    return [flag] if value is True else [flag, str(value)]
