"""The grids of lessons 08 and 09: DPO's β against KL and reward, every method with its main knob, and label noise.

All methods learn from the same pairs: those that the seed draws. RLOO, PPO and best-of-n get a reward model trained on
them. The seed also draws batches and samples, the same for every method, so two methods are compared seed by seed.
"""

import copy
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from prefcourse.annotation.annotators import exchanged
from prefcourse.evaluate import METRICS, MORE, bootstrap, evaluate, sequence_kl
from prefcourse.generate import Completion, generate
from prefcourse.preferences import Row
from prefcourse.results.rlhf_vs_dpo import best_of_n_path
from prefcourse.results.store import Grid, Setting, grid, metrics
from prefcourse.rlhf.policy_gradient import ppo, rloo
from prefcourse.rlhf.reward_model import train_reward_model
from prefcourse.rlhf.rollouts import Reward
from prefcourse.train import train
from prefcourse.worlds.world import World

PAIRS, BATCH, LR = 1_024, 16, 3e-4  # pairs of a run of `methods` and `noise`: 64 steps of 16
PROBE = 200  # prompts measured on the way; at the end it is all of them
LOOKS = (16, 32)  # steps of a run of `methods` that are measured besides its end
STEPS = 120  # of a run of `beta-sweep`, at a constant rate: each step is where a shorter run would have ended
EARLY = (5, 10, 20, 40, 80)  # those of them that are measured besides the end
BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
DESIRABLE = 0.2  # share of good completions in the unbalanced data
REWARD = {"lr": 4.5e-4, "batch_size": BATCH}

_kept: dict[tuple, list[Completion] | Reward] = {}  # SFT's completions and reward models: the runs of a seed share them


@dataclass(frozen=True)
class Method:
    """How a method is trained: its loss, and the one setting that `methods` varies, with its values."""

    loss: str
    knob: str = ""
    values: tuple[float, ...] = ()
    fixed: Mapping = field(default_factory=dict)  # the other settings of the loss or of the loop
    data: str = "pairs"  # or "unbalanced": single completions, few of them good
    start: str = "sft"  # or "base"


METHODS: dict[str, Method] = {
    "dpo": Method("dpo", "beta", (0.02, 0.05, 0.2)),
    "cdpo": Method("cdpo", "beta", (0.02, 0.1)),
    "ipo": Method("ipo", "tau", (0.02, 0.05, 0.2)),
    "ipo (mean)": Method("ipo", "tau", (0.1, 0.3), {"reduce": "mean"}),
    "kto": Method("kto", "beta", (0.02, 0.1), {"batch_size": 2 * BATCH}),
    "kto (unbalanced)": Method("kto", "beta", (0.02, 0.1), {"desirable_weight": 4.0}, data="unbalanced"),
    "apo_zero": Method("apo_zero", "beta", (0.02, 0.1)),
    "simpo": Method("simpo", "beta", (2.0, 5.0, 10.0), {"gamma_over_beta": 0.5}),
    "orpo (from base)": Method("orpo", "lam", (0.1, 1.0, 5.0), start="base"),
    "cpo": Method("cpo", "beta", (0.05, 0.2), {"reduce": "mean"}),
    "dpo_nll": Method("dpo_nll", "alpha", (0.1, 1.0), {"beta": 0.05}),
    "dpop": Method("dpop", "lam", (0.5, 5.0), {"beta": 0.05}),
    "unlikelihood": Method("unlikelihood", "alpha", (0.1, 0.5)),
    "sft": Method("sft", "lr", (3e-4, 1e-3)),
    "rloo": Method("rloo", "beta", (0.03, 0.1), {"steps": 20, "batch_size": 16, "k": 4}),
    "ppo": Method("ppo", "beta", (0.03, 0.1), {"lr": 1e-4, "steps": 16, "batch_size": 64}),
}
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
    rows = world.pairs["train"]
    return random.Random(seed).sample(rows, min(PAIRS, len(rows)))


def unbalanced(rows: list[Row]) -> list[Row]:
    """One completion of each pair, one in five the chosen one: good ones are rare, and no pair is left."""
    every = round(1 / DESIRABLE)
    return [
        {"prompt": row["prompt"], "completion": row["rejected" if i % every else "chosen"], "label": i % every == 0}
        for i, row in enumerate(rows)
    ]


def beta_sweep(world: World, beta: float, lr: float, seed: int, split: str = "test") -> dict:
    """DPO for STEPS steps at a constant rate; path: a point at the steps EARLY and at the end."""
    policy, look = copy.deepcopy(world.sft), Look(world, seed, split, every=EARLY[0], steps=EARLY)
    history = train(policy, world.pairs["train"], world.tokenizer, loss="dpo", beta=beta, lr=lr, steps=STEPS, seed=seed,
                    batch_size=BATCH, schedule="constant", measure=look, every=EARLY[0], progress=False)  # fmt: skip
    return look.finish(policy, STEPS) | {"train_accuracy": round(last(history["rewards/accuracies"]), 4)}


def methods(world: World, method: str, knob: str, value: float, seed: int, split: str = "test") -> dict:
    """Train by `method` of METHODS with its `knob` at `value`, and measure it on the way (path) and at the end."""
    if method == "best-of-n":
        return best_of_n(world, knob, seed, split)
    found = METHODS[method]
    return fit(world, found, draw_pairs(world, seed), {**found.fixed, knob: value}, seed, split)


def noise(world: World, method: str, flips: float, seed: int, split: str = "test") -> dict:
    """Train by `method` with the settings NOISY on pairs of which the share `flips` has its label turned."""
    rows, settings = draw_pairs(world, seed), dict(NOISY[method])
    turned = set(random.Random(seed).sample(range(len(rows)), round(flips * len(rows))))
    rows = [exchanged(row) if i in turned else row for i, row in enumerate(rows)]
    if method in CORRECTED:
        settings["eps"] = flips
    return fit(world, Method(method), rows, settings, seed, split, on_the_way=False)


def fit(
    world: World, method: Method, rows: list[Row], settings: Mapping, seed: int, split: str = "test",
    on_the_way: bool = True,
) -> dict:  # fmt: skip
    """Train a copy of the model that `method` starts from; return metrics and path: its end, and points at LOOKS."""
    policy = copy.deepcopy(getattr(world, method.start))
    common = {"reference": world.sft, "seed": seed, "progress": False, "lr": LR} | settings
    if method.loss in ("rloo", "ppo"):
        steps, prompts = common["steps"], list(dict.fromkeys(row["prompt"] for row in rows))
        look = Look(world, seed, split, every=steps // 2, steps=(steps // 2,))
        reward, learn = reward_model(world, rows, seed), rloo if method.loss == "rloo" else ppo
        learn(policy, reward, prompts, world.tokenizer, measure=look, every=steps // 2, **common)
        return look.finish(policy, steps)
    data = unbalanced(rows) if method.data == "unbalanced" else rows
    steps, look = len(rows) // BATCH, Look(world, seed, split, every=LOOKS[0], steps=LOOKS if on_the_way else ())
    common = {"batch_size": BATCH, "steps": steps, "measure": look, "every": LOOKS[0]} | common
    history = train(policy, data, world.tokenizer, loss=method.loss, **common)
    columns = ("loss", "logps/chosen", "logps/rejected", "rewards/accuracies")
    logs = {f"train_{name.split('/')[-1]}": round(last(history[name]), 4) for name in columns if name in history}
    return look.finish(policy, steps) | logs


def last(column: list[float], count: int = 10) -> float:
    """The mean of the last `count` entries of a column of a history; the row of the final look has none."""
    kept = [value for value in column if value is not None and not math.isnan(value)][-count:]
    return sum(kept) / len(kept)


def reward_model(world: World, rows: list[Row], seed: int) -> Reward:
    """A reward model trained on `rows`, kept for the other runs of the seed."""
    key = ("reward", world.name, seed)
    if key not in _kept:
        settings = REWARD | {"seed": seed, "progress": False}
        _kept[key], _ = train_reward_model(world.sft, rows, world.tokenizer, **settings)
    return _kept[key]


def best_of_n(world: World, judge: str, seed: int, split: str) -> dict:
    """Best-of-n by the "learned" reward or by the true one, "gold"; path: a point for each n."""
    reward = world.gold if judge == "gold" else reward_model(world, draw_pairs(world, seed), seed)
    found, path = best_of_n_path(world, reward, seed, split)
    return {"metrics": metrics(found, tuple(found)), "path": path}


class Look:
    """Measures a policy in training at chosen steps. A `measure` of `train`, `rloo` and `ppo`, called every `every`."""

    def __init__(self, world: World, seed: int, split: str, every: int, steps: tuple[int, ...]):
        self.world, self.seed, self.split, self.every, self.steps = world, seed, split, every, steps
        self.calls, self.path = 0, []

    def __call__(self, policy: PreTrainedModel) -> dict[str, float]:
        step = self.calls * self.every
        self.calls += 1
        if step in self.steps:
            self.path.append({"step": step} | self.point(policy))
        return {}

    def prompts(self, count: int | None = None) -> tuple[list[str], list[Completion]]:
        """The first `count` prompts (None: all), and what SFT writes after them."""
        prompts = [row["prompt"] for row in self.world.prompts[self.split]][:count]
        key = ("sft", self.world.name, self.split, self.seed, count)
        if key not in _kept:
            _kept[key] = generate(self.world.sft, self.world.tokenizer, prompts, seed=2 * self.seed)
        return prompts, _kept[key]

    def point(self, policy: PreTrainedModel) -> dict[str, float]:
        """KL, gold reward, its gain over SFT, length and share with EOS, on the first PROBE prompts."""
        prompts, before = self.prompts(PROBE)
        after = generate(policy, self.world.tokenizer, prompts, seed=2 * self.seed + 1)
        gold, others = (self.world.gold(prompts, [c.text for c in side]) for side in (after, before))
        found = {
            "kl": sequence_kl(policy, self.world.sft, self.world.tokenizer, prompts, after).mean().item(),
            "gold": gold.mean().item(),
            "gain": (gold - others).mean().item(),
            "length": sum(len(c.ids) for c in after) / len(after),
            "eos": sum(c.finished for c in after) / len(after),
        }
        return {name: round(value, 4) for name, value in found.items()}

    def finish(self, policy: PreTrainedModel, steps: int) -> dict:
        """metrics on all prompts, the gain over SFT on the same prompts among them; path with its end."""
        prompts, before = self.prompts()
        found = evaluate(policy, self.world, prompts=prompts, baseline=before, seed=self.seed)
        gain = bootstrap(found.rewards - found.baseline_rewards)
        names = {"kl": "kl", "gold": "gold_reward", "length": "length", "eos": "eos_rate"}
        end = {name: round(found[metric].value, 4) for name, metric in names.items()}
        self.path.append({"step": steps, **end, "gain": round(gain.value, 4)})
        return {"metrics": metrics({**found, "gain": gain}, (*METRICS, *MORE, "gain")), "path": self.path}


def _methods() -> list[Setting]:
    """Every method with each value of its knob, seeds outermost."""
    found = []
    for seed in range(3):
        found += [
            {"method": name, "knob": method.knob, "value": value, "seed": seed}
            for name, method in METHODS.items()
            for value in method.values
        ]
        found += [{"method": "best-of-n", "knob": judge, "value": 0, "seed": seed} for judge in ("learned", "gold")]
    return found


GRIDS: dict[str, Grid] = {
    "beta-sweep": (
        f"DPO for {STEPS} steps of {BATCH} pairs at a constant rate, by β and by the rate; 400 test prompts",
        grid(3, lr=(2e-4,), beta=BETAS) + grid(3, lr=(5e-5, 8e-4), beta=(0.1,)),
        beta_sweep,
    ),
    "methods": (
        f"every method on the same {PAIRS:,} pairs, by the value of its main setting; 400 test prompts",
        _methods(),
        methods,
    ),
    "noise": (
        f"losses on {PAIRS:,} pairs with a share of the labels flipped; 400 test prompts",
        [s for s in grid(3, flips=(0.0, 0.2, 0.4), method=tuple(NOISY)) if s["flips"] or s["method"] not in CORRECTED],
        noise,
    ),
}
