"""Where a run computes: device and precision, one process or several.

    accelerate launch --multi_gpu --num_processes 4 -m prefcourse train --loss dpo --data pairs.jsonl --output runs/dpo

Each process takes an equal share of every batch; accelerate averages the gradients (DDP), and `Devices.pool` gives all
of them the numbers of the whole batch. So the number of processes changes the speed and nothing else.
Without a GPU the same line runs on CPU processes (gloo). There, accelerate starts one process whatever
`--num_processes` says, if `--multi_gpu` is left out or `--cpu` is given; we warn of that.

`--use_fsdp --fsdp_version 2` in place of `--multi_gpu` also splits the weights and the optimiser over the processes. It
is for models that do not fit on a device with their gradients and Adam's moments: `prefcourse.training.sharding`.
"""

import contextlib
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefcourse.training import optional, sharding

T = TypeVar("T")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Devices:
    """The device of this process, its number among `count` processes, and accelerate's object if there are several."""

    device: torch.device
    rank: int = 0
    count: int = 1
    accelerator: Any = None
    sharded: bool = False  # are the weights split over the processes?

    def __str__(self) -> str:
        if self.count > 1:
            return f"{self.count} processes on {self.device.type}{' (FSDP)' if self.sharded else ''}"
        return f"cpu, {torch.get_num_threads()} threads" if self.device.type == "cpu" else str(self.device)

    def described(self) -> dict[str, Any]:
        """What the last bits of a run depend on besides its arguments."""
        kind = self.device.type
        name = torch.cuda.get_device_name(self.device) if kind == "cuda" else kind
        where = {"device": name, "processes": self.count, "FSDP": self.sharded}
        threads = {"threads": torch.get_num_threads()} if kind == "cpu" else {}
        return {"torch": torch.__version__, **where, **threads}

    def wrap(self, scorer: nn.Module) -> nn.Module:
        """What to train in place of `scorer`, so that backward() averages the gradients over the processes."""
        if self.sharded:
            return sharding.split(scorer, self.device, self.count)
        return scorer if self.accelerator is None else self.accelerator.prepare(scorer)

    def gather(self, model: nn.Module, scorer: nn.Module) -> None:
        """Give `scorer` the weights of `model`, which `wrap` made of it. All processes must call this together."""
        if self.sharded:  # else they are the same weights
            sharding.gather(model, scorer)

    @contextlib.contextmanager
    def gathered(self, model: nn.Module, scorer: nn.Module) -> Iterator[None]:
        """`gather`, and within, the first process has `scorer` on its device: it does the looking."""
        self.gather(model, scorer)
        if self.sharded and self.rank == 0:
            scorer.to(self.device)
        yield
        if self.sharded:
            scorer.to("cpu")

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Its state_dict, as one process alone would have it. All processes must call this together."""
        state = optimizer.state_dict()
        return sharding.gather_moments(state) if self.sharded else state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load what `optimizer_state` returned, in a run with this or any other number of processes."""
        optimizer.load_state_dict(sharding.split_moments(state, optimizer) if self.sharded else state)

    def sync(self, model: nn.Module, now: bool) -> contextlib.AbstractContextManager:
        """A context in which backward() averages gradients over the processes only if `now`."""
        if self.accelerator is None or self.sharded or now:  # split gradients are small, whole ones would not be
            return contextlib.nullcontext()
        return self.accelerator.no_sync(model)

    def parts(self, size: int, micro_batch: int) -> list[list[int]]:
        """This process's places in a batch of `size` rows, in groups of at most `micro_batch`."""
        mine = list(range(self.rank, size, self.count))  # every count-th: rows are sorted by length, so all get alike
        return [mine[k : k + micro_batch] for k in range(0, len(mine), micro_batch)]

    def pool(self, size: int, places: Sequence[int], values: Tensor) -> Tensor:
        """(size, m) on the CPU from the rows `places`, `values` (len(places), m), that each process has."""
        if self.count == 1:
            return values.cpu()
        table = torch.zeros(size, values.shape[1], device=values.device, dtype=values.dtype)
        table[list(places)] = values
        torch.distributed.all_reduce(table)  # a sum, in which every row has one term that is not 0
        return table.cpu()

    def map(self, groups: Sequence, function: Callable[[list], Tensor], micro_batch: int) -> Tensor:
        """function(part of groups) → (b, m), each process its parts, put together: (len(groups), m), CPU."""
        parts = self.parts(len(groups), micro_batch)
        values = torch.cat([function([groups[i] for i in part]) for part in parts])
        return self.pool(len(groups), [i for part in parts for i in part], values)

    def from_main(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process only; all get its result, or its error."""
        if self.count == 1:
            return function()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = function()
            except Exception as error:
                box[1] = error
        torch.distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]


def find_devices(policy: PreTrainedModel) -> Devices:
    """Where `policy` is; or, when accelerate (or torchrun) started several processes, this process's part of them.

    Then `policy` is moved to this process's device. Warns if accelerate was asked for several processes and started
    one, which it does silently.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= set(os.environ):  # set for --num_processes above 1
            warnings.warn(
                "accelerate was asked for several processes but started one. For several write accelerate launch "
                "--multi_gpu --num_processes N ..., without --cpu; that starts CPU processes where there is no GPU.",
                stacklevel=3,
            )
        return Devices(policy.device)
    optional.require("accelerate", "training in several processes")
    from accelerate import Accelerator, DistributedDataParallelKwargs

    sharded = sharding.requested()
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)  # a causal model's buffers are constants
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[ddp])
    policy.to(accelerator.device)
    return Devices(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator, sharded)


def choose_precision(precision: str | None, device: str) -> torch.dtype:
    """The dtype of `precision`; "auto" is bf16 where it is fast, fp16 on old GPUs, else fp32.

    None is fp32 on a CPU, so that numbers are alike on all processors up to rounding, and "auto" on anything else.
    """
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    if precision not in ("auto", None):
        raise ValueError(f"precision must be one of auto, {', '.join(PRECISIONS)}, got {precision!r}")
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    fast = device == "cpu" and precision == "auto" and bf16_is_fast()
    return torch.bfloat16 if fast else torch.float32


@cache
def bf16_is_fast() -> bool:
    """Does this processor multiply bf16 matrices faster than fp32 ones?

    With AMX it does, and so do AMD's with AVX512-BF16: 2.2 times on a Zen 4. Intel's without AMX know the same
    instructions, but are slower with them: half the speed of fp32 on a Xeon that has them. The vendor is asked, not the
    clock, because a run that is resumed must find what it found before.
    """
    knows = {name: getattr(torch.cpu, f"_is_{name}_supported", lambda: False)() for name in ("amx_tile", "avx512_bf16")}
    if knows["amx_tile"] or not knows["avx512_bf16"]:
        return knows["amx_tile"]
    book = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (book.read_text(encoding="utf-8") if book.exists() else platform.processor())


def precision_name(dtype: torch.dtype) -> str:
    """fp32, bf16 or fp16."""
    return next(name for name, value in PRECISIONS.items() if value == dtype)
