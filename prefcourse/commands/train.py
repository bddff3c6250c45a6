"""`python -m prefcourse train`: train a policy, save it, and show what it writes before and after.

Two kinds of run. Without --data and --model it is the course's main job: DPO from the bundled `sft` on the bundled
pairs, measured with the gold reward. With them it is your data and your model, measured by what needs no gold reward.
"""

import argparse
import copy
import os
import time
from pathlib import Path

from tqdm import tqdm

from prefcourse.commands import output
from prefcourse.commands.shared import compare, find_device, model_and_tokenizer, print_samples, stored_dtype
from prefcourse.commands.watch import Watch
from prefcourse.finite import counted

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

  --data    a .jsonl or .parquet file, a folder of parquet files, or a dataset on the hub. Columns: prompt, chosen,
            rejected; or prompt, completion, label.
  --model   a folder or a model on the hub, such as gpt2; models that rescale their logits, like Gemma 2, are refused.
  --output  gets the model (AutoModelForCausalLM.from_pretrained reads it), run.json with every number, training.png,
            and history.jsonl, a line for each step, which grows during the run.
"""
SETTINGS = (  # what `train` takes by the names that the command has for it
    "loss", "lr", "epochs", "steps", "batch_size", "micro_batch", "schedule", "precision", "max_length", "too_long",
    "max_kl", "every", "seed",
)  # fmt: skip


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `train` with its arguments."""
    command = commands.add_parser(
        "train", help="train DPO or another loss, on the bundled world or on your data and model", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = command.add_argument_group("what is trained on what")
    what.add_argument(
        "--loss", default="dpo", help="dpo, ipo, kto, orpo, sft ...; a wrong name lists them all (default: %(default)s)"
    )
    what.add_argument("--beta", type=float, help="the loss's β (default: the loss's own)")
    what.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="another parameter of the loss, such as lam=0.2; may be given several times",
    )  # fmt: skip
    what.add_argument("--data", help="your preferences (default: the bundled pairs)")
    what.add_argument("--split", help="which part of a dataset from the hub (default: train)")
    what.add_argument("--model", help="the model to start from (default: the bundled sft)")
    what.add_argument(
        "--reference",
        help="a folder, a model on the hub, or a file of its log-probs, such as the reference.safetensors that a run "
        "keeps beside its checkpoints (default: the model before training)",
    )
    what.add_argument(
        "--lora", type=int, metavar="RANK", help="train low-rank adapters only; they are merged when saved"
    )
    what.add_argument("--output", default="runs/dpo", help="folder for all that is written (default: %(default)s)")
    what.add_argument("--world", help="folder of another copy of the bundled world")
    how = command.add_argument_group("how")
    how.add_argument("--lr", type=float, default=1.5e-4, help="peak learning rate (default: %(default)s)")
    how.add_argument("--epochs", type=float, default=0.65, help="passes over the data (default: %(default)s)")
    how.add_argument("--steps", type=int, help="optimiser steps, instead of --epochs")
    how.add_argument(
        "--batch-size", type=int, default=32, help="examples a step, in all processes together (default: %(default)s)"
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
    how.add_argument(
        "--max-length", type=int, help="tokens of prompt and completion together (default: the model's context)"
    )
    how.add_argument(
        "--too-long",
        default="error",
        help="what to do with longer rows: error, drop or truncate (default: %(default)s)",
    )
    how.add_argument("--max-kl", type=float, help="stop once the KL to the reference exceeds this many nats")
    how.add_argument(
        "--every", type=int, default=25,
        help="steps between two looks at samples and KL, and between two lines of progress (default: %(default)s)",
    )  # fmt: skip
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
    how.add_argument("--overwrite", action="store_true", help="replace the finished model that is in OUTPUT")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, save model, record and figure; print samples before and after and what was measured."""
    from prefcourse.training import saving

    keep = _checkpoints(args)
    output.require_free(args)
    first = int(os.environ.get("RANK", "0")) == 0
    with saving.alone(args.output if first else None):
        try:
            return _run(args, first, keep)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(output.interrupted(args)) from None


def _run(args: argparse.Namespace, first: bool, keep: dict) -> int:
    from prefcourse.annotation import exchange
    from prefcourse.train import train
    from prefcourse.training import lora, memory, saving
    from prefcourse.worlds import bundled
    from prefcourse.worlds.models import load_model

    if args.split and not args.data:
        raise ValueError("--split is for a dataset from the hub or a folder, named in --data")
    device = find_device()
    world = bundled.load(args.world)
    data = exchange.load(args.data, args.split) if args.data else world.pairs["train"]
    start, tokenizer = model_and_tokenizer(args.model) if args.model else (world.sft, world.tokenizer)
    reference = _reference(args, world, device)
    arguments = _loss_arguments(args)
    settings = {name: getattr(args, name) for name in SETTINGS}

    policy = copy.deepcopy(start).to(device)
    policy = lora.add_lora(policy, args.lora, seed=args.seed) if args.lora is not None else policy
    if args.gradient_checkpointing:
        memory.recompute(policy)
    own = bool(args.data or args.model)
    rows = [{"prompt": p} for p in dict.fromkeys(row["prompt"] for row in data)] if own else world.prompts["validation"]
    prompts = [row["prompt"] for row in rows][:200]
    if first:
        print(_what(args, len(data), arguments), flush=True)
    began = time.time()
    watch = Watch(args.every, args.output, args.log_dir, say=tqdm.write)  # `write` goes around a progress bar
    history = train(
        policy, data, tokenizer, reference=reference, prompts=prompts, progress=first,
        say=print if first else None, on_step=watch, **settings, **keep, **arguments,
    )  # fmt: skip
    watch.close()
    if not first:
        return 0
    print(f"trained for {history['step'][-1]} steps in {time.time() - began:.0f} s")

    (Path(args.output) / output.RECORD).unlink(missing_ok=True)  # it belongs to the model that is replaced now
    out = saving.save_model(args.output, policy, tokenizer, dtype=stored_dtype(args.model))
    policy = load_model(out)  # what others will load is what we measure
    if own:
        results = _show_own(start, policy, tokenizer, prompts, history, args.seed)
    else:
        results = _show_bundled(policy, world, args)
    output.write(out, args, settings | arguments, results, history)
    print(f"\nfigure: {output.draw(out, args.loss, arguments, history)}\nmodel:  {out}")
    return 0


def _loss_arguments(args: argparse.Namespace) -> dict:
    """The loss's own parameters. Raises ValueError for one that is given twice."""
    given = [*map(_parameter, args.parameter), *([] if args.beta is None else [("beta", args.beta)])]
    names = [name for name, _ in given]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is given twice: {', '.join(f'{v:g}' for name, v in given if name == twice)}")
    return dict(given)


def _reference(args: argparse.Namespace, world, device: str):
    """The reference as `train` takes it: a model, a file of log-probs, or None for the model before training."""
    from prefcourse.losses import LOSSES
    from prefcourse.training.devices import choose_precision
    from prefcourse.worlds.models import load_model

    if args.reference:
        return args.reference if Path(args.reference).is_file() else load_model(args.reference).to(device)
    if args.data or args.model or args.max_length or args.loss not in LOSSES:
        return None
    same = str(choose_precision(args.precision, device.split(":")[0])) == "torch.float32"  # as that file was made
    return world.sft_logps if same and "reference_chosen" in LOSSES[args.loss].inputs() else None


def _checkpoints(args: argparse.Namespace) -> dict:
    """What `train` is told of checkpoints."""
    if args.checkpoint_every is not None:
        folder = Path(args.output) / output.CHECKPOINTS
        return {"checkpoint": folder, "checkpoint_every": args.checkpoint_every, "resume": args.resume}
    if args.resume:
        raise ValueError("--resume needs the --checkpoint-every of the run that stopped")
    return {}


def _what(args: argparse.Namespace, rows: int, arguments: dict) -> str:
    """The run in one line."""
    given = "".join(f", {k} {v}" for k, v in arguments.items())
    long = counted(args.steps, "step") if args.steps else f"{args.epochs:g} epochs"
    start = args.model or "sft"
    return f"{args.loss} from {start} on {counted(rows, 'row')}: {long}, lr {args.lr:g}{given}, seed {args.seed}"


def _show_own(start, policy, tokenizer, prompts: list[str], history: dict, seed: int) -> dict:
    """Print samples of one's own model before and after, and what the history knows of both; no results to store."""
    from prefcourse.generate import generate

    before, after = (generate(model, tokenizer, prompts[:8], seed=seed) for model in (start.cpu(), policy))
    print_samples(prompts, {"before": before, "after": after}, {})
    for column in ("kl", "eos_rate", "length"):
        print(f"{column:10} {history[column][0]:8.2f} before {history[column][-1]:8.2f} after")
    return {}


def _show_bundled(policy, world, args: argparse.Namespace) -> dict:
    """Print samples of sft and of the policy with their gold rewards, and the table of all metrics; return both."""
    from prefcourse.evaluate import table

    name = "trained" if args.loss == "sft" else args.loss  # "sft" is the model that we began with
    results = compare(policy, world, name, args.seed)
    completions = {side: found.completions for side, found in results.items()}
    print_samples(results["sft"].prompts, completions, {side: found.rewards for side, found in results.items()})
    print(table(results))
    return results


def _parameter(text: str) -> tuple[str, float | str]:
    """NAME=VALUE → (name, number or text)."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"--parameter takes NAME=VALUE, such as lam=0.2, got {text!r}")
    try:
        return name, float(value)
    except ValueError:
        return name, value
