"""How a run of the grids of lessons 08 and 09 is trained: DPO by β, any method on a seed's pairs, and label noise.

All methods learn from the same pairs: those that the seed draws. RLOO and PPO get a reward model trained on them. The
seed also draws batches and samples, the same for every method, so two methods are compared seed by seed.
"""

import copy
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from prefcourse.annotation.annotators import exchanged
from prefcourse.evaluate import METRICS, MORE
from prefcourse.preferences import Row
from prefcourse.results.look import Look, at_end, ended, gain, gold, kl, length
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import kept, metrics, reference_of, rounded, turned
from prefcourse.rlhf.policy_gradient import ppo, rloo
from prefcourse.rlhf.reward_model import train_reward_model
from prefcourse.rlhf.rollouts import Reward
from prefcourse.train import train
from prefcourse.training import stepping
from prefcourse.worlds.world import World

PAIRS, BATCH = 1_024, 16  # of a run of `methods` and `noise`: 64 steps of 16 pairs
LR = 3e-4
PROBE = 200  # prompts measured on the way; at the end it is all of them
STEPS = 120  # of a run of `beta-sweep`, at a constant rate: each step is where a shorter run would have ended
EARLY = (5, 10, 20, 40, 80)  # those of them that are measured besides the end
BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
DESIRABLE = 0.2  # share of good completions in the unbalanced data
LEARNERS = ("rloo", "ppo")  # that learn from a reward
REWARD = {"lr": 4.5e-4, "batch_size": BATCH}


@dataclass(frozen=True)
class Method:
    """How a method is trained: its loss, and its main setting, with the values that `methods` tries."""

    loss: str
    knob: str = ""
    values: tuple[float, ...] = ()
    fixed: Mapping = field(default_factory=dict)  # the other settings of the loss or of the loop
    data: str = "pairs"  # or "unbalanced": single completions, few of them good
    start: str = "sft"  # or "base"


NOISY = {  # settings of the runs on noisy labels; ε is the true rate of flips
    "dpo": {"beta": 0.1},
    "cdpo": {"beta": 0.1},
    "rdpo": {"beta": 0.1},
    "ipo": {"tau": 0.1},
    "kto": {"beta": 0.1, "batch_size": 2 * BATCH},
}


CORRECTED = ("cdpo", "rdpo")  # are told the rate; at rate 0 they are DPO


def draw_pairs(world: World, seed: int) -> list[Row]:
    """The pairs that all methods of a seed learn from."""
    return draw_rows(world.pairs["train"], seed, PAIRS)


def draw_rows(rows: Sequence[Row], seed: int, count: int) -> list[Row]:
    """`count` of `rows`, or all if there are fewer."""
    return random.Random(seed).sample(rows, min(count, len(rows)))


def unbalanced(rows: list[Row]) -> list[Row]:
    """One completion of each pair, one in five the chosen one: good ones are rare, and no pair is left."""
    every = round(1 / DESIRABLE)
    return [
        {"prompt": row["prompt"], "completion": row["rejected" if i % every else "chosen"], "label": i % every == 0}
        for i, row in enumerate(rows)
    ]


def beta_sweep(
    world: World, beta: float, lr: float, seed: int, split: str = "test", beta2: float = 0.99, batch: int = 0,
    labels: str = "drawn", by_prompt: bool = False, on_the_way: bool = True,
) -> dict:  # fmt: skip
    """DPO for STEPS steps at a constant rate; path: a point at the steps EARLY and at the end.

    beta2: how long Adam remembers squared gradients, over about 1 / (1 - beta2) steps. batch: pairs of a step (0:
    BATCH); there are as many pairs in all, so fewer steps. labels: as the coin drew them, or "ordered": the text with
    the higher gold reward is chosen, so that no label contradicts another. by_prompt: look at the protocol's prompts
    and keep each. on_the_way: look at the steps EARLY, too.
    """
    rows, known = world.pairs["train"], getattr(world, "sft_logps", None)
    if labels == "ordered":
        rows, known = [exchanged(row) if row["chosen_score"] < row["rejected_score"] else row for row in rows], None
    batch, count = batch or BATCH, PROTOCOL.prompts if by_prompt else PROBE
    fewer = batch // BATCH
    policy = copy.deepcopy(world.sft)
    look = Look(world, seed, (kl, gold, gain, length, ended), count=count, split=split, by_prompt=by_prompt)
    steps, every = STEPS // fewer, max(EARLY[0] // fewer, 1)
    looks = [step for step in (max(early // fewer, 1) for early in EARLY if on_the_way) if step < steps]
    with adam(beta2):
        history = train(
            policy, rows, world.tokenizer, loss="dpo", beta=beta, lr=lr, steps=steps, seed=seed, batch_size=batch,
            schedule="constant", progress=False, reference=known, measure=look.at(looks, every),
            every=every,
        )  # fmt: skip
    logs = rounded({"train_accuracy": last(history["rewards/accuracies"])})
    return finish(look, policy, steps) | logs


@contextmanager
def adam(beta2: float) -> Iterator[None]:
    """Within, runs train by AdamW with this second constant instead of the course's."""
    usual = stepping.BETAS
    stepping.BETAS = (usual[0], beta2)
    try:
        yield
    finally:
        stepping.BETAS = usual


def noise(world: World, method: str, flips: float, seed: int, split: str = "test", **chosen: float) -> dict:
    """Train by `method` with the settings NOISY, `chosen` applied, on pairs of which the share `flips` is turned."""
    rows, _ = turned(draw_pairs(world, seed), flips, random.Random(seed))
    settings = NOISY[method] | chosen
    if method in CORRECTED:
        settings["eps"] = flips
    look = look_at(world, seed, split, by_prompt=True)
    policy, steps, logs = learn(world, Method(method), rows, settings, seed, look)
    return finish(look, policy, steps) | logs


def learn(
    world: World, method: Method, rows: list[Row], settings: Mapping, seed: int, look: Look, looks: Sequence[int] = ()
) -> tuple[PreTrainedModel, int, dict[str, float]]:
    """Train a copy of the model that `method` starts from; `look` looks at the steps `looks`, multiples of the first.

    Returns the policy, the number of steps, and what the training logged at its end.
    """
    policy = copy.deepcopy(getattr(world, method.start))
    common = {"reference": world.sft, "seed": seed, "progress": False, "lr": LR} | settings
    if method.loss in LEARNERS:
        steps, prompts = common["steps"], list(dict.fromkeys(row["prompt"] for row in rows))
        every = looks[0] if looks else steps
        reward = reward_model(world, rows, seed)
        climb = rloo if method.loss == "rloo" else ppo
        climb(policy, reward, prompts, world.tokenizer, measure=look.at(looks, every), every=every, **common)
        return policy, steps, {}
    data = unbalanced(rows) if method.data == "unbalanced" else rows
    common["reference"] = reference_of(world, data, method.loss)
    steps = len(rows) // BATCH
    every = looks[0] if looks else steps
    common = {"batch_size": BATCH, "steps": steps, "measure": look.at(looks, every), "every": every} | common
    history = train(policy, data, world.tokenizer, loss=method.loss, **common)
    columns = ("loss", "logps/chosen", "logps/rejected", "rewards/accuracies")
    logs = {f"train_{name.split('/')[-1]}": last(history[name]) for name in columns if name in history}
    return policy, steps, rounded(logs)


def last(column: list[float], count: int = 10) -> float:
    """The mean of the last `count` entries of a column of a history; the row of the final look has none."""
    kept = [value for value in column if value is not None and not math.isnan(value)][-count:]
    return sum(kept) / len(kept)


def reward_model(world: World, rows: list[Row], seed: int) -> Reward:
    """A reward model trained on `rows`, kept for the other runs of the seed."""
    settings = REWARD | {"seed": seed, "progress": False}
    key = ("reward model", world.name, seed)
    return kept(key, lambda: train_reward_model(world.sft, rows, world.tokenizer, **settings)[0])


def look_at(world: World, seed: int, split: str = "test", by_prompt: bool = False) -> Look:
    """KL, gold reward, its gain over SFT, length, share with EOS, on PROBE prompts or those of the protocol."""
    count = PROTOCOL.prompts if by_prompt else PROBE
    return Look(world, seed, (kl, gold, gain, length, ended), count=count, split=split, by_prompt=by_prompt)


def finish(look: Look, policy: PreTrainedModel, steps: int) -> dict:
    """metrics on the protocol's prompts, the gain over SFT there among them; path: the look's, and its end.

    by_prompt: KL and gain of each prompt at each point of the path, if the look keeps them.
    """
    found = at_end(look.world, policy, look.seed, look.split)
    look.keep(found.log_ratios, found.rewards, found.baseline_rewards)
    names = {"kl": "kl", "gold": "gold_reward", "length": "length", "eos": "eos_rate", "gain": "gain"}
    end = {"step": steps} | rounded({name: found[metric].value for name, metric in names.items()})
    whole = {"by_prompt": look.found} if look.found else {}
    return {"metrics": metrics(found, (*METRICS, *MORE, "gain")), "path": [*look.path, end], **whole}
