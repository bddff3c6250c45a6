"""Our training loop and TRL's trainers side by side: pairs per second, peak memory, and the loss curves.

    python tests/benchmarks/against_trl.py                                # all of it; data/results/against-trl.json
    python tests/benchmarks/against_trl.py --model bundled --method dpo   # one case; the others in the file stay

Same weights, rows, float32, batch size, steps, AdamW, rates and clipping; no dropout, no evaluation, losses logged at
every step. Every run is a process of its own, and the rounds alternate between the two, so that whatever else the
machine does falls on both. Both sides get GPT-2's GELU in one kernel, the same function, and TRL its fastest options
on a CPU: no gradient checkpointing, which is its default, and no evaluation.

    dpo, kto, orpo   the same batches in the same order, so the padding is the same too, and so must the losses be.
                     KTO takes TRL's partners. ORPO differs: TRL's likelihood term counts the prompt too.
    dpo-cached       the same, with the reference's log-probs there before the clock starts: the loop alone
    dpo-shuffled     each with its own default order: ours with rows of similar length side by side, TRL's at random.
                     TRL 1.16 cannot group by length here: transformers' "group_by_length" asks for input_ids.
    dpo-mixed        the same batches in the same order again, of GPT-2 124 M: here, and shuffled, its rows have the
                     lengths of the course's pairs, stretched to 128 tokens; else all have 128.

What the clock sees: on our side all of `train`, that is tokenising the rows, scoring them once with the reference, and
the steps; on TRL's `trainer.train()` with the reference model in its loop, its default, and not its tokenising. Memory
is the peak of the process above what it held with the models loaded.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from logits_memory import peak

from prefcourse.results.store import provenance
from prefcourse.world import load_world
from prefcourse.worlds.bundled import data_folder
from prefcourse.worlds.models import load_model, quiet

BETAS, BETA, LR, WARMUP, CLIP = (0.9, 0.99), 0.1, 1.5e-4, 0.1, 1.0
SIZES = {"bundled": (16, 50), "gpt2-124m": (4, 5)}  # pairs a batch, steps
METHODS = ("dpo", "dpo-mixed", "dpo-cached", "dpo-shuffled", "kto", "orpo")
NOT = [("gpt2-124m", "dpo-cached"), ("bundled", "dpo-mixed")]
CASES = [(model, method) for model in SIZES for method in METHODS if (model, method) not in NOT]
LENGTH, PROMPT = 128, 16  # tokens of a sequence made for GPT-2 124 M, and of its prompt


def random_rows(tokenizer, shapes: list[tuple[int, int, int]]) -> list[dict[str, str]]:
    """Pairs whose prompt, chosen and rejected have so many tokens, EOS included: random words of one token each."""
    words = sorted(" " + w[1:] for w in tokenizer.get_vocab() if w[0] == "Ġ" and w[1:].isascii() and w[1:].isalpha())
    draw, rows = random.Random(0), []

    def text(tokens: int) -> str:
        return "".join(draw.choices(words, k=tokens))

    start = len(tokenizer("The")["input_ids"])
    for prompt, chosen, rejected in shapes:
        rows.append(
            {"prompt": "The" + text(prompt - start), "chosen": text(chosen - 1), "rejected": text(rejected - 1)}
        )
        assert len(tokenizer(rows[-1]["prompt"] + rows[-1]["chosen"])["input_ids"]) == prompt + chosen - 1
    return rows


def shapes_at(length: int, pairs: list[dict], tokenizer) -> list[tuple[int, int, int]]:
    """The lengths of the course's pairs, stretched so that the longest sequence has `length` tokens."""
    counts = [
        [len(tokenizer(row[k])["input_ids"]) + (k != "prompt") for k in ("prompt", "chosen", "rejected")]
        for row in pairs
    ]
    stretch = length / max(x + max(a, b) for x, a, b in counts)
    return [tuple(max(int(n * stretch), 2) for n in row) for row in counts]


def setting(model: str, method: str) -> tuple[Any, list[dict], list[list[int]], int, int]:
    """Tokenizer, rows, the batches that our loop makes of them, examples a batch, steps."""
    from prefcourse.losses import LOSSES
    from prefcourse.training.batches import encode_rows, plan

    world, (size, steps) = load_world(), SIZES[model]
    if model == "bundled":
        rows = [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in world.pairs["train"][: size * steps]]
    else:
        equal = [(PROMPT, LENGTH - PROMPT, LENGTH - PROMPT)] * (size * steps)
        mixed = shapes_at(LENGTH, world.pairs["train"][: size * steps], world.tokenizer)
        rows = random_rows(world.tokenizer, mixed if method in ("dpo-mixed", "dpo-shuffled") else equal)
    if method == "kto":  # unpaired: each pair is two completions, so twice the examples for as many pairs
        size, sides = 2 * size, ("chosen", "rejected")
        rows = [{"prompt": r["prompt"], "completion": r[s], "label": s == "chosen"} for r in rows for s in sides]
    examples = encode_rows(rows, world.tokenizer, needs=LOSSES[method.split("-")[0]].inputs())
    return world.tokenizer, rows, plan(examples.lengths, size, steps, seed=0), size, steps


def ours(model: str, method: str, folder: str) -> dict[str, Any]:
    """One run of `prefcourse.train`: seconds, peak and loaded memory in MB, losses."""
    from prefcourse.train import train
    from prefcourse.training import batches as feeding
    from prefcourse.training.reference import reference_logps

    tokenizer, rows, batches, size, steps = setting(model, method)
    loss = method.split("-")[0]
    if loss == "kto":  # TRL's partners: the completion before, within the batch
        before = {i: batch[k - 1] for batch in batches for k, i in enumerate(batch)}
        feeding.mismatch = lambda examples, *_: [[before[i] for i in range(len(examples))]]
    policy, arguments = load_model(folder), {"lam": BETA} if loss == "orpo" else {"beta": BETA}
    if loss != "orpo":
        arguments["reference"] = load_model(folder)
    if method == "dpo-cached":
        arguments["reference"] = reference_logps(arguments["reference"], rows, tokenizer)
    arguments |= {"lr": LR, "warmup": WARMUP, "max_grad_norm": CLIP, "precision": "fp32", "progress": False}
    loaded, began, cpu = peak(), time.perf_counter(), time.process_time()
    history = train(policy, rows, tokenizer, loss=loss, steps=steps, batch_size=size, seed=0, **arguments)
    return measured(loaded, began, cpu, history["loss"])


def theirs(model: str, method: str, folder: str) -> dict[str, Any]:
    """The same run by TRL's trainer."""
    import datasets
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from prefcourse.train import lr_factor

    tokenizer, rows, batches, size, steps = setting(model, method)
    loss, own_order = method.split("-")[0], method == "dpo-shuffled"
    order = range(len(rows)) if own_order else [i for batch in batches for i in batch]
    data = datasets.Dataset.from_list([rows[i] for i in order])
    policy = load_model(folder)
    more = {} if loss == "orpo" else {"ref_model": load_model(folder)}
    kinds = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer), "orpo": (ORPOConfig, ORPOTrainer)}
    config, trainer_class = kinds[loss]
    strategy = "random" if own_order else "sequential"
    cached = {"precompute_ref_log_probs": True} if method == "dpo-cached" else {}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, betas=BETAS, weight_decay=0.0, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: lr_factor(min(k, steps - 1), steps, WARMUP, "cosine"))
    with tempfile.TemporaryDirectory() as output:
        args = config(
            output_dir=output, max_steps=steps, per_device_train_batch_size=size, learning_rate=LR, beta=BETA,
            max_grad_norm=CLIP, disable_dropout=True, bf16=False, gradient_checkpointing=False, use_cpu=True,
            logging_steps=1, report_to="none", save_strategy="no", eval_strategy="no", disable_tqdm=True, seed=0,
            train_sampling_strategy=strategy, **cached,
        )  # fmt: skip
        more |= {"args": args, "train_dataset": data, "processing_class": tokenizer, "optimizers": (optimizer, rate)}
        trainer = trainer_class(policy, **more)
        loaded, began, cpu = peak(), time.perf_counter(), time.process_time()
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return measured(loaded, began, cpu, losses)


def measured(loaded: float, began: float, cpu: float, losses: list[float]) -> dict[str, Any]:
    """What a run reports. CPU seconds count all threads; they hardly depend on what else the machine does."""
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "loaded": loaded, "peak": peak(), "losses": [float(x) for x in losses]}


def compare(model: str, method: str, rounds: int, threads: int, folder: str) -> dict[str, Any]:
    """`rounds` runs of each, alternating, and what they say."""
    found: dict[str, list[dict]] = {"ours": [], "trl": []}
    for number in range(rounds):
        for side in ("ours", "trl") if number % 2 == 0 else ("trl", "ours"):
            command = [sys.executable, __file__, "--run", side, "--model", model, "--method", method]
            command += ["--threads", str(threads), "--weights", folder]
            done = subprocess.run(command, capture_output=True, encoding="utf-8")
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
            found[side].append(run := json.loads(done.stdout.splitlines()[-1]))
            print(f"  {model} {method} {side}: {run['seconds']:.1f} s", file=sys.stderr, flush=True)
    size, steps = SIZES[model]
    curves = {side: runs[0]["losses"] for side, runs in found.items()}
    same = method != "dpo-shuffled"

    def spread(what: str) -> dict[str, float]:
        ratios = [b[what] / a[what] for a, b in zip(*found.values(), strict=True)]
        return {"median": round(median(ratios), 2), "low": round(min(ratios), 2), "high": round(max(ratios), 2)}

    def each(value) -> dict[str, list]:
        return {side: [value(run) for run in runs] for side, runs in found.items()}

    return {
        "model": model, "method": method, "pairs": size, "steps": steps, "ratio": spread("seconds"),
        "ratio_of_cpu_seconds": spread("cpu"),
        "pairs_per_second": each(lambda run: round(size * steps / run["seconds"], 2)),
        "cpu_seconds": each(lambda run: round(run["cpu"], 2)),
        "peak_mb": each(lambda run: round(run["peak"])),
        "above_loaded_mb": each(lambda run: round(run["peak"] - run["loaded"])),
        "losses_differ_by": max(abs(a - b) for a, b in zip(*curves.values(), strict=True)) if same else None,
        "losses": {side: [round(x, 6) for x in curve] for side, curve in curves.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=("ours", "trl"), help="one run, printed as JSON; the script itself uses it")
    parser.add_argument("--weights", help="the folder of the model that --run loads")
    parser.add_argument("--model", choices=tuple(SIZES))
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="data/results/against-trl.json", help="where the numbers go; '' for nowhere")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    quiet()
    if args.run:
        print(json.dumps((ours if args.run == "ours" else theirs)(args.model, args.method, args.weights)))
        return
    out = Path(args.out) if args.out else None
    kept = json.loads(out.read_text(encoding="utf-8"))["cases"] if out and out.exists() else []
    cases = {(case["model"], case["method"]): case for case in kept}
    print(
        "model      method        pairs/s: ours     TRL  ratio [lowest, highest]  MB above loaded: ours   TRL  losses"
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = {"bundled": str(data_folder() / "sft"), "gpt2-124m": folder}
        make_gpt2(folder)
        for case in [c for c in CASES if args.model in (None, c[0]) and args.method in (None, c[1])]:
            cases[case] = row = compare(*case, args.rounds, args.threads, weights[case[0]])
            print(line(row), flush=True)
            if out:
                record = provenance("python tests/benchmarks/against_trl.py", "trl")
                record |= {"threads": args.threads, "seed": 0, "date": time.strftime("%Y-%m-%d")}
                record["cases"] = [cases[c] for c in CASES if c in cases]
                out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def make_gpt2(folder: str) -> None:
    """GPT-2 of 124 M parameters, randomly initialised with seed 0, with the course's tokenizer beside it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    speed, memory = (
        {side: median(row[what][side]) for side in ("ours", "trl")} for what in ("pairs_per_second", "above_loaded_mb")
    )
    ratio = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["ratio"])
    differ = "-" if row["losses_differ_by"] is None else f"{row['losses_differ_by']:.1e}"
    return (f"{row['model']:10} {row['method']:12} {speed['ours']:14.2f} {speed['trl']:7.2f}  {ratio:23}  "
            f"{memory['ours']:21.0f} {memory['trl']:5.0f}  {differ}")  # fmt: skip


if __name__ == "__main__":
    main()
