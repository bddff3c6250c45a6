"""A look ahead, before a run takes any time: --dry-run and --show-batch.

python -m prefcourse train --data my.jsonl --model gpt2 --dry-run --show-batch
"""

import argparse
import math
from collections.abc import Sequence

SHOWN = 3  # examples of the first batch that are shown


def show(args: argparse.Namespace, policy, rows: Sequence[dict], tokenizer, settings: dict) -> None:
    """Print rows, tokens, lengths, steps and memory of the run; with --show-batch also what its first batch holds."""
    import numpy as np

    from prefcourse.finite import counted
    from prefcourse.losses import LOSSES
    from prefcourse.training.batches import Feed, encode_rows
    from prefcourse.worlds.models import context

    needs = LOSSES[args.loss].inputs() if args.loss in LOSSES else LOSSES["dpo"].inputs()
    longest = context(policy, args.max_length)
    examples = encode_rows(rows, tokenizer, needs=needs, longest=longest, too_long=settings["too_long"])
    size, epochs = settings["batch_size"], settings["epochs"]
    steps = settings["steps"] or math.ceil(epochs * len(examples) / size)
    sizes = examples.sequences.sizes  # (N, 1 + k)
    totals = sizes[:, :1] + sizes[:, 1:]  # (N, k) of each sequence
    print(f"examples   {examples}")
    for name, found in (("prompt", sizes[:, 0]), ("completion", sizes[:, 1:]), ("both", totals)):
        half, most = np.percentile(found, [50, 95])
        print(f"{name:10} median {half:.0f} tokens, 95 % have at most {most:.0f}, the longest {found.max()}")
    print(
        f"context    {longest:g} tokens; {int(totals.sum()):,} tokens an epoch, the prompt counted for each completion"
    )
    print(f"steps      {steps:,} of {counted(size, 'example')}: {steps * size / len(examples):.2f} epochs")
    _print_memory(policy, needs)
    if args.show_batch:
        feed = Feed.plan(examples, batch_size=size, steps=1, seed=settings["seed"])
        _print_batch(feed.groups(0), tokenizer, size)


def _print_memory(policy, needs: Sequence[str]) -> None:
    """Weights, gradients and Adam's two moments in float32; the reference is a second copy, or adapters off."""
    from prefcourse.training import lora

    whole = sum(p.numel() for p in policy.parameters())
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    copy = 0 if lora.has_adapters(policy) or not any(name.startswith("reference") for name in needs) else whole
    parts = {"weights": 4 * whole, "gradients": 4 * trained, "Adam": 8 * trained, "reference": 4 * copy}
    listed = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
    print(
        f"memory     {_size(sum(parts.values()))} before the first step ({listed}), in float32; activations come on top"
    )


def _size(bytes_: float) -> str:
    return f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e6:.1f} MB"


def _print_batch(groups: Sequence, tokenizer, size: int) -> None:
    """The first examples of a batch, decoded; what the loss sees stands between ⟦ and ⟧."""
    from prefcourse.finite import counted

    print(
        f"\nthe first batch: {min(SHOWN, len(groups))} of its {counted(size, 'example')}; the loss sees ⟦what is "
        "marked⟧"
    )
    for n, group in enumerate(groups[:SHOWN], start=1):
        for (prompt, completion), side in zip(
            group, ("chosen", "rejected") if len(group) == 2 else ("text",), strict=True
        ):
            print(f"{n} {side:8} {tokenizer.decode(prompt)}⟦{tokenizer.decode(completion)}⟧")
