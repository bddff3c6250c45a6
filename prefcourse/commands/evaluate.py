"""`python -m prefcourse evaluate`: measure a saved policy, on the bundled prompts or on pairs of one's own."""

import argparse
from pathlib import Path

from prefcourse.commands.shared import compare, find_device, model_and_tokenizer

HELP = """\
Measure a saved policy. Numbers come with 95 % intervals.

  python -m prefcourse evaluate runs/dpo
      on the bundled test prompts, beside the bundled sft: gold reward, win rate, KL and more
  python -m prefcourse evaluate runs/kto --data my-test.jsonl --reference gpt2
      on your pairs: how often the policy ranks them right, and its KL to the reference
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command `evaluate` with its arguments."""
    command = commands.add_parser(
        "evaluate", help="measure a saved policy against its reference", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("policy", help="folder of the policy, such as runs/dpo")
    command.add_argument("--data", help="pairs to rank (default: the bundled test prompts and the gold reward)")
    command.add_argument("--split", help="which part of a dataset from the hub (default: test)")
    command.add_argument(
        "--reference", help="with --data: the model that training began with (default: the bundled sft)"
    )
    command.add_argument("--world", help="folder of another copy of the bundled world")
    command.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure a saved policy against the bundled SFT model, or on pairs against any reference."""
    from prefcourse.annotation import exchange
    from prefcourse.evaluate import bootstrap, sequence_kl, table
    from prefcourse.generate import generate
    from prefcourse.training.reference import reference_logps
    from prefcourse.worlds import bundled
    from prefcourse.worlds.models import load_model

    if not (Path(args.policy) / "config.json").is_file():
        raise FileNotFoundError(
            f"{args.policy}: no model there (no config.json). Train one: python -m prefcourse train"
        )
    if args.split and (not args.data or Path(args.data).is_file()):
        raise ValueError("--split is for a dataset from the hub or a folder, named in --data")
    device = find_device()
    world = bundled.load(args.world, device)
    if not args.data:
        name = Path(args.policy).resolve().name
        policy = load_model(args.policy).to(device)
        print(table(compare(policy, world, "policy" if name == "sft" else name, args.seed)))
        return 0
    pairs = exchange.load(args.data, args.split or (None if Path(args.data).is_file() else "test"))
    policy, tokenizer = model_and_tokenizer(args.policy)
    policy = policy.to(device)
    reference = load_model(args.reference).to(device) if args.reference else world.sft
    h = (reference_logps(policy, pairs, tokenizer).logps - reference_logps(reference, pairs, tokenizer).logps).double()
    prompts = list(dict.fromkeys(row["prompt"] for row in pairs))[:200]
    sampled = generate(policy, tokenizer, prompts, seed=args.seed)
    lines = {
        "pairs ranked right": bootstrap((h[:, 0] > h[:, 1]).double()),
        "log-ratio chosen, nats": bootstrap(h[:, 0]),
        "log-ratio rejected, nats": bootstrap(h[:, 1]),
        "KL to the reference, nats": bootstrap(sequence_kl(policy, reference, tokenizer, prompts, sampled)),
    }
    for name, estimate in lines.items():
        print(f"{name:26} {format(estimate, '.2f')}")
    return 0
