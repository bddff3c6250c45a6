"""What `train` and `evaluate` share: loading a model by name, comparing with sft, printing samples."""

import os
import re

from prefcourse.terminal import doing, styled

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a model writes must not move a terminal's cursor
SIDES = {"sft": "dim", "before": "dim"}  # in a terminal; what training made is green


def first_process() -> bool:
    """Is this the process that speaks and writes? Of several under accelerate, one is."""
    return int(os.environ.get("RANK", "0")) == 0


def say(line: str) -> None:
    """Print `line`, once where several processes would."""
    if first_process():
        print(line, flush=True)


def model_and_tokenizer(name: str) -> tuple:
    """A model and its tokenizer from a folder or the hub. Raises what `load_model` and `load_tokenizer` raise."""
    from prefcourse.worlds.models import load_model, load_tokenizer

    return load_model(name), load_tokenizer(name)


def stored_dtype(name: str | None):
    """The dtype in which a model of one's own was stored; float32 for the bundled one, which begins there."""
    import torch
    from transformers import AutoConfig

    from prefcourse.worlds.models import base_of

    return (AutoConfig.from_pretrained(base_of(name)).dtype if name else None) or torch.float32


def find_device() -> str:
    """This process's GPU if there is one, set to multiply float32 matrices at its speed (TF32), else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def compare(policy, world, name: str, seed: int) -> dict:
    """Evaluate `policy` and, for comparison, another sample of sft itself, on the test prompts."""
    from prefcourse.evaluate import evaluate
    from prefcourse.finite import counted

    with doing(f"measuring sft and {name} on {counted(len(world.prompts['test']), 'test prompt')}"):
        before = evaluate(world.sft, world, seed=seed)
        return {"sft": before, name: evaluate(policy, world, seed=seed, baseline=before.baseline)}


def print_samples(prompts, completions: dict[str, list], rewards: dict, count: int = 8) -> None:
    """Completions of the same prompts before and after, with the gold reward where there is one."""
    print()
    for i, prompt in enumerate(prompts[:count]):
        print(styled(f"{prompt.rstrip()} ...", "bold"))
        for label, side in completions.items():
            reward = f" {rewards[label][i]:+5.1f}" if label in rewards else ""
            said = styled(f"{label:>5}{reward}", SIDES.get(label, "green"))
            print(f"  {said}  {CONTROL.sub('�', side[i].text.strip())}{'' if side[i].finished else ' ...'}")
    print()
