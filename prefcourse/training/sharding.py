"""Weights, gradients and Adam's moments split over the processes: FSDP version 2, by torch's `fully_shard`.

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 4 -m prefcourse train --data my.jsonl

What is trained is a split copy. Each process keeps 1/N of every matrix, of its gradient and of its two moments; a block
of the transformer (`GPT2Block`: a model names its blocks itself) is put together when forward or backward comes to it
and taken apart behind it. The policy that was given stays a plain whole model, on the CPU, and gets the trained weights
whenever somebody wants to see them: for samples, for a checkpoint, and at the end. So all that reads a policy, saving
included, works as it does with one process.

accelerate starts the processes but does not split the model: it does so on GPUs only, and this runs, and is tested, on
CPU processes too. Of its FSDP settings we read those below and ignore what changes speed alone.
"""

import copy
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from prefcourse.training import lora


def requested() -> bool:
    """Was this process started with `accelerate launch --use_fsdp`? Raises ValueError for settings we do not follow."""
    if not _set("ACCELERATE_USE_FSDP"):
        return False
    if os.environ.get("FSDP_VERSION") != "2":
        raise ValueError("FSDP: only version 2 is supported; start with accelerate launch --use_fsdp --fsdp_version 2")
    for setting in ("offload_params", "activation_checkpointing"):
        if _set(f"FSDP_{setting.upper()}"):
            raise ValueError(f"FSDP: fsdp_{setting} is not supported; leave it out of accelerate's settings")
    # With this setting transformers would load weights in the first process alone, also those of a checkpoint.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return True


def split(scorer: nn.Module, device: torch.device, count: int) -> nn.Module:
    """A copy of `scorer`, a module around a policy, split over `count` processes on `device`; `scorer` goes to the CPU.

    A unit for each block, and one for the rest: embeddings, the last norm and the head, which share weights in GPT-2
    and so must stay together. Raises ValueError if the policy has no such blocks.
    """
    mesh = init_device_mesh(device.type, (count,))
    whole = scorer.to("cpu")
    shards = copy.deepcopy(whole)
    names = blocks(whole.policy)
    units = [module for module in shards.modules() if type(module).__name__ in names]
    if not units:
        raise ValueError(
            f"FSDP: the policy has no blocks called {', '.join(sorted(names)) or '(it names none)'}. Name the class of "
            "its blocks with accelerate launch --fsdp_transformer_layer_cls_to_wrap."
        )
    for unit in units:
        fully_shard(unit, mesh=mesh)
    return fully_shard(shards, mesh=mesh)


def blocks(policy: nn.Module) -> set[str]:
    """The names of the classes whose modules become units: accelerate's setting, or what the model says of itself."""
    named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    return set(filter(None, named.split(","))) or set(getattr(lora.plain(policy), "_no_split_modules", None) or ())


@torch.no_grad()
def gather(shards: nn.Module, whole: nn.Module) -> None:
    """Copy the weights of `shards`, which `split` made, into `whole`. All processes must call this together."""
    for there, here in zip(shards.parameters(), whole.parameters(), strict=True):
        if there.requires_grad:  # the others are as they were
            here.copy_(there.full_tensor())


def gather_moments(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state_dict with whole tensors, as one process would have it. All must call this together."""
    moments = {i: {name: _whole(value) for name, value in found.items()} for i, found in state["state"].items()}
    return state | {"state": moments}


def split_moments(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The reverse: a state_dict of one process, each moment split like its parameter in `optimizer`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def like(p: DTensor, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != p.shape:
            return value  # the number of steps
        return distribute_tensor(value.to(p.device), p.device_mesh, p.placements, src_data_rank=None)

    moments = {i: {n: like(parameters[i], v) for n, v in found.items()} for i, found in state["state"].items()}
    return state | {"state": moments}


def _whole(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")
