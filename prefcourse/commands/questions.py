"""`python -m prefcourse questions`: the exercises' questions with options as a bank for a learning platform."""

import argparse


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `questions` with its arguments."""
    command = commands.add_parser(
        "questions",
        help="the questions with options, as a bank for Moodle, Canvas and others",
        description="Writes all questions with options, their right answers, and a hint to each wrong one. gift is for "
        "Moodle (Question bank, Import), qti for Canvas and others (a zip, QTI 1.2), json for your own scripts.",
    )
    command.add_argument("--format", default="gift", help="gift, qti or json (default: %(default)s)")
    command.add_argument("--notebook", action="append", default=[], help="only this one, such as 06; several times")
    command.add_argument("--output", help="file to write (default: prefcourse-questions with the format's ending)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the bank and say how much is in it."""
    from prefcourse.commands import question_bank
    from prefcourse.finite import counted

    bank = question_bank.questions(args.notebook)
    path = args.output or f"prefcourse-questions{question_bank.ENDINGS.get(args.format, '')}"
    print(f"{counted(len(bank), 'question')} in {question_bank.write(path, bank, args.format)}")
    return 0
