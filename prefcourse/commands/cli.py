"""The command line: `python -m prefcourse doctor | train | evaluate | collect | progress | …`. Each has --help."""

import argparse
import contextlib
import os
import sys

from prefcourse import streams, terminal
from prefcourse.commands import (
    bundle,
    collect,
    doctor,
    evaluate,
    export,
    grade,
    progress,
    questions,
    results,
    shared,
    train,
)

COMMANDS = (  # in the order of the help
    doctor, train, evaluate, export, bundle, collect, progress, questions, grade, results,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, run the command, and turn the errors we foresee into one line."""
    streams.tolerate()  # before the first letter, which --help may be
    parser = argparse.ArgumentParser(prog="prefcourse", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add(commands)
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    terminal.Bar.seconds = 60.0
    try:
        _require_words(args)
        _require_text(args.argv)
        if args.command != "doctor":  # which must run where a library is missing
            _load_libraries()
        code = args.run(args)
        sys.stdout.flush()  # here a reader who has left is still expected
        return code
    except KeyboardInterrupt as stop:
        kept = str(stop) or getattr(args, "kept", "")
        _complain(args.command, f"interrupted. {kept}".rstrip())
        return 130
    except BrokenPipeError:  # whoever read our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 141
    except (ValueError, OSError, FloatingPointError, ImportError, MemoryError) as error:
        _complain(args.command, str(error))
        return 2


def _load_libraries() -> None:
    """Import what takes seconds, saying so, and switch its chatter off."""
    silent = "torch" in sys.modules or not shared.first_process()
    with contextlib.nullcontext() if silent else terminal.doing("loading torch and transformers"):
        from prefcourse.worlds.models import quiet

        quiet()


def _complain(command: str, what: str) -> None:
    """The last line, in place of a bar that is still there."""
    terminal.stop()
    print(f"{terminal.styled(f'prefcourse {command}:', 'bold red', sys.stderr)} {what}", file=sys.stderr)


def _require_words(args: argparse.Namespace) -> None:
    """Raise ValueError for an argument that is empty, as an unset variable of the shell is."""
    for name, value in vars(args).items():
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"--{name.replace('_', '-')} is empty. Was a variable not set?")


def _require_text(arguments: list[str]) -> None:
    """Raise ValueError for an argument that this locale could not decode, before hours go into a run that ends on it.

    Python keeps its bytes and can open such a file; the libraries that write a tokenizer cannot.
    """
    for text in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(
                f"the argument {text!a} has letters that this system's locale does not know. Set PYTHONUTF8=1, or "
                "choose a name without them."
            )
