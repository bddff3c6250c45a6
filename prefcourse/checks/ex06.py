"""Checks of exercise notebook 06: a ranking, a prediction, a loop with a bug. Exercise 1 stands in `ex06_loss`."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex06_loss import dpo_loss
from prefcourse.checks.questions import choice

__all__ = ["dpo_loss", "kl_against_beta", "ranking_loss", "train"]

# ---------------------------------------------------------------------------------------------- a ranking of K replies


def _rankings(draw: torch.Generator) -> list[Case]:
    fixed = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    return [
        {"log_ratios": fixed, "beta": 0.5},
        Limit(
            "log-ratios are large, in float32: an exp of them overflows",
            {"log_ratios": torch.tensor([[300.0, -200.0, 100.0], [-150.0, 0.0, 150.0]]), "beta": 1.0},
        ),
        *({"log_ratios": torch.randn(3, k, generator=draw, dtype=torch.float64) * 3, "beta": b}
          for k, b in ((2, 0.1), (3, 0.3), (5, 1.0))),
    ]  # fmt: skip


@exercise(
    cases=_rankings,
    points=3,
    where="Step 1 · Preferences from rewards: Bradley–Terry",
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


@ranking_loss.mutant(
    "e to a large number is infinite in float32: take logsumexp, or log_softmax, instead of log of a sum of exp."
)
def no_logsumexp(log_ratios, beta):
    rewards = beta * log_ratios
    return sum(rewards[:, k:].exp().sum(-1).log() - rewards[:, k] for k in range(rewards.shape[1] - 1))


@ranking_loss.mutant("you divide by the number of choices: the loss is minus the log of a product, so a sum.")
def mean_over_choices(log_ratios, beta):
    return ranking_loss.reference(log_ratios, beta) / (log_ratios.shape[1] - 1)


@ranking_loss.mutant("β stands outside: it scales the log-ratios, inside the softmax.")
def beta_outside(log_ratios, beta):
    return beta * ranking_loss.reference(log_ratios, 1.0)


@ranking_loss.mutant("the first choice is missing: the best reply is chosen among all K.")
def first_lost(log_ratios, beta):
    return ranking_loss.reference(log_ratios[:, 1:], beta) + 0 * log_ratios[:, 0]


@ranking_loss.mutant("the minus is missing: a likely ranking has a small loss.")
def minus_missing(log_ratios, beta):
    return -ranking_loss.reference(log_ratios, beta)


@ranking_loss.mutant(
    "only neighbours are compared in yours: the k-th reply wins against all that are still in the race."
)
def neighbours(log_ratios, beta):
    return sum(-logsigmoid(beta * (log_ratios[:, k] - log_ratios[:, k + 1])) for k in range(log_ratios.shape[1] - 1))


@ranking_loss.mutant("you return the mean of the batch; the exercise asks for one loss for each ranking, (B,).")
def batch_mean(log_ratios, beta):
    return ranking_loss.reference(log_ratios, beta).mean()


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
        Limit(
            "there is no step at all",
            {"reference_logits": fixed, "chosen": 0, "rejected": 1, "beta": 0.5, "lr": 1.0, "steps": 0},
        ),
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
    keeps=True,
    where="Step 7 · The gradient, three ways",
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


@train.mutant("you return log-probabilities: asked are the policy's logits, as they are after the last step.")
def log_probs(reference_logits, chosen, rejected, beta, lr, steps):
    return train.reference(reference_logits, chosen, rejected, beta, lr, steps).log_softmax(-1)


@train.mutant("you return probabilities: asked are the policy's logits, as they are after the last step.")
def probabilities(reference_logits, chosen, rejected, beta, lr, steps):
    return train.reference(reference_logits, chosen, rejected, beta, lr, steps).softmax(-1)


@train.mutant("the logits begin at 0 in yours: a policy begins as a copy of its reference.")
def from_zero(reference_logits, chosen, rejected, beta, lr, steps):
    start = torch.zeros_like(reference_logits)
    frozen = reference_logits.log_softmax(-1)
    return _descend(start, chosen, rejected, beta, lr, steps, lambda logp: frozen)


@train.mutant("you make one step too many.")
def one_more(reference_logits, chosen, rejected, beta, lr, steps):
    return _descend(reference_logits, chosen, rejected, beta, lr, steps + 1)


@train.mutant("you make a single step, however many are asked for.")
def one_step(reference_logits, chosen, rejected, beta, lr, steps):
    return _descend(reference_logits, chosen, rejected, beta, lr, min(steps, 1))


@train.mutant("your gradients add up: set them to zero, or take them anew, in each step.")
def gradients_kept(reference_logits, chosen, rejected, beta, lr, steps):
    logits, frozen = reference_logits.clone().requires_grad_(True), reference_logits.log_softmax(-1)
    for _ in range(steps):
        logp = logits.log_softmax(-1)
        (-logsigmoid(beta * ((logp - frozen)[chosen] - (logp - frozen)[rejected]))).backward()
        with torch.no_grad():
            logits -= lr * logits.grad
    return logits.detach()


@train.mutant("your steps climb the loss: subtract lr times the gradient.")
def uphill(reference_logits, chosen, rejected, beta, lr, steps):
    return _descend(reference_logits, chosen, rejected, beta, lr, steps, sign=-1.0)
