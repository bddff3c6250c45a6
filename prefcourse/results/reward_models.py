"""The grids of lesson 03: how good and how calibrated a reward model is, by pairs, label noise, margin, and rate."""

import random
from collections.abc import Callable

from prefcourse.annotation.annotators import flipped
from prefcourse.results.answers import against, by_value
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import Grid, metrics, seeded
from prefcourse.rlhf.calibration import assess, fit_temperature
from prefcourse.rlhf.reward_model import RewardModel, pair_margins, train_reward_model
from prefcourse.worlds.world import World

PAIRS = 2_000  # of the runs on noise and on the margin, and of the run in the lesson
JUDGED = 2_000  # test pairs of a run, and half as many validation pairs for its temperature: the first of them
AS_TRAINED = ("accuracy", "gold_order", "nll", "ece", "ece_gold")
TRAININGS: dict[str, dict[str, float]] = {  # by another rate, or another number of passes, than the defaults
    "defaults": {},
    "a quarter of the rate": {"lr": 3.75e-5},
    "half the rate": {"lr": 7.5e-5},
    "twice the rate": {"lr": 3e-4},
    "two passes": {"epochs": 2},
    "two passes at half the rate": {"lr": 7.5e-5, "epochs": 2},
}


def fit_and_assess(
    world: World, pairs: int, seed: int, flips: float = 0.0, margin: float = 0.0
) -> tuple[RewardModel, dict]:
    """A reward model trained on `pairs` random training pairs, of which the share `flips` has its label turned round.

    Returns it as trained, and what `assess` says of it on JUDGED test pairs; the names with `_scaled` are those after
    one temperature, fitted on validation pairs, has divided all rewards.
    """
    rows, _ = flipped(random.Random(seed).sample(world.pairs["train"], pairs), flips, seed=seed)
    model, _ = train_reward_model(world.sft, rows, world.tokenizer, margin=margin, seed=seed, progress=False)

    temperature = fit_temperature(pair_margins(model, world.pairs["validation"][: JUDGED // 2]))
    test = world.pairs["test"][:JUDGED]
    margins = pair_margins(model, test)
    found = metrics(assess(margins, test), AS_TRAINED)
    scaled = metrics(assess(margins / temperature, test), ("nll", "ece", "ece_gold"))
    found |= {f"{name}_scaled": value for name, value in scaled.items()}
    return model, {"metrics": found, "temperature": round(temperature, 4)}


def trained_so(world: World, training: str, seed: int) -> dict:
    """A reward model trained on PAIRS pairs as TRAININGS says, judged on the first JUDGED validation pairs."""
    rows = random.Random(seed).sample(world.pairs["train"], PAIRS)
    model, _ = train_reward_model(world.sft, rows, world.tokenizer, seed=seed, progress=False, **TRAININGS[training])
    judged = world.pairs[PROTOCOL.choose_on][:JUDGED]
    return {"metrics": metrics(assess(pair_margins(model, judged), judged), AS_TRAINED)}


def _run(**fixed: float) -> Callable[..., dict]:
    def run(world: World, **setting: float) -> dict:
        return fit_and_assess(world, **fixed, **setting)[1]

    return run


GRIDS: dict[str, Grid] = {
    "reward-models": Grid(
        what="reward models trained on n pairs; test pairs",
        settings=seeded(pairs=(125, 500, 2000, 8000)),
        run=_run(),
        asks="How good and how calibrated is a reward model, by its number of pairs?",
        tells="One pass over the pairs at one rate. The labels are coins, so accuracy on labels has a ceiling well "
        "below 1.",
        answer=by_value("accuracy", "pairs"),
        seconds=64,
    ),
    "reward-model-noise": Grid(
        what="reward models trained on 2,000 pairs with a share of the labels flipped; test pairs",
        settings=seeded(flips=(0.1, 0.2, 0.3, 0.4)),
        run=_run(pairs=PAIRS),
        asks="What do flipped labels cost a reward model?",
        tells="Flips are independent of the texts.",
        answer=by_value("accuracy", "flips"),
        seconds=37,
    ),
    "reward-model-margin": Grid(
        what="reward models trained on 2,000 pairs with a margin in the loss; test pairs",
        settings=seeded(margin=(0.5, 1.0)),
        run=_run(pairs=PAIRS),
        asks="Does a margin in the loss help?",
        tells="Two margins, one number of pairs.",
        answer=by_value("accuracy", "margin"),
        seconds=31,
    ),
    "reward-model-rates": Grid(
        what="reward models trained on 2,000 pairs at other rates and with another pass; validation pairs",
        settings=[s | {"seed": PROTOCOL.choose_seeds[0] + s["seed"]} for s in seeded(training=tuple(TRAININGS))],
        run=trained_so,
        asks="At which rate, and how often, should a reward model read its pairs?",
        tells="A few settings, judged by order and likelihood, on pairs and with seeds that nothing is reported on.",
        answer=against("nll", "training", "defaults"),
        seconds=30,
    ),
}
