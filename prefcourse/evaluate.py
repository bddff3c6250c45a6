"""How good is a policy, and what did it cost? Every number with its 95 % interval.

    result = evaluate(policy, world)                # samples on the test prompts, next to the SFT model's
    print(result["gold_reward"], result["kl"])      # 1.93 [1.78, 2.09]   8.1 [7.7, 8.5]

Gold reward, win rate, KL, and length are means over prompts; their intervals come from the bootstrap over prompts.
What a text is worth besides its reward, `typicality` and `non_words` tell: a word salad that the reward likes is not
typical of the language, and the base model, which knows it, finds it improbable.
Is one policy better than another? `prefcourse.comparison.ab_tests`.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from numbers import Real

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.finite import counted, generator, number, numbers, same_shape, whole
from prefcourse.generate import Completion, generate
from prefcourse.logprobs import kl_k1, kl_k3, score_all, sequence_logps
from prefcourse.preferences import Row, collate_pairs, encode_prompts
from prefcourse.rewards import words
from prefcourse.worlds.world import World

RESAMPLES = 2_000
GROUP = 20  # completions whose word pairs are counted together for distinct-2
METRICS = {  # name → (heading, decimals), the lines of `table`
    "gold_reward": ("gold reward", 2),
    "win_rate": ("win rate vs sft", 3),
    "kl": ("KL to sft (nats)", 2),
    "typicality": ("nats/token under base", 2),
    "non_words": ("has a non-word", 3),
    "distinct_2": ("distinct-2", 3),
    "length": ("tokens", 1),
    "eos_rate": ("ends with EOS", 3),
}
MORE = ("kl_k3", "forward_kl", "repetition")  # measured too
# Student's t by degrees of freedom, for intervals over seeds
T975 = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), start=1))


@dataclass(frozen=True)
class Estimate:
    """A measured number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self:.2f}"

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Evaluation(Mapping):
    """What `evaluate` found: a mapping from metric to Estimate, with the samples and rewards it rests on."""

    estimates: dict[str, Estimate]
    prompts: list[str]
    completions: list[Completion]
    baseline: list[Completion]  # the reference's completions of the same prompts
    rewards: torch.Tensor  # (N,) gold reward of completions
    baseline_rewards: torch.Tensor  # (N,)
    log_ratios: torch.Tensor | None = None  # (N,) log π - log π_ref of completions, nats, whose mean is "kl"

    def __getitem__(self, metric: str) -> Estimate:
        return self.estimates[metric]

    def __iter__(self):
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)


def bootstrap(values: Sequence[float] | torch.Tensor, seed: int = 0) -> Estimate:
    """The mean of `values` (N,) with its 95 % percentile interval (Efron and Tibshirani 1993, ch. 13).

    Raises ValueError for values that are not finite, and for fewer than two: one says nothing about its spread.
    """
    values = numbers("values", values, least=2)
    return percentiles(values.mean().item(), values[resamples(len(values), seed)].mean(-1))


def resamples(count: int, seed: int) -> torch.Tensor:
    """The bootstrap's draws: numbers of `count` values, with replacement, (RESAMPLES, count)."""
    return torch.randint(whole("count", count), (RESAMPLES, count), generator=generator(seed))


def percentiles(value: float, resampled: torch.Tensor) -> Estimate:
    """`value` with the interval that holds the middle 95 % of what was found on resamples, (R,) float64."""
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = numbers("resampled", resampled).quantile(ends).tolist()
    return Estimate(number("value", value), low, high)


def over_seeds(values: Sequence[float], factors: bool = False) -> Estimate:
    """The mean of one number per seed with its 95 % interval by Student's t.

    factors: for numbers above 0 that differ by factors, such as KLs. All is computed on logarithms: the mean is the
    geometric one, and the interval stays above 0.

    All seeds together are one small sample. Raises ValueError for fewer than 2 or more than 10 values, or one that is
    not finite, or with `factors` not above 0.
    """
    values = numbers("values", values, least=0).numpy()
    if factors:
        if not (values > 0).all():
            raise ValueError(f"got {values.min():g} among the values; with factors=True allowed are numbers above 0")
        found = over_seeds(np.log(values))
        return Estimate(*(math.exp(x) for x in (found.value, found.low, found.high)))
    free = len(values) - 1
    if free not in T975:
        raise ValueError(f"got {counted(len(values), 'seed')}; allowed are 2 to 10")
    mean = float(np.mean(values))
    half = T975[free] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def points(rewards: torch.Tensor, others: torch.Tensor | float) -> torch.Tensor:
    """1 where `rewards` is above `others`, ½ for a tie, 0 below: (N,) float64. others: (N,), or one number for all.

    Raises ValueError for nan, which is neither above nor below, and for two shapes.
    """
    if isinstance(others, Real):
        rewards, others = numbers("rewards", rewards, ndim=None), number("others", others)
    else:
        rewards, others = same_shape(ndim=None, rewards=rewards, others=others)
    return (rewards > others).double() + 0.5 * (rewards == others).double()


def win_rate(rewards: torch.Tensor, others: torch.Tensor) -> Estimate:
    """How often `rewards` beats `others` on the same prompt, both (N,); a tie counts one half."""
    return bootstrap(points(rewards, others))


def sequence_kl(
    policy: PreTrainedModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str],
    completions: Sequence[Completion], batch_size: int = 128,
) -> torch.Tensor:  # fmt: skip
    """log π - log π_ref of completions that `policy` sampled at temperature 1: (N,) nats, whose mean estimates the KL.

    The estimator is k1: unbiased, single values may be negative. It covers the whole completion, EOS included.
    """
    sequences = [(ids, c.ids) for ids, c in zip(encode_prompts(prompts, tokenizer), completions, strict=True)]
    models = (policy, reference)
    return kl_k1(*(score_all(model, sequences, tokenizer.pad_token_id, batch_size=batch_size) for model in models))


@torch.no_grad()
def pair_logps(model: PreTrainedModel, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """log π of both completions of each pair, in one batch: (2, B) nats on the CPU, chosen and rejected."""
    return sequence_logps(model, collate_pairs(rows, tokenizer).to(model.device)).view(2, -1).cpu()


def repetition(text: str, n: int = 3) -> float:
    """The share of a text's word n-grams that stood in it before, 1 - different ÷ all (Welleck et al. 2020, §6).

    0 for a text of fewer than n words.
    """
    n = whole("n", n)
    words = text.lower().split()
    ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def typicality(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[tuple[list[int], list[int]]]
) -> torch.Tensor:
    """-log π_base(y | x) per token of y, (N,) nats: low for text that is typical of what `base` was trained on.

    sequences: token ids of prompt and completion; EOS, with which texts begin in pre-training, is put before them.
    """
    rows = [([tokenizer.eos_token_id, *prompt], completion) for prompt, completion in sequences]
    return -score_all(base, rows, tokenizer.pad_token_id, score=partial(sequence_logps, reduce="mean"))


def non_words(text: str, known: Container[str]) -> list[str]:
    """The words of `text`, in lower case, that are not among the `known`."""
    return [word for word in words(text) if word not in known]


def distinct_2(texts: Sequence[str]) -> Estimate:
    """Different pairs of neighbouring words ÷ all pairs, within groups of 20 texts (Li et al. 2016); mean over groups.

    The share falls as a group grows, so groups have a fixed size; texts left over are not used.
    """
    shares = []
    for start in range(0, len(texts) - GROUP + 1, GROUP):
        words = [text.lower().split() for text in texts[start : start + GROUP]]
        pairs = [pair for row in words for pair in pairwise(row)]
        shares.append(len(set(pairs)) / max(len(pairs), 1))
    if len(shares) < 2:
        raise ValueError(f"distinct_2 needs at least {2 * GROUP} texts, got {len(texts)}")
    return bootstrap(shares)


def evaluate(
    policy: PreTrainedModel, world: World, *, reference: PreTrainedModel | None = None, split: str = "test",
    prompts: Sequence[str] | None = None, baseline: Sequence[Completion] | None = None, seed: int = 0,
    max_new_tokens: int = 48,
) -> Evaluation:  # fmt: skip
    """Sample at temperature 1 from `policy` and from `reference` (by default world.sft), and compare.

    typicality: nats per token of the completions under world.base. non_words: the share of reviews with a word outside
    world.words; left out in a world without that list. Besides METRICS: kl_k3, the same KL by the estimator that is
    never negative (with a heavy tail: see lesson 02); forward_kl, KL(π_ref ‖ π) on the reference's samples, in nats:
    what the policy has forgotten; repetition, the share of word triples that stood in the same text before.
    prompts: by default those of `split`. baseline: the reference's completions from an earlier call, to save time.
    The two models draw different random numbers, so that a policy equal to its reference wins about half the time.
    """
    reference = world.sft if reference is None else reference
    prompts = [row["prompt"] for row in world.prompts[split]] if prompts is None else list(prompts)
    settings = {"max_new_tokens": max_new_tokens}
    completions = generate(policy, world.tokenizer, prompts, seed=2 * seed + 1, **settings)
    if baseline is None:
        baseline = generate(reference, world.tokenizer, prompts, seed=2 * seed, **settings)
    rewards, others = (world.gold(prompts, [c.text for c in side]) for side in (completions, baseline))
    log_ratios = sequence_kl(policy, reference, world.tokenizer, prompts, completions)  # (N,)
    forgotten = sequence_kl(reference, policy, world.tokenizer, prompts, baseline)  # (N,)
    texts = [p + c.text for p, c in zip(prompts, completions, strict=True)]
    sequences = [(ids, c.ids) for ids, c in zip(encode_prompts(prompts, world.tokenizer), completions, strict=True)]
    estimates = {
        "gold_reward": bootstrap(rewards),
        "win_rate": win_rate(rewards, others),
        "kl": bootstrap(log_ratios),
        "typicality": bootstrap(typicality(world.base, world.tokenizer, sequences)),
        "non_words": bootstrap([float(bool(non_words(text, world.words or ()))) for text in texts]),
        "distinct_2": distinct_2(texts),
        "length": bootstrap([float(len(c.ids)) for c in completions]),
        "eos_rate": bootstrap([float(c.finished) for c in completions]),
        "kl_k3": bootstrap(kl_k3(log_ratios, torch.zeros_like(log_ratios))),
        "forward_kl": bootstrap(forgotten),
        "repetition": bootstrap([repetition(text) for text in texts]),
    }
    if world.words is None:
        del estimates["non_words"]
    return Evaluation(estimates, prompts, completions, list(baseline), rewards, others, log_ratios)


def table(results: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A plain-text table: one line per metric that all have, one column per policy, each value with its interval."""
    names = list(results)
    lines = [["", *names]]
    for metric, (heading, decimals) in METRICS.items():
        if not all(metric in found for found in results.values()):
            continue
        lines.append([heading, *(f"{results[name][metric]:.{decimals}f}" for name in names)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "-" * (sum(widths) + 2 * len(names)), *rows[1:]])
