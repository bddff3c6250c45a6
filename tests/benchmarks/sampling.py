"""Seconds to sample: `prefcourse.generate` and transformers' `model.generate`, same model, prompts and settings.

    python tests/benchmarks/sampling.py                       # three minutes; the table, and data/results/sampling.json
    python tests/benchmarks/sampling.py --rounds 1 --out ''   # a look, nothing written

Both sample at temperature 1, stop at EOS and get every prompt in one call, theirs padded on the left. Both sides get
GPT-2's GELU in one kernel, the same function. Rounds alternate between the two, so that whatever else the machine does
falls on both; the ratio is taken round by round. A warm-up of each is not counted. Seconds are wall-clock.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from prefcourse.generate import sample_ids
from prefcourse.results.store import provenance
from prefcourse.world import load_world
from prefcourse.worlds.bundled import data_folder
from prefcourse.worlds.models import load_model, quiet
from prefcourse.worlds.world import World

CASES = [  # prompts, new tokens at most, top_k
    (256, 40, 0),
    (256, 40, 50),  # top_k=50 is transformers' own default
    (400, 48, 0),  # a lesson's evaluation
    (64, 40, 0),
    (8, 40, 0),
    (1, 40, 0),
]


def samplers(world: World, count: int, new_tokens: int, top_k: int) -> dict[str, Callable[[int], int]]:
    """Name → function that samples with a seed and returns how many tokens came, EOS included."""
    tokenizer = world.tokenizer
    model = load_model(data_folder() / "sft")
    prompts = [row["prompt"] for row in world.prompts["test"][:count]]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    padded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    width = padded["input_ids"].shape[1]

    def ours(seed: int) -> int:
        return sum(map(len, sample_ids(world.sft, ids, max_new_tokens=new_tokens, top_k=top_k, seed=seed)))

    def theirs(seed: int) -> int:
        torch.manual_seed(seed)
        found = model.generate(**padded, do_sample=True, max_new_tokens=new_tokens, top_k=top_k, pad_token_id=0)
        return int((found[:, width:] != 0).sum() + (found[:, width:] == 0).any(-1).sum())

    return {"prefcourse.generate": ours, "model.generate": theirs}


def measure(case: tuple[int, int, int], world: World, rounds: int) -> dict:
    """Seconds and tokens of each round (its number is the seed), after one of warm-up, and the ratios theirs ÷ ours."""
    both = samplers(world, *case)
    found = {name: [] for name in both}
    for seed in range(rounds + 1):
        for name, sample in both.items():
            began = time.perf_counter()
            tokens = sample(seed)
            found[name].append((round(time.perf_counter() - began, 4), tokens))
    seconds = {name: [s for s, _ in runs[1:]] for name, runs in found.items()}
    tokens = {name: [t for _, t in runs[1:]] for name, runs in found.items()}
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    count, new_tokens, top_k = case
    return {
        "prompts": count, "new_tokens": new_tokens, "top_k": top_k, "seconds": seconds, "tokens": tokens,
        "ratio": {"median": round(median(ratios), 2), "low": round(min(ratios), 2), "high": round(max(ratios), 2)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="data/results/sampling.json", help="where the numbers go; '' for nowhere")
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(args.threads)
    world, cases = load_world(), []
    print("prompts  new tokens  top_k  ours (s)  model.generate (s)  ratio [lowest, highest]")
    for case in CASES:
        cases.append(found := measure(case, world, args.rounds))
        ours, theirs = (median(s) for s in found["seconds"].values())
        ratio = "{median:.1f} [{low:.1f}, {high:.1f}]".format(**found["ratio"])
        print(f"{case[0]:7}  {case[1]:10}  {case[2]:5}  {ours:8.2f}  {theirs:18.2f}  {ratio}", flush=True)
    if args.out:
        record = provenance("python tests/benchmarks/sampling.py")
        record |= {"threads": args.threads, "date": time.strftime("%Y-%m-%d"), "cases": cases}
        Path(args.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
