"""The measurements behind `quality.report`: each function looks at one side of the data and returns its findings.

The thresholds of a verdict stand beside its measurement. They are rules of thumb, ours: the numbers are what counts.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefcourse.aggregation import dawid_skene
from prefcourse.agreement import (
    MISSING,
    _sigmoid,
    accuracy_bounds,
    check_labels,
    krippendorff_alpha,
    percent_agreement,
    with_interval,
)
from prefcourse.duplicates import SAME, jaccard, near_duplicates, words_of
from prefcourse.evaluate import GROUP, Estimate, distinct_2
from prefcourse.label_noise import LabelNoise
from prefcourse.preferences import Row

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
    copies of an observation count as one.
    """
    values = np.asarray(values, dtype=float)
    mean, count = values.mean(), groups.max() + 1
    residuals = np.bincount(groups, values - mean)
    error = 1.96 * np.sqrt((residuals**2).sum() * count / max(1, count - 1)) / len(values)
    return Estimate(float(mean), float(mean - error), float(mean + error))


def clustered_share(hits, groups: np.ndarray) -> Estimate:
    """A share with Wilson's 95 % interval, for as many observations as the clustered standard error is worth."""
    mean = clustered_mean(hits, groups)
    p, error = mean.value, (mean.high - mean.value) / 1.96
    n = p * (1 - p) / error**2 if error > 0 else groups.max() + 1
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
    coin = _sigmoid(-np.abs(margin))
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
            fine=f"{limit} Bradley–Terry coins explain the rest.",
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
    due = 0.5 if margin is None else _sigmoid(margin * np.sign(gap))[differ]  # the coin's chance to pick the longer
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


def pairs(rows: Sequence[Row], prompt: np.ndarray) -> list[Finding]:
    """Pairs that are there twice, and pairs whose sides hardly differ."""
    keys = [(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in rows]
    times, labels = Counter(keys), {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    again = clustered_share([times[key] > 1 for key in keys], prompt)
    both = sum((x, rejected, chosen) in labels for x, chosen, rejected in labels) // 2
    alike = [jaccard(words_of(row["chosen"]), words_of(row["rejected"])) >= SAME for row in rows]
    share = clustered_share(alike, prompt)
    return [
        _finding(
            "repeated pairs",
            again,
            f"{again:.1%}; {both} pairs are labelled both ways",
            _above(again, 0.005, 0.05),
            fine="No pair counts twice.",
            otherwise="Keep one of each, with the majority's label; otherwise it weighs more than it should.",
        ),
        _finding(
            "sides nearly the same",
            share,
            f"{share:.1%} of pairs have {SAME:.0%} of their words in common",
            _above(share, 0.02, 0.1),
            fine="The two sides of a pair differ.",
            otherwise="Such a pair teaches a word or two, by a label that is nearly a coin: draw another response.",
        ),
    ]


def responses(rows: Sequence[Row], seed: int) -> list[Finding]:
    """How varied the responses are."""
    texts = list(dict.fromkeys((row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")))
    _, prompt = np.unique([x for x, _ in texts], return_inverse=True)
    plain = [" ".join(y.lower().split()) for _, y in texts]
    times = Counter(plain)
    same = float(np.mean([times[y] > 1 for y in plain]))
    near = clustered_share(near_duplicates([words_of(y) for y in plain], seed=seed), prompt)
    findings = [
        _finding(
            "repeated responses",
            near,
            f"{near:.1%} have a near-duplicate; {same:.1%} an exact one",
            _above(near, 0.15, 0.4),
            fine="The responses differ.",
            otherwise="Sample at a higher temperature or from several models, and keep one of each group.",
        )
    ]
    if len(texts) >= 2 * GROUP:
        mixed = [x + y for x, y in texts]
        random.Random(seed).shuffle(mixed)  # neighbours answer the same prompt and would look alike
        variety = distinct_2(mixed)
        findings.append(
            _finding(
                "distinct-2",
                variety,
                f"{variety:.2f} of word pairs are new, in groups of {GROUP} texts",
                VERDICTS[(variety.high < 0.7) + (variety.high < 0.5)],
                fine="The wording varies.",
                otherwise="The texts repeat their phrases: vary prompts, temperature, or models.",
            )
        )
    return findings


# ------------------------------------------------------------------------------------------------ the prompts


def prompts(prompt: np.ndarray) -> list[Finding]:
    """How many prompts there are; `prompt` (N,) numbers them."""
    counts = np.bincount(prompt)
    worth = float(counts.sum() ** 2 / (counts**2).sum())  # so many prompts with equal shares are as concentrated
    return [
        _finding(
            "prompts",
            worth,
            f"{len(counts):,}, {counts.mean():.1f} pairs each, at most {counts.max()}; worth {worth:,.0f} equal ones",
            VERDICTS[(worth < 300) + (worth < 30)],
            fine="No prompt dominates.",
            otherwise="What is learnt from few prompts carries over less: add prompts before you add pairs to these.",
        )
    ]


def type_counts(rows: Sequence[Row], types: Mapping[str, str] | Sequence[Row] | None) -> dict[str, int]:
    """How many pairs each type of prompt has, the most frequent first; empty where no types are known."""
    if types is None and all("type" in row for row in rows):
        types = rows
    if types is None:
        return {}
    if not isinstance(types, Mapping):
        types = {row["prompt"]: row["type"] for row in types}
    for number, row in enumerate(rows, start=1):
        if row["prompt"] not in types:
            raise ValueError(f"row {number}: there is no type for the prompt {row['prompt']!r:.80}. Add it to `types`.")
    seen = dict.fromkeys(types.values(), 0) | Counter(types[row["prompt"]] for row in rows)
    return dict(sorted(seen.items(), key=lambda item: -item[1]))


def prompt_types(counts: Mapping[str, int]) -> list[Finding]:
    """Whether every type of prompt is there."""
    if not counts:
        return []
    rarest, least = list(counts.items())[-1]
    share, equal = least / sum(counts.values()), 1 / len(counts)
    return [
        _finding(
            "prompt types",
            share,
            f"{len(counts)}; the rarest, {rarest}, has {share:.1%} (equal: {equal:.1%})",
            VERDICTS[(share < equal / 2) + (share < equal / 5)],
            fine="All types are there.",
            otherwise=f"Add prompts of the type {rarest}, and evaluate the policy by type.",
        )
    ]


def leaks(splits: Mapping[str, Sequence[Row]]) -> list[Finding]:
    """Prompts that are in more than one split, but for case and spaces."""
    homes: dict[str, set[str]] = {}
    for name, rows in splits.items():
        for number, row in enumerate(rows, start=1):
            if not isinstance(row.get("prompt"), str):
                raise ValueError(f"split {name}, row {number}: no column 'prompt'. Add or rename it.")
            homes.setdefault(" ".join(row["prompt"].lower().split()), set()).add(name)
    leaked = [prompt for prompt, names in homes.items() if len(names) > 1]
    example = f", such as {leaked[0]!r:.60}" if leaked else ""
    return [
        _finding(
            "prompts in two splits",
            float(len(leaked)),
            f"{len(leaked)} of {len(homes):,} in {', '.join(splits)}{example}",
            "act" if leaked else "ok",
            fine="The test is on prompts that training has not seen.",
            otherwise="Split by prompt (`split_by_prompt`): a test on prompts seen in training flatters.",
        )
    ]
