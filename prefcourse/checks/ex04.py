"""Checks of exercise notebook 04: RLHF with policy gradients. Here the noise of one sample, and PPO's clip.

Exercises 1 and 4, which are about advantages, stand in `ex04_advantages`, unequal groups in `ex04_groups`.
"""

import torch

from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex04_advantages import rloo_loss, token_advantages, with_gradient
from prefcourse.checks.ex04_groups import group_advantages
from prefcourse.checks.questions import choice
from prefcourse.rlhf.advantages import ppo_clip_loss

__all__ = ["clip_loss", "coin", "five_more", "group_advantages", "rloo_loss", "token_advantages"]

# ---------------------------------------------------------------------------------------------- two replies


def _coins(draw: torch.Generator) -> list[Case]:
    fixed = [(0.3, 2.0, -1.0, 0.0), (0.3, 2.0, -1.0, 1.1)]
    drawn = [torch.rand(4, generator=draw, dtype=torch.float64).tolist() for _ in range(3)]
    fixed += [(0.05 + 0.4 * p, 1 + 2 * a, -2 * b, 3 * c - 1) for p, a, b, c in drawn]
    cases = [{"p": p, "u1": a, "u0": b, "baseline": c} for p, a, b, c in fixed]
    alike = Limit(
        "both replies have the same u, and the baseline is right", {"p": 0.3, "u1": 2.0, "u0": 2.0, "baseline": 2.0}
    )
    worse = Limit("reply 1 is the worse one", {"p": 0.6, "u1": -3.0, "u0": 2.0, "baseline": 0.5})
    return [*cases[:2], alike, worse, *cases[2:]]


def _noise(p, u1, u0, first, second) -> tuple[float, float, float]:
    """Mean, variance and best baseline, from the estimate after reply 1 and after reply 0."""
    mean = p * first + (1 - p) * second
    return mean, p * (first - mean) ** 2 + (1 - p) * (second - mean) ** 2, (1 - p) * u1 + p * u0


def _coin(p, u1, u0, baseline) -> tuple[float, float, float]:
    return _noise(p, u1, u0, (u1 - baseline) * (1 - p), -(u0 - baseline) * p)


@exercise(
    cases=_coins,
    points=3,
    where="The maths, I: a gradient through a draw",
    hint="the estimate has two values: (u1 - b)(1 - p) with probability p, and -(u0 - b) p with probability 1 - p. "
    "Mean and variance are sums of two terms. The best b makes the two values equal.",
)
def coin(p, u1, u0, baseline):
    """Mean and variance of a one-sample gradient estimate for two replies, and the baseline with the least noise."""
    return _coin(p, u1, u0, baseline)


@coin.mutant("your variance is E[g²]. Subtract the squared mean.")
def second_moment(p, u1, u0, baseline):
    mean, variance, best = _coin(p, u1, u0, baseline)
    return mean, variance + mean**2, best


@coin.mutant(
    "J, the mean of u, is the usual baseline and not the best one. b* weighs u with the squared score, which is larger "
    "for the rarer reply."
)
def plain_mean(p, u1, u0, baseline):
    return *_coin(p, u1, u0, baseline)[:2], p * u1 + (1 - p) * u0


@coin.mutant("you return the standard deviation of g: its variance is asked.")
def deviation(p, u1, u0, baseline):
    mean, variance, best = _coin(p, u1, u0, baseline)
    return mean, variance**0.5, best


@coin.mutant("u and the baseline are exchanged in your estimate: it is (u - b) times the score.")
def baseline_minus_u(p, u1, u0, baseline):
    return _noise(p, u1, u0, -(u1 - baseline) * (1 - p), (u0 - baseline) * p)


@coin.mutant("your two values are not weighed with how often they come: p and 1 - p.")
def unweighted(p, u1, u0, baseline):
    one, zero = (u1 - baseline) * (1 - p), -(u0 - baseline) * p
    mean = (one + zero) / 2
    return mean, ((one - mean) ** 2 + (zero - mean) ** 2) / 2, _coin(p, u1, u0, baseline)[2]


@coin.mutant("the score of reply 1 is 1 - p, the derivative of its log-probability; yours has another factor.")
def no_score(p, u1, u0, baseline):
    return _noise(p, u1, u0, u1 - baseline, -(u0 - baseline))


@coin.mutant("the score of reply 0 is -p: when the logit of reply 1 rises, reply 0 becomes less likely.")
def score_sign(p, u1, u0, baseline):
    return _noise(p, u1, u0, (u1 - baseline) * (1 - p), (u0 - baseline) * p)


@coin.mutant(
    "your mean changes with b. A baseline costs nothing on average: subtract it from u in both terms, u1 and u0."
)
def baseline_once(p, u1, u0, baseline):
    return _noise(p, u1, u0, (u1 - baseline) * (1 - p), -u0 * p)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=1)
def five_more():
    """We add 5 to every reward. What does that do to RLOO's estimate of the gradient?"""
    return {
        "nothing, in every single draw": None,
        "nothing on average, but it becomes noisier": "so it is without a baseline. Here the 5 is in every sibling's u "
        "as well, and u_i minus their mean loses it again.",
        "nothing on average, but it becomes quieter": "5 would have to act like a good baseline. It is added to all "
        "siblings, so it cancels in every advantage.",
        "it becomes longer, in the same direction": "advantages are differences between siblings; adding a constant "
        "does not scale a difference.",
    }


# ---------------------------------------------------------------------------------------------- the clip


def _ratios(draw: torch.Generator) -> list[Case]:
    def case(tokens: int, eps: float) -> Case:
        old, moved, A = (torch.randn(tokens, generator=draw, dtype=torch.float64) for _ in range(3))
        return {"log_pi": old - 2 + 0.6 * moved, "log_old": old - 2, "advantages": A, "eps": eps}

    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.0], dtype=torch.float64)
    old = torch.tensor([0.2, 0.2, 0.4, 0.4, 0.3, 0.3], dtype=torch.float64).log()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
    fixed = {"log_pi": old + ratio.log(), "log_old": old, "advantages": advantages, "eps": 0.2}
    started = Limit("the policy has not moved yet: every ratio is 1", fixed | {"log_pi": old})
    far = torch.tensor([8.0, 8.0, -8.0, -8.0, 8.0, -8.0], dtype=torch.float64)
    return [
        fixed,
        started,
        Limit("the ratio is far from 1", fixed | {"log_pi": old + far}),
        case(8, 0.1),
        case(12, 0.3),
    ]


@exercise(
    cases=_ratios,
    observe=with_gradient,
    points=2,
    where="The maths, II: PPO",
    hint="the ratio is exp(log_pi - log_old). Compare ratio times A with the clipped ratio times A, token by token, "
    "keep the smaller one, and put a minus in front.",
)
def clip_loss(log_pi, log_old, advantages, eps):
    """PPO's clipped loss of each token."""
    return ppo_clip_loss(log_pi, log_old, advantages, eps)


@clip_loss.mutant(
    "the min is missing: your loss is flat also where the ratio has moved the wrong way, and such a mistake can never "
    "be undone."
)
def no_min(log_pi, log_old, advantages, eps):
    return -(log_pi - log_old).exp().clamp(1 - eps, 1 + eps) * advantages


@clip_loss.mutant("it is the min of the two and not the max: the loss is the pessimistic one of the two.")
def max_for_min(log_pi, log_old, advantages, eps):
    ratio = (log_pi - log_old).exp()
    return -torch.maximum(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages)


@clip_loss.mutant("the clip is for the ratio alone. You clip ratio times advantage.")
def product_clipped(log_pi, log_old, advantages, eps):
    product = (log_pi - log_old).exp() * advantages
    return -torch.minimum(product, product.clamp(1 - eps, 1 + eps))


@clip_loss.mutant("the ratio is a quotient of probabilities: take exp of the difference of the logs.")
def no_exp(log_pi, log_old, advantages, eps):
    ratio = log_pi - log_old
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages)


@clip_loss.mutant("you clip only from above. A ratio that is too small is clipped, too, at 1 - ε.")
def clipped_above(log_pi, log_old, advantages, eps):
    ratio = (log_pi - log_old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(max=1 + eps) * advantages)


@clip_loss.mutant("you divide log-probs by each other: the ratio is one of probabilities, exp(log π - log π_old).")
def quotient_of_logs(log_pi, log_old, advantages, eps):
    ratio = log_pi / log_old
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages)


@clip_loss.mutant("you centre or scale the advantages first: they come as they are to be used.")
def centred(log_pi, log_old, advantages, eps):
    return ppo_clip_loss(log_pi, log_old, advantages - advantages.mean(), eps)


@clip_loss.mutant("the clip is missing: the ratio may count up to 1 ± ε.")
def not_clipped(log_pi, log_old, advantages, eps):
    return -(log_pi - log_old).exp() * advantages


@clip_loss.mutant(
    "the min is over ratios in yours. Compare ratio · A with clipped ratio · A: for A < 0 the order turns."
)
def min_of_ratios(log_pi, log_old, advantages, eps):
    ratio = (log_pi - log_old).exp()
    return -torch.minimum(ratio, ratio.clamp(1 - eps, 1 + eps)) * advantages


@clip_loss.mutant("you return the mean over the tokens; the exercise asks for one value for each token, (T,).")
def token_mean(log_pi, log_old, advantages, eps):
    return ppo_clip_loss(log_pi, log_old, advantages, eps).mean()


@clip_loss.mutant("the minus is missing: an optimiser makes the loss smaller, so it would lower what has A > 0.")
def sign_flipped(log_pi, log_old, advantages, eps):
    return -ppo_clip_loss(log_pi, log_old, advantages, eps)


@clip_loss.mutant("the ratio is upside down: it is new over old, π / π_old.")
def inverted(log_pi, log_old, advantages, eps):
    return ppo_clip_loss(log_old, log_pi, advantages, eps)
