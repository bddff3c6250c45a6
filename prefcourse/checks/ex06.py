"""Checks of exercise notebook 06: the DPO loss."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, exercise
from prefcourse.checks.questions import choice

ROWS, TOKENS = 4, 7  # of a batch drawn afresh

# ---------------------------------------------------------------------------------------------- the loss from tokens


def _token_batches(draw: torch.Generator) -> list[Case]:
    """Token log-probs with masks: prompt 0, completion 1 (EOS included), padding 0."""

    def batch(beta: float) -> Case:
        lengths = torch.randint(1, 5, (2, ROWS), generator=draw)
        masks = [((torch.arange(TOKENS) >= 2) & (torch.arange(TOKENS) < 2 + n[:, None])).double() for n in lengths]
        logps = {
            name: -3 * torch.rand(ROWS, TOKENS, generator=draw, dtype=torch.float64)
            for name in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
        }
        return {**logps, "chosen_mask": masks[0], "rejected_mask": masks[1], "beta": beta}

    one = torch.tensor([[-1.0, -2.0, -0.5, -0.25]], dtype=torch.float64)
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    fixed = {
        "policy_chosen": one, "policy_rejected": one - 0.5, "reference_chosen": one - 1.0,
        "reference_rejected": one - 0.25, "chosen_mask": mask, "rejected_mask": mask, "beta": 0.5,
    }  # fmt: skip
    return [fixed, batch(0.1), batch(0.7), batch(2.0)]


def _sums(weights_chosen: Tensor, weights_rejected: Tensor, *logps: Tensor) -> list[Tensor]:
    """Sums over tokens of policy_chosen, policy_rejected, reference_chosen, reference_rejected: four of (B,)."""
    weights = (weights_chosen, weights_rejected, weights_chosen, weights_rejected)
    return [(logp * weight).sum(-1) for logp, weight in zip(logps, weights, strict=True)]


@exercise(
    cases=_token_batches,
    points=3,
    hint="go in three steps and print each: four sums over completion tokens (B,), then h = (c - C) - (r - R), "
    "then -logsigmoid(beta * h).",
)
def dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta):
    """The DPO loss of each pair, from token log-probs and masks."""
    c, r, C, R = _sums(chosen_mask, rejected_mask, policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * ((c - C) - (r - R)))


@dpo_loss.mutant("you average over tokens. log π(y|x) is a sum: with the mean β acts as if divided by the length.")
def mean_for_sum(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(mc / mc.sum(-1, keepdim=True), mr / mr.sum(-1, keepdim=True), pc, pr, rc, rr)
    return -logsigmoid(beta * ((c - C) - (r - R)))


@dpo_loss.mutant("β stands outside the sigmoid. Eq. 7 scales h first: -log σ(β h), not -β log σ(h).")
def beta_outside(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(mc, mr, pc, pr, rc, rr)
    return -beta * logsigmoid((c - C) - (r - R))


@dpo_loss.mutant("the reference is missing: h compares log-ratios to π_ref, not the policy's log-probs alone.")
def no_reference(pc, pr, rc, rr, mc, mr, beta):
    c, r, _, _ = _sums(mc, mr, pc, pr, rc, rr)
    return -logsigmoid(beta * (c - r))


@dpo_loss.mutant("chosen and rejected are swapped, or a minus is lost: a larger h must make the loss smaller.")
def sign_flipped(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(mc, mr, pc, pr, rc, rr)
    return -logsigmoid(-beta * ((c - C) - (r - R)))


@dpo_loss.mutant("your sums run over the prompt and the padding too: multiply by the mask before you sum.")
def mask_ignored(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(torch.ones_like(mc), torch.ones_like(mr), pc, pr, rc, rr)
    return -logsigmoid(beta * ((c - C) - (r - R)))


@dpo_loss.mutant("you return the mean of the batch; the exercise asks for one loss per pair, of shape (B,).")
def batch_mean(pc, pr, rc, rr, mc, mr, beta):
    return dpo_loss.reference(pc, pr, rc, rr, mc, mr, beta).mean()


# ---------------------------------------------------------------------------------------------- a ranking of K replies


def _rankings(draw: torch.Generator) -> list[Case]:
    fixed = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    return [
        {"log_ratios": fixed, "beta": 0.5},
        *({"log_ratios": torch.randn(3, k, generator=draw, dtype=torch.float64) * 3, "beta": b}
          for k, b in ((2, 0.1), (3, 0.3), (5, 1.0))),
    ]  # fmt: skip


@exercise(
    cases=_rankings,
    points=3,
    hint="the loss is -log of a product of K - 1 factors. Factor k is a softmax over the replies k, …, K that are "
    "still in the race. For K = 2 it must be the DPO loss.",
)
def ranking_loss(log_ratios, beta):
    """The DPO loss of a whole ranking, best reply first."""
    rewards = beta * log_ratios  # (B, K)
    return sum(rewards[:, k:].logsumexp(-1) - rewards[:, k] for k in range(rewards.shape[1] - 1))


@ranking_loss.mutant(
    "only the first choice is in your loss: after the best is placed, the next is chosen among the rest."
)
def first_choice_only(log_ratios, beta):
    rewards = beta * log_ratios
    return rewards.logsumexp(-1) - rewards[:, 0]


@ranking_loss.mutant("every factor of yours has all K replies in its denominator; those already placed must leave it.")
def all_in_denominator(log_ratios, beta):
    rewards = beta * log_ratios
    return sum(rewards.logsumexp(-1) - rewards[:, k] for k in range(rewards.shape[1] - 1))


@ranking_loss.mutant("you sum DPO losses over all pairs. A ranking is K - 1 choices, not K(K - 1)/2 independent duels.")
def all_pairs(log_ratios, beta):
    K = log_ratios.shape[1]
    return sum(-logsigmoid(beta * (log_ratios[:, i] - log_ratios[:, j])) for i in range(K) for j in range(i + 1, K))


@ranking_loss.mutant("the order is reversed: column 0 is the best reply.")
def worst_first(log_ratios, beta):
    return ranking_loss.reference(log_ratios.flip(-1), beta)


@ranking_loss.mutant("β is missing: the implicit reward is β times the log-ratio.")
def no_beta(log_ratios, beta):
    return ranking_loss.reference(log_ratios, 1.0)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def kl_against_beta():
    """Soft labels, a table, plain gradient descent. What is true of KL(π ‖ π_ref) for a larger β?"""
    return {
        "larger after 50 small steps, smaller at convergence": None,
        "smaller after 50 small steps, smaller at convergence": "that is true of the optimum π*. But the gradient is "
        "-βσ(-βh): near h = 0 it is proportional to β, so early a large β moves faster.",
        "larger after 50 small steps, larger at convergence": "early, yes. At convergence βh is fixed by the labels, "
        "so h is that number divided by β.",
        "smaller after 50 small steps, larger at convergence": "it is the other way round in both: compare the first "
        "gradient -β/2 with the end, where βh is fixed by the labels.",
    }


# ---------------------------------------------------------------------------------------------- the bug


def _tables(draw: torch.Generator) -> list[Case]:
    fixed = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    drawn = [torch.randn(4, generator=draw, dtype=torch.float64) for _ in range(2)]
    return [
        {"reference_logits": fixed, "chosen": 0, "rejected": 2, "beta": 0.5, "lr": 1.0, "steps": 1},
        {"reference_logits": fixed, "chosen": 2, "rejected": 0, "beta": 0.5, "lr": 1.0, "steps": 20},
        {"reference_logits": drawn[0], "chosen": 1, "rejected": 3, "beta": 1.0, "lr": 0.5, "steps": 15},
        {"reference_logits": drawn[1], "chosen": 3, "rejected": 0, "beta": 0.2, "lr": 2.0, "steps": 30},
    ]


def _descend(reference_logits, chosen, rejected, beta, lr, steps, reference_of=None, sign=1.0) -> Tensor:
    logits, frozen = reference_logits.clone().requires_grad_(True), reference_logits.log_softmax(-1)
    for _ in range(steps):
        logp = logits.log_softmax(-1)
        reference = frozen if reference_of is None else reference_of(logp)
        h = (logp - reference)[chosen] - (logp - reference)[rejected]
        (gradient,) = torch.autograd.grad(sign * -logsigmoid(beta * h), logits)
        with torch.no_grad():
            logits -= lr * gradient
    return logits.detach()


@exercise(
    cases=_tables,
    points=3,
    hint="compute the reference's log-probs once, before the loop, from `reference_logits`; the loop changes a copy.",
)
def train(reference_logits, chosen, rejected, beta, lr, steps):
    """The policy's logits after `steps` of DPO by gradient descent, reference frozen."""
    return _descend(reference_logits, chosen, rejected, beta, lr, steps)


@train.mutant(
    "your reference moves with the policy: it is read from the logits in training, so h is 0 at every step, the loss "
    "stays at ln 2 and nothing brakes. Take it from a copy made before the loop."
)
def moving_reference(reference_logits, chosen, rejected, beta, lr, steps):
    return _descend(reference_logits, chosen, rejected, beta, lr, steps, lambda logp: logp.detach())


@train.mutant("h is log π - log π of the same tensor: it has no gradient, so nothing moves. Freeze the reference.")
def reference_is_policy(reference_logits, chosen, rejected, beta, lr, steps):
    return _descend(reference_logits, chosen, rejected, beta, lr, steps, lambda logp: logp)


@train.mutant("the reference is missing from h: at the first step the loss must be ln 2 whatever the logits are.")
def reference_dropped(reference_logits, chosen, rejected, beta, lr, steps):
    return _descend(reference_logits, chosen, rejected, beta, lr, steps, lambda logp: torch.zeros_like(logp))


@train.mutant("your steps climb the loss: subtract lr times the gradient.")
def uphill(reference_logits, chosen, rejected, beta, lr, steps):
    return _descend(reference_logits, chosen, rejected, beta, lr, steps, sign=-1.0)
