"""Checks of exercise notebook 09, exercise 2: KTO from a square of log-ratios. See also `ex09`."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise

# ---------------------------------------------------------------------------------------------- KTO


def _ratios(draw: torch.Generator) -> list[Case]:
    def case(n: int, shift: float, beta: float) -> Case:
        ratios = 3 * torch.randn(n, n, generator=draw, dtype=torch.float64) + shift
        desirable = torch.rand(n, generator=draw) < 0.5
        desirable[:2] = torch.tensor([True, False])
        return {"log_ratios": ratios, "desirable": desirable, "beta": beta, "lam_d": 1.5, "lam_u": 0.75}

    fixed = torch.tensor([[4.0, -1.0, -3.0], [0.5, -2.0, 2.0], [3.0, 6.0, 1.0]], dtype=torch.float64)
    common = {"desirable": torch.tensor([True, False, True]), "beta": 0.5, "lam_d": 1.0, "lam_u": 2.0}
    worse = Limit("the mean of the mismatched pairs is below 0", {"log_ratios": fixed - 4, **common})
    return [{"log_ratios": fixed, **common}, worse, case(4, 3.0, 0.1), case(5, 4.0, 0.3)]


def _with_slopes(answer, log_ratios, *arguments) -> object:
    """The losses, and how their sum pulls on each log-ratio."""
    log_ratios = log_ratios.requires_grad_()
    loss = answer(log_ratios, *arguments)
    if loss is None:
        return None
    if isinstance(loss, list | tuple) and loss and all(isinstance(part, Tensor) for part in loss):
        loss = torch.stack(list(loss))
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Unusable("your loss has no gradient in the log-ratios: no detach, item, float or numpy but for z0.")
    (slope,) = torch.autograd.grad(loss.sum(), log_ratios)
    return {"loss": loss.detach(), "gradient in the log-ratios": slope}


def _mismatched(log_ratios: Tensor, shift: int = -1) -> Tensor:
    return log_ratios.roll(shift, dims=1).diagonal()  # row i, column i + 1


def _kto(log_ratios, desirable, beta, lam_d, lam_u, z0) -> Tensor:
    t = beta * (log_ratios.diagonal() - z0)
    return torch.where(desirable, lam_d * (1 - t.sigmoid()), lam_u * (1 - (-t).sigmoid()))


@exercise(
    cases=_ratios,
    observe=_with_slopes,
    points=4,
    where="Step 2 · The loss",
    hint="k is the diagonal, (B,). z0 is one number: the mean of the entries (i, i + 1), the last row with column 0, "
    "cut off at 0 and detached. Then one formula for each label, chosen with torch.where.",
)
def kto_loss(log_ratios, desirable, beta, lam_d, lam_u):
    """The KTO loss of each completion from a square of log-ratios, and its gradient."""
    z0 = _mismatched(log_ratios).mean().clamp(min=0).detach()
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, z0)


@kto_loss.mutant(
    "a gradient flows through your z0: the loss could be lowered by moving the reference point. Detach z0; it is a "
    "measurement."
)
def not_detached(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, _mismatched(log_ratios).mean().clamp(min=0))


@kto_loss.mutant(
    "your z0 is the mean of the matched pairs, the very texts that are judged: raise them all and nothing is a gain. "
    "Take prompt i with completion i + 1."
)
def matched(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, log_ratios.diagonal().mean().clamp(min=0).detach())


@kto_loss.mutant("your z0 can be negative. It estimates a KL, which cannot: cut off the mean at 0.")
def no_clamp(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, _mismatched(log_ratios).mean().detach())


@kto_loss.mutant("you cut off each log-ratio at 0 before the mean, which makes z0 too large. Take the mean, then cut.")
def clamped_first(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, _mismatched(log_ratios).clamp(min=0).mean().detach())


@kto_loss.mutant("your undesirable texts are pulled up like the desirable ones: for them the sign in σ turns, z0 - k.")
def undesirable_up(log_ratios, desirable, beta, lam_d, lam_u):
    found = kto_loss.reference(log_ratios, torch.ones_like(desirable), beta, 1.0, 1.0)
    return torch.where(desirable, lam_d, lam_u) * found


@kto_loss.mutant("λ_D and λ_U have changed places: λ_D belongs to the desirable texts.")
def weights_swapped(log_ratios, desirable, beta, lam_d, lam_u):
    return kto_loss.reference(log_ratios, desirable, beta, lam_u, lam_d)


@kto_loss.mutant("rows are prompts and columns are completions: you took prompt i + 1 with completion i.")
def turned(log_ratios, desirable, beta, lam_d, lam_u):
    z0 = _mismatched(log_ratios.T).mean().clamp(min=0).detach()
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, z0)


@kto_loss.mutant("z0 is missing: a text counts as a gain only above the reference point.")
def no_reference_point(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, 0.0)


@kto_loss.mutant("your z0 is the mean over all pairs: take the entries (i, i + 1) alone.")
def mean_of_all(log_ratios, desirable, beta, lam_d, lam_u):
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, log_ratios.mean().clamp(min=0).detach())


@kto_loss.mutant("your z0 is the mean of all that is not on the diagonal: take the entries (i, i + 1) alone.")
def mean_off_diagonal(log_ratios, desirable, beta, lam_d, lam_u):
    off = log_ratios[~torch.eye(len(log_ratios), dtype=torch.bool)]
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, off.mean().clamp(min=0).detach())


@kto_loss.mutant("the last prompt is missing in your z0: it takes the first completion, entry (B - 1, 0).")
def last_prompt_lost(log_ratios, desirable, beta, lam_d, lam_u):
    z0 = log_ratios.diagonal(offset=1).mean().clamp(min=0).detach()
    return _kto(log_ratios, desirable, beta, lam_d, lam_u, z0)


@kto_loss.mutant("1 minus is missing: the loss of a desirable text falls as k grows.")
def no_one_minus(log_ratios, desirable, beta, lam_d, lam_u):
    t = beta * (log_ratios.diagonal() - _mismatched(log_ratios).mean().clamp(min=0).detach())
    return torch.where(desirable, lam_d * t.sigmoid(), lam_u * (-t).sigmoid())


@kto_loss.mutant("you take -log σ, as DPO does. KTO's loss is λ (1 - σ), which is flat on both sides.")
def log_sigmoid(log_ratios, desirable, beta, lam_d, lam_u):
    t = beta * (log_ratios.diagonal() - _mismatched(log_ratios).mean().clamp(min=0).detach())
    return -torch.where(desirable, lam_d * logsigmoid(t), lam_u * logsigmoid(-t))


@kto_loss.mutant("you return the mean of the batch; the exercise asks for one loss for each completion, (B,).")
def batch_mean(log_ratios, desirable, beta, lam_d, lam_u):
    return kto_loss.reference(log_ratios, desirable, beta, lam_d, lam_u).mean()
