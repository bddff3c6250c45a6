"""What exercise notebook 03 says of a climb whose step is too long: it ends in a cycle, and not at the maximum."""

from collections.abc import Callable

import torch
from torch import Tensor

LONGEST = 12  # points of a cycle
RATES = torch.logspace(-3, 1, 4001, dtype=torch.float64)  # steps that are tried, as multiples of the gradient


def cycle(here: Tensor, uphill: Callable[[Tensor], Tensor]) -> str:
    """A hint if equal steps along `uphill`, (..., D) → (..., D), lead from `here`, (D,), round to `here`; or ""."""
    found = _round_trip(here, uphill)
    if found is None:
        return ""
    points, rate = found
    way = "swings to and fro between two points" if points == 2 else f"goes round a cycle of {points} points"
    return (
        f"your climb {way} about the maximum and never settles: steps of {rate:.2g} times the gradient are too long. "
        f"Try a tenth of that, {rate / 10:.2g}, and more of them."
    )


def _round_trip(here: Tensor, uphill: Callable[[Tensor], Tensor]) -> tuple[int, float] | None:
    """After how many steps, and of which size, a climb that starts at `here` is back; None if it never is."""
    at = here.expand(len(RATES), -1)
    for points in range(1, LONGEST + 1):
        at = at + RATES[:, None] * uphill(at)
        missed = (at - here).abs().amax(-1).nan_to_num(torch.inf)
        for k in missed.topk(5, largest=False).indices.tolist() if points > 1 else ():
            low, high = RATES[max(k - 1, 0)], RATES[min(k + 1, len(RATES) - 1)]
            for _ in range(3):  # ever closer to the step that comes back best
                rates = torch.linspace(low.item(), high.item(), 201, dtype=torch.float64)
                share = _missed(here, uphill, rates, points)
                best = int(share.argmin())
                low, high = rates[max(best - 1, 0)], rates[min(best + 1, 200)]
            if share[best] < 1e-3:
                return points, rates[best].item()
    return None


def _missed(here: Tensor, uphill: Callable[[Tensor], Tensor], rates: Tensor, points: int) -> Tensor:
    """How far from `here` so many steps end, as a share of how far they go from it on the way, (R,)."""
    at, farthest = here.expand(len(rates), -1), torch.zeros_like(rates)
    for _ in range(points):
        at = at + rates[:, None] * uphill(at)
        farthest = farthest.maximum((at - here).abs().amax(-1))
    return ((at - here).abs().amax(-1) / farthest).nan_to_num(torch.inf)
