"""Does GPT-2 of 124 M with 32 pairs of 1,024 tokens a step fit a T4 of 16 GB? The account on paper, and measured here.

    python tests/benchmarks/memory_account.py             # a minute on a CPU; build/memory-account.json

Weights, gradients and moments are counted. What a forward pass keeps for the backward pass is measured on one pair,
under autocast, by the storages that autograd saves, and multiplied: it grows with the tokens and with nothing else. A
T4 computes in fp16 and this in bf16, which is as wide. Logits never take more than `logprobs.LARGEST` at a time, with
as much again for their gradient and half of it for what the head gives in half precision.
"""

import argparse
import json
from pathlib import Path

import torch
from against_trl import random_rows
from transformers import GPT2Config, GPT2LMHeadModel

from prefcourse.logprobs import LARGEST, sequence_logps
from prefcourse.preferences import collate_pairs
from prefcourse.training.memory import recompute, recomputing
from prefcourse.world import load_world
from prefcourse.worlds.models import quiet

GB, LAYERS, WIDTH = 1e9, 12, 768


def kept(model, batch) -> tuple[float, float]:
    """GB that the forward pass keeps for the backward pass: activations, and copies of weights in half precision."""
    storages: dict[int, int] = {}
    shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    copies: set[int] = set()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            storages[place] = tensor.untyped_storage().nbytes()
            if tuple(tensor.shape) in shapes and tensor.dtype == torch.bfloat16:
                copies.add(place)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), recomputing(model):
        with torch.autocast("cpu", torch.bfloat16):
            loss = sequence_logps(model, batch).sum()
        found = sum(n for p, n in storages.items() if p not in copies) / GB, sum(storages[p] for p in copies) / GB
    del loss
    return found


def account(length: int, pairs: int, micro: int, model: GPT2LMHeadModel, tokenizer) -> dict[str, dict[str, float]]:
    """Term → GB on paper and measured: a step of `pairs`, `micro` of them at a time, with gradient checkpointing."""
    prompt = 16
    batch = collate_pairs(random_rows(tokenizer, [(prompt, length - prompt, length - prompt)]), tokenizer)
    seen, weights = len(batch.layout.input_ids) * micro, sum(p.numel() for p in model.parameters())  # tokens at a time
    everything, copies = kept(model, batch)
    logits = len(batch.layout.targets) * model.config.vocab_size * 4 / GB  # what `pick` keeps of one pair
    recompute(model)
    inputs, _ = kept(model, batch)
    layer = (everything - inputs) / LAYERS  # what one layer keeps while its turn comes
    found = {
        "weights, gradients, Adam's moments": {"paper": 16 * weights / GB},
        "copies of the weights in half precision": {"paper": 2 * weights / GB, "measured": copies},
        "the reference": {"paper": 4 * weights / GB},
        "inputs of the layers": {"paper": 4 * WIDTH * LAYERS * seen / GB, "measured": (inputs - logits) * micro},
        "one layer, computed anew": {"paper": 36 * WIDTH * seen / GB, "measured": layer * micro},
        "logits, in parts": {"paper": 2.5 * LARGEST / GB},
    }  # fmt: skip
    total = {way: sum(term.get(way, term["paper"]) for term in found.values()) for way in ("paper", "measured")}
    without = 16 * weights / GB + copies + 4 * weights / GB + everything * pairs
    return found | {"all together": total, "all at once, nothing recomputed": {"measured": without}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--out", default="build/memory-account.json")
    args = parser.parse_args()
    quiet()
    torch.manual_seed(0)
    config = GPT2Config(bos_token_id=0, eos_token_id=0, activation_function="gelu_pytorch_tanh")
    found = account(args.length, args.pairs, args.micro, GPT2LMHeadModel(config).eval(), load_world().tokenizer)
    for term, gb in found.items():
        print(f"{term:42}" + "".join(f"{way} {value:6.2f} GB   " for way, value in gb.items()))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps({"micro_batch": args.micro, "GB": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
