"""The small functions that RLOO, GRPO and PPO are made of: pure, and the same for a language model and for a table.

Sampled responses come in groups: rewards (..., K) belong to K completions of one prompt. Tokens lie on the last axis:
(..., T), and a mask says which of them belong to the completion. Rewards and log-probabilities are in nats.

RLOO and PPO climb J(π) = E_π[r] - β KL(π‖π_ref) by the score function: the mean of A ∇log π(y|x) over samples y from π
is the gradient of J if A is r - β log π/π_ref minus anything that does not depend on y (Williams 1992). What differs is
what they subtract. `policy_gradient` uses them on language models, `table_gradients` on tables.

All raise ValueError for tensors that do not fit together, and for nan and infinity; the training loops, which look at
their loss themselves, leave out the look at the values (`loss_inputs.trusted`).
"""

import torch
from torch import Tensor

from prefcourse.finite import mask_like, number, together
from prefcourse.loss_inputs import looking

FARTHEST = 30.0  # nats: the square of a ratio of e^30 is still finite in float32

# ------------------------------------------------------------------ one number per completion


def rloo_advantages(rewards: Tensor) -> Tensor:
    """A_i = r_i - the mean of the other K - 1 rewards of the same prompt, (..., K) → (..., K).

    "REINFORCE leave-one-out" (Kool et al. 2019; Ahmadian et al. 2024). The baseline of sample i does not depend
    on sample i, so the gradient stays unbiased. Raises ValueError for K < 2: then there are no others.
    """
    [rewards] = together(rewards=rewards)
    k = _group_size(rewards, "RLOO")
    return (rewards - rewards.mean(-1, keepdim=True)) * k / (k - 1)  # the same number, without a loop


def grpo_advantages(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """A_i = (r_i - mean) / (standard deviation + eps) of the prompt's K rewards, (..., K). Shao et al. 2024, §4.1.2.

    Dividing by each prompt's own spread gives all prompts the same say: it is no longer the gradient of J. The
    deviation has K - 1 in its denominator. Raises ValueError for K < 2, and for eps that is not above 0: the deviation
    of a group of equal rewards is 0.
    """
    [rewards], eps = together(rewards=rewards), number("eps", eps, above=0)
    _group_size(rewards, "GRPO")
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + eps)


def _group_size(rewards: Tensor, name: str) -> int:
    k = rewards.shape[-1] if rewards.ndim else 0
    if k < 2:
        raise ValueError(f"{name} compares completions of one prompt and got k = {k} of them; allowed is k >= 2")
    return k


# ------------------------------------------------------------------ one number per token


def kl_penalty(rewards: Tensor, policy_logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """What each token earns: -β (log π - log π_ref), and the last one the reward too. Ziegler et al. 2019, Eq. 2.

    rewards: (...,); the rest (..., T). Returns (..., T), 0 outside the mask; a row sums to r - β log π(y|x)/π_ref(y|x).
    Detached: as part of the reward, the penalty weighs ∇log π, and is not differentiated itself (lesson 02).
    Raises ValueError for a row without a completion token, which has no place for its reward.
    """
    policy_logps, reference_logps = together(policy_logps=policy_logps, reference_logps=reference_logps)
    [rewards], mask, beta = together(rewards=rewards), mask_like(mask, policy_logps), number("beta", beta, least=0)
    if rewards.shape != mask.shape[:-1]:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; allowed is {tuple(mask.shape[:-1])}, one a row")
    if looking() and not bool(mask.any(-1).all()):
        raise ValueError("mask has a row without a token; allowed is at least one, where the reward is paid")
    paid = -beta * (policy_logps - reference_logps).detach() * mask
    place = torch.arange(mask.shape[-1], device=mask.device)
    last = (place * mask).amax(-1, keepdim=True)  # (..., 1), the position of the last completion token
    return paid + rewards[..., None].to(paid.dtype) * (place == last)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Generalised advantage estimates of tokens, (..., T). Schulman et al. 2016, Eq. 16; 0 outside the mask.

        A_t = δ_t + γ λ A_{t+1},     δ_t = r_t + γ V_{t+1} - V_t,     V = A = 0 after the last token.

    values: V_t, the return expected before token t is drawn. λ = 1 trusts the rewards alone (the rest of the return
    minus V_t: unbiased), λ = 0 the value function alone (δ_t: little variance, as wrong as V). A + V is the return to
    fit V to. The masked tokens of a row must be consecutive.
    """
    rewards, values = together(rewards=rewards, values=values)
    mask, gamma, lam = (
        mask_like(mask, values),
        number("gamma", gamma, least=0, most=1),
        number("lam", lam, least=0, most=1),
    )
    if not values.ndim or not values.shape[-1]:
        raise ValueError(f"values has shape {tuple(values.shape)}; allowed is (..., T) with one token or more")
    if looking() and bool(((mask[..., 1:] & ~mask[..., :-1]).sum(-1) + mask[..., 0] > 1).any()):
        raise ValueError("mask has a row with a gap; allowed are completion tokens that follow each other")
    after = value_after = torch.zeros_like(values[..., 0])  # A and V of the next token
    steps = []
    for t in reversed(range(values.shape[-1])):
        delta = rewards[..., t] + gamma * value_after - values[..., t]
        after = (delta + gamma * lam * after) * mask[..., t]
        value_after = values[..., t] * mask[..., t]
        steps.append(after)
    return torch.stack(steps[::-1], -1)


def ppo_clip_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, eps: float = 0.2) -> Tensor:
    """-min(ρ A, clip(ρ, 1 - ε, 1 + ε) A), ρ = π/π_old: one loss for each entry, any shape. Schulman et al. 2017, Eq. 7.

    At ρ = 1 its gradient is -A ∇log π, the policy gradient. Once ρ has left the band in the direction that A asks for,
    the gradient is 0: samples may be used for several steps without running away from the policy that drew them.
    """
    logps, old_logps, advantages = together(logps=logps, old_logps=old_logps, advantages=advantages)
    eps = number("eps", eps, above=0)  # a very large one is no clip
    if looking() and not bool((logps - old_logps <= FARTHEST).all()):
        raise ValueError(f"logps lie more than {FARTHEST:g} nats above old_logps; π/π_old is beyond all use there")
    ratio = (logps - old_logps).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages)


def adapt_coefficient(beta: float, kl: float, target: float, speed: float = 0.1) -> float:
    """The next β: up to 2 % more if the measured KL is above `target`, less if below (Ziegler et al. 2019, §2.2)."""
    beta, kl, target = number("beta", beta, least=0), number("kl", kl), number("target", target, above=0)
    speed = number("speed", speed, least=0, most=1)
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + speed * error)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over entries whose mask is True: a scalar. Raises ValueError if there is none."""
    [values] = together(values=values)
    mask = mask_like(mask, values)
    if looking() and not bool(mask.any()):
        raise ValueError("mask is False everywhere; allowed is one with at least one entry to take the mean of")
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values with mean 0 and variance 1 over the mask, 0 outside it: then one step size fits rewards of any scale."""
    [values] = together(values=values)
    mask = mask_like(mask, values)
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * (variance + 1e-8).rsqrt() * mask
