"""`python -m prefcourse evaluate`: measure a saved policy, on the bundled prompts or on rows of one's own."""

import argparse
import json
from pathlib import Path

from prefcourse.boundary import told
from prefcourse.commands import rows
from prefcourse.commands.held_out import HeldOut
from prefcourse.commands.output import RECORD
from prefcourse.commands.shared import compare, find_device, model_and_tokenizer, print_samples
from prefcourse.terminal import doing

HELP = """\
Measure a saved policy. Numbers come with 95 % intervals.

  python -m prefcourse evaluate runs/dpo
      on the bundled test prompts, beside the bundled sft: gold reward, win rate, KL and more
  python -m prefcourse evaluate runs/mine --data my-test.jsonl
      on your rows, beside the model that training began with (run.json knows it; else --reference): how often the
      policy ranks them right, its KL to the reference, and what both write
"""
MOST = 200  # prompts that are completed


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `evaluate` with its arguments."""
    command = commands.add_parser(
        "evaluate", help="measure a saved policy against its reference", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("policy", help="folder of the policy, such as runs/dpo")
    rows.add(command, "rows to rank (default: the bundled test prompts and the gold reward)")
    command.add_argument(
        "--reference", help="with --data: the model that training began with (default: what the policy's run.json says)"
    )
    command.add_argument("--sample-tokens", type=int, default=48, help="most tokens of a sample (default: %(default)s)")
    command.add_argument("--world", help="folder of another copy of the bundled world")
    command.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure a saved policy against the bundled SFT model, or on rows against the model it began with."""
    from prefcourse.evaluate import table
    from prefcourse.worlds import bundled
    from prefcourse.worlds.models import ADAPTERS

    if not any((Path(args.policy) / name).is_file() for name in ("config.json", ADAPTERS)):
        raise FileNotFoundError(
            f"{args.policy}: no model there (no config.json). Train one: python -m prefcourse train"
        )
    rows.require_data(args)
    device = find_device()
    policy, tokenizer = model_and_tokenizer(args.policy)
    policy = policy.to(device)
    if args.data:
        _on_rows(args, policy, tokenizer, device)
        return 0
    world = bundled.load(args.world, device)
    if tokenizer.get_vocab() != world.tokenizer.get_vocab():
        raise ValueError(
            f"{args.policy}: its tokenizer is not that of the bundled world. Measure it on your own rows: --data"
        )
    name = Path(args.policy).resolve().name
    print(table(compare(policy, world, "policy" if name == "sft" else name, args.seed)))
    return 0


def _on_rows(args: argparse.Namespace, policy, tokenizer, device: str) -> None:
    """Print how the policy ranks rows, its KL to the reference, and what both write."""
    from prefcourse.evaluate import repetition, sequence_kl
    from prefcourse.finite import counted
    from prefcourse.generate import generate
    from prefcourse.training import guards
    from prefcourse.training.looking import fitting
    from prefcourse.worlds.models import context

    start = _begin(args)
    found = rows.load(args, tokenizer, split="test")
    reference = _reference(args, start).to(device)
    guards.check_model(reference, tokenizer, "reference")
    held = HeldOut.of(found, tokenizer, reference, args.too_long or "error", args.max_length)
    lines = _ranking(held, policy)
    room = context(policy, args.max_length) - args.sample_tokens
    prompts = fitting(dict.fromkeys(row["prompt"] for row in found), tokenizer, room)[:MOST]
    sides = {}
    if prompts:
        settings = {"seed": args.seed, "max_new_tokens": args.sample_tokens}
        with doing(f"sampling on {counted(len(prompts), 'prompt')} before and after"):
            sides = {
                "before": generate(reference, tokenizer, prompts, **settings),
                "after": generate(policy, tokenizer, prompts, **settings),
            }
        lines["KL to the reference, nats"] = _mean(
            sequence_kl(policy, reference, tokenizer, prompts, sides["after"], 16)
        )
    measures = {
        "length, tokens": lambda c: float(len(c.ids)),
        "ends with EOS": lambda c: float(c.finished),
        "repetition": lambda c: repetition(c.text),
    }
    for name, measure in measures.items():
        for side, samples in sides.items():
            lines[f"{name}, {side}"] = _mean([measure(c) for c in samples])
    print_samples(prompts, sides, {})
    print(f"{held.examples}; {counted(len(prompts), 'prompt')} completed")
    for name, estimate in lines.items():
        print(f"{name:32} {estimate}")


def _ranking(held: HeldOut, policy) -> dict[str, str]:
    """How the policy ranks the rows beside its reference, a line each."""
    import numpy as np

    from prefcourse.comparison.ab_tests import wilson
    from prefcourse.evaluate import points
    from prefcourse.quality.findings import clustered_share

    h = held.log_ratios(policy)  # (N, k) nats
    if h.shape[1] == 2:
        hits, prompts = points(h[:, 0], h[:, 1]), held.examples.sequences.prompt_numbers()
        once = len(set(prompts)) == len(prompts)  # pairs of one prompt are no independent observations
        share = wilson(hits.sum().item(), len(hits)) if once else clustered_share(hits, np.array(prompts))
        return {
            "pairs ranked right (a tie is ½)": format(share, ".2f"),
            "log-ratio chosen, nats": _mean(h[:, 0]),
            "log-ratio rejected, nats": _mean(h[:, 1]),
            "margin h, nats": _mean(h[:, 0] - h[:, 1]),
        }
    kinds = {"desirable": True, "undesirable": False} if held.examples.desirable else {"completions": None}
    marks = held.examples.desirable or [None] * len(h)
    parts = {name: h[[i for i, mark in enumerate(marks) if mark is kind], 0] for name, kind in kinds.items()}
    return {f"log-ratio {name}, nats": _mean(part) for name, part in parts.items() if len(part)}


def _mean(values) -> str:
    """The mean with its interval; of one value alone, that value."""
    from prefcourse.evaluate import bootstrap

    return format(bootstrap(values), ".2f") if len(values) > 1 else f"{float(values[0]):.2f} (one alone)"


def _begin(args: argparse.Namespace) -> dict:
    """What run.json beside the policy says of the run's beginning, if there is one; rows are read as there."""
    record = Path(args.policy) / RECORD
    with told(f"{record}: cannot be read", "Name --reference, and move the file away."):
        start = json.loads(record.read_text(encoding="utf-8")).get("start", {}) if record.is_file() else {}
    for name in ("template", "columns", "max_length"):
        if getattr(args, name) is None:
            setattr(args, name, start.get(name))
    return start


def _reference(args: argparse.Namespace, start: dict):
    """The model that training began with: --reference, or what run.json beside the policy says.

    Raises ValueError if neither says it: beside another model the numbers would mean nothing.
    """
    from prefcourse.worlds import bundled
    from prefcourse.worlds.models import load_model

    if args.reference:
        return load_model(args.reference)
    if not start:
        raise ValueError(
            f"{args.policy}: no {RECORD} there that says which model training began with. Name it: --reference"
        )
    if start["reference"] and Path(start["reference"]).is_file():
        raise ValueError(
            f"{args.policy}: it was trained beside stored log-probs, {start['reference']}, which know no new rows. "
            "Name the model: --reference"
        )
    name = start["reference"] or start["model"]
    print(f"reference: {name or 'the bundled sft'} (from {Path(args.policy) / RECORD})")
    return load_model(name) if name else bundled.load(args.world).sft
