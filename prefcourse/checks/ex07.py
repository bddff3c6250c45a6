"""Checks of exercise notebook 07: DPO on a small language model, and what β trades."""

import copy
import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, exercise
from prefcourse.checks.questions import choice
from prefcourse.checks.start07 import EOS, batch, brake, ended, logps
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import Batch

__all__ = ["Table", "batch", "brake", "kl_in_a_sweep", "logps", "metrics", "step", "sweep"]

# ---------------------------------------------------------------------------------------------- one step of training


@cache
def _tiny_gpt2(kind: int) -> nn.Module:
    """A random GPT-2 of one layer, 16 wide, 12 tokens; built once, copied for every use."""
    from transformers import GPT2Config, GPT2LMHeadModel

    off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config = GPT2Config(vocab_size=12, n_positions=12, n_embd=16, n_layer=1, n_head=2, initializer_range=0.3,
                        bos_token_id=EOS, eos_token_id=EOS, **off)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(kind)
        return GPT2LMHeadModel(config).eval()


def _steps(draw: torch.Generator) -> list[Case]:
    def case(kind: int, beta: float, steps: int, moved: float) -> Case:
        made = ended([([1, 2], torch.randint(1, 12, (n,), generator=draw).tolist()) for n in (2, 4, 3, 1)], EOS)
        with torch.no_grad():
            stored = sequence_logps(_tiny_gpt2(kind), made)  # (2B,)
        stored = stored + moved * torch.randn(4, generator=draw)
        return {
            "policy": _tiny_gpt2(kind), "input_ids": made.input_ids, "completion_mask": made.completion_mask,
            "stored": stored, "beta": beta, "steps": steps,
        }  # fmt: skip

    return [case(0, 0.1, 1, 0.0), case(0, 0.1, 2, 2.0), case(1, 2.0, 2, 1.0)]


def _watched(answer, policy, input_ids, completion_mask, stored, beta, steps) -> dict[str, object] | None:
    """The losses that a step returns, and what the steps did to the parameters, seen in the log-probs of the rows."""
    seen, optimizer = Batch(input_ids, completion_mask), torch.optim.SGD(policy.parameters(), lr=0.05)
    losses = [answer(policy, optimizer, seen, stored, beta) for _ in range(steps)]
    if None in losses:
        return None
    with torch.no_grad():
        return {"losses": [float(loss) for loss in losses], "log π afterwards": sequence_logps(policy, seen)}


def _step(policy, optimizer, seen, stored, beta, loss=None, clip=1.0, zero=("after",)) -> float:
    """One step; `loss` makes the loss from h and β, `zero` says when gradients are set to zero."""
    c, r = (sequence_logps(policy, seen) - stored).chunk(2)  # (B,) each
    value = -logsigmoid(beta * (c - r)).mean() if loss is None else loss(c - r, beta)
    value.backward()
    if "early" in zero:
        optimizer.zero_grad()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), clip)
    optimizer.step()
    if "after" in zero:
        optimizer.zero_grad()
    return value.item()


@exercise(
    cases=_steps,
    observe=_watched,
    points=3,
    tol=1e-4,
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


@step.mutant("the policy does not move: zero_grad stands between backward and optimizer.step and erases the gradient.")
def zeroed_too_early(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, zero=("early",))


@step.mutant("the gradient is not clipped: its norm over all parameters may be at most 1, see clip_grad_norm_.")
def not_clipped(policy, optimizer, seen, stored, beta):
    return _step(policy, optimizer, seen, stored, beta, clip=math.inf)


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
    return [fixed, case(12, 9), case(8, 5)]


@exercise(
    cases=_scores,
    points=2,
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
        case(drawn[0], [(3, 0), (1, 2), (3, 2)], (2.0, 0.5, 0.1), 30),
        case(drawn[1], [(0, 1), (2, 3)], (0.5, 5.0), 25),
    ]


def _swept(answer, reference, pairs, betas, steps) -> dict[str, object] | None:
    before = reference.logits.detach().clone()
    found = answer(reference, pairs, betas, steps)
    if not isinstance(found, dict):
        return found
    kept = bool(torch.equal(before, reference.logits.detach()))
    return {**{f"β {b:g}": value for b, value in found.items()}, "the reference is unchanged": kept}


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
