"""Low-rank adapters (LoRA, Hu et al. 2021) through peft, which is optional: pip install peft

    policy = add_lora(copy.deepcopy(world.sft), rank=8)
    train(policy, world.pairs["train"], world.tokenizer, lr=1e-3)      # the reference is the model with adapters off
    merged = policy.merge_and_unload()                                 # a plain model again

The base model stays as it is and each linear layer W gets a trained correction: W + (α/rank)·BA, with B = 0 at first.
So the policy starts as the base model, one model in memory serves as both policy and reference, and a checkpoint holds
the adapters alone.
"""

import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from prefcourse.training import optional


def add_lora(policy: PreTrainedModel, rank: int = 8, alpha: float | None = None, seed: int = 0) -> nn.Module:
    """Put adapters of `rank` into all linear layers of `policy` but the output head, and freeze the rest of it.

    `policy` itself is changed: give a copy if it is needed later. alpha: α, by default 2 · rank. seed: of A's random
    start. Raises ImportError without a peft that works, ValueError for a rank that is none.
    """
    width = policy.get_input_embeddings().weight.shape[1]
    if not 1 <= rank <= width:
        raise ValueError(f"rank must be from 1 to the model's width, {width}, got {rank}")
    optional.require("peft", "LoRA")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank if alpha is None else alpha, lora_dropout=0.0, target_modules="all-linear",
        task_type="CAUSAL_LM", fan_in_fan_out=_transposed(policy),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers for an attribute by its old name
        torch.manual_seed(seed)
        return get_peft_model(policy, config)


def has_adapters(policy: nn.Module) -> bool:
    """Is `policy` a peft model?"""
    return hasattr(policy, "peft_config") and hasattr(policy, "get_base_model")


def settings(policy: nn.Module) -> dict[str, Any] | None:
    """What tells one set of adapters from another, as JSON values: rank, α, where they are; None without adapters."""
    if not has_adapters(policy):
        return None
    config = policy.peft_config[policy.active_adapter]
    names = sorted({name.split(".lora_A")[0] for name, _ in policy.named_parameters() if ".lora_A" in name})
    return {"rank": config.r, "alpha": config.lora_alpha, "on": names}


def plain(policy: nn.Module) -> nn.Module:
    """The transformers model inside `policy`, adapters at work; `policy` itself if it has none."""
    return policy.get_base_model() if has_adapters(policy) else policy


def adapters_off(policy: nn.Module) -> AbstractContextManager:
    """A context in which a peft model is its base model."""
    return policy.disable_adapter()


def fresh(policy: nn.Module) -> bool:
    """Are there adapters, and is every B still 0, so that they change nothing?"""
    bs = [p for name, p in policy.named_parameters() if "lora_B" in name]
    return has_adapters(policy) and bool(bs) and not any(bool(p.any()) for p in bs)


def _transposed(policy: nn.Module) -> bool:
    """GPT-2 keeps its matrices as (in, out); peft warns unless it is told."""
    return any(type(module).__name__ == "Conv1D" for module in policy.modules())
