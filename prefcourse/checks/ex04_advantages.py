"""Checks of exercise notebook 04, exercises 1 and 4: the advantage of a completion and of a token. See also `ex04`."""

import torch
from torch import Tensor

from prefcourse.checks.calls import Unusable
from prefcourse.checks.core import Case, Limit, exercise
from prefcourse.rlhf.advantages import gae, grpo_advantages, kl_penalty, rloo_advantages

# ---------------------------------------------------------------------------------------------- the loss of RLOO


def _groups(draw: torch.Generator) -> list[Case]:
    def case(prompts: int, k: int, beta: float) -> Case:
        policy, reference, rewards = (torch.randn(prompts, k, generator=draw, dtype=torch.float64) for _ in range(3))
        return {"log_pi": policy - 4, "log_ref": reference - 4, "rewards": 2 * rewards, "beta": beta}

    one = torch.tensor([[-1.0, -2.0, -2.0, -3.0]], dtype=torch.float64)
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=torch.float64)
    fixed = {"log_pi": one, "log_ref": one + torch.tensor([0.5, 0.0, -0.5, 1.0]), "rewards": rewards, "beta": 0.5}
    free = Limit("KL costs nothing, β = 0", fixed | {"beta": 0.0})
    alike = Limit("all siblings have the same reward", fixed | {"rewards": torch.ones_like(rewards)})
    return [fixed, free, alike, case(2, 3, 0.1), case(3, 2, 1.0), case(2, 6, 0.3)]


def with_gradient(answer, log_pi, *arguments) -> dict[str, Tensor] | None:
    """The loss and its gradient in the policy's log-probs: a loss of the right value may have the wrong one."""
    leaf = log_pi.clone().requires_grad_(True)
    loss = answer(leaf, *arguments)
    if loss is None:
        return None
    if isinstance(loss, list | tuple) and loss and all(isinstance(part, Tensor) for part in loss):
        loss = torch.stack(list(loss))
    if not isinstance(loss, Tensor):
        raise Unusable("your loss is no tensor, so it has no gradient: no item(), float() or numpy on its way.")
    if not loss.requires_grad:
        raise Unusable(
            "your loss has no gradient in the policy's log-probs: what is multiplied by A may not be detached."
        )
    (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    return {"loss": loss.detach(), "gradient": torch.zeros_like(leaf) if gradient is None else gradient}


def _rloo(log_pi, log_ref, rewards, beta, advantages=rloo_advantages, detach=True, sign=1.0) -> Tensor:
    u = rewards - beta * ((log_pi.detach() if detach else log_pi) - log_ref)  # (X, K)
    return -sign * (advantages(u) * log_pi).mean()


@exercise(
    cases=_groups,
    observe=with_gradient,
    points=3,
    where="From scratch, I: RLOO",
    hint="three steps: u = rewards - beta * (log_pi - log_ref), detached; the advantage of each, u minus the mean of "
    "the K - 1 others of its row; then minus the mean of advantage times log_pi.",
)
def rloo_loss(log_pi, log_ref, rewards, beta):
    """The loss whose gradient is minus RLOO's estimate, for K completions of each prompt."""
    return _rloo(log_pi, log_ref, rewards, beta)


@rloo_loss.mutant(
    "the own completion is in your baseline. Then the baseline depends on it, and the gradient is multiplied by "
    "1 - 1/K: take the mean of the K - 1 others."
)
def own_included(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, beta, lambda u: u - u.mean(-1, keepdim=True))


@rloo_loss.mutant("there is no baseline: subtract from each u the mean of its K - 1 siblings.")
def no_baseline(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, beta, lambda u: u)


@rloo_loss.mutant(
    "the loss is right and its gradient is not: u must be detached. Its derivative is multiplied by "
    "log π, and that product is not 0 on average (step 2)."
)
def not_detached(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, beta, detach=False)


@rloo_loss.mutant("you add the advantages up: take the mean over all X · K completions.")
def summed(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, beta) * rewards.numel()


@rloo_loss.mutant(
    "you return one number for each prompt or completion: the mean over all of them is asked, one number."
)
def not_averaged(log_pi, log_ref, rewards, beta):
    u = rewards - beta * (log_pi.detach() - log_ref)
    return -rloo_advantages(u) * log_pi


@rloo_loss.mutant("the price of KL is paid out in yours: u is the reward minus β log π/π_ref.")
def price_paid_out(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, -beta)


@rloo_loss.mutant("the advantage of each is multiplied by log π/π_ref in yours: it belongs to log π.")
def ratio_for_log_pi(log_pi, log_ref, rewards, beta):
    u = rewards - beta * (log_pi.detach() - log_ref)
    return -(rloo_advantages(u) * (log_pi - log_ref)).mean()


@rloo_loss.mutant("the advantage is multiplied by π in yours: the score is the derivative of log π.")
def probability_for_log(log_pi, log_ref, rewards, beta):
    u = rewards - beta * (log_pi.detach() - log_ref)
    return -(rloo_advantages(u) * log_pi.exp()).mean()


@rloo_loss.mutant("the price of KL is missing: u is the reward minus β log π/π_ref.")
def price_missing(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, 0.0)


@rloo_loss.mutant("your loss goes downhill in reward: an optimiser makes a loss smaller, so it needs a minus in front.")
def minus_missing(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, beta, sign=-1.0)


@rloo_loss.mutant("you divide by the spread of the group: that is GRPO, whose mean is no longer the gradient of J.")
def divided_by_spread(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, beta, grpo_advantages)


@rloo_loss.mutant(
    "your baseline is a mean over all prompts: the siblings are the completions of the same prompt, a row."
)
def across_prompts(log_pi, log_ref, rewards, beta):
    return _rloo(log_pi, log_ref, rewards, beta, lambda u: rloo_advantages(u.flatten()).view_as(u))


# ---------------------------------------------------------------------------------------------- credit for tokens


def _texts(draw: torch.Generator) -> list[Case]:
    def case(tokens: int, beta: float, lam: float) -> Case:
        policy, reference, values = (torch.randn(tokens, generator=draw, dtype=torch.float64) for _ in range(3))
        reward = 1 + 2 * torch.rand((), generator=draw, dtype=torch.float64).item()
        return {"reward": reward, "log_pi": policy - 2, "log_ref": reference - 2, "values": values, "beta": beta,
                "lam": lam}  # fmt: skip

    fixed = {
        "reward": 3.0, "log_pi": torch.tensor([-1.0, -0.5, -2.0], dtype=torch.float64),
        "log_ref": torch.tensor([-1.5, -0.5, -1.0], dtype=torch.float64),
        "values": torch.tensor([1.0, 2.0, 2.5], dtype=torch.float64), "beta": 0.5, "lam": 0.5,
    }  # fmt: skip
    one = {name: fixed[name][:1] for name in ("log_pi", "log_ref", "values")}
    return [
        fixed,
        Limit("the text is one token", fixed | one),
        case(4, 0.1, 0.95),
        Limit("λ is 1", case(5, 0.5, 1.0)),
        Limit("λ is 0", case(6, 1.0, 0.0)),
    ]


def _earned(reward, log_pi, log_ref, beta) -> Tensor:
    inside = torch.ones_like(log_pi, dtype=torch.bool)
    return kl_penalty(torch.tensor(reward, dtype=torch.float64), log_pi, log_ref, inside, beta)  # (T,)


def _summed(delta: Tensor, lam: float) -> Tensor:
    advantages, later = [], torch.zeros((), dtype=delta.dtype)
    for surprise in delta.flip(0):
        later = surprise + lam * later
        advantages.append(later)
    return torch.stack(advantages[::-1])


def _next(values: Tensor) -> Tensor:
    return torch.cat([values[1:], values.new_zeros(1)])  # V after each token, 0 after the end


@exercise(
    cases=_texts,
    points=3,
    where="The maths, II: PPO",
    hint="first what each token earns: -β (log π - log π_ref), the last one the reward too. Then δ_t = r_t + V_{t+1} - "
    "V_t with V = 0 after the end. Then from the last token backwards: A_t = δ_t + λ A_{t+1}.",
)
def token_advantages(reward, log_pi, log_ref, values, beta, lam):
    """Generalised advantages of the tokens of one text, with a price of KL for each token."""
    earned = _earned(reward, log_pi, log_ref, beta)
    return gae(earned, values, torch.ones_like(values, dtype=torch.bool), lam=lam)


@token_advantages.mutant(
    "every token gets the reward in yours. It is for the whole text: the last token gets it, once."
)
def reward_everywhere(reward, log_pi, log_ref, values, beta, lam):
    earned = reward - beta * (log_pi - log_ref)
    return _summed(earned + _next(values) - values, lam)


@token_advantages.mutant("the price of KL has the wrong sign: a token likelier than under π_ref pays, it is not paid.")
def price_turned(reward, log_pi, log_ref, values, beta, lam):
    return _summed(_earned(reward, log_pi, log_ref, -beta) + _next(values) - values, lam)


@token_advantages.mutant(
    "after the last token V is 0: nothing is to come any more. You use the last value there again."
)
def value_after_the_end(reward, log_pi, log_ref, values, beta, lam):
    after = torch.cat([values[1:], values[-1:]])
    return _summed(_earned(reward, log_pi, log_ref, beta) + after - values, lam)


@token_advantages.mutant(
    "V_{t+1} is missing: a surprise is what came *and what is now expected*, minus what was expected."
)
def no_next_value(reward, log_pi, log_ref, values, beta, lam):
    return _summed(_earned(reward, log_pi, log_ref, beta) - values, lam)


@token_advantages.mutant(
    "you add up the surprises of earlier tokens. A token answers for what comes after it: go backwards."
)
def forwards(reward, log_pi, log_ref, values, beta, lam):
    delta = _earned(reward, log_pi, log_ref, beta) + _next(values) - values
    return _summed(delta.flip(0), lam).flip(0)


@token_advantages.mutant("the reward is missing: the last token earns it, besides its price of KL.")
def no_reward(reward, log_pi, log_ref, values, beta, lam):
    return _summed(_earned(0.0, log_pi, log_ref, beta) + _next(values) - values, lam)


@token_advantages.mutant("the reward goes to the first token in yours: it comes when the text is finished.")
def reward_first(reward, log_pi, log_ref, values, beta, lam):
    earned = -beta * (log_pi - log_ref)
    earned[0] += reward
    return _summed(earned + _next(values) - values, lam)


@token_advantages.mutant("the price of KL is missing: each token earns -β (log π - log π_ref).")
def no_price(reward, log_pi, log_ref, values, beta, lam):
    return _summed(_earned(reward, log_pi, log_ref, 0.0) + _next(values) - values, lam)


@token_advantages.mutant(
    "these are the surprises δ. Each token is also answerable for those that follow, λ for each step."
)
def surprises(reward, log_pi, log_ref, values, beta, lam):
    return _summed(_earned(reward, log_pi, log_ref, beta) + _next(values) - values, 0.0)


@token_advantages.mutant("these are the targets of V, advantage plus V: the advantages alone are asked.")
def targets(reward, log_pi, log_ref, values, beta, lam):
    return token_advantages.reference(reward, log_pi, log_ref, values, beta, lam) + values


@token_advantages.mutant("λ has no effect in yours: a later surprise counts λ for each token in between.")
def lam_ignored(reward, log_pi, log_ref, values, beta, lam):
    return _summed(_earned(reward, log_pi, log_ref, beta) + _next(values) - values, 1.0)
