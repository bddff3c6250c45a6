"""The step of the optimiser: AdamW at a planned rate, gradient clipping, and loss scaling for fp16."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prefcourse.training.scoring import Scoring

BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.99), 1e-8, 0.0  # of AdamW


class Stepper:
    """AdamW on what trains, with the learning rate of each step in `rates`, `lr` at its peak."""

    def __init__(self, scoring: Scoring, rates: Sequence[float], lr: float, max_grad_norm: float):
        self.scoring, self.devices = scoring, scoring.devices
        self.rates, self.lr, self.max_grad_norm = rates, lr, max_grad_norm
        self.parameters = [p for p in scoring.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.devices.device.type, enabled=scoring.dtype == torch.float16)

    def plan(self, step: int) -> float:
        """Set, and return, the learning rate of `step`."""
        self.optimizer.param_groups[0]["lr"] = self.rates[step]
        return self.rates[step]

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager:
        """Within, backward() adds to the gradients; several processes average them only with the `last` part."""
        return self.devices.sync(self.scoring.model, now=last)

    def backward(self, losses: Tensor, batch_size: int) -> None:
        """Add the gradient of Σ losses / batch_size. Several processes average, so each counts for all of them."""
        self.scaler.scale(losses.sum() * (self.devices.count / batch_size)).backward()

    def clip(self) -> Tensor:
        """Clip the gradient to `max_grad_norm`; its norm before."""
        self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)

    def broken(self, norm: Tensor) -> bool:
        """Is the gradient of no use? In fp16 with a scale above 1 the scaler skips such a step by itself."""
        return not bool(norm.isfinite()) and self.scaler.get_scale() <= 1

    def step(self) -> None:
        """Change the weights and forget the gradient."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. All processes must call this together."""
        return {"optimizer": self.devices.optimizer_state(self.optimizer), "scaler": self.scaler.state_dict()}

    def load(self, optimizer: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.devices.load_optimizer(self.optimizer, optimizer)
        self.scaler.load_state_dict(scaler)
