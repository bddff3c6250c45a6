"""How tests start two processes, and what `test_devices` runs in them: python tests/two_processes.py FOLDER.

FOLDER has a model, its tokenizer and pairs. Each run leaves its weights and its history in FOLDER.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefcourse.preferences import read_rows
from prefcourse.train import train
from prefcourse.training import lora

PROMPTS = ["This film", "I think the story", "The old"]
DPO = {"micro_batch": 2, "prompts": PROMPTS}  # 3 rows a process: an accumulation of 2 + 1
RUNS = {
    "dpo": DPO,
    "stopped": DPO,  # and resumed
    "half": DPO,  # stopped and left so
    "kto": {"loss": "kto"},
    "lora": {"lr": 1e-2, "prompts": PROMPTS},
    "max_kl": {"max_kl": 0.5, "prompts": PROMPTS},
}
SETTINGS = {"steps": 6, "batch_size": 6, "lr": 1e-3, "precision": "fp32", "every": 2, "progress": False}


DDP, FSDP = ["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]


def launch(way, *script):
    """`accelerate launch` with two processes on this machine's CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [*way, "--num_processes", "2", "--num_machines", "1", "--main_process_port", port]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", *map(str, script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    if loopback := {"linux": "lo", "darwin": "lo0"}.get(sys.platform):  # on Windows the address is enough
        environment["GLOO_SOCKET_IFNAME"] = loopback
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *command], capture_output=True, encoding="utf-8",
        timeout=200, env=environment,
    )  # fmt: skip


class Stop(Exception):
    """Ends a run in the first process, while the second waits for it."""


def stop(step, completions):
    if step == 4:
        raise Stop("of no use here")


def run(folder, name, out, **more):
    """One run: → the policy and its history."""
    policy = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    policy = lora.add_lora(policy, rank=4) if name == "lora" else policy
    tokenizer, rows = AutoTokenizer.from_pretrained(folder / "model"), read_rows(folder / "pairs.jsonl")
    settings = SETTINGS | RUNS[name] | more
    if name in ("stopped", "half") and "resume" not in more:
        settings |= {"checkpoint": out / "checkpoints" / name, "checkpoint_every": 1}
        try:
            train(policy, rows, tokenizer, on_samples=stop, **settings)
        except Stop:
            if name == "half":
                return policy, {}
            more = {"checkpoint": settings["checkpoint"], "checkpoint_every": 1, "resume": True}
            policy, history = run(folder, name, out, **more)
            assert json.dumps(run(folder, name, out, **more)[1]) == json.dumps(history)  # a run that is done stays so
            return policy, history
        raise AssertionError("it was not stopped")
    return policy, train(policy, rows, tokenizer, **settings)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    for name in RUNS:
        policy, history = run(folder, name, folder)
        save_file({n: p.detach().clone() for n, p in policy.named_parameters()}, folder / f"{name}-{rank}.safetensors")
        (folder / f"{name}-{rank}.json").write_text(json.dumps(history), encoding="utf-8")
