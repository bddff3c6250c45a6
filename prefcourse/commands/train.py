"""`python -m prefcourse train`: train a policy, save it, and show what it writes before and after.

Two kinds of run. Without --data and --model it is the course's main job: DPO from the bundled `sft` on the bundled
pairs, measured with the gold reward. With them it is your data and your model, measured by what needs no gold reward.
"""

import argparse
import copy
import time
from pathlib import Path

from prefcourse.commands import ahead, arguments, output, rows
from prefcourse.commands.held_out import HeldOut
from prefcourse.commands.shared import (
    compare,
    find_device,
    first_process,
    model_and_tokenizer,
    print_samples,
    say,
    stored_dtype,
)
from prefcourse.commands.watch import Watch
from prefcourse.terminal import doing, styled

MOST_SAMPLES = 200  # prompts that are completed
SETTINGS = (  # what `train` takes by the names that the command has for it
    "loss", "lr", "epochs", "steps", "batch_size", "micro_batch", "schedule", "precision", "max_length", "too_long",
    "max_kl", "every", "seed", "sample_tokens",
)  # fmt: skip


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `train` with its arguments."""
    arguments.add(commands).set_defaults(run=run, kept="Nothing had begun.", saved=False)


def run(args: argparse.Namespace) -> int:
    """Train, save model, record and figure; print samples before and after and what was measured."""
    from prefcourse.training import saving

    keep = _checkpoints(args)
    output.require_free(args)
    first = first_process()
    with saving.alone(args.output if first else None):
        try:
            return _run(args, first, keep)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(output.interrupted(args)) from None


def _run(args: argparse.Namespace, first: bool, keep: dict) -> int:
    from prefcourse.finite import counted
    from prefcourse.train import train
    from prefcourse.training import lora, memory, saving
    from prefcourse.training.objective import Objective
    from prefcourse.worlds import bundled
    from prefcourse.worlds.models import load_model

    rows.require_data(args)
    parameters = _loss_arguments(args)
    Objective.find(args.loss, parameters)  # a wrong name is said before anything is read
    device = find_device()
    world = bundled.load(args.world)
    start, tokenizer = model_and_tokenizer(args.model) if args.model else (world.sft, world.tokenizer)
    data = rows.load(args, tokenizer) if args.data else world.pairs["train"]
    reference = _reference(args, world, device)

    policy = copy.deepcopy(start).to(device)
    policy = lora.add_lora(policy, args.lora, seed=args.seed) if args.lora is not None else policy
    if args.gradient_checkpointing:
        memory.recompute(policy)
    own = bool(args.data or args.model)
    settings = settle(args, policy, own, len(data))
    prompts = _prompts(args, policy, tokenizer, data if own else world.prompts["validation"])
    if first:
        print(styled(_what(args, len(data), settings, parameters), "bold"), flush=True)
    if args.dry_run or args.show_batch:
        ahead.show(args, policy, data, tokenizer, settings)
        if args.dry_run:
            return 0
    held = _held_out(args, start, reference, tokenizer, data)
    began = time.time()
    watch = Watch(settings["every"], args.output, args.log_dir)
    history = train(
        policy, data, tokenizer, reference=reference, prompts=prompts, progress=first, measure=held,
        say=print if first else None, on_step=watch, **settings, **keep, **parameters,
    )  # fmt: skip
    watch.close()
    if not first:
        return 0
    print(f"trained for {counted(history['step'][-1], 'step')} in {counted(round(time.time() - began), 'second')}")

    (Path(args.output) / output.RECORD).unlink(missing_ok=True)  # it belongs to the model that is replaced now
    out = saving.save_model(args.output, policy, tokenizer, dtype=stored_dtype(args.model), merge=args.merge)
    args.saved = True
    policy = load_model(out)  # what others will load is what we measure
    shown = (start, policy, tokenizer, prompts, history, args)
    results = _show_own(*shown) if own else _show_bundled(policy, world, args)
    output.write(out, args, settings | parameters, results, history)
    print(f"\nfigure: {output.draw(out, args.loss, parameters, history)}\nmodel:  {out}")
    return 0


def _loss_arguments(args: argparse.Namespace) -> dict:
    """The loss's own parameters, with the main job's β. Raises ValueError for one that is given twice."""
    from prefcourse.training.rates import MAIN_JOB  # not above: the command's first words come before torch does

    given = [*map(_parameter, args.parameter), *([] if args.beta is None else [("beta", args.beta)])]
    names = [name for name, _ in given]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is given twice: {', '.join(f'{v:g}' for name, v in given if name == twice)}")
    main_job = args.loss == "dpo" and not (args.data or args.model)
    return ({"beta": MAIN_JOB["beta"]} if main_job else {}) | dict(given)


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


def settle(args: argparse.Namespace, policy, own: bool, rows: int) -> dict:
    """What `train` is told, with the defaults that depend on model and data; warns of a rate far above them."""
    from prefcourse.training import rates

    found = {name: getattr(args, name) for name in SETTINGS}
    usual = rates.usual(policy, args.loss) if own else rates.MAIN_JOB["lr"]
    found["lr"] = usual if args.lr is None else args.lr
    found["epochs"] = (1.0 if own else rates.MAIN_JOB["epochs"]) if args.epochs is None else args.epochs
    found["batch_size"] = min(32, rows) if args.batch_size is None else args.batch_size
    found["too_long"], found["every"] = args.too_long or "error", args.every or arguments.EVERY
    if args.model and found["lr"] > 2.001 * usual:
        say(
            f"warning: lr {found['lr']:g} is {found['lr'] / usual:.0f} times what is usual for this model and loss, "
            f"{usual:.1g}. Watch the KL and the samples; --max-kl stops in time."
        )
    return found


def _prompts(args: argparse.Namespace, policy, tokenizer, data) -> list[str]:
    """Up to 200 prompts to complete on the way: those that leave room for --sample-tokens; none with --every 0."""
    from prefcourse.finite import counted
    from prefcourse.training.looking import fitting
    from prefcourse.worlds.models import context

    if args.every == 0:
        if args.max_kl is not None:
            raise ValueError("--max-kl looks at samples, which --every 0 switches off")
        return []
    prompts = list(dict.fromkeys(row["prompt"] for row in data))
    found = fitting(prompts, tokenizer, context(policy, args.max_length) - args.sample_tokens)
    if len(found) < len(prompts):
        say(
            f"no samples for {counted(len(prompts) - len(found), 'prompt')} of {len(prompts):,}: no room is left there "
            f"for {args.sample_tokens} more tokens (--sample-tokens)"
        )
    return found[:MOST_SAMPLES]


def _held_out(args: argparse.Namespace, start, reference, tokenizer, data):
    """What ranks the rows of --eval-data with a policy, or None; says how many prompts they share with the data."""
    if not args.eval_data:
        return None
    from prefcourse.annotation.exchange import leaked

    test = rows.load(args, tokenizer, args.eval_data, "test")
    if line := leaked(data, test):
        say(line)
    model = reference if hasattr(reference, "parameters") else start
    return HeldOut.of(test, tokenizer, model, args.too_long or "error", args.max_length).measure


def _what(args: argparse.Namespace, rows: int, settings: dict, arguments: dict) -> str:
    """The run in one line."""
    from prefcourse.finite import counted

    given = "".join(f", {k} {v}" for k, v in arguments.items())
    epochs = f"{settings['epochs']:g} epoch{'s' * (settings['epochs'] != 1)}"
    long = counted(args.steps, "step") if args.steps else epochs
    start, lr = args.model or "sft", settings["lr"]
    return f"{args.loss} from {start} on {counted(rows, 'row')}: {long}, lr {lr:.3g}{given}, seed {args.seed}"


def _show_own(start, policy, tokenizer, prompts: list[str], history: dict, args: argparse.Namespace) -> dict:
    """Print samples of one's own model before and after, and what the history knows of both; no results to store."""
    from prefcourse.generate import generate

    if prompts:
        settings = {"seed": args.seed, "max_new_tokens": args.sample_tokens}
        with doing("sampling before and after"):
            before, after = (generate(model, tokenizer, prompts[:8], **settings) for model in (start.cpu(), policy))
        print_samples(prompts, {"before": before, "after": after}, {})
    for column in ("kl", "eos_rate", "length", "eval_accuracy", "eval_margin"):
        if column in history:
            print(f"{column:13} {history[column][0]:8.2f} before {history[column][-1]:8.2f} after")
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
