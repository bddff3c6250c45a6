"""Checks of exercise notebook 08, exercises 1 and 2: the exact curve of reward against KL. See also `ex08`."""

import math

import torch
from torch import Tensor

from prefcourse.checks.core import Case, Limit, exercise

# ---------------------------------------------------------------------------------------------- the exact curve


def _worlds(draw: torch.Generator) -> list[Case]:
    def case(replies: int) -> Case:
        return {
            "reference": torch.randn(replies, generator=draw, dtype=torch.float64).softmax(-1),
            "reward": 2 * torch.randn(replies, generator=draw, dtype=torch.float64),
            "betas": torch.rand(4, generator=draw, dtype=torch.float64) + 0.3,
        }

    fixed = {
        "reference": torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64),
        "reward": torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64),
        "betas": torch.tensor([2.0, 0.5], dtype=torch.float64),
    }
    one = Limit("there is one β alone", fixed | {"betas": fixed["betas"][:1]})
    below = Limit("all rewards are below 0", fixed | {"reward": fixed["reward"] - 5})
    return [fixed, one, below, case(4), case(6)]


def _optimum(reference: Tensor, reward: Tensor, betas: Tensor) -> Tensor:
    return (reference.log() + reward / betas[:, None]).softmax(-1)  # (B, Y)


def _columns(policy: Tensor, reference: Tensor, reward: Tensor, betas: Tensor, divergence=None, sign=-1) -> Tensor:
    kl = (policy * (policy / reference).log()).sum(-1) if divergence is None else divergence
    mean = (policy * reward).sum(-1)
    return torch.stack([mean, kl, mean + sign * betas * kl], -1)


@exercise(
    cases=_worlds,
    points=3,
    where="The toy: five replies, and the exact frontier",
    hint="print the policies first, (B, Y): π_ref(y) e^{r(y)/β}, each row divided by its sum. Then E[r] = Σ π r and "
    "KL = Σ π log(π/π_ref), row by row.",
)
def curve(reference, reward, betas):
    """Reward, KL and J of the best policy for each β."""
    return _columns(_optimum(reference, reward, betas), reference, reward, betas)


@curve.mutant("you multiply the reward by β. β is the price of KL: a large one must keep π near the reference, so r/β.")
def times_beta(reference, reward, betas):
    return _columns(_optimum(reference, reward, 1 / betas), reference, reward, betas)


@curve.mutant("your policy is a softmax of r/β alone. π_β tilts the reference: π_ref(y) e^{r(y)/β}.")
def no_reference(reference, reward, betas):
    return _columns((reward / betas[:, None]).softmax(-1), reference, reward, betas)


@curve.mutant("that is KL(π_ref ‖ π). The objective has KL(π ‖ π_ref): the mean of log π/π_ref under π.")
def reversed_kl(reference, reward, betas):
    policy = _optimum(reference, reward, betas)
    return _columns(policy, reference, reward, betas, (reference * (reference / policy).log()).sum(-1))


@curve.mutant("your KL lacks the reference: Σ π log π is minus the entropy. Divide by π_ref inside the logarithm.")
def entropy_for_kl(reference, reward, betas):
    policy = _optimum(reference, reward, betas)
    return _columns(policy, reference, reward, betas, (policy * policy.log()).sum(-1))


@curve.mutant("your policies are not normalised: each row has to sum to 1.")
def not_normalised(reference, reward, betas):
    return _columns(reference * (reward / betas[:, None]).exp(), reference, reward, betas)


@curve.mutant("your three columns stand in another order: E[r], then KL, then J.")
def other_order(reference, reward, betas):
    return curve.reference(reference, reward, betas)[:, [1, 0, 2]]


@curve.mutant("your reward is the mean under the reference: E[r] is taken under π_β.")
def reward_of_reference(reference, reward, betas):
    mean, kl, _ = curve.reference(reference, reward, betas).unbind(-1)
    mean = torch.full_like(mean, (reference * reward).sum().item())
    return torch.stack([mean, kl, mean - betas * kl], -1)


@curve.mutant("your J adds the KL. It is a price: J = E[r] - β KL.")
def kl_added(reference, reward, betas):
    return _columns(_optimum(reference, reward, betas), reference, reward, betas, sign=1)


@curve.mutant("your J subtracts the KL without its price: J = E[r] - β KL.")
def price_of_one(reference, reward, betas):
    found = curve.reference(reference, reward, betas)
    return torch.stack([found[:, 0], found[:, 1], found[:, 0] - found[:, 1]], -1)


# ---------------------------------------------------------------------------------------------- slopes and curvature


def _one_beta(draw: torch.Generator) -> list[Case]:
    names = ("reference", "reward")
    return [{name: case[name] for name in names} | {"beta": case["betas"][-1].item()} for case in _worlds(draw)]


def _variance(reference: Tensor, reward: Tensor, beta: float) -> float:
    policy = (reference.log() + reward / beta).softmax(-1)
    return (policy * (reward - (policy * reward).sum()) ** 2).sum().item()


def _three(variance: float, beta: float, powers=(2, 3)) -> tuple[float, float, float]:
    return -variance / beta ** powers[0], -variance / beta ** powers[1], -(beta**3) / variance


@exercise(
    cases=_one_beta,
    points=2,
    where="Step 2 · KL falls with β, at a known rate",
    hint="all three come from one number, the variance of r under π_β. The slope of the frontier is β itself, so its "
    "change along KL is dβ/dKL = 1 / (dKL/dβ).",
)
def slopes(reference, reward, beta):
    """dE[r]/dβ, dKL/dβ and the curvature of the frontier."""
    return _three(_variance(reference, reward, beta), beta)


@slopes.mutant("your variance is taken under the reference. Both derivatives are at π_β, so weigh with π_β.")
def variance_of_reference(reference, reward, beta):
    return _three(_variance(reference, reward, 1e12), beta)


@slopes.mutant("you take the standard deviation; the derivatives have the variance, in nats squared.")
def deviation(reference, reward, beta):
    return _three(math.sqrt(_variance(reference, reward, beta)), beta)


@slopes.mutant("your signs are turned round: as β grows, π_β goes back to the reference, and reward and KL both fall.")
def signs(reference, reward, beta):
    return tuple(-value for value in slopes.reference(reference, reward, beta))


@slopes.mutant("your two derivatives are equal. dKL/dβ has one more power of β: the slope of the frontier must be β.")
def same_power(reference, reward, beta):
    return _three(_variance(reference, reward, beta), beta, (2, 2))


@slopes.mutant("your third number is upside down: dβ/dKL = 1 / (dKL/dβ).")
def curvature_upside_down(reference, reward, beta):
    found = slopes.reference(reference, reward, beta)
    return (*found[:2], found[1])


@slopes.mutant("your variance divides by the number of replies: weigh each with its probability under π_β instead.")
def plain_variance(reference, reward, beta):
    return _three(reward.var(correction=0).item(), beta)


@slopes.mutant("the variance is E[r²] in yours: subtract the squared mean.")
def second_moment(reference, reward, beta):
    policy = (reference.log() + reward / beta).softmax(-1)
    return _three((policy * reward**2).sum().item(), beta)


@slopes.mutant("your third number is the slope of the frontier, β. Asked is how that slope changes along KL, dβ/dKL.")
def slope_for_curvature(reference, reward, beta):
    return (*slopes.reference(reference, reward, beta)[:2], beta)
