"""From rows of text to what a step is fed: encoding, the plan of a run, and the mismatched pairs of KTO.

    examples = encode_rows(world.pairs["train"], world.tokenizer, needs=LOSSES["dpo"].inputs(), longest=128)
    feed = Feed.plan(examples, batch_size=32, steps=100, seed=0)
    feed.groups(0)                                       # the token ids of the first step's examples

All of it is a function of the data and the seed, so a run that was interrupted finds its place again by the number of
the step alone.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefcourse.finite import counted
from prefcourse.layout import send
from prefcourse.preferences import Row, check_rows
from prefcourse.training.token_ids import Ids, TokenIds, encoded

MEGABATCH = 16  # batches within which examples are sorted by length
TOO_LONG = ("error", "drop", "truncate", "left")


@dataclass(frozen=True)
class Examples:
    """Encoded rows. `sequences[i]` are the k sequences of example i: chosen and rejected (k = 2), or one completion."""

    sequences: TokenIds
    rows: list[int]  # the row of the data, from 0, that each example comes from
    desirable: list[bool]  # the label of each example, for losses on unpaired data; else empty
    dropped: int = 0  # examples left out because they are too long
    truncated: int = 0  # sequences cut to fit; each of them lost its EOS, or the beginning of its prompt
    margins: list[float] = field(default_factory=list)  # the column margin of each example, for losses that ask for it

    def __len__(self) -> int:
        return len(self.sequences)

    def __str__(self) -> str:
        notes = [f"{n:,} {what}" for n, what in ((self.dropped, "dropped"), (self.truncated, "truncated")) if n]
        return counted(len(self), "example") + (f" (too long: {', '.join(notes)})" if notes else "")

    def inputs(
        self, rows: Sequence[int], logps: Tensor, lengths: Tensor, reference: Tensor | None
    ) -> dict[str, Tensor]:
        """Inputs of a loss by the names in its signature, from log-probs and lengths of the examples `rows`, (b, k)."""
        if self.desirable:
            found = {"policy": logps[:, 0], "lengths": lengths[:, 0]}
            found["desirable"] = send(torch.tensor([self.desirable[i] for i in rows]), logps.device)
            return found if reference is None else found | {"reference": reference[:, 0]}
        found = {"margin": send(torch.tensor([self.margins[i] for i in rows]), logps.device)} if self.margins else {}
        for k, side in enumerate(("chosen", "rejected")[: logps.shape[1]]):
            found |= {f"policy_{side}": logps[:, k], f"{side}_lengths": lengths[:, k]}
            if reference is not None:
                found[f"reference_{side}"] = reference[:, k]
        return found

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each example, all its sequences together, so that a prompt counts k times."""
        sizes = self.sequences.sizes  # (N, 1 + k)
        return (sizes[:, 0] * self.sequences.k + sizes[:, 1:].sum(1)).tolist()


@dataclass(frozen=True)
class Feed:
    """What every step of a run is fed: `batches[step]` are its examples, `epochs[step]` the epoch each of them is in.

    `partners[epoch][i]` is the example whose completion stands in for that of i in a mismatched pair; empty if no loss
    asks for such pairs.
    """

    examples: Examples
    batches: list[list[int]]
    epochs: list[list[int]]
    partners: list[list[int]]

    @classmethod
    def plan(
        cls, examples: Examples, *, batch_size: int, steps: int, seed: int, mismatched: bool = False,
        longest: float = math.inf,
    ) -> "Feed":  # fmt: skip
        """The feed of a run, as `plan` and `mismatch` make it."""
        batches = plan(examples.lengths, batch_size, steps, seed)
        epochs = visits(batches)
        count = 1 + max(map(max, epochs)) if mismatched else 0
        return cls(examples, batches, epochs, mismatch(examples, count, seed, longest))

    def groups(self, step: int) -> list[tuple[Ids, ...]]:
        """The B examples of `step`, k sequences each."""
        return [self.examples.sequences[i] for i in self.batches[step]]

    def mixed(self, step: int) -> list[tuple[Ids]]:
        """Their B mismatched pairs: each prompt with another prompt's completion."""
        sequences, rows = self.examples.sequences, zip(self.batches[step], self.epochs[step], strict=True)
        return [((sequences.prompt(i), sequences.completion(self.partners[epoch][i])),) for i, epoch in rows]


def encode_rows(
    data: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, needs: Sequence[str], longest: float = math.inf,
    too_long: str = "error",
) -> Examples:  # fmt: skip
    """Encode `data` for a loss with the inputs `needs` (`Loss.inputs`).

    Losses on pairs read prompt, chosen, rejected. `sft` reads chosen, or completion where there is no chosen. Losses on
    unpaired data read prompt, completion, label; given pairs, each pair becomes a desirable and an undesirable example.
    too_long: what happens to a sequence of more than `longest` tokens. "error" names it; "drop" leaves its example out;
        "truncate" cuts the completion's end, EOS included (a prompt that leaves no room stays an error); "left" cuts
        the prompt's beginning behind its BOS (completions that leave no room stay an error).

    Raises ValueError for a bad row, with its number from 1, or when no example is left.
    """
    if too_long not in TOO_LONG:
        raise ValueError(f"too_long must be one of {', '.join(TOO_LONG)}, got {too_long!r}")
    paired, unpaired = "policy_rejected" in needs, "policy" in needs
    has_chosen = bool(data) and "chosen" in data[0]
    columns = (
        ["chosen", "rejected"] if paired or (unpaired and has_chosen) else ["chosen" if has_chosen else "completion"]
    )
    rows = check_rows(data, ["prompt", *columns], where="data")
    labels = [_label(row, i) for i, row in enumerate(rows, start=1)] if unpaired and not has_chosen else None
    if labels and len(set(labels)) == 1:
        warnings.warn(
            f"data: every label is {str(labels[0]).lower()}. What is to be told apart needs both kinds.",
            stacklevel=3,
        )
    margins = [_margin(row, i) for i, row in enumerate(rows, start=1)] if "margin" in needs else None

    found = Examples(TokenIds(1 if unpaired else len(columns)), [], [])
    dropped = truncated = 0
    for i, group in enumerate(encoded(rows, columns, tokenizer)):
        for k, example in enumerate([(one,) for one in group] if unpaired else [group]):
            fitted = _fit(example, longest, too_long, i + 1, tokenizer.bos_token_id)
            if fitted is None or (len(fitted) == 2 and fitted[0] == fitted[1]):  # cut to the same text: no preference
                dropped += 1
                continue
            truncated += sum(a != b for a, b in zip(fitted, example, strict=True))
            found.sequences.append(fitted)
            found.rows.append(i)
            if margins:
                found.margins.append(margins[i])
            if unpaired:
                found.desirable.append(labels[i] if labels else k == 0)
    if not found.sequences:
        raise ValueError(
            f"data: none of the {counted(len(rows), 'row')} fits into {counted(longest, 'token')}. Shorten them."
        )
    return replace(found, dropped=dropped, truncated=truncated)


def _fit(
    example: tuple[Ids, ...], longest: float, too_long: str, line: int, bos: int | None
) -> tuple[Ids, ...] | None:  # fmt: skip
    """`example` in `longest` tokens or fewer: as it is, cut, or None to drop it."""
    tokens = max(len(prompt) + len(completion) for prompt, completion in example)
    if tokens <= longest:
        return example
    if too_long == "drop":
        return None
    if too_long == "left":
        return _cut_left(example, int(longest), line, bos)
    room = int(longest) - len(example[0][0])
    if room < 1:
        raise ValueError(
            f"data, line {line}: the prompt alone has {counted(len(example[0][0]), 'token')}, but the model takes "
            f"{longest}, completion included. Shorten it, or say what to do with such rows: too_long (--too-long) drop "
            "leaves them out, left keeps the prompt's end."
        )
    if too_long == "error":
        raise ValueError(
            f"data, line {line}: {counted(tokens, 'token')}, but the model takes {longest}. Shorten the row, or say "
            "what to do with such rows: too_long (--too-long) drop, truncate, or left."
        )
    return tuple((prompt, completion[:room]) for prompt, completion in example)


def _cut_left(example: tuple[Ids, ...], longest: int, line: int, bos: int | None) -> tuple[Ids, ...]:
    """`example` with the end of its prompt alone, the same for all its completions, and the BOS if there was one."""
    prompt, answer = example[0][0], max(len(completion) for _, completion in example)
    first = prompt[:1] if prompt[0] == bos else []
    room = longest - answer - len(first)
    if room < 1:
        raise ValueError(
            f"data, line {line}: a completion alone has {counted(answer, 'token')}, and the model takes {longest}, "
            "prompt included. Shorten it, or take too_long (--too-long) drop."
        )
    return tuple(([*first, *prompt[len(prompt) - room :]], completion) for _, completion in example)


def _label(row: Row, number: int) -> bool:
    if "label" not in row:
        raise ValueError(f"data, line {number}: no column 'label' (it has {', '.join(row)}). Add it: true or false.")
    if row["label"] not in (True, False):
        raise ValueError(f"data, line {number}: 'label' must be true or false, got {row['label']!r:.80}.")
    return bool(row["label"])


def _margin(row: Row, number: int) -> float:
    margin = row.get("margin")
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < math.inf:
        raise ValueError(f"data, line {number}: 'margin' must be a number, 0 or more (nats), got {margin!r:.80}.")
    return float(margin)


def plan(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Which rows form the batch of each step: epochs in random order, rows of similar length side by side.

    Rows are shuffled, sorted by length within groups of 16 batches, cut, and the batches shuffled again: little
    padding, and still every row comes once an epoch in an unforeseeable order. Each batch has `batch_size` rows; the
    last rows of an epoch share a batch with the first of the next.
    """
    generator, rest, batches = torch.Generator().manual_seed(seed), [], []
    while len(batches) < steps:
        rows = rest + torch.randperm(len(lengths), generator=generator).tolist()
        end = len(rows) // batch_size * batch_size
        if rest and end:  # the batch between two epochs
            batches.append(rows[:batch_size])
        for start in range(batch_size if rest else 0, end, MEGABATCH * batch_size):
            group = sorted(rows[start : min(start + MEGABATCH * batch_size, end)], key=lambda i: lengths[i])
            cut = [group[k : k + batch_size] for k in range(0, len(group), batch_size)]
            batches += [cut[k] for k in torch.randperm(len(cut), generator=generator).tolist()]
        rest = rows[end:]
    return batches[:steps]


def visits(batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """How often each row of each batch has come before: 0 in its first epoch, 1 in its second, and so on."""
    seen: Counter[int] = Counter()
    found = []
    for rows in batches:
        found.append([])
        for i in rows:
            found[-1].append(seen[i])
            seen[i] += 1
    return found


def mismatch(examples: Examples, epochs: int, seed: int, longest: float = math.inf) -> list[list[int]]:
    """For each epoch and example, another example, with another prompt, whose completion stands in: `[epoch][i]`.

    KTO's z0 is the mean log-ratio of such pairs (x_i, y_j) (Ethayarajh et al. 2024, Sec. 4.1). In a random order of
    all examples each takes the completion of the next one, so that every completion is used about once an epoch. Where
    the next has the same prompt, or is too long for it, we go on to the one after.

    Raises ValueError if an example has no partner: all prompts are the same, or all others are too long.
    """
    if not epochs:
        return []
    table, count, prompt = [], len(examples), examples.sequences.prompt_numbers()
    begins, ends = examples.sequences.sizes[:, :2].T.tolist()  # tokens of prompts and completions
    for epoch in range(epochs):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(7_919 * (epoch + 1) + seed)).tolist()
        partner = [0] * count
        for place, i in enumerate(order):
            for ahead in range(1, count):
                j = order[(place + ahead) % count]
                if prompt[i] != prompt[j] and begins[i] + ends[j] <= longest:
                    partner[i] = j
                    break
            else:
                raise ValueError(
                    f"data, line {examples.rows[i] + 1}: no other prompt has a completion that fits here, but KTO "
                    "compares each prompt with completions of other prompts. Add rows with other prompts."
                )
        table.append(partner)
    return table
