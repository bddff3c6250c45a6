"""Checks of exercise notebook 05: the closed form."""

import torch
from torch import Tensor

from prefcourse import tabular
from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.questions import choice

# ---------------------------------------------------------------------------------------------- the optimum, in logs


def _worlds(draw: torch.Generator) -> list[Case]:
    """Tables (X, Y): one plain, one with a tiny β, one with a reply that the reference never gives, two fresh ones."""
    ref = torch.tensor([[0.45, 0.25, 0.20, 0.06, 0.04], [0.1, 0.2, 0.3, 0.2, 0.2]], dtype=torch.float64)
    r = torch.tensor([[0.5, 1.5, -1.0, 2.0, -2.0], [0.0, 1.0, 0.0, 1.0, -1.0]], dtype=torch.float64)
    narrow = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64)
    drawn = [torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(4)]
    return [
        {"reference": ref, "reward": r, "beta": 0.5},
        {"reference": ref, "reward": r, "beta": 0.002},
        {"reference": narrow, "reward": torch.tensor([[0.0, 1.0, -1.0, 9.0]], dtype=torch.float64), "beta": 1.0},
        *(
            Limit(
                f"the reference never gives the reply with the largest reward, and β is {beta}",
                {"reference": narrow, "reward": torch.tensor([[0.0, 1.0, -1.0, 9.0]]).double(), "beta": beta},
            )
            for beta in (0.1, 0.002)
        ),
        {"reference": drawn[0].softmax(-1), "reward": drawn[1], "beta": 0.3},
        {"reference": drawn[2].softmax(-1), "reward": drawn[3], "beta": 2.0},
    ]


def _seen(answer, reference, reward, beta) -> dict[str, object] | None:
    """Policy and value by name."""
    found = answer(reference, reward, beta)
    if found is None:
        return None
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Unusable("return two tensors: π* of shape (X, Y), then J* of shape (X,).")
    return dict(zip(("policy", "J*"), found, strict=True))


def _answer(weights: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    return weights.softmax(-1), beta * weights.logsumexp(-1)


@exercise(
    cases=_worlds,
    observe=_seen,
    points=3,
    where="Step 6 · Read off the optimum",
    hint="stay in logs: the exponents are log π_ref + r/β, (X, Y). Their softmax over replies is π*, their logsumexp "
    "over replies is log Z, and J* = β log Z.",
)
def optimum(reference, reward, beta):
    """The best policy and its objective, for tables of prompts by replies."""
    return tabular.optimal_policy(reference, reward, beta), beta * tabular.log_z(reference, reward, beta)


@optimum.mutant("β is upside down: the exponent is r/β. With yours a large β moves the policy further away.")
def upside_down(reference, reward, beta):
    return _answer(reference.log() + reward * beta, beta)


@optimum.mutant("the reference is missing: π* re-weights what the reference gives. A softmax of r/β forgets it.")
def reference_forgotten(reference, reward, beta):
    return _answer(reward / beta, beta)


@optimum.mutant("J* is β log Z: you return log Z.")
def log_z_for_value(reference, reward, beta):
    policy, value = optimum.reference(reference, reward, beta)
    return policy, value / beta


@optimum.mutant(
    "e^(r/β) overflows: at β = 0.002 it is e^1000, infinite in float64, and infinity over infinity is not a number. "
    "Add logs and take softmax and logsumexp, which subtract the largest exponent first."
)
def overflow(reference, reward, beta):
    w = reference * (reward / beta).exp()
    return w / w.sum(-1, keepdim=True), beta * w.sum(-1).log()


@optimum.mutant(
    "a reply that the reference never gives must get exactly nothing. You put a small number in the place of its 0: "
    "with a small β its reward wins."
)
def held_away_from_zero(reference, reward, beta):
    return _answer(reference.clamp(min=1e-12).log() + reward / beta, beta)


@optimum.mutant(
    "you add a small number to π_ref before the log: a reply that it never gives must get exactly nothing, and with a "
    "small β yours lets its reward win."
)
def a_little_added(reference, reward, beta):
    return _answer((reference + 1e-30).log() + reward / beta, beta)


@optimum.mutant(
    "you subtract the largest reward first, and that reply may have π_ref = 0: then all others vanish. Subtract the "
    "largest *exponent*, or let softmax and logsumexp do it."
)
def shifted_by_reward(reference, reward, beta):
    top = reward.amax(-1, keepdim=True)
    w = reference * ((reward - top) / beta).exp()
    return w / w.sum(-1, keepdim=True), top[..., 0] + beta * w.sum(-1).log()


@optimum.mutant("π* is right. J* is not E[r] under π*: the nats that π* has cost are missing, J* = β log Z.")
def reward_alone(reference, reward, beta):
    policy, _ = optimum.reference(reference, reward, beta)
    return policy, (policy * reward).sum(-1)


@optimum.mutant("you normalise over all prompts together. Each prompt has its own Z: sum over replies, the last axis.")
def one_z_for_all(reference, reward, beta):
    weights = reference.log() + reward / beta
    return (weights - weights.flatten().logsumexp(0)).exp(), beta * weights.logsumexp(-1)


@optimum.mutant(
    "your value is J of the reference, E_ref[r], and not of π*. The best value is β log Z, which is larger (step 6)."
)
def value_of_reference(reference, reward, beta):
    return optimum.reference(reference, reward, beta)[0], (reference * reward).sum(-1)


# ---------------------------------------------------------------------------------------------- two prices


def _two_prices(draw: torch.Generator) -> list[Case]:
    ref = torch.tensor([0.45, 0.25, 0.20, 0.06, 0.04], dtype=torch.float64)
    r = torch.tensor([0.5, 1.5, -1.0, 2.0, -2.0], dtype=torch.float64)
    drawn = [torch.randn(4, generator=draw, dtype=torch.float64) for _ in range(4)]
    return [
        {"reference": ref, "reward": r, "beta": 0.5, "alpha": 0.25},
        {"reference": ref, "reward": r, "beta": 1.0, "alpha": 2.0},
        Limit("the entropy earns nothing, α = 0", {"reference": ref, "reward": r, "beta": 0.5, "alpha": 0.0}),
        Limit("both prices are alike", {"reference": ref, "reward": r, "beta": 0.5, "alpha": 0.5}),
        {"reference": drawn[0].softmax(-1), "reward": drawn[1], "beta": 0.3, "alpha": 0.1},
        {"reference": drawn[2].softmax(-1), "reward": drawn[3], "beta": 0.7, "alpha": 1.1},
    ]


@exercise(
    cases=_two_prices,
    points=3,
    where="Step 2 · Divide by −β",
    hint="write the objective as one expectation of r + β log π_ref - (α + β) log π. Divide by -(α + β), write r and "
    "log π_ref as one log, and normalise.",
)
def with_entropy(reference, reward, beta, alpha):
    """The best policy where entropy earns α and KL costs β."""
    return ((beta * reference.log() + reward) / (alpha + beta)).softmax(-1)


@with_entropy.mutant("the entropy has no effect in your answer: this is π* of the lesson, where α is 0.")
def entropy_ignored(reference, reward, beta, alpha):
    return (reference.log() + reward / beta).softmax(-1)


@with_entropy.mutant(
    "only r is divided by α + β in yours. log π_ref carries a β, and log π an α + β: so log π_ref is divided too."
)
def reference_at_full_weight(reference, reward, beta, alpha):
    return (reference.log() + reward / (alpha + beta)).softmax(-1)


@with_entropy.mutant(
    "the entropy has the wrong sign. H(π) = -E[log π], so +αH joins -β log π: the factor of log π is -(α + β)."
)
def entropy_punished(reference, reward, beta, alpha):
    return ((beta * reference.log() + reward) / (beta - alpha)).softmax(-1)


@with_entropy.mutant("log π_ref lacks its β: KL costs β, so β log π_ref stands in the objective.")
def reference_without_beta(reference, reward, beta, alpha):
    return ((reference.log() + reward) / (alpha + beta)).softmax(-1)


@with_entropy.mutant("the reference has no part in your policy: the KL to it still costs β.")
def no_reference(reference, reward, beta, alpha):
    return (reward / (alpha + beta)).softmax(-1)


@with_entropy.mutant("α and β are exchanged: β belongs to log π_ref.")
def exchanged(reference, reward, beta, alpha):
    return ((alpha * reference.log() + reward) / (alpha + beta)).softmax(-1)


@with_entropy.mutant("your numbers do not sum to 1: divide by their sum, that is the partition function here.")
def not_normalised(reference, reward, beta, alpha):
    return ((beta * reference.log() + reward) / (alpha + beta)).exp()


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def both_doubled():
    """We double every reward and double β as well. What happens to π* and to J*?"""
    return {
        "π* stays as it is, J* doubles": None,
        "π* moves further from the reference, J* doubles": "the policy sees r/β only, and that has not changed.",
        "π* stays as it is, J* stays as it is": "π* stays, yes. J* = β log Z: Z stays and β has doubled.",
        "π* moves nearer to the reference, J* stays as it is": "a larger β alone would hold it nearer. The rewards "
        "pull twice as hard as well: look at the exponent r/β.",
    }


# ---------------------------------------------------------------------------------------------- implicit rewards


def _three_tables(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, replies: int) -> Case:
        tables = [torch.randn(prompts, replies, generator=draw, dtype=torch.float64) for _ in range(3)]
        return {"policy": (2 * tables[0]).softmax(-1), "reference": tables[1].softmax(-1), "reward": tables[2]}

    policy = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.4, 0.1]], dtype=torch.float64)
    reference = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.2, 0.4]], dtype=torch.float64)
    reward = torch.tensor([[0.0, 1.0, 0.5], [3.0, 4.0, 5.0]], dtype=torch.float64)
    fixed = {"policy": policy, "reference": reference, "reward": reward}
    return [fixed, case(2, 4), case(4, 5), case(5, 6)]


def _agreement(score: Tensor, reward: Tensor) -> Tensor:
    """The share of pairs of replies to one prompt that two tables (X, Y) order alike."""
    i, j = torch.triu_indices(reward.shape[1], reward.shape[1], offset=1)
    return ((score[:, i] > score[:, j]) == (reward[:, i] > reward[:, j])).double().mean()


@exercise(
    cases=_three_tables,
    points=3,
    where="Step 10 · Turn it round: the reward from the policy",
    hint="take the log-ratio log π/π_ref, (X, Y). For each prompt compare every pair i < j of its replies: does the "
    "log-ratio order them as the reward does? Then the mean over all prompts and pairs.",
)
def agreement(policy, reference, reward):
    """How often the implicit reward orders two replies to the same prompt as the true reward does."""
    return _agreement((policy / reference).log(), reward).item()


@agreement.mutant(
    "you compare replies to different prompts too. There log Z(x) does not cancel: the implicit reward knows nothing "
    "about them."
)
def across_prompts(policy, reference, reward):
    return _agreement((policy / reference).log().flatten()[None], reward.flatten()[None]).item()


@agreement.mutant("you order by π alone. The implicit reward is β log π/π_ref: without π_ref it ranks what is usual.")
def without_reference(policy, reference, reward):
    return _agreement(policy, reward).item()


@agreement.mutant("a reply is compared with itself in yours. Take the pairs i < j, of which there are Y(Y - 1)/2.")
def with_itself(policy, reference, reward):
    ratio = policy / reference
    signs = [(table[:, :, None] - table[:, None, :]).sign() for table in (ratio, reward)]
    return (signs[0] * signs[1] > 0).double().mean().item()


@agreement.mutant("you only ask whether the best reply is the same. The order of all pairs counts.")
def best_only(policy, reference, reward):
    return ((policy / reference).argmax(-1) == reward.argmax(-1)).double().mean().item()


@agreement.mutant(
    "you count every pair twice and each reply with itself: of two replies i and j take the pair once, i < j."
)
def all_ordered_pairs(policy, reference, reward):
    ratio = policy / reference
    one, other = (table[:, :, None] > table[:, None, :] for table in (ratio, reward))
    return (one == other).double().mean().item()


@agreement.mutant("you compare neighbours alone, reply i with reply i + 1: all pairs of replies to a prompt count.")
def neighbours(policy, reference, reward):
    ratio = (policy / reference).log()
    return ((ratio.diff() > 0) == (reward.diff() > 0)).double().mean().item()


@agreement.mutant("you return the number of pairs that agree: divide by the number of all.")
def counted(policy, reference, reward):
    i, _ = torch.triu_indices(reward.shape[1], reward.shape[1], offset=1)
    return agreement.reference(policy, reference, reward) * len(reward) * len(i)


@agreement.mutant("the order is turned: your share counts the pairs on which the two disagree.")
def disagreement(policy, reference, reward):
    return 1 - agreement.reference(policy, reference, reward)
