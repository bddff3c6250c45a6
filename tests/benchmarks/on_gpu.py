"""What the course is worth on a GPU, in under eight minutes: prepared, so that one is used well whenever it is at hand.

    python tests/benchmarks/on_gpu.py                    # on a GPU; build/on-gpu.json
    python tests/benchmarks/on_gpu.py --tiny             # with a small model, on a CPU too: does the script work?

Random weights of GPT-2's size (124 M) and random rows, so nothing has to be downloaded. Four parts, each a process of
its own, and one that fails says so and does not stop the others:

    ours, trl     lesson 07's job at 124 M: 40 steps of DPO on 32 pairs of mixed lengths, up to 256 tokens, in the
                  GPU's own precision. Pairs a second after five steps of warm-up, peak memory, losses. TRL with its
                  own options for a GPU: its fused head needs Triton. Twice, alternating.
    packed        the same steps packed and padded, and what the packed log-probs differ by
    sampling      256 prompts x 64 tokens: `prefcourse.generate` and `model.generate`
    long          one step of 32 pairs of 1,024 tokens, with gradient checkpointing and micro-batches: peak memory
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from against_trl import random_rows
from transformers import GPT2Config, GPT2LMHeadModel

from prefcourse.generate import sample_ids
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import collate_pairs
from prefcourse.train import train
from prefcourse.training.memory import recompute
from prefcourse.world import load_world
from prefcourse.worlds.models import quiet

PARTS = ("ours", "trl", "packed", "sampling", "long", "ours", "trl")
WARM_UP = 5  # steps that are not timed


def sizes(tiny: bool) -> dict[str, Any]:
    """The model and the amounts: real, or small enough for any machine."""
    if tiny:
        return {"model": {"n_layer": 2, "n_embd": 64, "n_head": 2}, "steps": 8, "pairs": 4, "longest": 48, "prompts": 8,
                "new": 8, "long": 64, "micro": 2}  # fmt: skip
    return {"model": {}, "steps": 40, "pairs": 32, "longest": 256, "prompts": 256, "new": 64, "long": 1024, "micro": 4}


class Job:
    """A model of that size on the device, and rows for it."""

    def __init__(self, tiny: bool):
        self.size, self.device = sizes(tiny), "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = load_world().tokenizer
        torch.manual_seed(0)
        config = GPT2Config(
            bos_token_id=0, eos_token_id=0, activation_function="gelu_pytorch_tanh", **self.size["model"]
        )
        self.model = GPT2LMHeadModel(config).eval().to(self.device)
        longest, draw = self.size["longest"], torch.Generator().manual_seed(0)
        ends = torch.randint(longest // 4, longest - 16, (self.size["steps"] * self.size["pairs"], 2), generator=draw)
        self.rows = random_rows(self.tokenizer, [(16, a, b) for a, b in ends.tolist()])

    def wait(self) -> float:
        """The clock, when the device has done all that it was asked for."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> float | None:
        """GB that were in use at most since the last call; None on a CPU."""
        if self.device != "cuda":
            return None
        found = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return round(found, 2)


def ours(job: Job, **more) -> dict[str, Any]:
    """`train`: pairs a second, peak memory, losses."""
    times = []
    settings = {"steps": job.size["steps"], "batch_size": job.size["pairs"], "lr": 1e-5, "progress": False} | more
    job.peak()
    began = job.wait()
    history = train(copy.deepcopy(job.model), job.rows, job.tokenizer, reference=job.model,
                    on_step=lambda *_: times.append(job.wait()), **settings)  # fmt: skip
    return told(job, times[WARM_UP:], history["loss"]) | {"seconds in all": round(job.wait() - began, 1)}


def told(job: Job, times: list[float], losses: list[float]) -> dict[str, Any]:
    """Pairs a second between the first and the last of `times`, and the rest."""
    speed = (len(times) - 1) * job.size["pairs"] / (times[-1] - times[0])
    return {"pairs a second": round(speed, 1), "peak GB": job.peak(), "losses": [round(x, 4) for x in losses]}


def trl(job: Job) -> dict[str, Any]:
    """TRL's DPOTrainer on the same rows, in its order at random, with the reference in its loop."""
    import datasets
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    times, bf16 = [], job.device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            times.append(job.wait())

    args = DPOConfig(
        output_dir="build/on-gpu", max_steps=job.size["steps"], per_device_train_batch_size=job.size["pairs"],
        learning_rate=1e-5, beta=0.1, bf16=bf16, fp16=job.device == "cuda" and not bf16, gradient_checkpointing=False,
        logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=job.device == "cpu",
    )  # fmt: skip
    trainer = DPOTrainer(
        copy.deepcopy(job.model), ref_model=job.model, args=args, train_dataset=datasets.Dataset.from_list(job.rows),
        processing_class=job.tokenizer, callbacks=[Clock()],
    )  # fmt: skip
    job.peak()
    trainer.train()
    return told(job, times[WARM_UP:], [row["loss"] for row in trainer.state.log_history if "loss" in row])


def packed(job: Job) -> dict[str, Any]:
    """Packed and padded: steps of each, and how far apart the log-probs of a batch are."""
    batch = collate_pairs(job.rows[: job.size["pairs"]], job.tokenizer).to(job.device)
    with torch.no_grad():
        one = sequence_logps(job.model, batch)
    found = {"packed": ours(job)}
    with patch("prefcourse.logprobs.can_pack", lambda model: False):
        with torch.no_grad():
            other = sequence_logps(job.model, batch)
        found["padded"] = ours(job)
    return found | {"log-probs differ by": float((one - other).abs().max())}


def sampling(job: Job) -> dict[str, Any]:
    """Tokens a second of both samplers, from prompts of eight tokens."""
    ids = [job.tokenizer(row["prompt"])["input_ids"][:8] for row in job.rows[: job.size["prompts"]]]
    inputs = torch.tensor(ids, device=job.device)
    found = {}
    ways = {
        "prefcourse.generate": lambda: sample_ids(job.model, ids, max_new_tokens=job.size["new"], eos_id=-1),
        "model.generate": lambda: job.model.generate(
            inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_k=0, max_new_tokens=job.size["new"],
            min_new_tokens=job.size["new"], pad_token_id=0,
        ),
    }  # fmt: skip
    for name, sample in ways.items():
        sample()
        began = job.wait()
        sample()
        found[name] = {
            "tokens a second": round(len(ids) * job.size["new"] / (job.wait() - began)),
            "peak GB": job.peak(),
        }
    return found


def long(job: Job) -> dict[str, Any]:
    """One step on pairs as long as GPT-2's context."""
    half = job.size["long"] - 16
    job.rows = random_rows(job.tokenizer, [(16, half, half)] * job.size["pairs"])
    recompute(job.model)
    policy = copy.deepcopy(job.model)
    job.peak()
    began = job.wait()
    train(policy, job.rows, job.tokenizer, reference=job.model, steps=1, batch_size=job.size["pairs"],
          micro_batch=job.size["micro"], lr=1e-5, progress=False)  # fmt: skip
    return {"seconds": round(job.wait() - began, 1), "peak GB": job.peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model, on whatever device there is")
    parser.add_argument(
        "--part", choices=sorted(set(PARTS)), help="one part, printed as JSON; the script itself uses it"
    )
    parser.add_argument("--out", default="build/on-gpu.json")
    args = parser.parse_args()
    quiet()
    if args.part:
        print(json.dumps(globals()[args.part](Job(args.tiny))))
        return
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here. --tiny tries the script on the CPU.")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found, out = {"device": name, "torch": torch.__version__, "parts": []}, Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, *(["--tiny"] * args.tiny)]
        run = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=240)
        said = json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else {"failed": run.stderr[-2000:]}
        found["parts"].append({part: said})
        print(part, json.dumps(said)[:1500], flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
