"""The grid of lesson 12: five ways in which preference training goes wrong, each with its fixes and their price.

A setting is a failure, an arm (what is done about it, or nothing) and a seed. The seed draws pairs, labels, batches and
samples, and draws the same for all arms of a failure: differences between arms are differences of paired runs.

    displacement        1,024 pairs: log π(chosen) falls · SFT on the chosen text beside DPO, or a fine for its fall
    over-optimisation   64 pairs read 16 times: KL without gain · a larger β; where to stop is read from the path
    length              1,024 pairs from a judge who likes length · the mean per token, or the judge's bias as offset
    noise               256 pairs read 4 times, 30 % of the labels flipped · losses that expect flips
    rate                a learning rate ten times too high · a long warm-up, or a stop at a KL
"""

import copy
import random
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.annotation.annotators import Annotator, Questions, margins, resolve
from prefcourse.evaluate import distinct_2, pair_logps, points, repetition
from prefcourse.losses import Vec
from prefcourse.preferences import Row
from prefcourse.quality.findings import length_gaps
from prefcourse.results.answers import by_value
from prefcourse.results.look import Column, Look, Sample, ended, gold, kl, length, shown, whole_end
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import METRICS, Grid, Setting, metrics, reference_of, rounded, turned
from prefcourse.train import train
from prefcourse.training.history import History
from prefcourse.worlds.world import World

STEPS, BATCH = 64, 16
BETA, LR = 0.1, 3e-4
PAIRS, FEW, NOISY = STEPS * BATCH, 64, 256  # each pair once; 16 times; 4 times
FLIPS = 0.3  # share of labels turned round
BIAS = 0.2  # nats per token by which the judge of "length" prefers the longer text
PROBE, SCORED = 100, 64  # prompts completed on the way, and pairs scored there
MEASURED = (*METRICS, "gain", "length", "eos_rate", "repetition")

ARMS: dict[str, dict[str, Setting]] = {  # failure → arm → what `train` is told besides the defaults above
    "displacement": {
        "dpo": {"every": 32},
        "dpo_nll": {"every": 32, "loss": "dpo_nll", "alpha": 0.3},
        "dpop": {"every": 32, "loss": "dpop", "lam": 1.0},
    },
    "over-optimisation": {"β = 0.02": {"beta": 0.02}, "β = 0.5": {"beta": 0.5}},
    "length": {
        "dpo": {"every": 32},
        "dpo_norm": {"every": 32, "loss": "dpo_norm", "beta": 2.0},
        "offset": {"every": 32, "loss": "offset"},
    },
    "noise": {
        "dpo": {"every": 32},
        "cdpo": {"every": 32, "loss": "cdpo", "eps": FLIPS},
        "rdpo": {"every": 32, "loss": "rdpo", "eps": FLIPS},
        "ipo": {"every": 32, "loss": "ipo", "tau": 0.1},
    },
    "rate": {
        "lr × 10": {"lr": 10 * LR, "steps": 32},
        "lr × 10, long warm-up": {"lr": 10 * LR, "steps": 32, "warmup": 0.5},
        "lr × 10, stop at 5 nats": {"lr": 10 * LR, "steps": 32, "every": 1, "max_kl": 5.0},
    },
}

CONTROLS: dict[str, dict[str, Setting]] = {  # arms that differ from the failing one in one thing only
    "displacement": {"dpo, β = 0.5": {"every": 32, "beta": 0.5}},
    "over-optimisation": {"β = 0.02, fresh pairs": {"beta": 0.02, "pairs": 1_024}},
    "length": {
        "dpo_norm, β = 10": {"every": 32, "loss": "dpo_norm", "beta": 10.0},
        "dpo, half the rate": {"every": 32, "lr": LR / 2},
    },
    "noise": {
        "dpo, half the rate": {"every": 32, "lr": LR / 2},
        "dpo, read once": {"every": 8, "steps": NOISY // BATCH},
        "dpo, four times the labels": {"every": 32, "pairs": 1_024},
        "dpo, no flips": {"every": 32, "flips": 0.0},
    },
    "rate": {"lr": {"steps": 32}, "lr × 10, clipped at 0.1": {"lr": 10 * LR, "steps": 32, "max_grad_norm": 0.1}},
}
DATA = ("pairs", "flips")  # what of an arm's settings is about the data


def arm_of(failure: str, arm: str) -> Setting:
    """What `train` and `data_of` are told in an arm of ARMS or CONTROLS."""
    return (ARMS[failure] | CONTROLS[failure])[arm]


def offset_loss(
    policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
    beta: float = 0.1, bias: float = 0.0, chosen_lengths: Vec, rejected_lengths: Vec,
) -> Vec:  # fmt: skip
    """DPO for labels that like length: -log σ(βh + c(L_w - L_l)), (B,). R-DPO of Park et al. 2024.

    bias: c, nats per token. If labels follow r + cL, the minimum over all policies is at βh = r_w - r_l: without c.
    """
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -logsigmoid(beta * h + bias * (chosen_lengths - rejected_lengths))


def failure(world: World, failure: str, arm: str, seed: int, split: str = "test") -> dict:
    """One run of ARMS or CONTROLS: metrics on test prompts, the path on validation prompts, and texts at its end.

    path: what `look_at` finds, with the step. pairs: facts about the data. steps: taken, fewer if max_kl stopped it.
    """
    of_data = {name: value for name, value in arm_of(failure, arm).items() if name in DATA}
    rows, probes, facts = data_of(world, failure, seed, **of_data)
    policy, look, history = train_arm(world, failure, arm, seed, rows, probes)
    measured = [i for i, nats in enumerate(history["kl"]) if nats == nats]
    path = [rounded({name: history[name][i] for name in ("step", *look.names)}) for i in measured]
    found, by_prompt = whole_end(world, policy, seed, split)
    facts = {"pairs": facts, "steps": int(history["step"][-1])}
    return {"metrics": metrics(found, MEASURED), "path": path, **facts, **shown(found), "by_prompt": by_prompt}


def train_arm(
    world: World, failure: str, arm: str, seed: int, rows: Sequence[Row], probes: Mapping[str, Sequence[Row]], **changes
) -> tuple[PreTrainedModel, Look, History]:
    """A copy of SFT trained on `rows` as the arm says, `changes` applied; its looks on the way, and its history."""
    settings = {"loss": "dpo", "lr": LR, "steps": STEPS, "every": 16, "beta": BETA, **arm_of(failure, arm), **changes}
    settings = {name: value for name, value in settings.items() if name not in DATA}
    if settings["loss"] == "ipo":
        del settings["beta"]  # its parameter is τ
    if settings["loss"] == "offset":
        settings |= {"loss": offset_loss, "bias": length_bias(rows, world.tokenizer)}
    policy, look = copy.deepcopy(world.sft), look_at(world, probes, seed)
    whole = len(rows) <= settings["steps"] * BATCH and isinstance(settings["loss"], str) and "max_kl" not in settings
    history = train(
        policy, list(rows), world.tokenizer, batch_size=BATCH, seed=seed, progress=False,
        measure=look.point, prompts=look.prompts if "max_kl" in settings else (), **settings,
        reference=reference_of(world, rows, settings["loss"]) if whole else world.sft,
    )  # fmt: skip
    return policy, look, history


# ------------------------------------------------------------------------------------------- the data of a failure


def data_of(
    world: World, failure: str, seed: int, pairs: int | None = None, flips: float | None = None
) -> tuple[list[Row], dict[str, list[Row]], dict[str, float]]:
    """The rows to train on, the pairs to score on the way (by name), and facts about the data.

    pairs, flips: as many pairs, and of "noise" such a share of turned labels, instead of what the failure has.
    """
    n = pairs or {"over-optimisation": FEW, "noise": NOISY}.get(failure, PAIRS)
    rng = random.Random(seed)
    rows = rng.sample(world.pairs["train"], n)
    held, facts = random.Random(seed).sample(world.pairs["validation"], SCORED), {"pairs": n}
    if failure == "length":
        rows = relabelled(rows, world.tokenizer, seed)
        gap = length_gaps(rows, world.tokenizer)
        facts |= {"longer_chosen": float(((gap > 0) + 0.5 * (gap == 0)).mean()),
                  "bias": length_bias(rows, world.tokenizer)}  # fmt: skip
    if failure != "noise":
        return rows, {"": rows[:SCORED], "held_": held}, facts
    rows, which = turned(rows, FLIPS if flips is None else flips, rng)
    if not which:
        return rows, {"": rows[:SCORED], "held_": held}, facts
    right, wrong = ([row for i, row in enumerate(rows) if (i in which) == side][:SCORED] for side in (False, True))
    return rows, {"": right, "held_": held, "flips_": wrong}, facts


def relabelled(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, seed: int, bias: float = BIAS) -> list[Row]:
    """The same pairs labelled anew by a judge whose log-odds are the difference in r + bias · tokens."""
    asked = Questions(margins(rows), length_gaps(rows, tokenizer), np.ones(len(rows), dtype=bool))
    return resolve(rows, asked, Annotator(length_bias=bias).label(asked, seed=seed))


def length_bias(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> float:
    """c of P(chosen) = σ(c · (L_w - L_l)), fitted to the labels alone by Newton's method: nats per token."""
    gap = length_gaps(rows, tokenizer).astype(float)
    c = 0.0
    for _ in range(20):  # maximise Σ log σ(c gap)
        p = 1 / (1 + np.exp(-c * gap))
        c += ((1 - p) * gap).sum() / max((p * (1 - p) * gap**2).sum(), 1e-12)  # without gaps c stays 0
    return float(c)


# ------------------------------------------------------------------------------------------- what a run is like


def look_at(world: World, probes: Mapping[str, Sequence[Row]], seed: int) -> Look:
    """What the policy writes after validation prompts, and where it has moved on known pairs.

    kl, gold (nats), length (tokens), eos_rate, repetition, distinct_2: of its completions of PROBE prompts.
    chosen, rejected, ranked: `moved` on `probes[""]`, pairs of the training data; with the prefix "held_" on pairs it
    never sees, with "flips_" on pairs whose label was turned round.
    """
    known = [moved(world, rows, prefix) for prefix, rows in probes.items()]
    columns = (kl, gold, length, partial(ended, name="eos_rate"), variety, *known)
    return Look(world, seed, columns, count=PROBE, split="validation")


def variety(seen: Sample) -> dict[str, float]:
    """How far prompts and completions repeat themselves and one another."""
    whole = [prompt + text for prompt, text in zip(seen.prompts, seen.texts, strict=True)]
    return {"repetition": sum(map(repetition, whole)) / len(whole), "distinct_2": distinct_2(whole).value}


def moved(world: World, rows: Sequence[Row], prefix: str) -> Column:
    """A column: mean log π/π_ref of both sides of `rows` in nats, and the share ranked right."""
    before = pair_logps(world.sft, rows, world.tokenizer)

    def column(seen: Sample) -> dict[str, float]:
        chosen, rejected = pair_logps(seen.policy, rows, world.tokenizer) - before  # (N,) each
        found = {"chosen": chosen.mean(), "rejected": rejected.mean(), "ranked": points(chosen, rejected).mean()}
        return {f"{prefix}{name}": value.item() for name, value in found.items()}

    return column


GRIDS: dict[str, Grid] = {
    "failures": Grid(
        what="DPO that fails in five ways, with fixes, and with controls that change one thing",
        settings=[
            {"failure": name, "arm": arm, "seed": seed}
            for seed in range(PROTOCOL.seeds)
            for name in ARMS
            for arm in ARMS[name] | CONTROLS[name]
        ],
        run=failure,
        asks="Which symptom does each fix remove, and what does it cost?",
        tells="The failing run is the baseline and is not tuned: it is meant to fail. A fix that changes two things "
        "says nothing of either; the controls change one. Compare gains at equal KL before calling a loss better.",
        answer=by_value("gold_reward", "arm", failure="noise"),
        seconds=77,
    ),
}
