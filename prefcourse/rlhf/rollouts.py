"""What RLOO and PPO share around their formulas: sample and score completions, read log-probabilities, step safely.

    seen = rollout(policy, world.gold, prompts, world.tokenizer, seed=0)
    seen.rewards.mean(), seen.texts[0]

`reward(prompts, completions) -> (N,)` is any function of texts: `GoldReward`, a learned reward model, or your own.
A completion that reaches `max_new_tokens` without EOS is scored as the text it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.finite import number, whole
from prefcourse.generate import generate
from prefcourse.loss_inputs import trusted
from prefcourse.preferences import Batch, collate, encode_prompts
from prefcourse.rlhf.advantages import masked_mean
from prefcourse.train import lr_factor

Reward = Callable[[list[str], list[str]], Tensor]


@dataclass(frozen=True)
class Rollout:
    """N completions sampled from a policy, with what they earned."""

    batch: Batch  # prompts and completions, (N, T)
    rewards: Tensor  # (N,) what the reward function said, in its own units
    finished: Tensor  # (N,) bool, whether EOS came
    texts: list[str]

    @property
    def mask(self) -> Tensor:
        """(N, T - 1) bool: which entries of `token_logps` belong to the completion."""
        return self.batch.completion_mask[:, 1:]


def rollout(
    policy: PreTrainedModel, reward: Reward, prompts: list[str], tokenizer: PreTrainedTokenizerBase, *,
    max_new_tokens: int = 48, seed: int = 0, step: int = 0,
) -> Rollout:  # fmt: skip
    """Sample one completion at temperature 1 for each prompt and score it.

    Raises ValueError if the reward function does not return one finite number for each; `step` is for that message.
    """
    completions = generate(policy, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed)
    texts = [c.text for c in completions]
    rewards = score(reward, prompts, texts, where=f"step {step}").to(policy.device)
    ids = [(start, c.ids) for start, c in zip(encode_prompts(prompts, tokenizer), completions, strict=True)]
    finished = torch.tensor([c.finished for c in completions], device=policy.device)
    return Rollout(collate(ids, tokenizer.pad_token_id).to(policy.device), rewards, finished, texts)


def score(reward: Reward, prompts: list[str], texts: list[str], where: str = "reward") -> Tensor:
    """reward(prompts, texts), (N,) float32, or a ValueError that says which completion has no finite number."""
    rewards = torch.as_tensor(reward(prompts, texts)).detach().float()
    if rewards.shape != (len(prompts),):
        raise ValueError(
            f"{where}: reward(prompts, completions) returned shape {tuple(rewards.shape)} for {len(prompts)} "
            f"completions; allowed is one number for each, ({len(prompts)},)"
        )
    if not rewards.isfinite().all():
        i = int((~rewards.isfinite()).nonzero()[0])
        raise ValueError(
            f"{where}: the reward of completion {i} is {rewards[i].item()}; allowed are finite numbers. "
            f"Its prompt is {prompts[i]!r:.80}, its text {texts[i]!r:.80}"
        )
    return rewards


def describe(seen: Rollout, logps: Tensor, kl: Tensor, beta: float) -> dict[str, float]:
    """The columns of a history that depend on the samples alone; logps (N, T - 1), kl: log π/π_ref of each, (N,)."""
    with trusted():  # a broken policy stops the run at its loss, where the message says what to do
        entropy = -masked_mean(logps.detach(), seen.mask).item()  # of the next token, by its samples
    return {
        "reward": seen.rewards.mean().item(),
        "kl": kl.mean().item(),
        "kl_coefficient": beta,
        "length": seen.batch.lengths.float().mean().item(),
        "eos_rate": seen.finished.float().mean().item(),
        "entropy": entropy,
    }


def update(optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float, step: int) -> float:
    """One optimiser step on `loss`; returns the gradient's norm before clipping.

    Raises FloatingPointError, before anything is changed, if the loss or the gradient is not finite.
    """
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    for what, value in (("loss", loss), ("gradient's norm", norm)):
        if not value.isfinite():
            raise FloatingPointError(
                f"step {step}: the {what} is {value.item()}. The policy as it is now is from before this step. "
                "Start again with a lower lr, and look at the rewards: are some of them huge?"
            )
    optimizer.step()
    return norm.item()


def draw_seed(seed: int, step: int) -> int:
    """The sampler's seed at a step of a run: runs and steps draw different numbers, and not those of `evaluate`."""
    return 100_000 * (seed + 1) + step


def check_run(
    policy: PreTrainedModel, reference: PreTrainedModel | None, prompts: Sequence[str], beta: float, steps: int,
    batch_size: int, lr: float, warmup: float, schedule: str, max_grad_norm: float, max_kl: float,
    missing_eos_penalty: float,
) -> None:  # fmt: skip
    """Refuse arguments that cannot work, before the first sample. Raises ValueError that says what is allowed."""
    if reference is policy:
        raise ValueError("reference is the policy itself, so the KL would stay 0; give a copy, or None to make one")
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"prompts is {prompts!r:.80}; allowed is a list of at least one text")
    number("beta", beta, least=0)
    whole("steps", steps), whole("batch_size", batch_size), number("lr", lr, above=0)
    number("max_grad_norm", max_grad_norm, above=0, most=math.inf)
    number("max_kl", max_kl, above=0, most=math.inf)
    number("missing_eos_penalty", missing_eos_penalty)
    lr_factor(0, steps, warmup, schedule)  # an unknown schedule is an error now, not after the warm-up
