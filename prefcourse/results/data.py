"""The grids of lesson 01: what preference data must be like, measured on the policy that was trained on it."""

import copy
import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from prefcourse.annotation.aggregation import confident, majority, vote_share
from prefcourse.annotation.agreement import MISSING, A, percent_agreement
from prefcourse.annotation.annotators import Annotator, panel, questions, resolve
from prefcourse.annotation.personal import TASTES, label_by_taste, train_on_my_labels
from prefcourse.evaluate import bootstrap
from prefcourse.generate import generate
from prefcourse.preferences import Row
from prefcourse.results.answers import by_value
from prefcourse.results.look import brief, prompts_of, whole_end
from prefcourse.results.protocol import PROTOCOL, candidates
from prefcourse.results.store import METRICS, Grid, Setting, metrics, reference_of, seeded, turned
from prefcourse.train import train
from prefcourse.worlds.world import World

LABELS = 1_600  # pairs that a run sees, each once or several times: 100 steps of 16
BATCH = 16
BETA, LR = 0.1, 1.5e-4


def pairs_needed(world: World, pairs: int, seed: int, read: str = "equally often", **chosen: float) -> dict:
    """DPO on `pairs` random training pairs. read: "equally often", repeated until LABELS are seen, or "once"."""
    rows = random.Random(seed).sample(world.pairs["train"], pairs)
    return fit(world, rows, seed, LABELS // BATCH if read == "equally often" else max(pairs // BATCH, 1), **chosen)


def pairs_trial(world: World, pairs: int, read: str, seed: int, lr: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts of `pairs_needed` at the learning rate `lr`."""
    rows = random.Random(seed).sample(world.pairs["train"], pairs)
    steps = LABELS // BATCH if read == "equally often" else max(pairs // BATCH, 1)
    return brief(world, train_on(world, rows, seed, steps, lr=lr), seed)


def label_noise(world: World, flips: float, seed: int) -> dict:
    """DPO on LABELS random training pairs of which the share `flips` has chosen and rejected exchanged."""
    rng = random.Random(seed)
    rows, _ = turned(rng.sample(world.pairs["train"], LABELS), flips, rng)
    return fit(world, rows, seed)


def response_diversity(world: World, temperature: float, seed: int, pairs: int | None = None) -> dict:
    """DPO on one pair for each of LABELS prompts, sampled at `temperature`, labelled by a coin on the gold reward.

    pairs: train on so many of them, each read once, so that all temperatures have as many; None: on all, for LABELS.
    """
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
    facts = {"same_text": LABELS - len(rows), "mean_difference": sum(differences) / LABELS}
    if pairs is not None and len(rows) < pairs:
        raise ValueError(f"temperature {temperature} gives {len(rows)} pairs; {pairs} are asked for: ask for fewer")
    rows = rows[:pairs]
    found = fit(world, rows, seed, LABELS // BATCH if pairs is None else pairs // BATCH)
    return {"pairs": len(rows), **facts, **found}


def prompt_diversity(world: World, prompts: int, types: str, seed: int) -> dict:
    """DPO on pairs of only `prompts` prompts, of one type or of all; LABELS labels in all, repeated where too few."""
    rng = random.Random(seed)
    names = [row["prompt"] for row in world.prompts["train"] if types in ("all", row["type"])]
    kept = set(rng.sample(names, prompts))
    rows = [row for row in world.pairs["train"] if row["prompt"] in kept]
    rng.shuffle(rows)
    return {"pairs": min(len(rows), LABELS), **fit(world, rows[:LABELS], seed)}


def annotator_panel(world: World, annotators: int, rule: str, seed: int, budget: str = "pairs") -> dict:
    """DPO on pairs labelled anew by a panel of people who, four times in ten, click without looking.

    rule: "majority" of the panel, or "unanimous": only the pairs on which all agree. budget: LABELS "pairs", each
    labelled by all, or LABELS "labels", so that a panel of three has a third of the pairs. Repeated until LABELS are
    seen.
    """
    rows = random.Random(seed).sample(world.pairs["train"], LABELS // (annotators if budget == "labels" else 1))
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


def fit(
    world: World, rows: Sequence[Row], seed: int, steps: int = LABELS // BATCH, split: str = "test", **settings: float
) -> dict:
    """Train DPO from `world.sft` on `rows` for `steps` steps; metrics on the protocol's prompts, and by prompt."""
    found, by_prompt = whole_end(world, train_on(world, rows, seed, steps, **settings), seed, split)
    return {"metrics": metrics(found, (*METRICS, "gain")), "by_prompt": by_prompt}


def train_on(world: World, rows: Sequence[Row], seed: int, steps: int, **settings: float) -> PreTrainedModel:
    """A copy of SFT after `steps` of DPO on `rows` at BETA and LR, or at what `settings` says."""
    policy = copy.deepcopy(world.sft)
    reference = reference_of(world, rows, "dpo") if len(rows) <= steps * BATCH else world.sft
    train(policy, list(rows), world.tokenizer, reference=reference, loss="dpo", steps=steps, batch_size=BATCH,
          seed=seed, progress=False, **{"beta": BETA, "lr": LR} | settings)  # fmt: skip
    return policy


SIZES, READ = (50, 100, 200, 400, 800, 1600), ("equally often", "once")


def _twice(setting: Setting) -> bool:
    """Is it a run that the grid has anyway? LABELS pairs are read once where LABELS are seen."""
    return (setting["pairs"], setting["read"]) == (LABELS, "once")


GRIDS: dict[str, Grid] = {
    "pairs-needed": Grid(
        what=f"DPO on n pairs, read once, or repeated until {LABELS:,} labels are seen; the rate chosen for each",
        settings=[s for s in seeded(pairs=SIZES, read=READ) if not _twice(s)],
        run=pairs_needed,
        asks="How many preference pairs are enough?",
        tells="Simulated labels on one task. Repeating few pairs and reading many once differ in steps as well as "
        "in pairs: both ways are run, so that either can be held equal.",
        answer=by_value("win_rate", "pairs", read="equally often"),
        tries=[s for s in candidates(pairs=SIZES, read=READ, lr=(5e-5, 1.5e-4, 4e-4)) if not _twice(s)],
        trial=pairs_trial,
        by=("pairs", "read"),
        seconds=40,
        trial_seconds=30,
    ),
    "label-noise": Grid(
        what="DPO on 1,600 pairs with a share of the labels flipped",
        settings=seeded(flips=(0.0, 0.1, 0.2, 0.3, 0.4)),
        run=label_noise,
        asks="What do wrong labels cost, all else equal?",
        tells="One setting for all shares, so that only the labels differ; `noise` compares losses, each tuned.",
        answer=by_value("win_rate", "flips"),
        seconds=25,
    ),
    "response-diversity": Grid(
        what="DPO on as many pairs, one a prompt, sampled at a temperature, each read once",
        settings=seeded(temperature=(0.4, 0.7, 1.0, 1.3), pairs=(1_000,)),
        run=response_diversity,
        asks="At which temperature should the pairs be sampled?",
        tells="As many pairs and as many steps for all temperatures; KL still differs, so win rates are not at "
        "equal KL.",
        answer=by_value("win_rate", "temperature"),
        seconds=26,
    ),
    "annotators": Grid(
        what="DPO on pairs labelled by a panel, each annotator with a lapse rate of 0.4, at equal labels or equal "
        "pairs",
        settings=[
            {"annotators": n, "rule": rule, "budget": budget, "seed": seed}
            for seed in range(PROTOCOL.seeds)
            for budget in ("labels", "pairs")
            for n, rule in ((1, "majority"), (3, "majority"), (9, "majority"), (3, "unanimous"))
            if (n, budget) != (1, "pairs")  # as many pairs as labels: the same run
        ],
        run=annotator_panel,
        asks="Several people on each pair, or one on several times as many pairs?",
        tells="Errors are independent coins. At equal labels the panels have fewer pairs, read more often.",
        answer=by_value("win_rate", "annotators", rule="majority", budget="labels"),
        seconds=24,
    ),
    "own-labels": Grid(
        what="DPO on 60 labels of a simulated learner with a taste",
        settings=seeded(taste=tuple(TASTES)),
        run=taste_shift,
        asks="Do sixty labels of one's own change what the model writes?",
        tells="Simulated tastes that are counts of words: a person is less consistent.",
        answer=by_value("shift", "taste"),
        seconds=20,
    ),
    "prompt-diversity": Grid(
        what="DPO on 1,600 labels from few or many prompts, of one type or of all",
        settings=[
            {"prompts": n, "types": types, "seed": seed}
            for seed in range(PROTOCOL.seeds)
            for n, types in ((30, "all"), (100, "all"), (300, "all"), (300, "negative"), (300, "question"))
        ],
        run=prompt_diversity,
        asks="Few prompts or many, of one type or of all?",
        tells="Fewer prompts also mean pairs read more often; the two are not held apart here.",
        answer=by_value("win_rate", "prompts", types="all"),
        seconds=27,
    ),
}  # fmt: skip
