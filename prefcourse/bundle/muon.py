"""Muon (Jordan et al. 2024): momentum, made orthogonal, for the matrices inside a model.

torch has it, too, and iterates in bfloat16: on a processor without units for that, three quarters of a step went there.
This one iterates in float32.
"""

from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, as Jordan et al. tuned them
ITERATIONS = 5


@torch.no_grad()
def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About U Vᵀ for `matrix` = U S Vᵀ (m, n): singular values from 0.7 to 1.2, by five steps of x → ax + bx³ + cx⁵."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """p ← (1 − lr·weight_decay) p − lr · 0.2 √max(m, n) · orthogonal(Nesterov momentum), for matrices p (m, n).

    The factor makes a step as long as AdamW's, so that both take the same learning rate (Liu et al. 2025, eq. 4).
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """One step from the gradients that the parameters hold."""
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)
