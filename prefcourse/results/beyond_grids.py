"""The grids of lessons 13 and 14 under the protocol; their runs are in `beyond`.

online          each arm at one common β and rate, where arms differ in one thing only; two of them at their own, too
ai-feedback     judges at one β and rate, chosen with the gold judge; a judge who tosses coins as control
alignment-tax   ways to pay less, each at its own rate; on negative, neutral, positive and on unchanged text
"""

import contextlib
import copy

from prefcourse.results import beyond
from prefcourse.results.answers import against, at_equal_kl
from prefcourse.results.beyond import ARMS, BATCH, LABELS, ROUNDS, TAX
from prefcourse.results.look import brief
from prefcourse.results.protocol import PROTOCOL, cross
from prefcourse.results.store import Grid, Setting, seeded
from prefcourse.worlds.world import World

COMMON = {"beta": 0.1, "lr": 1.5e-4}
TUNED = ("offline", "online")  # the others are compared at the common settings
JUDGES = ("gold", "constitution", "without tone", "model", "coin")


def online_trial(world: World, arm: str, at: str, seed: int, beta: float, lr: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts of an arm at β and rate.

    Of a run whose writers no longer end their texts, up to there: its KL will rule it out.
    """
    policy = copy.deepcopy(world.sft)
    with contextlib.suppress(RuntimeError):
        beyond.climb(world, policy, arm, world.gold, seed, beta=beta, lr=lr)
    return brief(world, policy, seed)


def feedback_trial(world: World, seed: int, beta: float, lr: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts of offline DPO on the gold judge's labels."""
    policy = copy.deepcopy(world.sft)
    beyond.climb(world, policy, "offline", world.gold, seed, rounds=beyond.AI_ROUNDS, beta=beta, lr=lr)
    return brief(world, policy, seed)


def tax_trial(world: World, method: str, seed: int, **candidate: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts of a policy aligned by `method`."""
    return brief(world, beyond.align(world, method, seed, **candidate), seed)


def _online() -> list[Setting]:
    common = [{"arm": arm, "at": "common", **COMMON, "seed": seed} for seed in range(PROTOCOL.seeds) for arm in ARMS]
    return [*common, *seeded(arm=TUNED, at=("tuned",))]


def _tax_tries() -> list[Setting]:
    found = []
    for method, settings in TAX.items():
        slow = settings.get("loss") in ("sft", "dpo_nll")  # with a likelihood in them, which go less far at one rate
        rates = (3e-4, 1e-3, 3e-3) if "rank" in settings else (1.5e-4, 4e-4, 1e-3) if slow else (5e-5, 1.5e-4, 4e-4)
        knob = {"alpha": (0.1, 0.3, 1.0)} if "alpha" in settings else {}
        found += cross(method=[method], lr=rates, **knob)
    return found


GRIDS: dict[str, Grid] = {
    "online": Grid(
        what=f"DPO in {ROUNDS} rounds of {LABELS} labels, by who writes the pairs, at common and at tuned settings",
        settings=_online(),
        run=beyond.online,
        asks="Does it help to write the pairs oneself, at the same number of labels and at the same KL?",
        tells="Labels are the gold reward's coins, not people's, and as quick online as offline. At common settings "
        "the arms differ in one thing and in KL. The tuned settings rest on two seeds, where fast offline ran just "
        "over the limit: tuned offline is slower and gains less than at the common rate, so these arms differ in rate, "
        "too.",
        answer=at_equal_kl("online", "arm", "offline", at="common"),
        tries=[s for arm in TUNED
               for s in cross(arm=[arm], at=["tuned"], beta=(0.05, 0.1, 0.5), lr=(7.5e-5, 1.5e-4))],
        trial=online_trial,
        by=("arm", "at"),
        seconds=150,
        trial_seconds=110,
    ),
    "ai-feedback": Grid(
        what=f"DPO in {beyond.AI_ROUNDS} rounds of {LABELS} labels, by who labels the pairs",
        settings=seeded(judge=JUDGES, arm=("offline",)),
        run=beyond.ai_feedback,
        asks="Can a constitution or a model label in place of people?",
        tells="One constitution of five rules and one small model as judge. Arms differ in the judge only; settings "
        "are those that suit the gold judge.",
        answer=against("gain", "judge", "gold"),
        tries=cross(beta=(0.05, 0.1, 0.3), lr=(7.5e-5, 1.5e-4, 3e-4)),
        trial=feedback_trial,
        seconds=45,
        trial_seconds=35,
    ),
    "alignment-tax": Grid(
        what=f"log-probability lost on held-out text, by how the model was aligned, {BATCH} pairs a step",
        settings=seeded(method=tuple(TAX)),
        run=beyond.alignment_tax,
        asks="What does alignment cost on held-out text, by its kind, and what makes it cheaper?",
        tells="A benchmark of held-out texts, negative, neutral and positive, and those whose gold reward is SFT's "
        "usual one. It is a forward KL by parts, not the loss of skills that larger models are examined for.",
        answer=against("tax_neutral", "method", "DPO"),
        tries=_tax_tries(),
        trial=tax_trial,
        by=("method",),
        seconds=40,
        trial_seconds=30,
    ),
}  # fmt: skip
