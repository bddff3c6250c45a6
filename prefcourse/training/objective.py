"""Which loss a run minimises, and what it asks of the loop."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from prefcourse.loss_inputs import trusted
from prefcourse.losses import LOSSES, Loss, Vec

SUPPLIED = (  # every input that the loop can give to a loss; B examples each
    "policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected", "chosen_lengths", "rejected_lengths",
    "policy", "reference", "lengths", "desirable", "kl_policy", "kl_reference", "delta", "margin",
)  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """A loss with its parameters: called with inputs by name, it gives one value per example, (B,)."""

    name: str
    spec: Loss
    arguments: Mapping[str, Any]

    @classmethod
    def find(cls, loss: str | Callable[..., Vec], arguments: Mapping[str, Any]) -> "Objective":
        """A name in `LOSSES`, or a function, once it has accepted `arguments` on made-up examples.

        Raises ValueError for an unknown name or parameter, a value out of range, or an input that the loop cannot give.
        """
        if isinstance(loss, str):
            if loss not in LOSSES:
                raise ValueError(f"there is no loss {loss!r}; the losses are: {', '.join(LOSSES)}")
            name, spec = loss, LOSSES[loss]
        else:
            name = f"{loss.__module__}.{loss.__qualname__}"
            data = "unpaired" if "policy" in inspect.signature(loss).parameters else "paired"
            spec = Loss(loss, "", "sum", "", "", data)
        for parameter in arguments:
            if parameter not in spec.defaults:
                known = ", ".join(spec.defaults) or "none"
                raise ValueError(f"loss {name!r} has no parameter {parameter!r}; it has: {known}")
        found = cls(name, spec, arguments)
        for need in found.needs:
            if need not in SUPPLIED:
                raise ValueError(f"loss {name!r} needs {need!r}; the loop supplies: {', '.join(SUPPLIED)}")
        made_up = {n: torch.ones(2) if n.endswith("lengths") else torch.full((2,), -1.0) for n in found.needs}
        found(made_up | {"delta": 0.0, "desirable": torch.tensor([True, False]), "margin": torch.zeros(2)}, trust=False)
        return found

    def __call__(self, inputs: Mapping[str, Any], trust: bool = True) -> Vec:
        """The loss of each example, (B,). `inputs` may hold more than it needs. trust: do not look at their values."""
        with trusted() if trust else nullcontext():
            return self.spec.function(**{need: inputs[need] for need in self.needs}, **self.arguments)

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return self.spec.inputs(**self.arguments)

    @cached_property
    def has_reference(self) -> bool:
        """Does it compare with a reference?"""
        return any(need.startswith("reference") for need in self.needs)

    @cached_property
    def mismatched(self) -> bool:
        """Does it want KTO's mismatched pairs?"""
        return "kl_policy" in self.needs

    @cached_property
    def beta(self) -> float:
        """β of the implicit reward β log π/π_ref; 1 for a loss without."""
        return self.arguments.get("beta", self.spec.defaults.get("beta", 1.0))
