"""How good is a set of preference pairs? A report: what we measured, whether to worry, and what to do.

    found = report(world.pairs["train"], types=world.prompts["train"], splits=world.pairs)
    print(found)                                   # a table: finding, value with interval, advice
    show(plots.quality_report(found), alt="…")     # the same as a figure
    found["longer side chosen"].verdict            # "ok", "look" or "act"

Intervals are 95 % and count a prompt, not a pair, as one observation: pairs of a prompt share responses. A verdict
looks at the end of the interval nearest to what is fine, so that few data alone raise no alarm. The thresholds
are rules of thumb, see `findings` and `coverage`; the numbers are what counts.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefcourse.annotation.annotators import Reward, exchanged, margins
from prefcourse.annotation.labels import check_label
from prefcourse.finite import counted
from prefcourse.preferences import Row, check_rows
from prefcourse.quality import coverage, findings
from prefcourse.quality.findings import Finding
from prefcourse.quality.label_noise import FEWEST, FOLDS, LabelNoise, label_noise


@dataclass(frozen=True, eq=False)
class QualityReport(Mapping):
    """What `report` found: a mapping from a finding's name to the Finding, and the numbers that the figure draws."""

    findings: tuple[Finding, ...]
    pairs: int
    prompts: int
    length: np.ndarray = field(repr=False)  # (N,) length of the chosen − length of the rejected
    unit: str  # of the lengths: "tokens" or "words"
    margin: np.ndarray | None = field(repr=False)  # (N,) score of the chosen − score of the rejected, nats
    noise: LabelNoise | None = field(repr=False)
    types: dict[str, int]  # prompt type → pairs, the most frequent first; empty where types are not known

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"no finding {name!r}; this report has: {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return (finding.name for finding in self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def summary(self) -> str:
        """How many findings there are of each verdict: "12 findings: 9 ok, 2 to look at, 1 to act on"."""
        count = Counter(finding.verdict for finding in self.findings)
        return (
            f"{counted(len(self), 'finding')}: {count['ok']} ok, {count['look']} to look at, {count['act']} to act on"
        )

    def __str__(self) -> str:
        what = f"{counted(self.pairs, 'pair')} on {counted(self.prompts, 'prompt')}"
        lines = [f"{what} · {self.summary()}", ""]
        wide = max(len(finding.name) for finding in self.findings)
        for finding in self.findings:
            lines.append(f"{finding.verdict:<5} {finding.name:<{wide}}  {finding.shown}")
            indent = " " * (wide + 8)
            lines += textwrap.wrap(finding.advice, 100, initial_indent=indent, subsequent_indent=indent)
        return "\n".join(lines)


def report(
    rows: Iterable[Row], *, annotations=None, gold: Reward | None = None, reward_model: Reward | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None, types: Mapping[str, str] | Sequence[Row] | None = None,
    splits: Mapping[str, Sequence[Row]] | None = None, seed: int = 0,
) -> QualityReport:  # fmt: skip
    """Measure the quality of preference pairs. What is not given is not reported.

    rows: pairs with prompt, chosen, rejected; or labels as the collector writes them (response_a, response_b, label),
        where A was shown first. A row may say `shown_first`: "chosen" or "rejected".
    annotations: the labels of several annotators, a matrix (items, annotators) as in `agreement`.
    gold: the true reward in nats, where one is known; without it the columns chosen_score and rejected_score serve.
    reward_model: judges the labels; not fitted to them. Without it a small one is fitted, see `label_noise`.
    tokenizer: lengths are counted in its tokens, without it in words.
    types: the type of each prompt, as a mapping or as rows with prompt and type; by default the rows' own `type`.
    splits: all splits of the data, to find prompts that are in more than one.
    Raises ValueError for no rows, missing or empty columns, and a prompt without a type; it names row and column.
    """
    rows = check_rows(_pairs_of(rows))
    names, prompt = np.unique([row["prompt"] for row in rows], return_inverse=True)  # (N,) the number of the prompt
    scored = gold is not None or any("chosen_score" in row for row in rows)
    margin = margins(rows, gold) if scored else None  # (N,) nats
    enough = len(rows) >= FEWEST and len(names) >= 2 * FOLDS
    noise = label_noise(rows, reward_model=reward_model, seed=seed) if enough else None
    length, unit = findings.length_gaps(rows, tokenizer), "tokens" if tokenizer else "words"  # (N,)
    counts = coverage.type_counts(rows, types)
    found: list[Finding] = []
    if annotations is not None:
        found += findings.agreement(annotations, seed)
    if margin is not None:
        found += findings.scores(margin, prompt)
    if noise is not None:
        found += findings.flips(noise, "a held-out word-count model" if reward_model is None else "the reward model")
    found += findings.length(length, unit, margin, prompt)
    found += findings.position(rows, prompt)
    found += coverage.pairs(rows, prompt)
    found += coverage.responses(rows, seed)
    found += coverage.prompts(prompt)
    found += coverage.prompt_types(counts)
    if splits is not None:
        found += coverage.leaks(splits)
    return QualityReport(tuple(found), len(rows), len(names), length, unit, margin, noise, counts)


def _pairs_of(rows: Iterable[Row]) -> list[Row]:
    """Rows as they are, or labels of the collector as rows; ties and skips make none."""
    rows, pairs = list(rows), []
    if not any(isinstance(row, dict) and "response_a" in row for row in rows):
        return rows
    for number, row in enumerate(rows, start=1):
        check_label(row, f"label {number}")
        if row["label"] in ("A", "B"):
            pair = {"prompt": row["prompt"], "chosen": row["response_a"], "rejected": row["response_b"]}
            place = "chosen" if row["label"] == "A" else "rejected"
            pairs.append({**(pair if row["label"] == "A" else exchanged(pair)), "shown_first": place})
    return pairs
