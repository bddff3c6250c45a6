"""Collect preference data: sample answers to a prompt, ask which is better, keep the label.

    collector = PreferenceDataCollector(world.sft, world.tokenizer)
    found = collector.collect_pair("I have")                    # two different answers and how they were made
    row = collector.label_preference("I have", *found["responses"], "A")
    found = collector.collect(prompts)                          # many prompts in one batch

`label_in_terminal` asks in a terminal and `widgets.label_pairs` in a notebook; both write a `LabelFile`.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.annotation.labels import LabelFile, Record, check_label, preference_rows
from prefcourse.finite import counted
from prefcourse.generate import generate
from prefcourse.preferences import Row
from prefcourse.rewards import GoldReward
from prefcourse.terminal import Bar

KEYS = {"a": "A", "b": "B", "t": "tie", "s": "skip"}  # what to press, and the label it gives
ROUNDS = 5  # how often we draw again for answers that came out the same


def fingerprint(model: PreTrainedModel) -> str:
    """The SHA-256 of the model's weights, so that a label says exactly whose answers were judged."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class PreferenceDataCollector:
    """Samples answers to compare, and turns a choice into a row. The same seed gives the same answers."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "", seed: int = 0):
        """name: what to call the model in the metadata, by default where it was loaded from."""
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.name = name or model.name_or_path or type(model).__name__
        self.hash = fingerprint(model)

    def collect_pair(self, prompt: str, num_samples: int = 2, temperature: float = 1.0, **settings) -> dict[str, Any]:
        """`num_samples` different answers: {"prompt", "responses", "metadata"}. See `collect`."""
        return self.collect([prompt], num_samples, temperature, progress=False, **settings)[0]

    def collect(
        self, prompts: Sequence[str], num_samples: int = 2, temperature: float = 1.0, *, progress: bool = True,
        **settings,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Answers to many prompts, sampled in batches: a dict {"prompt", "responses", "metadata"} for each.

        Answers that came out the same or empty are drawn again, at most five times; `metadata["duplicates"]` counts
        them, and `responses` is shorter than asked where a prompt has no more different answers to give.
        settings: of `generate`, such as top_p. Raises ValueError for an empty prompt, or fewer than two samples.
        """
        if num_samples < 2:
            raise ValueError(f"a comparison needs at least two answers, got num_samples={num_samples}")
        if isinstance(prompts, str):
            raise ValueError(f"prompts must be a list of texts, got one text: {prompts!r:.80}")
        found: list[dict[str, None]] = [{} for _ in prompts]  # a dict keeps the order and drops what comes twice
        duplicates = [0] * len(prompts)
        for turn in Bar(range(ROUNDS + 1), "collect", progress):
            short = [i for i, seen in enumerate(found) if len(seen) < num_samples]
            asked = [i for i in short for _ in range(num_samples - len(found[i]))]
            if not asked:
                break
            drawn = generate(
                self.model, self.tokenizer, [prompts[i] for i in asked], temperature=temperature,
                seed=1_000 * self.seed + turn, **settings,
            )  # fmt: skip
            for i, completion in zip(asked, drawn, strict=True):
                if completion.text in found[i] or not completion.text.strip():
                    duplicates[i] += 1
                else:
                    found[i][completion.text] = None
        return [
            {"prompt": p, "responses": list(seen), "metadata": self._metadata(temperature, settings, twice)}
            for p, seen, twice in zip(prompts, found, duplicates, strict=True)
        ]

    def label_preference(self, prompt: str, response_a: str, response_b: str, human_label: str) -> Row | None:
        """The row {"prompt", "chosen", "rejected"} of a choice "A" or "B"; None for "tie" and "skip".

        Raises ValueError for any other label, and for texts that are empty or the same.
        """
        record = {"prompt": prompt, "response_a": response_a, "response_b": response_b, "label": human_label}
        check_label(record, "label_preference")
        rows, _ = preference_rows([record])
        return rows[0] if rows else None

    def _metadata(self, temperature: float, settings: dict, duplicates: int) -> dict[str, Any]:
        return {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"), "model": self.name, "hash": self.hash,
            "temperature": temperature, **settings, "seed": self.seed, "duplicates": duplicates,
        }  # fmt: skip


def to_label(pairs: Sequence[dict[str, Any]], *, seed: int = 0, where: str = "pairs") -> list[Record]:
    """What there is to judge, one dict each with prompt, response_a and response_b. A is the one shown first.

    pairs: rows with chosen and rejected, or what `collect` gives (the first two responses). Which text becomes A is
    drawn from `seed`, so that the place does not tell which is better. A collected prompt with fewer than two
    different answers has nothing to compare and is left out. Raises ValueError for a row without the columns.
    """
    if not pairs:
        raise ValueError(f"{where}: there is nothing to label")
    rng, found = random.Random(seed), []
    for number, pair in enumerate(pairs, start=1):
        if "responses" in pair:
            texts = list(dict.fromkeys(pair["responses"]))[:2]
            if len(texts) < 2:
                continue
        elif "chosen" in pair and "rejected" in pair:
            texts = [pair["chosen"], pair["rejected"]]
        else:
            raise ValueError(
                f"{where}, row {number}: needs chosen and rejected, or responses; it has {', '.join(map(str, pair))}"
            )
        if rng.random() < 0.5:
            texts.reverse()
        item = {"prompt": pair.get("prompt"), "response_a": texts[0], "response_b": texts[1]}
        check_label({**item, "label": "skip"}, f"{where}, row {number}")
        found.append(item)
    return found


def still_open(items: Iterable[Record], records: Iterable[Record]) -> list[Record]:
    """The items that no record has labelled yet: this is how a session goes on where it stopped."""
    done = {_key(record) for record in records}
    return [item for item in items if _key(item) not in done]


def agreement_with(gold: GoldReward, records: Iterable[Record]) -> tuple[int, int]:
    """On how many of the labels A and B the true reward says the same, and out of how many; equal rewards are out."""
    same = total = 0
    for r in records:
        a, b = (gold.score(r["prompt"] + r[side]) for side in ("response_a", "response_b"))
        if r["label"] in ("A", "B") and a != b:
            same += (r["label"] == "A") == (a > b)
            total += 1
    return same, total


def label_in_terminal(
    pairs: Sequence[dict[str, Any]], file: LabelFile, *, gold: GoldReward | None = None, seed: int = 0,
    annotator: str = "me", ask: Callable[[str], str] = input, say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Show pairs one after the other and ask: a or b for the better answer, t tie, s skip, u undo, q quit.

    Pairs that `file` has labels for are not asked again. `gold` is only consulted at the end. End of input and
    Ctrl-C stop as q does; what was labelled is on the disk by then.
    """
    if file.note:
        say(file.note)
    items = to_label(pairs, seed=seed)
    waiting = still_open(items, file.records)
    if len(waiting) < len(items):
        say(f"{len(items) - len(waiting)} of {len(items)} are labelled already; we go on from there.")
    try:
        while waiting:
            item, began = waiting[0], time.monotonic()
            say(f"\n[{len(items) - len(waiting) + 1}/{len(items)}]  {item['prompt']} ...")
            say(f"  a  {item['response_a'].strip()}\n  b  {item['response_b'].strip()}")
            answer = ask("better: a or b (t tie, s skip, u undo, q quit)? ").strip().lower()
            if answer == "q":
                break
            if answer == "u":
                undone = file.undo()
                say("There is nothing to undo." if undone is None else f"Undone: {undone['prompt']} ...")
                waiting = still_open(items, file.records)
                continue
            if answer not in KEYS:
                say(f"{answer!r} is none of {', '.join(KEYS)}, u, q. Please answer again.")
                continue
            seconds = round(time.monotonic() - began, 1)
            file.append({**item, "label": KEYS[answer], "annotator": annotator, "seconds": seconds})
            waiting = waiting[1:]
    except (EOFError, KeyboardInterrupt):
        say("")
    say(f"{counted(len(file.records), 'label')} in {file.path}.")
    if gold is not None:
        same, total = agreement_with(gold, file.records)
        if total:
            say(f"You agree with the true reward on {same} of {counted(total, 'pair')} ({same / total:.0%}).")


def _key(record: Record) -> tuple:
    return record["prompt"], *sorted((record["response_a"], record["response_b"]))
