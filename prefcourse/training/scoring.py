"""How a run scores examples: token ids → log-probs, on the device and in the precision of the run."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefcourse.packing import can_pack
from prefcourse.preferences import Batch, collate
from prefcourse.training import lora, memory
from prefcourse.training.batches import Ids
from prefcourse.training.devices import Devices, choose_precision

Score = Callable[[nn.Module, Batch], Tensor]  # model and batch → one number per sequence, (N,)
Forward = Callable[[Batch], Tensor]  # the same with the model fixed


class Scorer(nn.Module):
    """`score(policy, batch)` as the forward of a module: that is what DDP and FSDP know how to wrap."""

    def __init__(self, policy: nn.Module, score: Score):
        super().__init__()
        self.policy, self.score = policy, score
        can_pack(lora.plain(policy))  # found out now, while the weights are whole

    def forward(self, batch: Batch) -> Tensor:
        """(N,) nats."""
        with memory.recomputing(self.policy):
            return self.score(lora.plain(self.policy), batch)


class Scoring:
    """Scores groups of sequences with a policy: b examples of k sequences → (b, k) nats.

    `scorer` is a module around the whole policy; `model` is what trains, which `wrap` makes of it.
    """

    def __init__(
        self, policy: PreTrainedModel, score: Score, devices: Devices, precision: str | None, pad_id: int | None
    ):
        self.policy, self.score, self.devices, self.pad_id = policy, score, devices, pad_id or 0
        self.dtype = choose_precision(precision, devices.device.type)
        self.amp = torch.autocast(devices.device.type, self.dtype, enabled=self.dtype != torch.float32)
        self.model = self.scorer = Scorer(policy, score)

    def wrap(self) -> None:
        """From here on several processes train one model."""
        self.model = self.devices.wrap(self.scorer)

    def by_model(self, batch: Batch) -> Tensor:
        """(N,) with the model that trains: all processes together."""
        return self.model(batch)

    def by_policy(self, batch: Batch) -> Tensor:
        """(N,) with the whole policy: one process alone."""
        return self.scorer(batch)

    def logps(self, groups: Sequence[tuple[Ids, ...]], by: Forward | None = None) -> tuple[Tensor, Tensor]:
        """b examples of k sequences → log-probs and completion lengths, (b, k) each. by: with which model."""
        columns = zip(*groups, strict=True)  # first all chosen, then all rejected
        sequences = [sequence for column in columns for sequence in column]
        batch = collate(sequences, self.pad_id).to(self.devices.device)
        with self.amp:
            logps = (by or self.by_model)(batch)
        return logps.view(-1, len(groups)).T, batch.lengths.view(-1, len(groups)).T

    @torch.no_grad()
    def frozen_logps(self, groups: Sequence[tuple[Ids, ...]], by: Forward | None = None) -> Tensor:
        """The log-probs alone, (b, k), without a gradient."""
        return self.logps(groups, by)[0]
