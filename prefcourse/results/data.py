"""The grids of lesson 01: what preference data must be like, measured on the policy that was trained on it."""

import copy
import random
from collections.abc import Sequence

import torch

from prefcourse.annotation.aggregation import confident, majority, vote_share
from prefcourse.annotation.agreement import MISSING, A, percent_agreement
from prefcourse.annotation.annotators import Annotator, panel, questions, resolve
from prefcourse.annotation.personal import TASTES, label_by_taste, train_on_my_labels
from prefcourse.evaluate import bootstrap
from prefcourse.generate import generate
from prefcourse.preferences import Row
from prefcourse.results.look import at_end, prompts_of
from prefcourse.results.store import Grid, grid, metrics, turned
from prefcourse.train import train
from prefcourse.worlds.world import World

LABELS = 1_600  # pairs that a run sees, each once or several times: 100 steps of 16
BATCH = 16
BETA, LR = 0.1, 1.5e-4


def pairs_needed(world: World, pairs: int, seed: int) -> dict:
    """DPO on `pairs` random training pairs, repeated until the run has seen LABELS of them."""
    return fit(world, random.Random(seed).sample(world.pairs["train"], pairs), seed)


def label_noise(world: World, flips: float, seed: int) -> dict:
    """DPO on LABELS random training pairs of which the share `flips` has chosen and rejected exchanged."""
    rng = random.Random(seed)
    rows, _ = turned(rng.sample(world.pairs["train"], LABELS), flips, rng)
    return fit(world, rows, seed)


def response_diversity(world: World, temperature: float, seed: int) -> dict:
    """DPO on one pair for each of LABELS prompts, sampled at `temperature`, labelled by a coin on the gold reward."""
    prompts, settings = prompts_of(world, "train", LABELS), {"temperature": temperature}
    drawn = [generate(world.sft, world.tokenizer, prompts, seed=1_000 + 2 * seed + k, **settings) for k in (0, 1)]
    sides = [[c.text for c in side] for side in drawn]
    rows, rng = [], random.Random(seed)
    gold = [world.gold(prompts, side).tolist() for side in sides]
    for prompt, a, b, ra, rb in zip(prompts, *sides, *gold, strict=True):
        if a.strip() and b.strip() and a != b:
            first = rng.random() < torch.tensor(ra - rb).sigmoid().item()
            rows.append({"prompt": prompt, "chosen": a if first else b, "rejected": b if first else a})
    differences = [abs(ra - rb) for ra, rb in zip(*gold, strict=True)]
    return {
        "pairs": len(rows),
        "same_text": LABELS - len(rows),
        "mean_difference": sum(differences) / LABELS,
        **fit(world, rows, seed),
    }


def prompt_diversity(world: World, prompts: int, types: str, seed: int) -> dict:
    """DPO on pairs of only `prompts` prompts, of one type or of all; LABELS labels in all, repeated where too few."""
    rng = random.Random(seed)
    names = [row["prompt"] for row in world.prompts["train"] if types in ("all", row["type"])]
    kept = set(rng.sample(names, prompts))
    rows = [row for row in world.pairs["train"] if row["prompt"] in kept]
    rng.shuffle(rows)
    return {"pairs": min(len(rows), LABELS), **fit(world, rows[:LABELS], seed)}


def annotator_panel(world: World, annotators: int, rule: str, seed: int) -> dict:
    """DPO on LABELS pairs, labelled anew by a panel of people who, four times in ten, click without looking.

    rule: "majority" of the panel, or "unanimous": only the pairs on which all agree, repeated until LABELS are seen.
    """
    rows = random.Random(seed).sample(world.pairs["train"], LABELS)
    asked = questions(rows, seed=seed)
    labels = panel([Annotator(lapse=0.4)] * annotators, asked, seed=seed).labels
    found = majority(labels) if rule == "majority" else confident(vote_share(labels), 1.0)[0]
    kept = found != MISSING
    right = (found == A) == (asked.difference > 0)
    return {
        "pairs": int(kept.sum()),
        "right": round(float(right[kept & (asked.difference != 0)].mean()), 4),
        "agreement": round(percent_agreement(labels), 4) if annotators > 1 else None,
        **fit(world, resolve(rows, asked, found), seed),
    }


def taste_shift(world: World, taste: str, seed: int, labels: int = 60, **settings) -> dict:
    """A simulated learner labels 60 training pairs by `taste`; how far do samples of the test prompts move towards it?

    `shift` is the mean of taste(after) − taste(before) over the prompts, with its 95 % interval.
    """
    like = TASTES[taste]
    rows, skipped = label_by_taste(world.pairs["train"], like, labels, seed)
    mine = train_on_my_labels(rows, world, seed=seed, progress=False, **settings)
    before, after = ([like(c.text) for c in side] for side in (mine.before, mine.after))
    shift = bootstrap([b - a for a, b in zip(before, after, strict=True)])
    found = {"before": bootstrap(before), "after": bootstrap(after), "shift": shift, "kl": mine.kl}
    found["held_out"] = mine.held_out
    return {"labels": len(rows), "skipped": skipped, "metrics": metrics(found, tuple(found))}


def fit(world: World, rows: Sequence[Row], seed: int, steps: int = LABELS // BATCH) -> dict:
    """Train DPO from `world.sft` on `rows` for `steps` steps, and measure: {"metrics": …} on the 400 test prompts."""
    policy = copy.deepcopy(world.sft)
    train(policy, list(rows), world.tokenizer, reference=world.sft, loss="dpo", beta=BETA, lr=LR, steps=steps,
          batch_size=BATCH, seed=seed, progress=False)  # fmt: skip
    return {"metrics": metrics(at_end(world, policy, seed))}


GRIDS: dict[str, Grid] = {
    "pairs-needed": (
        "DPO on n pairs, 1,600 labels seen in all; 400 test prompts",
        grid(5, pairs=(50, 100, 200, 400, 800, 1600)),
        pairs_needed,
    ),
    "label-noise": (
        "DPO on 1,600 pairs with a share of the labels flipped; 400 test prompts",
        grid(3, flips=(0.0, 0.1, 0.2, 0.3, 0.4)),
        label_noise,
    ),
    "response-diversity": (
        "DPO on one pair for each of 1,600 prompts, sampled at a temperature; 400 test prompts",
        grid(3, temperature=(0.4, 0.7, 1.0, 1.3)),
        response_diversity,
    ),
    "annotators": (
        "DPO on 1,600 pairs labelled by a panel, each annotator with a lapse rate of 0.4; 400 test prompts",
        [
            {"annotators": n, "rule": rule, "seed": seed}
            for seed in range(3)
            for n, rule in ((1, "majority"), (3, "majority"), (9, "majority"), (3, "unanimous"))
        ],
        annotator_panel,
    ),
    "own-labels": (
        "DPO on 60 labels of a simulated learner with a taste; 400 test prompts",
        grid(3, taste=tuple(TASTES)),
        taste_shift,
    ),
    "prompt-diversity": (
        "DPO on 1,600 labels from few or many prompts, of one type or of all; 400 test prompts",
        [
            {"prompts": n, "types": types, "seed": seed}
            for seed in range(3)
            for n, types in ((30, "all"), (100, "all"), (300, "all"), (300, "negative"), (300, "question"))
        ],
        prompt_diversity,
    ),
}  # fmt: skip
