"""The measurements behind `quality.report` that look at labels, each a function that returns its findings.

What looks at texts, prompts and splits is in `coverage`.

The thresholds of a verdict stand beside its measurement. They are rules of thumb, ours: the numbers are what counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefcourse.annotation.aggregation import dawid_skene
from prefcourse.annotation.agreement import (
    MISSING,
    accuracy_bounds,
    check_labels,
    krippendorff_alpha,
    percent_agreement,
    sigmoid,
    with_interval,
)
from prefcourse.evaluate import Estimate
from prefcourse.finite import numbers, same_shape
from prefcourse.preferences import Row
from prefcourse.quality.label_noise import LabelNoise

CLOSE = 0.5  # nats: a pair closer than this is labelled the other way at least 38 % of the time, 1 − σ(0.5)
VERDICTS = ("ok", "look", "act")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: float | Estimate
    shown: str  # the value in words
    verdict: str  # "ok", "look" (read some of these pairs), "act" (change the data before you train)
    advice: str  # one sentence


def _finding(name: str, value: float | Estimate, shown: str, verdict: str, *, fine: str, otherwise: str) -> Finding:
    return Finding(name, value, shown, verdict, fine if verdict == "ok" else otherwise)


# ------------------------------------------------------------------------------------------------ intervals


def clustered_mean(values, groups: np.ndarray) -> Estimate:
    """The mean of `values` (N,) with a 95 % interval for data in `groups` (N,), numbers from 0.

    The standard error sums the residuals of each group before squaring them (Liang and Zeger 1986), so that ten
    copies of an observation count as one. Raises ValueError unless both are rows of one length, the values finite.
    """
    values, groups = same_shape(values=values, groups=groups)
    if not bool((groups == groups.round()).all() and groups.min() >= 0):
        raise ValueError(
            "groups has a number that is not whole, or below 0; allowed is the number of each value's group"
        )
    values, groups = values.numpy(), np.unique(groups.numpy(), return_inverse=True)[1]
    mean, count = values.mean(), groups.max() + 1
    residuals = np.bincount(groups, values - mean)
    error = 1.96 * np.sqrt((residuals**2).sum() * count / max(1, count - 1)) / len(values)
    return Estimate(float(mean), float(mean - error), float(mean + error))


def clustered_share(hits, groups: np.ndarray) -> Estimate:
    """A share with Wilson's 95 % interval, for as many observations as the clustered standard error is worth.

    hits: whether each value counts, (N,), or how far, from 0 to 1.
    """
    hits = numbers("hits", hits, low=0, high=1)
    mean = clustered_mean(hits, groups)
    p, error = mean.value, (mean.high - mean.value) / 1.96
    n = p * (1 - p) / error**2 if error > 1e-12 else len(np.unique(groups))
    z = 1.96**2 / n
    middle, half = (p + z / 2) / (1 + z), np.sqrt(z * (p * (1 - p) + z / 4)) / (1 + z)
    return Estimate(p, float(max(0.0, middle - half)), float(min(1.0, middle + half)))


def _above(estimate: Estimate, look: float, act: float) -> str:
    """The verdict on a number that should be small."""
    return VERDICTS[int(estimate.low > look) + int(estimate.low > act)]


def _away(estimate: Estimate, target: float, look: float, act: float) -> str:
    """The verdict on a number that should be near `target`."""
    distance = max(estimate.low - target, target - estimate.high)
    return VERDICTS[int(distance > look) + int(distance > act)]


# ------------------------------------------------------------------------------------------------ the labels


def agreement(annotations, seed: int) -> list[Finding]:
    """How far annotators agree, and who stands out: the labels (items, annotators) of several."""
    # People agree on 63 % (Bai et al. 2022) to 73 % (Ouyang et al. 2022) of preferences: an α of 0.26 to 0.46.
    labels = check_labels(annotations, categories=2, annotators=2)
    share = percent_agreement(labels)
    if len(np.unique(labels[labels != MISSING])) == 1:
        raise ValueError("all annotations are the same label: deal the two sides to A and B at random before you ask")
    alpha = with_interval(krippendorff_alpha, labels, seed=seed)
    low, high = accuracy_bounds(max(0.5, share))
    limit = f"A perfect model would be right on {low:.0%} to {high:.0%} of single labels."
    findings = [
        _finding(
            "agreement",
            alpha,
            f"Krippendorff's α {alpha:.2f}; {share:.0%} of pairs of labels agree",
            VERDICTS[(alpha.high < 0.46) + (alpha.high < 0.2)],
            fine=f"{limit} That is as good as published preference data get.",
            otherwise=f"{limit} Ask three or more annotators for each pair, and make the guideline clearer.",
        )
    ]
    if labels.shape[1] >= 3:
        accuracy = dawid_skene(labels[(labels != MISSING).any(1)]).accuracy
        worst, typical = int(accuracy.argmin()), float(np.median(accuracy))
        findings.append(
            _finding(
                "weakest annotator",
                float(accuracy[worst]),
                f"no. {worst}: {accuracy[worst]:.0%} right by Dawid–Skene, the median is {typical:.0%}",
                VERDICTS[int(accuracy[worst] < typical - 0.1) + int(accuracy[worst] < 0.55)],
                fine="Nobody stands out.",
                otherwise="Read some of these labels; weigh all labels by a fitted model, or leave this annotator out.",
            )
        )
    return findings


def scores(margin: np.ndarray, prompt: np.ndarray) -> list[Finding]:
    """What scores in nats say about the labels: contradictions beyond the coin's, and pairs too close to call."""
    # With scores in nats, a coin of probability σ(margin) explains 1 − σ(|margin|) of contradictions.
    against = (margin < 0) + 0.5 * (margin == 0)
    coin = sigmoid(-np.abs(margin))
    seen, due = clustered_share(against, prompt), float(coin.mean())
    excess = clustered_mean((against - coin) / max(1e-9, 1 - 2 * due), prompt)
    limit = f"A judge who knows the scores is right on {1 - due:.0%} of such labels."
    close = clustered_share(np.abs(margin) < CLOSE, prompt)
    return [
        _finding(
            "label against score",
            seen,
            f"{seen:.1%}; a coin on the scores gives {due:.1%}",
            _above(excess, 0.02, 0.1),
            fine=f"{limit} There is no clear excess over the coins.",
            otherwise=f"As if {excess.value:.0%} of the labels had been flipped: read the clearest contradictions.",
        ),
        _finding(
            "close pairs",
            close,
            f"{close:.0%} within {CLOSE} nats; the median is {np.median(np.abs(margin)):.2f}",
            _above(close, 1 / 3, 2 / 3),
            fine="Most pairs have a better side.",
            otherwise="Their labels are nearly coins: ask several annotators, or sample more varied responses.",
        ),
    ]


def flips(noise: LabelNoise, judge: str) -> list[Finding]:
    """The estimated share of flipped labels."""
    reach = f"It ranks {noise.accuracy:.0%} right; disagreement looks like flips to it, and shared mistakes do not."
    return [
        _finding(
            "flipped labels",
            noise.flips,
            f"{noise.flips:.0%} by {judge}; it contradicts {noise.contradicted:.0%} where surest",
            VERDICTS[int(noise.flips.value > 0.08 and noise.flips.low > 0) + int(noise.flips.low > 0.1)],
            fine=f"{reach} Nothing points to flips.",
            otherwise=f"{reach} Read the labels it contradicts most clearly: `report.noise.suspects`.",
        )
    ]


# ------------------------------------------------------------------------------------------------ the responses


def length_gaps(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase | None) -> np.ndarray:
    """Length of the chosen − length of the rejected, (N,)."""
    sides = [[row[side] for row in rows] for side in ("chosen", "rejected")]
    if tokenizer is None:
        lengths = [[len(text.split()) for text in side] for side in sides]
    else:
        lengths = [[len(ids) for ids in tokenizer(side)["input_ids"]] for side in sides]
    return np.subtract(*map(np.array, lengths))


def length(gap: np.ndarray, unit: str, margin: np.ndarray | None, prompt: np.ndarray) -> list[Finding]:
    """Whether the longer side wins more often than half the time, or where scores are known, than they explain."""
    differ = gap != 0
    if not differ.any():
        return []
    _, kept = np.unique(prompt[differ], return_inverse=True)
    share, mean = clustered_share(gap[differ] > 0, kept), clustered_mean(gap, prompt)
    due = 0.5 if margin is None else sigmoid(margin * np.sign(gap))[differ]  # the coin's chance to pick the longer
    excess = clustered_mean((gap[differ] > 0) - due, kept)
    by_score = "" if margin is None else f"; {due.mean():.1%} by score alone"
    return [
        _finding(
            "longer side chosen",
            share,
            f"{share:.1%}{by_score}; chosen − rejected {mean:+.2f} {unit}",
            _away(excess, 0.0, 0.02, 0.08),
            fine="Length does not decide.",
            otherwise=f"A model can win by being {'longer' if excess.value > 0 else 'shorter'}: collect pairs of like "
            "length, and control for length when you evaluate.",
        )
    ]


def position(rows: Sequence[Row], prompt: np.ndarray) -> list[Finding]:
    """Whether what was shown first wins, where rows say `shown_first`."""
    if not any("shown_first" in row for row in rows):
        return []
    places = [row.get("shown_first") for row in rows]
    for number, place in enumerate(places, start=1):
        if place not in ("chosen", "rejected"):
            raise ValueError(f'row {number}: shown_first must be "chosen" or "rejected", got {place!r}')
    first = clustered_share([place == "chosen" for place in places], prompt)
    return [
        _finding(
            "first shown chosen",
            first,
            f"{first:.1%}",
            _away(first, 0.5, 0.02, 0.08),
            fine="The place on the screen does not decide.",
            otherwise="Show each pair in random order, the close ones to two people in both orders.",
        )
    ]
