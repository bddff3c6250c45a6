"""What `python -m prefcourse train` and `evaluate` do. Their arguments and help stand here too.

Two kinds of run. Without --data and --model it is the course's main job: DPO from the bundled `sft` on the bundled
pairs, measured with the gold reward. With them it is your data and your model, measured by what needs no gold reward.
"""

import argparse
import copy
import importlib.metadata
import json
import os
import shlex
import time
from pathlib import Path

TRAIN = """\
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
  --output  gets the model (AutoModelForCausalLM.from_pretrained reads it), run.json with every number, training.png.
"""
EVALUATE = """\
Measure a saved policy. Numbers come with 95 % intervals.

  python -m prefcourse evaluate runs/dpo
      on the bundled test prompts, beside the bundled sft: gold reward, win rate, KL and more
  python -m prefcourse evaluate runs/kto --data my-test.jsonl --reference gpt2
      on your pairs: how often the policy ranks them right, and its KL to the reference
"""


def add_train(commands: argparse._SubParsersAction) -> None:
    """Add the command `train` with its arguments."""
    add = commands.add_parser(
        "train", help="train DPO or another loss, on the bundled world or on your data and model", description=TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = add.add_argument_group("what is trained on what")
    what.add_argument(
        "--loss", default="dpo", help="dpo, ipo, kto, orpo, sft ...; a wrong name lists them all (default: %(default)s)"
    )
    what.add_argument("--beta", type=float, help="the loss's β (default: the loss's own)")
    what.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="another parameter of the loss, such as lam=0.2; may be given several times",
    )  # fmt: skip
    what.add_argument("--data", help="your preferences (default: the bundled pairs)")
    what.add_argument("--split", default="train", help="which part of a dataset from the hub (default: %(default)s)")
    what.add_argument("--model", help="the model to start from (default: the bundled sft)")
    what.add_argument("--reference", help="a folder or a model on the hub (default: the model before training)")
    what.add_argument(
        "--lora", type=int, metavar="RANK", help="train low-rank adapters only; they are merged when saved"
    )
    what.add_argument("--output", default="runs/dpo", help="folder for all that is written (default: %(default)s)")
    what.add_argument("--world", help="folder of another copy of the bundled world")
    how = add.add_argument_group("how")
    how.add_argument("--lr", type=float, default=1.5e-4, help="peak learning rate (default: %(default)s)")
    how.add_argument("--epochs", type=float, default=0.65, help="passes over the data (default: %(default)s)")
    how.add_argument("--steps", type=int, help="optimiser steps, instead of --epochs")
    how.add_argument(
        "--batch-size", type=int, default=32, help="examples a step, in all processes together (default: %(default)s)"
    )
    how.add_argument("--micro-batch", type=int, help="examples that a process has in memory at a time (default: all)")
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
        "--every", type=int, default=25, help="steps between two looks at samples and KL (default: %(default)s)"
    )
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
    add.set_defaults(run=train_command)


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """Add the command `evaluate` with its arguments."""
    add = commands.add_parser(
        "evaluate", help="measure a saved policy against its reference", description=EVALUATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add.add_argument("policy", help="folder of the policy, such as runs/dpo")
    add.add_argument("--data", help="pairs to rank (default: the bundled test prompts and the gold reward)")
    add.add_argument("--split", default="test", help="which part of a dataset from the hub (default: %(default)s)")
    add.add_argument("--reference", help="with --data: the model that training began with (default: the bundled sft)")
    add.add_argument("--world", help="folder of another copy of the bundled world")
    add.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    add.set_defaults(run=evaluate_command)


def train_command(args: argparse.Namespace) -> int:
    """Train, save model, record and figure; print samples before and after and what was measured."""
    import torch

    from prefcourse import checkpoint, exchange, lora, plots
    from prefcourse import evaluate as ev
    from prefcourse.generate import generate
    from prefcourse.history import null_for_nan
    from prefcourse.losses import LOSSES
    from prefcourse.train import train
    from prefcourse.world import load_model, load_world

    main = int(os.environ.get("RANK", "0")) == 0
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    own = bool(args.data or args.model)
    world = load_world(folder=args.world)
    data = exchange.load(args.data, args.split) if args.data else world.pairs["train"]
    start, tokenizer = _load(args.model) if args.model else (world.sft, world.tokenizer)
    reference = load_model(args.reference).to(device) if args.reference else None
    arguments = dict(_parameter(text) for text in args.parameter) | ({} if args.beta is None else {"beta": args.beta})
    settings = {
        name: getattr(args, name) for name in ("loss", "lr", "epochs", "steps", "batch_size", "micro_batch", "schedule",
        "precision", "max_length", "too_long", "max_kl", "every", "seed")
    }  # fmt: skip
    keep = {}
    if args.checkpoint_every:
        folder = Path(args.output) / "checkpoints"
        keep = {"checkpoint": folder, "checkpoint_every": args.checkpoint_every, "resume": args.resume}
    elif args.resume:
        raise ValueError("--resume needs the --checkpoint-every of the run that stopped")
    checkpoint.require_writable(args.output)

    policy = copy.deepcopy(start).to(device)
    policy = lora.add_lora(policy, args.lora, seed=args.seed) if args.lora is not None else policy
    rows = [{"prompt": p} for p in dict.fromkeys(row["prompt"] for row in data)] if own else world.prompts["validation"]
    prompts = [row["prompt"] for row in rows][:200]
    if main:
        given = "".join(f", {k} {v}" for k, v in arguments.items())
        long = f"{args.steps} steps" if args.steps else f"{args.epochs:g} epochs"
        print(
            f"{args.loss} from {args.model or 'sft'} on {len(data):,} rows: {long}, lr {args.lr:g}{given}, "
            f"seed {args.seed}", flush=True,
        )  # fmt: skip
    began = time.time()
    history = train(
        policy, data, tokenizer, reference=reference, prompts=prompts, progress=main,
        say=print if main else None, **settings, **keep, **arguments,
    )  # fmt: skip
    if not main:
        return 0
    print(f"trained for {history['step'][-1]} steps in {time.time() - began:.0f} s")

    out = checkpoint.save_model(args.output, policy, tokenizer)
    policy = load_model(out)  # what others will load is what we measure
    name = "trained" if args.loss == "sft" else args.loss  # "sft" is the model that we began with
    if own:
        results, texts = {}, [generate(m, tokenizer, prompts[:8], seed=args.seed) for m in (start.cpu(), policy)]
        _print_samples(prompts, {"before": texts[0], "after": texts[1]}, {})
        for column in ("kl", "eos_rate", "length"):
            print(f"{column:10} {history[column][0]:8.2f} before {history[column][-1]:8.2f} after")
    else:
        results = _compare(policy, world, name, args.seed)
        sides = {"sft": results["sft"], name: results[name]}
        completions = {k: e.completions for k, e in sides.items()}
        _print_samples(sides["sft"].prompts, completions, {k: e.rewards for k, e in sides.items()})
        print(ev.table(results))
    record = {
        "command": shlex.join(["python", "-m", "prefcourse", *args.argv]),
        "settings": settings | arguments,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "results": {column: {k: vars(v) for k, v in found.items()} for column, found in results.items()},
        "history": null_for_nan(history),
    }
    (out / "run.json").write_text(json.dumps(null_for_nan(record), indent=1, allow_nan=False), encoding="utf-8")
    plots.use_style()
    scale = arguments.get("beta", LOSSES[args.loss].defaults.get("beta", 1.0))
    shown = {k: v for k, v in history.items() if k not in ("eos_rate", "length")}  # a panel for each is too many
    figure = plots.training_curves(shown, beta=scale if "rewards/margins" in history else None)
    print(f"\nfigure: {plots.save(figure, out / 'training.png')}\nmodel:  {out}")
    return 0


def evaluate_command(args: argparse.Namespace) -> int:
    """Measure a saved policy against the bundled SFT model, or on pairs against any reference."""
    from prefcourse import evaluate as ev
    from prefcourse import exchange
    from prefcourse.generate import generate
    from prefcourse.reference import reference_logps
    from prefcourse.world import load_model, load_world

    if not (Path(args.policy) / "config.json").is_file():
        raise FileNotFoundError(
            f"{args.policy}: no model there (no config.json). Train one: python -m prefcourse train"
        )
    world = load_world(folder=args.world)
    if not args.data:
        name = Path(args.policy).resolve().name
        print(ev.table(_compare(load_model(args.policy), world, "policy" if name == "sft" else name, args.seed)))
        return 0
    pairs = exchange.load(args.data, args.split)
    policy, tokenizer = _load(args.policy)
    reference = load_model(args.reference) if args.reference else world.sft
    h = (reference_logps(policy, pairs, tokenizer).logps - reference_logps(reference, pairs, tokenizer).logps).double()
    right = ev.bootstrap((h[:, 0] > h[:, 1]).double())
    prompts = list(dict.fromkeys(row["prompt"] for row in pairs))[:200]
    sampled = generate(policy, tokenizer, prompts, seed=args.seed)
    kl = ev.bootstrap(ev.sequence_kl(policy, reference, tokenizer, prompts, sampled))
    lines = {
        "pairs ranked right": right, "log-ratio chosen, nats": ev.bootstrap(h[:, 0]),
        "log-ratio rejected, nats": ev.bootstrap(h[:, 1]), "KL to the reference, nats": kl,
    }  # fmt: skip
    for name, estimate in lines.items():
        print(f"{name:26} {format(estimate, '.2f')}")
    return 0


def _load(name: str):
    """A model and its tokenizer from a folder or the hub."""
    from transformers import AutoTokenizer

    from prefcourse.world import load_model

    try:
        model, tokenizer = load_model(name), AutoTokenizer.from_pretrained(name)
    except OSError as error:
        raise FileNotFoundError(f"{name}: no model there ({str(error).splitlines()[0]})") from None
    if tokenizer.pad_token_id is None:  # our masks come from lengths, so any id will do
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _parameter(text: str) -> tuple[str, float | str]:
    """NAME=VALUE → (name, number or text)."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"--parameter takes NAME=VALUE, such as lam=0.2, got {text!r}")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _compare(policy, world, name: str, seed: int) -> dict:
    """Evaluate `policy` and, for comparison, another sample of sft itself, on the test prompts."""
    from prefcourse.evaluate import evaluate

    before = evaluate(world.sft, world, seed=seed)
    return {"sft": before, name: evaluate(policy, world, seed=seed, baseline=before.baseline)}


def _print_samples(prompts, completions: dict[str, list], rewards: dict, count: int = 8) -> None:
    """Completions of the same prompts before and after, with the gold reward where there is one."""
    print()
    for i, prompt in enumerate(prompts[:count]):
        print(f"{prompt} ...")
        for label, side in completions.items():
            reward = f" {rewards[label][i]:+5.1f}" if label in rewards else ""
            print(f"  {label:>5}{reward}  {side[i].text.strip()}{'' if side[i].finished else ' ...'}")
    print()
