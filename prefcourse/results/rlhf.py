"""The grids of lesson 04: what RLOO and PPO gain with the true and with a learned reward, and over-optimisation.

The learned reward is the proxy, the true one the gold reward. A reward in training is standardised: minus its mean and
divided by its standard deviation over the SFT model's completions of training prompts. So β is in the same unit for all
rewards: standard deviations per nat. What is measured is standardised too, on the prompts on which it is measured: the
SFT model is at 0, and 1 is the spread of its own completions.
"""

import copy
import random
import time

from torch import Tensor
from transformers import PreTrainedModel

from prefcourse.evaluate import Estimate, bootstrap, sequence_kl
from prefcourse.generate import generate
from prefcourse.results.store import Grid, grid, metrics
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

_kept: dict[tuple, Reward] = {}  # reward models: the runs of a seed share them


def standardised(reward: Reward, world: World, seed: int) -> Reward:
    """`reward` with mean 0 and standard deviation 1 over SFT's completions of 256 training prompts."""
    prompts = [row["prompt"] for row in world.prompts["train"]]
    prompts = random.Random(seed).sample(prompts, min(256, len(prompts)))
    found = reward(prompts, [c.text for c in generate(world.sft, world.tokenizer, prompts, seed=seed)])
    mean, deviation = found.mean(), found.std()
    return lambda prompts, texts: (reward(prompts, texts) - mean) / deviation


def proxy(world: World, pairs: int, seed: int) -> Reward:
    """A reward model trained on `pairs` random training pairs, standardised."""
    key = (world.name, pairs, seed)
    if key not in _kept:
        rows = random.Random(seed).sample(world.pairs["train"], pairs)
        epochs = max(1, READ // pairs)
        model, _ = train_reward_model(world.sft, rows, world.tokenizer, epochs=epochs, seed=seed, progress=False)
        _kept[key] = standardised(model, world, seed)
    return _kept[key]


def climb(world: World, method: str, reward: Reward, seed: int, **settings) -> tuple[PreTrainedModel, History]:
    """A copy of SFT trained on `reward` by "rloo" or "ppo", from the training prompts, and its history."""
    policy, prompts = copy.deepcopy(world.sft), [row["prompt"] for row in world.prompts["train"]]
    settings = (RLOO if method == "rloo" else PPO) | {"beta": BETA, "progress": False} | settings
    learn = rloo if method == "rloo" else ppo
    return policy, learn(policy, reward, prompts, world.tokenizer, reference=world.sft, seed=seed, **settings)


def gains(world: World, method: str, reward: str, seed: int, split: str = "test") -> dict:
    """Train with the reward "gold" or "learned", and measure the gain in gold reward (nats) over SFT, prompt by prompt.

    processor: its seconds for the training, on one thread, the reward model's not included. steps: fewer than asked for
    if the KL of a step's samples went beyond MAX_KL, where a run stops.
    """
    judge = standardised(world.gold, world, seed) if reward == "gold" else proxy(world, MANY, seed)
    began = time.process_time()
    policy, history = climb(world, method, judge, seed, max_kl=MAX_KL)
    seconds = time.process_time() - began
    found = measure_gain(world, policy, seed, split)
    return {"metrics": metrics(found, tuple(found)), "steps": len(history["step"]), "processor": round(seconds, 3)}


def measure_gain(world: World, policy: PreTrainedModel, seed: int, split: str = "test") -> dict[str, Estimate]:
    """gain, gold_reward and kl of one completion per prompt of `split`; SFT's completions are of the same prompts."""
    prompts = [row["prompt"] for row in world.prompts[split]]
    before, after = (
        generate(m, world.tokenizer, prompts, seed=2 * seed + k) for k, m in enumerate((world.sft, policy))
    )
    gold = [world.gold(prompts, [c.text for c in side]) for side in (before, after)]
    return {
        "gain": bootstrap(gold[1] - gold[0]),
        "gold_reward": bootstrap(gold[1]),
        "kl": bootstrap(sequence_kl(policy, world.sft, world.tokenizer, prompts, after)),
    }


def over_optimisation(world: World, pairs: int, seed: int) -> dict:
    """RLOO without a KL price on a reward model trained on `pairs` pairs: KL, learned and gold reward on the way.

    path: points with step, kl (nats), tokens, and proxy and gold in standard deviations of SFT, with intervals over the
    prompts · texts: what each point wrote after the first SHOWN prompts, which are in `prompts`.
    """
    look = Look(world, proxy(world, pairs, seed), seed)
    climb(world, "rloo", look.proxy, seed, **LONG, measure=look, every=EVERY)
    if look.points[-1] == look.points[-2]:  # max_kl stopped the run where it was looked at already
        look.points.pop(), look.texts.pop()
    return {"path": look.points, "prompts": look.prompts[:SHOWN], "texts": look.texts}


class Look:
    """What a run is like on the way: KL, proxy and gold on `PROBE` prompts, and some texts. A `measure` of `rloo`."""

    def __init__(self, world: World, proxy: Reward, seed: int, split: str = "test"):
        self.world, self.proxy, self.seed = world, proxy, seed
        self.prompts = [row["prompt"] for row in world.prompts[split]][:PROBE]
        self.points: list[dict] = []
        self.texts: list[list[str]] = []
        self.scale: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, policy: PreTrainedModel) -> dict[str, float]:
        written = generate(
            policy, self.world.tokenizer, self.prompts, max_new_tokens=LONG["max_new_tokens"], seed=2 * self.seed + 1
        )
        point = {"kl": sequence_kl(policy, self.world.sft, self.world.tokenizer, self.prompts, written).mean().item()}
        texts = [c.text for c in written]
        for name, reward in (("proxy", self.proxy), ("gold", self.world.gold)):
            found = reward(self.prompts, texts).double()
            mean, deviation = self.scale.setdefault(name, (found.mean(), found.std()))  # of SFT, which comes first
            estimate = bootstrap((found - mean) / deviation)
            point |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        point["tokens"] = sum(len(c.ids) for c in written) / len(written)
        self.points.append({name: round(value, 4) for name, value in point.items()})
        self.texts.append(texts[:SHOWN])
        return {}


GRIDS: dict[str, Grid] = {
    "rlhf-gains": (
        f"RLOO and PPO on the gold reward and on reward models from {MANY:,} pairs; 400 test prompts",
        [
            {"method": method, "reward": reward, "seed": seed}
            for method in ("rloo", "ppo")
            for seed in range(3)
            for reward in ("learned", "gold")
        ],
        gains,
    ),
    "over-optimisation": (
        f"RLOO without a price of KL on reward models from n pairs; {PROBE} test prompts",
        [*grid(5, pairs=(FEW,)), *grid(3, pairs=(MANY,))],
        over_optimisation,
    ),
}
