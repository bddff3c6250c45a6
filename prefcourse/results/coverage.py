"""The grid `coverage` of lesson 13: DPO where good answers are not in the data.

    random        pairs as they come
    poor          pairs of which neither text is above the median gold reward of all texts: the good half is missing
    same margins  random pairs with the differences of gold reward that "poor" has, so that labels are as sure
    good          pairs of which neither is below the median: the poor half is missing
    online        as many labels on texts that the policy in training writes: it may reach what "poor" lacks

All arms have PAIRS pairs, the same β, rate and steps, chosen with "random" on validation. What no pair contains, DPO's
loss says nothing about (Xu et al. 2024; Song et al. 2024): top_share counts how often a policy writes above the best
tenth.
"""

import copy
import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from prefcourse.evaluate import bootstrap
from prefcourse.feedback.online import online_dpo
from prefcourse.preferences import Row
from prefcourse.results.answers import against
from prefcourse.results.beyond import taxes
from prefcourse.results.look import brief, prompts_of, shown, whole_end
from prefcourse.results.protocol import cross
from prefcourse.results.store import METRICS, Grid, metrics, seeded
from prefcourse.train import train
from prefcourse.worlds.world import World

PAIRS, BATCH = 512, 16
ROUNDS = 4  # of "online"
ARMS = ("random", "poor", "same margins", "good", "online")
COLUMNS = ("tax_negative", "tax_neutral", "tax_positive")


def scores(world: World) -> torch.Tensor:
    """Gold rewards of all texts of the training pairs, (2N,)."""
    rows = world.pairs["train"]
    return torch.tensor([row[side] for row in rows for side in ("chosen_score", "rejected_score")], dtype=torch.float64)


def rows_of(world: World, arm: str, seed: int) -> list[Row]:
    """The training pairs of an arm. Raises ValueError, with the number there is, if there are fewer than PAIRS."""
    rows, middle, rng = world.pairs["train"], scores(world).median().item(), random.Random(seed)
    poor = [row for row in rows if max(row["chosen_score"], row["rejected_score"]) <= middle]
    good = [row for row in rows if min(row["chosen_score"], row["rejected_score"]) >= middle]
    pool = {"poor": poor, "good": good}.get(arm, rows)
    if len(pool) < PAIRS:
        raise ValueError(f"{arm!r} has {len(pool)} pairs; {PAIRS} are needed: lower coverage.PAIRS")
    if arm != "same margins":
        return rng.sample(pool, PAIRS)
    return matched(rows, random.Random(seed).sample(poor, PAIRS), rng)


def matched(rows: Sequence[Row], like: Sequence[Row], rng: random.Random) -> list[Row]:
    """For each row of `like` another of `rows`, drawn from the 20 whose margin is nearest; none twice."""
    free = sorted(rng.sample(list(rows), len(rows)), key=_margin)
    found = []
    for row in rng.sample(list(like), len(like)):
        where = min(range(len(free)), key=lambda i: abs(_margin(free[i]) - _margin(row)))
        start = max(0, min(where - 10, len(free) - 20))
        found.append(free.pop(rng.randrange(start, min(start + 20, len(free)))))
    return found


def _margin(row: Row) -> float:
    return row["chosen_score"] - row["rejected_score"]


def learnt(world: World, arm: str, seed: int, beta: float, lr: float) -> PreTrainedModel:
    """A copy of SFT after DPO on the pairs of `arm`."""
    policy = copy.deepcopy(world.sft)
    if arm == "online":
        online_dpo(
            policy, world.gold, prompts_of(world, "train"), world.tokenizer, reference=world.sft, rounds=ROUNDS,
            labels=PAIRS // ROUNDS, batch_size=BATCH, beta=beta, lr=lr, seed=seed, open_ended=world.open_ended,
            progress=False,
        )  # fmt: skip
        return policy
    train(policy, rows_of(world, arm, seed), world.tokenizer, reference=world.sft, loss="dpo", beta=beta, lr=lr,
          steps=PAIRS // BATCH, batch_size=BATCH, schedule="constant", seed=seed, progress=False)  # fmt: skip
    return policy


def coverage(world: World, arm: str, seed: int, split: str = "test", beta: float = 0.1, lr: float = 3e-4) -> dict:
    """Metrics and by_prompt as ever; top_share: completions above the best tenth of SFT's texts; held-out taxes."""
    policy = learnt(world, arm, seed, beta, lr)
    found, by_prompt = whole_end(world, policy, seed, split)
    top = scores(world).quantile(0.9)
    costs = taxes(world, policy, split)
    more = {"top_share": bootstrap((found.rewards.double() > top).double())} | {name: costs[name] for name in COLUMNS}
    return {
        "metrics": metrics({**found, **more}, (*METRICS, "gain", *more)), **shown(found), "by_prompt": by_prompt
    }  # fmt: skip


def trial(world: World, seed: int, beta: float, lr: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts after DPO on random pairs."""
    return brief(world, learnt(world, "random", seed, beta, lr), seed)


GRIDS: dict[str, Grid] = {
    "coverage": Grid(
        what=f"DPO on {PAIRS} pairs without the good half of the texts, with controls, and online",
        settings=seeded(arm=ARMS),
        run=coverage,
        asks="Can DPO learn to write what no pair of its data contains?",
        tells="Half of the range is missing, not a kind of text. Margins are the same in one control; the online "
        "arm sees other texts, so it differs in coverage and in distance from the policy.",
        answer=against("gain", "arm", "random"),
        tries=cross(beta=(0.05, 0.1, 0.3), lr=(1.5e-4, 3e-4, 6e-4)),
        trial=trial,
        seconds=45,
        trial_seconds=30,
    ),
}
