"""The arguments of `python -m prefcourse train`, with its help."""

import argparse

from prefcourse.commands import rows

HELP = """\
Train a policy on preferences, save it, and show what it writes before and after.

  python -m prefcourse train
      the main job: DPO on the bundled world, about a minute
  python -m prefcourse train --loss kto --data my.jsonl --model gpt2 --output runs/kto --checkpoint-every 50
      your data and your model; after an interruption, the same line with --resume goes on
  accelerate launch --multi_gpu --num_processes 2 -m prefcourse train --loss dpo --data my.jsonl --output runs/dpo
      on two GPUs, or on two CPU processes where there is no GPU; the result is that of one process
  accelerate launch --use_fsdp --fsdp_version 2 --num_processes 2 -m prefcourse train --data my.jsonl --model my-model
      weights and optimiser split over two GPUs, for a model that fits on one of them but cannot be trained there

Write --multi_gpu or --use_fsdp also where there is no GPU: without them accelerate starts one process there.

  --data    a .jsonl, .json, .csv (these also .gz) or .parquet file, a folder of such files, or a dataset on the hub.
            TRL's columns (prompt, chosen, rejected; or prompt, completion, label) as text or messages, Alpaca's
            (instruction, input), HH's dialogues; --columns names others. --dry-run says what was understood.
  --model   a folder or a model on the hub, such as gpt2; models that rescale their logits, like Gemma 2, are refused.
  --output  gets the model (AutoModelForCausalLM.from_pretrained reads it; with --lora the adapters), run.json with
            every number, training.png, and history.jsonl, a line for each step, which grows during the run.
"""
EVERY = 25  # steps between two looks


def add(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command `train` with its arguments; its parser."""
    command = commands.add_parser(
        "train", help="train DPO or another loss, on the bundled world or on your data and model", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = command.add_argument_group("what is trained on what")
    what.add_argument(
        "--loss", default="dpo", help="dpo, ipo, kto, orpo, sft ...; a wrong name lists them all (default: %(default)s)"
    )
    what.add_argument("--beta", type=float, help="the loss's β (default: the loss's own, or the main job's)")
    what.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="another parameter of the loss, such as lam=0.2; may be given several times",
    )  # fmt: skip
    rows.add(what, "your preferences (default: the bundled pairs)")
    what.add_argument("--eval-data", help="rows that are not trained on, ranked at every look; read as --data is")
    what.add_argument("--model", help="the model to start from (default: the bundled sft)")
    what.add_argument(
        "--reference",
        help="a folder, a model on the hub, or a file of its log-probs, such as the reference.safetensors that a run "
        "keeps beside its checkpoints (default: the model before training)",
    )
    what.add_argument(
        "--lora", type=int, metavar="RANK", help="train low-rank adapters only, and save them (needs peft)"
    )
    what.add_argument("--merge", action="store_true", help="with --lora: save a whole model, adapters merged into it")
    what.add_argument("--output", default="runs/dpo", help="folder for all that is written (default: %(default)s)")
    what.add_argument("--world", help="folder of another copy of the bundled world")
    how = command.add_argument_group("how")
    how.add_argument(
        "--lr", type=float,
        help="peak learning rate (default: by model size and loss, see training/rates.py; 2e-4 for the main job)",
    )  # fmt: skip
    how.add_argument("--epochs", type=float, help="passes over the data (default: 1; a quarter for the main job)")
    how.add_argument("--steps", type=int, help="optimiser steps, instead of --epochs")
    how.add_argument(
        "--batch-size", type=int, help="examples a step, in all processes together (default: 32, or all if fewer)"
    )
    how.add_argument("--micro-batch", type=int, help="examples that a process has in memory at a time (default: all)")
    how.add_argument(
        "--gradient-checkpointing", action="store_true",
        help="compute layers twice in place of keeping what they give: less memory, about a third more work",
    )  # fmt: skip
    how.add_argument(
        "--schedule", default="cosine", help="after the warm-up: cosine, linear or constant (default: %(default)s)"
    )
    how.add_argument(
        "--precision", default="auto", help="fp32, bf16, fp16, or auto: what is fast here and safe (default: auto)"
    )
    how.add_argument("--max-kl", type=float, help="stop once the KL to the reference exceeds this many nats")
    how.add_argument(
        "--every", type=int, default=EVERY,
        help="steps between two looks at samples and KL, and between two lines of progress; 0: no samples "
        "(default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--sample-tokens", type=int, default=48, help="most tokens of a sample (default: %(default)s)")
    how.add_argument("--log-dir", help="folder for TensorBoard's event files (needs tensorboard)")
    how.add_argument("--seed", type=int, default=0, help="of the order of the rows and of the samples (default: 0)")
    how.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="save all in OUTPUT/checkpoints every so often (default: never)",
    )
    how.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint as if nothing had happened"
    )
    how.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    how.add_argument("--show-batch", action="store_true", help="print what the first batch holds, as the loss sees it")
    how.add_argument("--overwrite", action="store_true", help="replace the finished model that is in OUTPUT")
    return command
