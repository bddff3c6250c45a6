"""Checks of exercise notebook 07: DPO on a small language model. Here what to measure, and what β trades in a sweep.

Exercises 1 and 2 stand in `ex07_batches`, the step of exercise 3 in `ex07_step`.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex07_batches import batch, brake, logps
from prefcourse.checks.ex07_step import step
from prefcourse.checks.questions import choice

__all__ = ["Table", "batch", "brake", "kl_in_a_sweep", "logps", "metrics", "step", "sweep"]

# ---------------------------------------------------------------------------------------------- what to measure


def _scores(draw: torch.Generator) -> list[Case]:
    def case(pairs: int, samples: int) -> Case:
        four = [-20 + 4 * torch.randn(n, generator=draw, dtype=torch.float64) for n in (pairs, pairs, samples, samples)]
        four[1][0] = four[1][pairs // 2] - four[0][pairs // 2] + four[0][0]  # the first pair is a tie
        return dict(zip(("pair_logps", "pair_reference", "sample_logps", "sample_reference"), four, strict=True))

    pairs = torch.tensor([-10.0, -30.0, -8.0, -12.0, -25.0, -8.5], dtype=torch.float64)
    stored = torch.tensor([-11.0, -28.0, -8.0, -11.5, -27.0, -8.5], dtype=torch.float64)
    samples = torch.tensor([-6.0, -9.0, -4.0, -7.5], dtype=torch.float64)
    fixed = {
        "pair_logps": pairs, "pair_reference": stored, "sample_logps": samples,
        "sample_reference": torch.tensor([-8.0, -8.5, -5.0, -8.0], dtype=torch.float64),
    }  # fmt: skip
    tied = fixed | {"pair_logps": stored, "sample_logps": samples - 5}
    tied = Limit("every pair is a tie, and the estimate of KL is below 0", tied)
    moved = torch.tensor([8.0, 7.0, 9.0, -6.0, -5.0, -9.0], dtype=torch.float64)
    far = fixed | {"pair_logps": stored + moved, "sample_logps": samples + 20}
    return [fixed, tied, Limit("the policy has moved far, by many nats", far), case(12, 9), case(8, 5)]


@exercise(
    cases=_scores,
    points=2,
    where="The four curves, and how to read them",
    hint="h of a pair is (c - C) - (r - R). Accuracy: the share with h > 0, ties count one half. KL: the mean of "
    "log π - log π_ref over samples of the policy.",
)
def metrics(pair_logps, pair_reference, sample_logps, sample_reference):
    """Accuracy and mean h on pairs, and KL(π ‖ π_ref) on samples of the policy."""
    c, r = (pair_logps - pair_reference).chunk(2)  # (B,) each
    right = (c > r).double() + 0.5 * (c == r)
    kl = (sample_logps - sample_reference).mean()
    return {"accuracy": right.mean().item(), "h": (c - r).mean().item(), "kl": kl.item()}


def _changed(*arguments, **entries) -> dict[str, float]:
    return metrics.reference(*arguments) | {name: float(value) for name, value in entries.items()}


@metrics.mutant(
    "you compare log π of chosen and rejected without the reference. The policy prefers what it has made more likely "
    "*relative to* π_ref: that is its implicit reward."
)
def without_reference(pair_logps, pair_reference, sample_logps, sample_reference):
    return _changed(pair_logps, torch.zeros_like(pair_reference), sample_logps, sample_reference)


@metrics.mutant("a tie, h = 0, counts one half: a policy that is its own reference must get an accuracy of 0.5.")
def ties_lost(pair_logps, pair_reference, sample_logps, sample_reference):
    c, r = (pair_logps - pair_reference).chunk(2)
    return _changed(
        pair_logps, pair_reference, sample_logps, sample_reference, accuracy=(c > r).double().mean()
    )  # fmt: skip


@metrics.mutant("the sign of your KL is turned: the samples are the policy's, so it is log π - log π_ref.")
def kl_turned(pair_logps, pair_reference, sample_logps, sample_reference):
    kl = (sample_reference - sample_logps).mean()
    return _changed(pair_logps, pair_reference, sample_logps, sample_reference, kl=kl)


@metrics.mutant(
    "your KL is a mean over the pairs. Those texts were written by the reference; there the mean log-ratio is "
    "-KL(π_ref ‖ π), the other KL with its sign turned. Use the policy's own samples."
)
def kl_on_pairs(pair_logps, pair_reference, sample_logps, sample_reference):
    kl = (pair_logps - pair_reference).mean()
    return _changed(pair_logps, pair_reference, sample_logps, sample_reference, kl=kl)


@metrics.mutant("your h is the margin Δ or a share, not the mean of h: its sign is right and its size is not.")
def h_of_signs(pair_logps, pair_reference, sample_logps, sample_reference):
    c, r = (pair_logps - pair_reference).chunk(2)
    return _changed(pair_logps, pair_reference, sample_logps, sample_reference, h=(c - r).sign().mean())


@metrics.mutant(
    "you take every second row for a pair: the chosen ones are the first half, the rejected ones the second."
)
def interleaved(pair_logps, pair_reference, sample_logps, sample_reference):
    c, r = (pair_logps - pair_reference).view(-1, 2).unbind(-1)
    right = ((c > r).double() + 0.5 * (c == r)).mean()
    return _changed(pair_logps, pair_reference, sample_logps, sample_reference, accuracy=right, h=(c - r).mean())


@metrics.mutant("chosen and rejected have changed places: the chosen rows come first.")
def sides_exchanged(pair_logps, pair_reference, sample_logps, sample_reference):
    return metrics.reference(
        pair_logps.roll(len(pair_logps) // 2), pair_reference.roll(len(pair_logps) // 2), sample_logps, sample_reference
    )


@metrics.mutant("a tie counts as right in yours. It counts one half.")
def ties_won(pair_logps, pair_reference, sample_logps, sample_reference):
    c, r = (pair_logps - pair_reference).chunk(2)
    right = (c >= r).double().mean()
    return _changed(pair_logps, pair_reference, sample_logps, sample_reference, accuracy=right)


@metrics.mutant("single log-ratios may be negative. Leave them as they are: without them the mean is no longer the KL.")
def kl_absolute(pair_logps, pair_reference, sample_logps, sample_reference):
    kl = (sample_logps - sample_reference).abs().mean()
    return _changed(pair_logps, pair_reference, sample_logps, sample_reference, kl=kl)


# ---------------------------------------------------------------------------------------------- the bug in the sweep


class Table(nn.Module):
    """A policy over Y replies with one logit each; called, it gives their log-probs, (Y,)."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self) -> Tensor:
        return self.logits.log_softmax(-1)


def _sweeps(draw: torch.Generator) -> list[Case]:
    def case(logits: Tensor, pairs: list[tuple[int, int]], betas: tuple[float, ...], steps: int) -> Case:
        return {"reference": Table(logits), "pairs": torch.tensor(pairs), "betas": betas, "steps": steps}

    fixed = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    drawn = [torch.randn(4, generator=draw, dtype=torch.float64) for _ in range(2)]
    return [
        case(fixed, [(0, 2), (1, 2)], (0.1, 1.0), 20),
        Limit("there is one β alone", case(fixed, [(2, 0)], (0.5,), 10)),
        case(drawn[0], [(3, 0), (1, 2), (3, 2)], (2.0, 0.5, 0.1), 30),
        case(drawn[1], [(0, 1), (2, 3)], (0.5, 5.0), 25),
    ]


def _swept(answer, reference, pairs, betas, steps) -> dict[str, object] | None:
    before = reference.logits.detach().clone()
    found = answer(reference, pairs, betas, steps)
    if not isinstance(found, dict):
        return found
    kept = bool(torch.equal(before, reference.logits.detach()))
    free = not any(getattr(value, "requires_grad", False) for value in found.values())
    named = {f"β {b:g}": value for b, value in found.items()}
    return {**named, "the reference is unchanged": kept, "log-probs are detached": free}


def _sweep(reference, pairs, betas, steps, fresh, frozen=None, optimize=None) -> dict[float, Tensor]:
    found, start = {}, reference().detach().clone()
    for beta in betas:
        policy = fresh()
        optimizer = torch.optim.Adam((optimize or policy).parameters(), lr=0.05)
        stored = start if frozen is None else frozen(policy)
        for _ in range(steps):
            log_ratio = policy() - (stored if torch.is_tensor(stored) else stored().detach())  # (Y,)
            h = log_ratio[pairs[:, 0]] - log_ratio[pairs[:, 1]]
            optimizer.zero_grad()
            (-logsigmoid(beta * h).mean()).backward()
            optimizer.step()
        found[beta] = policy().detach().clone()
    return found


@exercise(
    cases=_sweeps,
    observe=_swept,
    points=2,
    where="The training loop, from scratch",
    hint="inside the loop over β: a deep copy of `reference`, a new Adam for the copy's parameters, and log-probs of "
    "`reference` itself, detached, as π_ref.",
)
def sweep(reference, pairs, betas, steps):
    """β → log-probs of a policy trained from the reference at that β, the reference left as it was."""
    return _sweep(reference, pairs, betas, steps, lambda: copy.deepcopy(reference))


@sweep.mutant(
    "`policy = reference` gives the same model a second name: you train the reference itself, and the next β goes on "
    "where this one stopped. Make a deep copy for each β."
)
def same_model(reference, pairs, betas, steps):
    return _sweep(reference, pairs, betas, steps, lambda: reference, frozen=lambda policy: policy().detach().clone())


@sweep.mutant("copy.copy copies the shell: both models hold the same parameters. Use copy.deepcopy.")
def shallow_copy(reference, pairs, betas, steps):
    return _sweep(reference, pairs, betas, steps, lambda: copy.copy(reference))


@sweep.mutant("you copy once, before the loop: the second β starts from the policy of the first. Copy inside the loop.")
def copied_once(reference, pairs, betas, steps):
    one = copy.deepcopy(reference)
    return _sweep(reference, pairs, betas, steps, lambda: one)


@sweep.mutant(
    "nothing is trained: your optimiser holds the parameters of `reference`, and the loss is the copy's. Build the "
    "optimiser from policy.parameters()."
)
def wrong_parameters(reference, pairs, betas, steps):
    return _sweep(reference, pairs, betas, steps, lambda: copy.deepcopy(reference), optimize=reference)


@sweep.mutant("your log-probs still carry their graph: detach them before you keep them.")
def graph_kept(reference, pairs, betas, steps):
    found = sweep.reference(reference, pairs, betas, steps)
    return {beta: logps.requires_grad_() for beta, logps in found.items()}


@sweep.mutant("β has no part in your loss: -log σ(β h).")
def no_beta(reference, pairs, betas, steps):
    found = sweep.reference(reference, pairs, [1.0], steps)
    return dict.fromkeys(betas, found[1.0])


@sweep.mutant("gradients add up in yours: optimizer.zero_grad() is missing in the loop.")
def gradients_kept(reference, pairs, betas, steps):
    found, start = {}, reference().detach()
    for beta in betas:
        policy = copy.deepcopy(reference)
        optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
        for _ in range(steps):
            log_ratio = policy() - start
            (-logsigmoid(beta * (log_ratio[pairs[:, 0]] - log_ratio[pairs[:, 1]])).mean()).backward()
            optimizer.step()
        found[beta] = policy().detach()
    return found


@sweep.mutant(
    "your π_ref moves with the policy: h is 0 at every step and nothing brakes. Take it from `reference`, before the "
    "steps."
)
def moving_reference(reference, pairs, betas, steps):
    return _sweep(reference, pairs, betas, steps, lambda: copy.deepcopy(reference), frozen=lambda policy: policy)


# ---------------------------------------------------------------------------------------------- the prediction


@choice(points=1)
def kl_in_a_sweep():
    """AdamW, a constant rate, the same pairs, β = 0.02, 0.2 and 2. How do the three compare in KL(π ‖ π_ref)?"""
    return {
        "after 5 steps about equal; after 40 the smallest β is furthest": None,
        "after 5 steps the largest β is furthest; after 40 the smallest β is": "so it is for plain gradient descent, "
        "whose step is proportional to β. AdamW divides the gradient by its own size, and a constant factor cancels.",
        "after 5 steps and after 40 the smallest β is furthest": "that is what the optimum π* does. After 5 steps no "
        "run is near it: βh is close to 0 for all three, and AdamW cancels the factor β that is left.",
        "after 5 steps and after 40 about equal": "β cancels only while βh is small. Later the pull βσ(-βh) fades, "
        "for a large β first: that is exercise 1.",
    }
