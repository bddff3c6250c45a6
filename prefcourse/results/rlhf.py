"""The grids of lesson 04: what RLOO and PPO gain with the true and with a learned reward, and over-optimisation.

The learned reward is the proxy, the true one the gold reward. A reward in training is standardised: minus its mean and
divided by its standard deviation over the SFT model's completions of training prompts. So β is in the same unit for all
rewards: standard deviations per nat. What is measured is standardised too, on the prompts on which it is measured: the
SFT model is at 0, and 1 is the spread of its own completions.
"""

import copy
import random
import time
from collections.abc import Sequence
from functools import partial

from transformers import PreTrainedModel

from prefcourse.evaluate import bootstrap
from prefcourse.generate import generate
from prefcourse.results.answers import by_value
from prefcourse.results.look import Column, Look, Sample, at_end, kl, length, prompts_of, sample
from prefcourse.results.store import Grid, kept, metrics, seeded
from prefcourse.rlhf.policy_gradient import ppo, rloo
from prefcourse.rlhf.reward_model import train_reward_model
from prefcourse.rlhf.rollouts import Reward
from prefcourse.training.history import History
from prefcourse.worlds.world import World

MANY, FEW = 2_000, 16  # pairs of a good and of a very poor reward model
READ = 128  # labels that a reward model sees at least: the few pairs are read several times
PROBE, SHOWN = 150, 6  # prompts measured on the way, and those of which the texts are kept
BETA = 0.05  # standard deviations of the reward per nat
RLOO = {"lr": 3e-4, "steps": 24, "batch_size": 16, "k": 4}
PPO = {"lr": 2e-4, "steps": 12, "batch_size": 96}
MAX_KL = 5.0  # nats: a run stops at the step whose samples have more, which may be twice as much
LONG = {"beta": 0.0, "lr": 2e-4, "steps": 40, "max_kl": 100.0, "missing_eos_penalty": 1.0, "max_new_tokens": 32}
EVERY = 5  # steps between two looks at a long run


def standardised(reward: Reward, prompts: Sequence[str], texts: Sequence[str]) -> Reward:
    """`reward` with mean 0 and standard deviation 1 over `texts`."""
    found = reward(prompts, texts)
    mean, deviation = found.mean(), found.std()
    return lambda prompts, texts: (reward(prompts, texts) - mean) / deviation


def to_train_on(reward: Reward, world: World, seed: int) -> Reward:
    """`reward` standardised over SFT's completions of 256 training prompts."""
    prompts = prompts_of(world, "train")
    prompts = random.Random(seed).sample(prompts, min(256, len(prompts)))
    return standardised(reward, prompts, [c.text for c in generate(world.sft, world.tokenizer, prompts, seed=seed)])


def proxy(world: World, pairs: int, seed: int) -> Reward:
    """A reward model trained on `pairs` random training pairs, standardised; kept for the other runs of the seed."""

    def learn() -> Reward:
        rows = random.Random(seed).sample(world.pairs["train"], pairs)
        epochs = max(1, READ // pairs)
        model, _ = train_reward_model(world.sft, rows, world.tokenizer, epochs=epochs, seed=seed, progress=False)
        return to_train_on(model, world, seed)

    return kept(("proxy", world.name, pairs, seed), learn)


def climb(world: World, method: str, reward: Reward, seed: int, **settings) -> tuple[PreTrainedModel, History]:
    """A copy of SFT trained on `reward` by "rloo" or "ppo", from the training prompts, and its history."""
    policy, prompts = copy.deepcopy(world.sft), prompts_of(world, "train")
    settings = (RLOO if method == "rloo" else PPO) | {"beta": BETA, "progress": False} | settings
    learn = rloo if method == "rloo" else ppo
    return policy, learn(policy, reward, prompts, world.tokenizer, reference=world.sft, seed=seed, **settings)


def gains(world: World, method: str, reward: str, seed: int, split: str = "test") -> dict:
    """Train with the reward "gold" or "learned", and measure the gain in gold reward (nats) over SFT, prompt by prompt.

    processor: its seconds for the training, on one thread, the reward model's not included. steps: fewer than asked for
    if the KL of a step's samples went beyond MAX_KL, where a run stops.
    """
    judge = to_train_on(world.gold, world, seed) if reward == "gold" else proxy(world, MANY, seed)
    began = time.process_time()
    policy, history = climb(world, method, judge, seed, max_kl=MAX_KL)
    seconds = time.process_time() - began
    found = metrics(at_end(world, policy, seed, split), ("gain", "gold_reward", "kl"))
    return {"metrics": found, "steps": len(history["step"]), "processor": round(seconds, 3)}


def over_optimisation(world: World, pairs: int, seed: int) -> dict:
    """RLOO without a KL price on a reward model trained on `pairs` pairs: KL, learned and gold reward on the way.

    path: points with kl (nats), tokens, and proxy and gold in standard deviations of SFT, with intervals over the
    prompts · texts: what each point wrote after the first SHOWN prompts, which are in `prompts`.
    """
    judge = proxy(world, pairs, seed)
    look = look_at(world, judge, seed)
    climb(world, "rloo", judge, seed, **LONG, measure=look, every=EVERY)
    if look.path[-1] == look.path[-2]:  # max_kl stopped the run where it was looked at already
        look.path.pop(), look.texts.pop()
    texts = [texts[:SHOWN] for texts in look.texts]
    return {"path": look.path, "prompts": look.prompts[:SHOWN], "texts": texts}


def look_at(world: World, proxy: Reward, seed: int, split: str = "test") -> Look:
    """KL, tokens, and proxy and gold with intervals, on PROBE prompts; standardised by what SFT writes there."""
    where = {"split": split, "count": PROBE, "max_new_tokens": LONG["max_new_tokens"]}
    start = sample(world, world.sft, seed, **where)

    def in_deviations(name: str, reward: Reward) -> Column:
        exact = standardised(lambda prompts, texts: reward(prompts, texts).double(), start.prompts, start.texts)

        def column(seen: Sample) -> dict[str, float]:
            found = bootstrap(exact(seen.prompts, seen.texts))
            return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}

        return column

    columns = (kl, in_deviations("proxy", proxy), in_deviations("gold", world.gold), partial(length, name="tokens"))
    return Look(world, seed, columns, **where)


GRIDS: dict[str, Grid] = {
    "rlhf-gains": Grid(
        what=f"RLOO and PPO on the gold reward and on reward models from {MANY:,} pairs",
        settings=seeded(reward=("learned", "gold"), method=("rloo", "ppo")),
        run=gains,
        asks="What do RLOO and PPO gain, with the true and with a learned reward?",
        tells="By the true reward runs also end further away, so a part of their lead may be distance; settings were "
        "not tuned for either.",
        answer=by_value("gain", "reward", method="rloo"),
        seconds=26,
    ),
    "over-optimisation": Grid(
        what=f"RLOO without a price of KL on reward models from n pairs; {PROBE} test prompts",
        settings=seeded(pairs=(FEW, MANY)),
        run=over_optimisation,
        asks="Where does the true reward stop following the learned one?",
        tells="Without a price of KL, so as to go far: it shows that reward models are exploited, not what a "
        "careful run does.",
        answer=None,
        seconds=54,
    ),
}
