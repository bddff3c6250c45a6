"""Checks of exercise notebook 11: DPO against RLHF. Exercise 4, the bill of a run, stands in `ex11_bill`."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.checks.ex11_bill import bill, learn, run_bill, score
from prefcourse.checks.questions import choice

__all__ = ["bill", "break_even", "learn", "run_bill", "score", "shared_dpo_loss", "two_features"]

# ---------------------------------------------------------------------------------------------- how many samples


def _plans(draw: torch.Generator) -> list[Case]:
    fixed = ((3, 1, 2), (1, 1, 1), (1, 2, 2), (2, 0, 3))  # the third cannot be done, the fourth has its reward model
    epochs = [[int(torch.randint(low, 9, (), generator=draw)) for low in (4, 1, 1)] for _ in range(3)]
    drawn = [(e, r % 4, u) for e, r, u in epochs]
    cases = [{"epochs": e, "reward_epochs": r, "reuse": u} for e, r, u in (*fixed, *drawn)]
    cases[2] = Limit("the reward model alone costs more than DPO", cases[2])
    cases[3] = Limit("the reward model is there already, 0 epochs", cases[3])
    return cases


def _break_even(epochs, reward_epochs, reuse, scored=2, scored_dpo=1, both=1, ppo_scored=3, clamp=True):
    """Completions for each pair at which the work is equal: with the defaults, the right ones."""
    trained = 3  # units for a token: one forward, two backward
    spared = 2 * scored_dpo + 2 * trained * epochs - (1 + both) * trained * reward_epochs  # in units of N L
    found = {"RLOO": spared / (1 + scored + trained), "PPO": spared / (1 + ppo_scored + trained * reuse)}
    return {name: max(0.0, value) if clamp else value for name, value in found.items()}


@exercise(
    cases=_plans,
    points=3,
    where="The maths",
    hint="write both works with N, M, L and E, set them equal and solve for M/N. Of the lesson's numbers only the 6 of "
    "the reward model, the 6 of DPO's policy and PPO's 2 passes over a sample change.",
)
def break_even(epochs, reward_epochs, reuse):
    """Completions for each pair at which RLOO and PPO do as much work as DPO."""
    return _break_even(epochs, reward_epochs, reuse)


@break_even.mutant(
    "your DPO scores the reference anew in every epoch. Its log-probs are computed once and kept: 2NL + 6NLE, not 8NLE."
)
def reference_every_epoch(epochs, reward_epochs, reuse):
    return _break_even(epochs, reward_epochs, reuse, scored_dpo=epochs)


@break_even.mutant(
    "the reward model fell from the sky: its training, 6NL for each of its epochs, is part of RLHF's work."
)
def reward_model_free(epochs, reward_epochs, reuse):
    return _break_even(epochs, 0, reuse)


@break_even.mutant("your reward model reads one text of each pair. It compares two: 3 · 2NL for each epoch.")
def one_side(epochs, reward_epochs, reuse):
    return _break_even(epochs, reward_epochs, reuse, both=0)


@break_even.mutant("your PPO scores a sample twice. It takes reference, reward model and the policy that drew it: 3KL.")
def ppo_scores_twice(epochs, reward_epochs, reuse):
    return _break_even(epochs, reward_epochs, reuse, ppo_scored=2)


@break_even.mutant("both names have the same number: PPO's samples cost more, (4 + 3u) KL against RLOO's 6 KL.")
def ppo_like_rloo(epochs, reward_epochs, reuse):
    return dict.fromkeys(("RLOO", "PPO"), _break_even(epochs, reward_epochs, reuse)["RLOO"])


@break_even.mutant("the names are exchanged.")
def exchanged(epochs, reward_epochs, reuse):
    found = _break_even(epochs, reward_epochs, reuse)
    return {"RLOO": found["PPO"], "PPO": found["RLOO"]}


@break_even.mutant(
    "your RLOO draws its samples for nothing: a completion that is drawn costs KL, scored 2KL, learned 3KL."
)
def drawn_for_nothing(epochs, reward_epochs, reuse):
    return {
        **_break_even(epochs, reward_epochs, reuse),
        "RLOO": _break_even(epochs, reward_epochs, reuse, scored=1)["RLOO"],
    }


@break_even.mutant("you round: M/N is a number of completions for each pair, and need not be whole.")
def rounded(epochs, reward_epochs, reuse):
    return {name: float(round(value)) for name, value in _break_even(epochs, reward_epochs, reuse).items()}


@break_even.mutant("DPO's pass over the reference is missing: its log-probs are computed once, 2NL.")
def no_reference_pass(epochs, reward_epochs, reuse):
    return _break_even(epochs, reward_epochs, reuse, scored_dpo=0)


@break_even.mutant("a negative number of completions: where the reward model alone costs more than DPO, return 0.")
def negative(epochs, reward_epochs, reuse):
    return _break_even(epochs, reward_epochs, reuse, clamp=False)


@break_even.mutant("your PPO learns from every sample twice, as in the lesson. Here it is `reuse` times: (4 + 3u) KL.")
def lessons_reuse(epochs, reward_epochs, reuse):
    return _break_even(epochs, reward_epochs, 2)


# ---------------------------------------------------------------------------------------------- a policy that shares


def _shared_worlds(draw: torch.Generator) -> list[Case]:
    def world(prompts: int, responses: int, features: int, beta: float) -> Case:
        wins = torch.randint(0, 5, (prompts, responses, responses), generator=draw).double()
        rand = {"generator": draw, "dtype": torch.float64}
        return {
            "theta": torch.randn(features, **rand),
            "wins": wins * (1 - torch.eye(responses, dtype=torch.float64)),
            "reference": torch.randn(prompts, responses, **rand).softmax(-1),
            "features": torch.randn(responses, features, **rand),
            "beta": beta,
        }

    one = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]], dtype=torch.float64)
    fixed = {
        "theta": torch.tensor([1.0], dtype=torch.float64), "wins": one,
        "reference": torch.tensor([[0.75, 0.25]], dtype=torch.float64),
        "features": torch.tensor([[1.0], [0.0]], dtype=torch.float64), "beta": 0.5,
    }  # fmt: skip
    never = Limit("a response is never compared", fixed | {"wins": torch.zeros_like(one)})
    return [fixed, never, world(2, 4, 3, 0.5), world(3, 3, 2, 0.2), world(2, 5, 2, 2.0)]


def _shared_loss(theta, wins, reference, features, beta, scale=None, outside=None, subtract=1.0) -> Tensor:
    logits = reference.log() + features @ theta / (beta if scale is None else scale)  # (X, Y)
    h = logits.log_softmax(-1) - subtract * reference.log()
    margin = (beta if outside is None else outside) * (h[:, :, None] - h[:, None, :])
    return -(wins * logsigmoid(margin)).sum()


def _value_and_gradient(answer, theta, *rest) -> dict[str, Tensor]:
    theta = theta.requires_grad_()
    value = answer(theta, *rest)
    if value is None:
        return None
    if isinstance(value, list | tuple | dict | str):
        raise Unusable("return one number, a tensor without axes: the sum over all comparisons.")
    value = torch.as_tensor(value)  # a number has lost its gradient
    (gradient,) = torch.autograd.grad(value.sum(), theta, allow_unused=True) if value.requires_grad else (None,)
    return {"loss": value.detach(), "its gradient in θ": torch.zeros_like(theta) if gradient is None else gradient}


@exercise(
    cases=_shared_worlds,
    points=4,
    observe=_value_and_gradient,
    where="The maths",
    hint="three lines: log π_θ = log_softmax of log π_ref + features · θ / β, (X, Y); h = log π_θ - log π_ref; and "
    "-Σ wins[x, i, j] · log σ(β (h[x, i] - h[x, j])).",
)
def shared_dpo_loss(theta, wins, reference, features, beta):
    """The DPO loss of a policy that shares its weights between all prompts."""
    return _shared_loss(theta, wins, reference, features, beta)


@shared_dpo_loss.mutant("the policy's exponent is not divided by β: log π_θ = log π_ref + θ · features / β - log Z.")
def exponent_without_beta(theta, wins, reference, features, beta):
    return _shared_loss(theta, wins, reference, features, beta, scale=1.0)


@shared_dpo_loss.mutant("β is missing inside the sigmoid: DPO's margin is β times the difference of the log-ratios.")
def margin_without_beta(theta, wins, reference, features, beta):
    return _shared_loss(theta, wins, reference, features, beta, outside=1.0)


@shared_dpo_loss.mutant(
    "the reference is missing: compare log π_θ - log π_ref of the two responses, not log π_θ alone."
)
def no_reference(theta, wins, reference, features, beta):
    return _shared_loss(theta, wins, reference, features, beta, subtract=0.0)


@shared_dpo_loss.mutant("winner and loser are swapped: wins[x, i, j] counts how often i beat j.")
def swapped(theta, wins, reference, features, beta):
    return _shared_loss(theta, wins.mT, reference, features, beta)


@shared_dpo_loss.mutant(
    "you take the mean over all entries of the table. The likelihood is a sum over comparisons, and a prior would "
    "otherwise weigh too much against it."
)
def mean_for_sum(theta, wins, reference, features, beta):
    return _shared_loss(theta, wins, reference, features, beta) / wins.numel()


@shared_dpo_loss.mutant(
    "your loss has the right value and no gradient in θ: keep θ in the graph, without detach, item or no_grad."
)
def detached(theta, wins, reference, features, beta):
    return _shared_loss(theta.detach(), wins, reference, features, beta)


# ---------------------------------------------------------------------------------------------- a prediction


@choice(points=2)
def two_features():
    """The reward model sees two of the three bits. With more and more comparisons RLHF's regret …"""
    return {
        "levels off above 0, and DPO with a free table passes it": None,
        "falls to 0 as before, since two weights are learned faster than three": "two weights are learned fast, but no "
        "choice of them gives the third bit its reward: the best of them is still wrong.",
        "falls to 0 more slowly than with three bits": "more comparisons sharpen the two weights. What the third bit "
        "is worth cannot be said with them, however many comparisons there are.",
        "stays near that of the reference: a wrong reward model teaches nothing": "it is wrong about one bit in three. "
        "About the other two, which carry most of the reward, it learns the truth.",
    }
