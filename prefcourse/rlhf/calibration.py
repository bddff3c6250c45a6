"""Is a reward model as sure as it is right? Accuracy against its ceiling, the reliability curve, ECE, and a repair.

    margins = pair_margins(reward_model, world.pairs["test"])       # (N,) Δ = r_φ(x, y_w) - r_φ(x, y_l)
    report = assess(margins, world.pairs["test"])                   # accuracy, ceiling, ece, …, with intervals
    T = fit_temperature(pair_margins(reward_model, world.pairs["validation"]))   # then reward_model.divide(T)

A pair is judged once: the model's *confidence* is σ(|Δ|), from ½ to 1, and it is *right* if Δ > 0, that is, if it
prefers the side that the label prefers (½ for Δ = 0). Calibrated means: of the pairs with confidence c, a share c is
right. Pairs of one prompt share texts, so every interval resamples prompts, with all their pairs.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.evaluate import Estimate, percentiles, points, resamples
from prefcourse.finite import counted, generator, numbers, same_shape, together, whole
from prefcourse.preferences import Row

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence."""

    confidence: float  # their mean confidence
    right: Estimate  # the share of them that is right, with its interval
    count: int


def confidence(margins: Tensor) -> Tensor:
    """σ(|Δ|), the probability that the model gives to the side it prefers: (N,) → (N,). Raises ValueError for nan."""
    [margins] = together(margins=margins)
    return margins.abs().sigmoid()


def rightness(margins: Tensor, probability: Tensor | None = None) -> Tensor:
    """Whether the model prefers the side that the label prefers, (N,): 1, 0, or ½ at Δ = 0.

    With `probability`, (N,), the true probability of each label, it is the chance of that over all labels that might
    have been drawn: the same mean with less noise, where the truth is known.
    """
    first = points(margins, 0.0)
    if probability is None:
        return first
    first, probability = same_shape(margins=first, probability=numbers("probability", probability, low=0, high=1))
    return first * probability + (1 - first) * (1 - probability)


def ece(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Expected calibration error Σ_b n_b/N |mean right - mean confidence|, over bins of equal size.

    Guo et al. 2017, Sec. 2, with bins of equal width; of equal size, none is nearly empty (Nixon et al. 2019).
    Noise alone makes it positive: compare with `ece_of_noise`. Raises ValueError for fewer pairs than bins.
    """
    confidence, right = _fractions(confidence=confidence, right=right)
    parts = _bins(confidence, bins)
    gaps = [abs((right[rows].mean() - confidence[rows].mean()).item()) * len(rows) for rows in parts]
    return sum(gaps) / len(confidence)


def ece_of_noise(confidence: Tensor, bins: int = BINS, seed: int = 0) -> Estimate:
    """The ECE that a perfectly calibrated model shows on as many labels: its mean and central 95 % over 200 draws."""
    [confidence] = _fractions(confidence=confidence)
    parts = _bins(confidence, bins)
    chance = confidence.expand(200, -1)
    right = (torch.rand(chance.shape, generator=generator(seed), dtype=torch.float64) < chance).double()  # (200, N)
    gaps = sum(len(rows) * (right[:, rows].mean(-1) - confidence[rows].mean()).abs() for rows in parts)
    found = gaps / len(confidence)
    return percentiles(found.mean().item(), found)


def reliability(
    margins: Tensor, prompts: Sequence[Hashable], bins: int = BINS, probability: Tensor | None = None
) -> list[Bin]:
    """The reliability curve: for each of `bins` groups of equal size, mean confidence and the share that is right."""
    margins = numbers("margins", margins)
    if len(prompts) != len(margins):
        had = f"{counted(len(margins), 'margin')} and {counted(len(prompts), 'prompt')}"
        raise ValueError(f"got {had}; give one for each")
    sure, right = confidence(margins), rightness(margins, probability)
    found = []
    for rows in _bins(sure, bins):
        share = by_prompt(right[rows], [prompts[i] for i in rows.tolist()])
        found.append(Bin(sure[rows].mean().item(), share, len(rows)))
    return found


def assess(margins: Tensor, pairs: Sequence[Row], bins: int = BINS) -> dict[str, Estimate]:
    """How good the margins Δ, (N,), are on `pairs`: each number with its 95 % interval, prompts resampled.

    accuracy: agreement with the labels; nll: mean -log σ(Δ), nats a pair (ln 2 = .693 knows nothing); confidence: its
    mean; ece. For pairs with chosen_score and rejected_score also ceiling: the expected accuracy of the true
    reward, mean max(p, 1-p) with p = σ(r*_w - r*_l), exact; gold_order: agreement with the order of r* (ties left out);
    and ece_gold: ECE with the chance of being right in place of the drawn label. Where the true reward of all pairs is
    a tie there is no gold_order.
    Raises ValueError if the numbers of margins and pairs differ, or a margin or a score is not finite.
    """
    margins = numbers("margins", margins)
    if len(margins) != len(pairs):
        had = f"{counted(len(margins), 'margin')} for {counted(len(pairs), 'pair')}"
        raise ValueError(f"got {had}; allowed is one for each")
    prompts = [row["prompt"] for row in pairs]
    sure, right = confidence(margins), rightness(margins)
    found = {
        "accuracy": by_prompt(right, prompts),
        "nll": by_prompt(-logsigmoid(margins), prompts),
        "confidence": by_prompt(sure, prompts),
        "ece": _ece_by_prompt(sure, right, prompts, bins),
    }
    if all("chosen_score" in row and "rejected_score" in row for row in pairs):
        scores = {name: numbers(name, [row[name] for row in pairs]) for name in ("chosen_score", "rejected_score")}
        gold = scores["chosen_score"] - scores["rejected_score"]
        decided = gold != 0
        same = rightness(margins * gold.sign())[decided]
        found["ceiling"] = by_prompt(confidence(gold), prompts)
        if len(same):
            found["gold_order"] = by_prompt(same, [x for x, d in zip(prompts, decided.tolist(), strict=True) if d])
        found["ece_gold"] = _ece_by_prompt(sure, rightness(margins, gold.sigmoid()), prompts, bins)
    return found


def fit_temperature(margins: Tensor) -> float:
    """The T > 0 that minimises the mean of -log σ(Δ/T) on held-out margins, (N,). Guo et al. 2017, Sec. 4.2.

    One parameter, and no order changes: dividing all rewards by T repairs how sure the model is, not what it prefers.
    Raises ValueError if there is no such T: the model is right about no more than chance, or about every pair.
    """
    margins = numbers("margins", margins)
    if not margins.mean() > 0:
        raise ValueError(
            f"the mean margin is {margins.mean():.3g}, so these rewards say nothing, or the reverse, about the labels: "
            "no temperature repairs that. Are chosen and rejected exchanged?"
        )
    if bool((margins >= 0).all()):
        raise ValueError(
            "no margin is below 0: the sharper the better, without end. Use more pairs, which were not trained on."
        )
    unit = margins.abs().mean().item()  # T is sought from e^-30 to e^30 of it
    margins = margins / unit
    low, high = -30.0, 30.0  # log 1/T
    for _ in range(100):  # the slope in s = 1/T is -mean Δ σ(-sΔ), which grows with s
        middle = (low + high) / 2
        slope = -(margins * (-margins * math.exp(middle)).sigmoid()).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return unit * math.exp(-(low + high) / 2)


def by_prompt(values: Tensor, prompts: Sequence[Hashable], seed: int = 0) -> Estimate:
    """The mean of `values`, (N,), with a 95 % percentile interval that resamples prompts, each with all its values.

    Raises ValueError for values that are not finite, and unless there is one prompt for each.
    """
    values = numbers("values", values)
    if len(prompts) != len(values):
        had = f"{counted(len(values), 'value')} and {counted(len(prompts), 'prompt')}"
        raise ValueError(f"got {had}; give one for each")
    sums, counts = _per_prompt(torch.stack([values, torch.ones(len(values), dtype=torch.float64)]), prompts)
    draw = resamples(len(sums), seed)
    return percentiles(values.mean().item(), sums[draw].sum(-1) / counts[draw].sum(-1))


def _ece_by_prompt(sure: Tensor, right: Tensor, prompts: Sequence[Hashable], bins: int, seed: int = 0) -> Estimate:
    """`ece`, with an interval over prompts drawn anew; the bins stay those of the whole sample."""
    parts = _bins(sure, bins)
    gaps = torch.zeros(bins, len(sure), dtype=torch.float64)
    for b, rows in enumerate(parts):
        gaps[b, rows] = right[rows].double() - sure[rows].double()
    columns = _per_prompt(torch.cat([gaps, torch.ones(1, len(sure), dtype=torch.float64)]), prompts)  # (bins + 1, P)
    draw = resamples(columns.shape[1], seed)
    drawn = torch.stack([column[draw].sum(-1) for column in columns])  # (bins + 1, RESAMPLES)
    return percentiles(gaps.sum(-1).abs().sum().item() / len(sure), drawn[:-1].abs().sum(0) / drawn[-1])


def _bins(sure: Tensor, bins: int) -> list[Tensor]:
    """Places of the pairs in order of confidence, in `bins` parts of equal size (but for a rest)."""
    bins = whole("bins", bins)
    if bins > len(sure):
        had = f"{counted(len(sure), 'pair')} for {counted(bins, 'bin')}"
        raise ValueError(f"need at least one pair a bin, got {had}")
    return list(sure.argsort(stable=True).tensor_split(bins))


def _fractions(**arrays: Tensor) -> list[Tensor]:
    """Rows of one length, float64. Raises ValueError unless all numbers lie between 0 and 1."""
    return [numbers(name, values, low=0, high=1) for name, values in zip(arrays, same_shape(**arrays), strict=True)]


def _per_prompt(columns: Tensor, prompts: Sequence[Hashable]) -> Tensor:
    """Sums over the pairs of each prompt: (k, N) → (k, P)."""
    names = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    place = torch.tensor([names[prompt] for prompt in prompts])
    return torch.zeros(len(columns), len(names), dtype=torch.float64).index_add(1, place, columns)
