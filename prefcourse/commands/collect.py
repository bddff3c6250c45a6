"""`python -m prefcourse collect`: label pairs in the terminal."""

import argparse


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `collect` with its arguments."""
    command = commands.add_parser(
        "collect",
        help="label pairs in the terminal",
        description="Shows two answers at a time and asks which is better. Every label is on the disk before the next "
        "pair appears; the same command goes on where you stopped.",
    )
    command.add_argument(
        "--file", help="where the labels go (default: ~/.prefcourse/my-labels.jsonl, as for the labelling app, or what "
        "PREFCOURSE_LABELS names)",
    )  # fmt: skip
    command.add_argument(
        "--prompts", help="a file or data set with the column prompt (default: the bundled training prompts)"
    )
    command.add_argument(
        "--template", help="how a prompt becomes text: chat, plain or none (default: chat for messages, else none)"
    )
    command.add_argument("--count", type=int, default=40, help="how many prompts to use (default: %(default)s)")
    command.add_argument("--model", help="folder of the model that answers (default: the bundled sft)")
    command.add_argument("--temperature", type=float, default=1.0)
    command.add_argument("--seed", type=int, default=0, help="of the answers and of the order in which they are shown")
    command.add_argument("--export", help="also write the pairs as JSON lines with prompt, chosen, rejected")
    command.add_argument("--world", help="folder of another copy of the bundled world")
    command.set_defaults(run=run, kept="Every label is in its file; the same line goes on.")


def run(args: argparse.Namespace) -> int:
    """Sample two answers to each prompt, ask in the terminal which is better, and keep the labels."""
    from prefcourse.annotation import exchange
    from prefcourse.annotation.collector import PreferenceDataCollector, label_in_terminal
    from prefcourse.annotation.labels import LabelFile, my_labels, preference_rows
    from prefcourse.commands.shared import model_and_tokenizer
    from prefcourse.finite import counted
    from prefcourse.preferences import write_rows
    from prefcourse.worlds import bundled

    if args.count < 1:
        raise ValueError(f"--count must be 1 or more, got {args.count}")
    world = bundled.load(args.world)
    model, tokenizer = model_and_tokenizer(args.model) if args.model else (world.sft, world.tokenizer)
    if args.prompts:
        prompts = exchange.load_prompts(args.prompts, tokenizer, args.template)
    else:
        prompts = [row["prompt"] for row in world.prompts["train"]]
    with LabelFile(args.file or my_labels()) as file:
        collector = PreferenceDataCollector(model, tokenizer, name=args.model or "sft", seed=args.seed)
        found = collector.collect(prompts[: args.count], temperature=args.temperature)
        repeated = sum(pair["metadata"]["duplicates"] for pair in found)
        if repeated:
            print(f"{counted(repeated, 'answer')} came out twice or empty; drawn again.")
        label_in_terminal(found, file, gold=world.gold, seed=args.seed)
        pairs, counts = preference_rows(file.records)
    if args.export:
        write_rows(args.export, pairs)
        print(
            f"{counted(len(pairs), 'pair')} in {args.export} ({counted(counts['tie'], 'tie')} and "
            f"{counted(counts['skip'], 'skip')} make none)."
        )
    return 0
