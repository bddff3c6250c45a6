"""From a few dozen of your own labels to a model that writes a little more to your taste.

    mine = train_on_my_labels(my_labels(), world)
    print(mine)                             # what went in, what came out
    show_samples(mine.prompts, before=mine.before, after=mine.after)

So few pairs are soon memorised (lesson 01), so the run is short, and some labels are kept back to see whether the model
has learnt your taste or your pairs. `python -m prefcourse results own-labels` does it for three simulated tastes.
"""

import copy
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from prefcourse.annotation.labels import preference_rows, read_labels
from prefcourse.evaluate import Estimate, bootstrap, pair_logps, sequence_kl
from prefcourse.finite import counted
from prefcourse.generate import Completion, generate
from prefcourse.preferences import Row, check_rows
from prefcourse.train import train
from prefcourse.training.history import History
from prefcourse.worlds.world import World

ENOUGH = 20  # usable labels below which we do not train
HELD_OUT = 0.2  # share of the labels that the training does not see
STEPS, BATCH, LR, BETA = 50, 12, 1e-4, 0.1


@dataclass(frozen=True)
class Personal:
    """What `train_on_my_labels` made: the policy, its history, what it wrote before and after, and the account."""

    policy: PreTrainedModel
    history: History
    prompts: list[str]  # openings that no label was about
    before: list[Completion]
    after: list[Completion]
    used: int  # labels trained on
    counts: dict[str, int]  # labels by kind
    held_out: Estimate | None  # share of the labels kept back that the policy's margin gets right
    kl: Estimate  # nats from the SFT model, on `prompts`

    def __str__(self) -> str:
        apart = sum(self.counts.values()) - self.counts["A"] - self.counts["B"]
        others = f"; {counted(apart, 'tie or skip is no pair', 'ties and skips are no pairs')}" if apart else ""
        lines = [f"trained on {counted(self.used, 'label')}{others}"]
        if self.held_out is not None:
            lines.append(f"on the labels kept back it chooses as you did in {self.held_out:.0%} of cases")
        return "\n".join([*lines, f"it moved {self.kl:.1f} nats (KL) away from the model before"])


def train_on_my_labels(
    labels: str | Path | Sequence[Row], world: World, *, seed: int = 0, steps: int = STEPS, beta: float = BETA,
    lr: float = LR, prompts: Sequence[str] | None = None, progress: bool = True,
) -> Personal:  # fmt: skip
    """DPO from `world.sft` on your labels, in less than a minute on two cores.

    labels: a file of labels, or rows with prompt, chosen and rejected. prompts: openings to compare before and after
    on; by default those of the test split. The settings suit 30 to 100 labels: about ten times through the pairs.
    Raises ValueError for fewer than 20 usable labels, FileNotFoundError if there is no such file.
    """
    if isinstance(labels, str | Path):
        rows, counts = preference_rows(read_labels(labels))
    else:
        rows = check_rows(list(labels), where="labels")
        counts = {"A": len(rows), "B": 0, "tie": 0, "skip": 0}
    if len(rows) < ENOUGH:
        raise ValueError(
            f"{counted(len(rows), 'label says', 'labels say')} which text is better (of {sum(counts.values())}); "
            "training needs at least "
            f"{ENOUGH}, and 50 are better. Label some more: the file goes on where it stopped."
        )
    order = random.Random(seed).sample(rows, len(rows))
    kept_back = order[: round(HELD_OUT * len(order))]
    used = order[len(kept_back) :]
    policy = copy.deepcopy(world.sft)
    history = train(policy, used, world.tokenizer, reference=world.sft, loss="dpo", beta=beta, lr=lr, steps=steps,
                    batch_size=min(BATCH, len(used)), seed=seed, progress=progress)  # fmt: skip
    about = {row["prompt"] for row in rows}
    prompts = [row["prompt"] for row in world.prompts["test"]] if prompts is None else list(prompts)
    prompts = [prompt for prompt in prompts if prompt not in about]
    before, after = (generate(m, world.tokenizer, prompts, seed=k) for k, m in enumerate((world.sft, policy)))
    held_out = bootstrap(agrees(policy, world, kept_back)) if len(kept_back) > 1 else None
    kl = bootstrap(sequence_kl(policy, world.sft, world.tokenizer, prompts, after))
    return Personal(policy, history, prompts, before, after, len(used), counts, held_out, kl)


def agrees(policy: PreTrainedModel, world: World, rows: Sequence[Row]) -> torch.Tensor:
    """Whether log π/π_ref is larger for the chosen than for the rejected text of each row: (B,) of 0 and 1."""
    chosen, rejected = pair_logps(policy, rows, world.tokenizer) - pair_logps(world.sft, rows, world.tokenizer)
    return (chosen > rejected).float()


# ------------------------------------------------------------------------------------- simulated learners with a taste

_ACTING = re.compile(
    r"\b(acts?|acted|acting|actors?|actress(es)?|cast|performances?|played|plays|roles?|characters?)\b", re.I
)
TASTES: dict[str, Callable[[str], float]] = {  # name → how much a learner with that taste likes a text
    "shorter reviews": lambda text: -float(len(text.split())),
    "no exclamation marks": lambda text: -float("!" in text),
    "mentions acting": lambda text: float(bool(_ACTING.search(text))),
}


def label_by_taste(rows: Sequence[Row], taste: Callable[[str], float], count: int, seed: int) -> tuple[list[Row], int]:
    """Go through `rows` in random order until `count` labels are given; a pair that the taste cannot tell is skipped.

    Returns the labelled rows and how many were skipped. Raises ValueError if there are too few pairs.
    """
    found, skipped = [], 0
    for row in random.Random(seed).sample(list(rows), len(rows)):
        a, b = row["chosen"], row["rejected"]
        if taste(a) == taste(b):
            skipped += 1
            continue
        chosen, rejected = (a, b) if taste(a) > taste(b) else (b, a)
        found.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
        if len(found) == count:
            return found, skipped
    raise ValueError(f"only {len(found)} of {counted(len(rows), 'pair')} differ for this taste, {count:,} needed")
