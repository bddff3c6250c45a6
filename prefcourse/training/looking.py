"""What a run looks at on the way: numbers of the caller's, and what the policy writes, with its KL."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.finite import counted
from prefcourse.generate import Completion, generate
from prefcourse.preferences import Row, encode_prompts
from prefcourse.training import lora
from prefcourse.training.history import sample_metrics
from prefcourse.training.scoring import Forward, Scoring

AT_ONCE = 64  # completions scored at a time
MANY = 64  # prompts taken from the data for max_kl without prompts


def looking_at(
    prompts: Sequence[str], data: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_kl: float | None, room: float
) -> list[str]:
    """The prompts to complete: those given, or, if a KL is to be watched, some of the data's; else none.

    room: tokens that a prompt may have. Raises ValueError for a longer one that was given.
    """
    if not prompts and max_kl is not None:
        return fitting(dict.fromkeys(row["prompt"] for row in data), tokenizer, room)[:MANY]
    for i, ids in enumerate(encode_prompts(prompts, tokenizer)):
        if len(ids) > room:
            raise ValueError(
                f"prompts: prompt {i} (from 0) has {counted(len(ids), 'token')}, and to complete it this model takes "
                f"{max(room, 0):g}. Leave it out, or take fewer sample_tokens."
            )
    return list(prompts)


def fitting(prompts: Iterable[str], tokenizer: PreTrainedTokenizerBase, room: float) -> list[str]:
    """Those of `prompts` that have at most `room` tokens."""
    prompts = list(prompts)
    return [text for text, ids in zip(prompts, encode_prompts(prompts, tokenizer), strict=True) if len(ids) <= room]


class Looking:
    """Looks at the policy every `every` steps, in the first process only; `train` says what the arguments are.

    by_reference: scores with the reference, where that is a model and not a file of log-probs; set when it is known.
    """

    def __init__(
        self, scoring: Scoring, tokenizer: PreTrainedTokenizerBase, *,
        measure: Callable[[PreTrainedModel], dict[str, float]] | None, every: int, prompts: Sequence[str],
        on_samples: Callable[[int, list[Completion]], None] | None, max_kl: float | None, seed: int,
        sample_tokens: int = 48,
    ):  # fmt: skip
        self.scoring, self.tokenizer, self.measure, self.every = scoring, tokenizer, measure, every
        self.prompts, self.on_samples, self.max_kl, self.seed = prompts, on_samples, max_kl, seed
        self.sample_tokens = sample_tokens
        self.by_reference: Forward | None = None

    @property
    def wanted(self) -> bool:
        """Is there anything to look at?"""
        return bool(self.measure or self.prompts)

    def before(self, step: int) -> dict[str, float]:
        """The numbers before `step`, if it is one at which we look. All processes must call this together."""
        return self.now(step) if step % self.every == 0 else {}

    def now(self, step: int) -> dict[str, float]:
        """The numbers, whatever the step is. All processes must call this together."""
        if not self.wanted:
            return {}
        with self.scoring.devices.gathered(self.scoring.model, self.scoring.scorer):
            return self.scoring.devices.from_main(partial(self._look, step))

    def too_far(self, seen: dict[str, float]) -> bool:
        """Has the KL left the budget?"""
        return self.max_kl is not None and seen.get("kl", 0.0) > self.max_kl

    def _look(self, step: int) -> dict[str, float]:
        found = dict(self.measure(self.scoring.policy)) if self.measure else {}
        if self.prompts:
            policy = lora.plain(self.scoring.policy)
            completions = generate(
                policy, self.tokenizer, self.prompts, seed=self.seed, max_new_tokens=self.sample_tokens
            )  # fmt: skip
            found |= sample_metrics(completions, self._kl(completions) if self.by_reference else None)
            if self.on_samples:
                self.on_samples(step, completions)
        return found

    def _kl(self, completions: Sequence[Completion]) -> torch.Tensor:
        """log π/π_ref of each completion, (N,) nats on the CPU: its mean estimates the KL."""
        prompts = encode_prompts(self.prompts, self.tokenizer)
        groups = [((ids, c.ids),) for ids, c in zip(prompts, completions, strict=True)]
        parts = [groups[k : k + AT_ONCE] for k in range(0, len(groups), AT_ONCE)]
        score = self.scoring.frozen_logps
        pairs = [(score(part, self.scoring.by_policy).cpu(), score(part, self.by_reference).cpu()) for part in parts]
        return torch.cat([ours - theirs for ours, theirs in pairs])
