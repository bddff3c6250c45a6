"""Checks of exercise notebook 07, the first half of exercise 3: one step of DPO. See also `ex07`."""

import math
from numbers import Number

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from torch.nn.utils import clip_grad_norm_

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex07_batches import EOS, ended
from prefcourse.checks.tiny_gpt2 import WORDS, tiny_gpt2
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import Batch

# ---------------------------------------------------------------------------------------------- one step of training


def _model(kind: int) -> nn.Module:
    """One layer, without dropout, its weights larger than usual."""
    off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return tiny_gpt2(kind, n_positions=12, n_layer=1, initializer_range=0.3, **off).eval()


def _steps(draw: torch.Generator) -> list[Case]:
    def case(kind: int, beta: float, steps: int, moved: float, draw: torch.Generator = draw) -> Case:
        made = ended([([1, 2], torch.randint(1, WORDS, (n,), generator=draw).tolist()) for n in (2, 4, 3, 1)], EOS)
        with torch.no_grad():
            stored = sequence_logps(_model(kind), made)  # (2B,)
        stored = stored + moved * torch.randn(4, generator=draw)
        return {
            "policy": _model(kind), "input_ids": made.input_ids, "completion_mask": made.completion_mask,
            "stored": stored, "beta": beta, "steps": steps,
        }  # fmt: skip

    steep = case(1, 5.0, 2, 2.0, torch.Generator().manual_seed(7))
    return [
        case(0, 0.1, 1, 0.0),
        Limit("the gradient is long, so that it is clipped", steep),
        case(0, 0.1, 2, 2.0),
        case(1, 2.0, 2, 1.0),
    ]


def _watched(answer, policy, input_ids, completion_mask, stored, beta, steps) -> dict[str, object] | None:
    """The losses that a step returns, and what the steps did to the parameters, seen in the log-probs of the rows."""
    seen, optimizer = Batch(input_ids, completion_mask), torch.optim.SGD(policy.parameters(), lr=0.05)
    losses = [answer(policy, optimizer, seen, stored, beta) for _ in range(steps)]
    if any(loss is None for loss in losses):
        return None
    if not all(isinstance(loss, Number) or getattr(loss, "numel", lambda: 0)() == 1 for loss in losses):
        raise Unusable("return one number, the mean loss before the step.")
    with torch.no_grad():
        return {"losses": [float(loss) for loss in losses], "log π afterwards": sequence_logps(policy, seen)}


def _step(
    policy, optimizer, seen, stored, beta, loss=None, clip=1.0, zero=("after",), clipping=clip_grad_norm_
) -> float:
    """One step; `loss` makes the loss from h and β, `zero` says when gradients are set to zero."""
    c, r = (sequence_logps(policy, seen) - stored).chunk(2)  # (B,) each
    value = -logsigmoid(beta * (c - r)).mean() if loss is None else loss(c - r, beta)
    value.backward()
    if "early" in zero:
        optimizer.zero_grad()
    clipping(policy.parameters(), clip)
    optimizer.step()
    if "after" in zero:
        optimizer.zero_grad()
    return value.item()


@exercise(
    cases=_steps,
    observe=_watched,
    points=3,
    tol=1e-4,
    where="The training loop, from scratch",
    hint="the order is: log-ratios of all 2B rows, h = chosen - rejected, mean of -logsigmoid(beta * h), backward, "
    "clip_grad_norm_, optimizer.step, optimizer.zero_grad. Print the loss of each line on one batch.",
)
def step(policy, optimizer, seen, stored, beta):
    """One optimiser step of DPO on a batch: the loss before the step, and what it does to the policy."""
    return _step(policy, optimizer, seen, stored, beta)


@step.mutant("your step goes the wrong way: rows 0 to B - 1 are the chosen ones, and a larger h must lower the loss.")
def swapped(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, lambda h, beta: -logsigmoid(-beta * h).mean())


@step.mutant(
    "you take every second row for a pair. The chosen ones are the first B rows, the rejected ones the last B."
)
def interleaved(policy, optimizer, seen, stored, beta):
    def loss(h, beta):
        c, r = (sequence_logps(policy, seen) - stored).view(-1, 2).unbind(-1)
        return -logsigmoid(beta * (c - r)).mean()

    return _step(policy, optimizer, seen, stored, beta, loss)


@step.mutant("the reference is missing: subtract `stored` from the log-probs before you take the difference.")
def no_reference(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, torch.zeros_like(stored), beta)


@step.mutant(
    "β stands outside the sigmoid. There it only scales the gradient, and Adam cancels such a factor: in your sweep "
    "all β would give nearly the same run. It belongs inside, -log σ(β h)."
)
def beta_outside(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, lambda h, beta: -beta * logsigmoid(h).mean())


@step.mutant("you sum over the pairs of the batch; take the mean, so that a step does not depend on the batch size.")
def sum_for_mean(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, lambda h, beta: -logsigmoid(beta * h).sum())


@step.mutant(
    "the gradients of the first step are still there in the second: PyTorch adds them up until optimizer.zero_grad()."
)
def gradients_kept(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, zero=())


@step.mutant(
    "the policy does not move: optimizer.step() is missing, or zero_grad stands between backward and it and erases "
    "the gradient."
)
def zeroed_too_early(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, zero=("early",))


@step.mutant("the gradient is not clipped: its norm over all parameters may be at most 1, see clip_grad_norm_.")
def not_clipped(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, clip=math.inf)


@step.mutant(
    "you clip each number of the gradient: the *norm* over all parameters is to be at most 1, clip_grad_norm_."
)
def numbers_clipped(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, clipping=torch.nn.utils.clip_grad_value_)


@step.mutant("you clip each parameter's gradient by itself. It is one norm over all parameters together.")
def each_clipped(policy, optimizer, seen, stored, beta):
    def clipping(parameters, most):
        for parameter in parameters:
            torch.nn.utils.clip_grad_norm_([parameter], most)

    return _step(policy, optimizer, seen, stored, beta, clipping=clipping)


@step.mutant("your loss is that after the step: take it before, and return that.")
def loss_afterwards(policy, optimizer, seen, stored, beta):
    _step(policy, optimizer, seen, stored, beta)
    with torch.no_grad():
        c, r = (sequence_logps(policy, seen) - stored).chunk(2)
        return -logsigmoid(beta * (c - r)).mean().item()


@step.mutant("β is missing in your loss: -log σ(β h).")
def no_beta(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, 1.0)
