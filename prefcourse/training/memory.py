"""What keeps a step small: layers that are computed anew in place of being kept, and a way out when memory is full.

    memory.recompute(policy)                     # --gradient-checkpointing on the command line
    train(policy, pairs, tokenizer, micro_batch=4)

With gradient checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost") a layer keeps its input
alone, and the backward pass computes the rest once more: about a third more work for a fraction of the memory.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from prefcourse.finite import counted

FULL = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def recompute(model: nn.Module) -> None:
    """Switch gradient checkpointing on, by the name that this version of transformers has for it."""
    switch = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    switch({"use_reentrant": False})  # with adapters alone to train, reentrant checkpoints would lose the gradient


def recomputed_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of `model` for which gradient checkpointing is switched on."""
    layers = (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    return [layer for layer in layers if layer.gradient_checkpointing]


def check_recomputing(model: nn.Module) -> None:
    """Raise ValueError if a layer to be recomputed has a dropout of its own that `recomputing` would switch on."""
    for layer in recomputed_layers(model):
        for name, value in vars(layer).items():
            if "dropout" in name and isinstance(value, float) and value > 0:
                raise ValueError(
                    f"gradient checkpointing would switch on the {name} of {value:g} in {type(layer).__name__}, and "
                    f"policy and reference must agree at first. Load the model with {name}=0, or train it without "
                    "gradient checkpointing."
                )


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Within, layers with gradient checkpointing use it though the model is in evaluation mode.

    transformers asks the layer whether it is training. We say yes of the layer alone, so the dropout inside stays off;
    and only while a loss is computed, since a layer that says so keeps no cache, without which nothing can be sampled.
    """
    layers = recomputed_layers(model) if torch.is_grad_enabled() else []
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


@contextmanager
def explained(micro_batch: int, tokens: int, model: nn.Module, processes: int = 1) -> Iterator[None]:
    """Within, an error for want of memory says how large a step is and what makes it smaller.

    micro_batch: examples that a process has in memory at a time. tokens: of the longest of them, all its sequences.
    Raises MemoryError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError, and so is the CPU's
        if not isinstance(error, MemoryError) and not FULL.search(str(error)):
            raise
        smaller = -(-micro_batch // 2)
        ways = [f"micro_batch={smaller} (--micro-batch {smaller}), which changes no result"] * (micro_batch > 1)
        if not recomputed_layers(model):
            ways.append("gradient checkpointing (--gradient-checkpointing), a third more work")
        ways.append("a smaller max_length (--max-length) with too_long='truncate', or LoRA (--lora)")
        weights = sum(p.numel() for p in model.parameters())
        raise MemoryError(
            f"the memory is full: {counted(micro_batch, 'example')} of up to {counted(tokens, 'token')} at a time in "
            f"each of {processes} "
            f"process{'es' * (processes > 1)}, {weights / 1e6:,.0f} million weights. What helps, the best first: "
            f"{'; '.join(ways)}. ({str(error).splitlines()[0]:.200})"
        ) from error
