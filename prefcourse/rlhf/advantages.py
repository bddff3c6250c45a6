"""The small functions that RLOO, GRPO and PPO are made of: pure, and the same for a language model and for a table.

Sampled responses come in groups: rewards (..., K) belong to K completions of one prompt. Tokens lie on the last axis:
(..., T), and a mask says which of them belong to the completion. Rewards and log-probabilities are in nats.

RLOO and PPO climb J(π) = E_π[r] - β KL(π‖π_ref) by the score function: the mean of A ∇log π(y|x) over samples y from π
is the gradient of J if A is r - β log π/π_ref minus anything that does not depend on y (Williams 1992). What differs is
what they subtract. `policy_gradient` uses them on language models, `table_gradients` on tables.
"""

import torch
from torch import Tensor

# ------------------------------------------------------------------ one number per completion


def rloo_advantages(rewards: Tensor) -> Tensor:
    """A_i = r_i - the mean of the other K - 1 rewards of the same prompt, (..., K) → (..., K).

    "REINFORCE leave-one-out" (Kool et al. 2019; Ahmadian et al. 2024, §3.2). The baseline of sample i does not depend
    on sample i, so the gradient stays unbiased. Raises ValueError for K < 2: then there are no others.
    """
    k = _group_size(rewards, "RLOO")
    return (rewards - rewards.mean(-1, keepdim=True)) * k / (k - 1)  # the same number, without a loop


def grpo_advantages(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """A_i = (r_i - mean) / (standard deviation + eps) of the prompt's K rewards, (..., K). Shao et al. 2024, §4.1.2.

    Dividing by each prompt's own spread gives all prompts the same say: it is no longer the gradient of J. The
    deviation has K - 1 in its denominator. Raises ValueError for K < 2.
    """
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
    """
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
    ratio = (logps - old_logps).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages)


def adapt_coefficient(beta: float, kl: float, target: float, speed: float = 0.1) -> float:
    """The next β: up to 2 % more if the measured KL is above `target`, less if below (Ziegler et al. 2019, §2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + speed * error)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over entries whose mask is True: a scalar."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values with mean 0 and variance 1 over the mask, 0 outside it: then one step size fits rewards of any scale."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * (variance + 1e-8).rsqrt() * mask
