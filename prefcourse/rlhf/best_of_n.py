"""Best-of-n: sample n completions, keep the one with the highest reward. No training, and a hard baseline to beat.

    best = best_of_n(world.sft, world.gold, prompts, world.tokenizer, n=16)     # completions
    best_of_n_kl(16)                                                           # 1.835 nats at most

Its KL has a bound that depends on n alone, so a whole curve of reward against KL costs one pool of samples:

    pool, rewards = sample_pool(world.sft, world.gold, prompts, world.tokenizer, n=64)    # rewards (B, 64)
    [(best_of_n_kl(n), expected_best(rewards, n).mean()) for n in (1, 2, 4, 8, 16, 32, 64)]
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.evaluate import Estimate, bootstrap
from prefcourse.finite import together, whole
from prefcourse.generate import Completion, generate
from prefcourse.rlhf.rollouts import Reward, score
from prefcourse.tabular import _check
from prefcourse.worlds.world import World


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1)/n, in nats: KL(best-of-n ‖ π_ref) is at most this (Beirami et al. 2024).

    Stiennon et al. 2020, App. G.3, give it as the KL. That holds only in the limit of many responses, each of small
    probability and no two with the same reward. With few responses or ties the bound can be far too high (§3): see
    `best_of_n_policy`.
    """
    n = whole("n", n)
    return math.log(n) - (n - 1) / n


def best_of_n_policy(reference: Tensor, reward: Tensor, n: int) -> Tensor:
    """The exact distribution of the best of n responses on a table, (X, Y); among equal rewards, the first drawn.

    The best is at most as good as y exactly if all n are: P(best ≤ r) = F(r)^n, with F the reference's distribution of
    rewards. Responses of the same reward share their level's probability as the reference does.
    """
    _check(reference, reward=reward)
    n = whole("n", n)
    below = (reference[:, None, :] * (reward[:, None, :] < reward[:, :, None])).sum(-1)  # (X, Y)
    level = (reference[:, None, :] * (reward[:, None, :] == reward[:, :, None])).sum(-1)  # (X, Y)
    best = ((below + level) ** n - below**n) * reference / level.where(level > 0, 1.0)
    return best / best.sum(-1, keepdim=True)  # sums to 1 but for rounding


def expected_best(rewards: Tensor, n: int, by: Tensor | None = None) -> Tensor:
    """The mean reward of the best of n, over all ways to pick n of the N in each row: (..., N) → (...,).

    An unbiased estimate of best-of-n's reward for every n up to N from the same samples (Nakano et al. 2021):
    of all C(N, n) picks, the i-th smallest is the best in C(i - 1, n - 1). by: which is the best, (..., N), where
    another reward decides than the one we ask for. Raises ValueError for n outside 1..N, and unless all are finite.
    """
    rewards, by = together(rewards=rewards, by=rewards if by is None else by)
    if not rewards.ndim or not rewards.shape[-1]:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; allowed is (..., N) with one reward or more")
    N = rewards.shape[-1]
    n = whole("n", n, 1, N)
    share = [math.comb(i, n - 1) / math.comb(N, n) for i in range(N)]  # i of the others are smaller
    upwards = rewards.gather(-1, by.argsort(-1))
    return upwards @ torch.tensor(share, dtype=rewards.dtype, device=rewards.device)


def sample_pool(
    policy: PreTrainedModel, reward: Reward, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, n: int,
    max_new_tokens: int = 48, seed: int = 0, batch_size: int = 256,
) -> tuple[list[list[Completion]], Tensor]:  # fmt: skip
    """n completions of each of B prompts, and their rewards (B, n). A completion without EOS is scored as it stands.

    Raises ValueError for n < 1, or if the reward function does not return one finite number for each completion.
    """
    n = whole("n", n)
    asked = [prompt for prompt in prompts for _ in range(n)]
    found = generate(policy, tokenizer, asked, max_new_tokens=max_new_tokens, seed=seed, batch_size=batch_size)
    rewards = score(reward, asked, [c.text for c in found], where="best of n")
    return [found[i : i + n] for i in range(0, len(found), n)], rewards.view(-1, n)


def best_of_n(
    policy: PreTrainedModel, reward: Reward, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, n: int,
    max_new_tokens: int = 48, seed: int = 0, batch_size: int = 256,
) -> list[Completion]:  # fmt: skip
    """For each prompt, the one of n sampled completions with the highest reward; of equals, the first."""
    settings = {"max_new_tokens": max_new_tokens, "seed": seed, "batch_size": batch_size}
    pool, rewards = sample_pool(policy, reward, prompts, tokenizer, n=n, **settings)
    return [row[i] for row, i in zip(pool, rewards.argmax(-1).tolist(), strict=True)]


def best_of_n_path(
    world: World, reward: Reward, prompts: Sequence[str], *, n: int, seed: int = 0
) -> tuple[dict[str, Estimate], list[dict[str, float]]]:
    """The true reward of what `reward` likes best among 1, 2, 4, … n completions by SFT, from one pool of samples.

    Returns gold_reward and kl at n, and a point for each number of samples: n, gold and gain over n = 1 in nats, and
    kl, which is the bound; all to four decimals. Raises what `sample_pool` raises.
    """
    n = whole("n", n)
    pool, rewards = sample_pool(world.sft, reward, prompts, world.tokenizer, n=n, seed=seed)  # (B, n)
    asked = [prompt for prompt in prompts for _ in range(n)]
    gold = world.gold(asked, [c.text for row in pool for c in row]).view(rewards.shape).double()
    path: list[dict[str, float]] = []
    for few in (2**i for i in range(n.bit_length())):
        best = bootstrap(expected_best(gold, few, by=rewards))
        first = path[0]["gold"] if path else best.value
        point = {"n": few, "gold": best.value, "kl": best_of_n_kl(few), "gain": best.value - first}
        path.append({name: round(value, 4) for name, value in point.items()})
    bound = best_of_n_kl(few)
    return {"gold_reward": best, "kl": Estimate(bound, bound, bound)}, path
