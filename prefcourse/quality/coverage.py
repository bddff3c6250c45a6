"""The measurements behind `quality.report` that look at texts, prompts and splits: what do the pairs cover, how often?

Each function returns its findings. The thresholds of a verdict stand beside its measurement, as in `findings`.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from prefcourse.evaluate import GROUP, distinct_2
from prefcourse.finite import counted
from prefcourse.preferences import Row
from prefcourse.quality.duplicates import SAME, jaccard, near_duplicates, words_of
from prefcourse.quality.findings import VERDICTS, Finding, _above, _finding, clustered_share


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
            f"{again:.1%}; {counted(both, 'pair is', 'pairs are')} labelled both ways",
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
                f"{variety:.2f} of neighbouring word pairs are new in {GROUP} texts",
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
            f"{len(counts):,}, {counts.mean():.1f} pairs each, at most {counts.max()}; as spread as {worth:,.0f} "
            "with equal shares",
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
