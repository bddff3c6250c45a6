"""The grid of lesson 11: DPO against RLHF from the same pairs, by quality and by cost, over seeds and wrong settings.

A setting is a method, a knob, by how much that knob is multiplied, and a seed. The seed draws the pairs, the batches
and all samples, and it draws the same for every method: differences between methods are differences of paired runs.
Methods: "dpo" on the pairs · "rloo" and "ppo" on a reward model trained on the same pairs · "best-of-n" with that
reward model · "rloo-gold", which is told the true reward: what a perfect reward model would give.
"""

import copy
import itertools
import random
from collections.abc import Callable, Iterable

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from prefcourse.comparison.costs import Meter, peak_memory
from prefcourse.comparison.equal_kl import best_of_n_kl_measured
from prefcourse.evaluate import Estimate, bootstrap
from prefcourse.logprobs import score_all
from prefcourse.preferences import Row, encode_prompts
from prefcourse.results.answers import at_equal_kl
from prefcourse.results.look import Sample, prompts_of, sample
from prefcourse.results.protocol import PROTOCOL, candidates
from prefcourse.results.rlhf_table import BETA, BUDGETS, CURVE, THIRD
from prefcourse.results.store import Grid, Setting, kept, metrics, rounded
from prefcourse.rlhf.best_of_n import best_of_n_path, expected_best, sample_pool
from prefcourse.rlhf.policy_gradient import ppo, rloo
from prefcourse.rlhf.reward_model import RewardModel, pair_margins, train_reward_model
from prefcourse.rlhf.rollouts import Reward
from prefcourse.train import train
from prefcourse.world import load_world
from prefcourse.worlds.world import World

PAIRS = 768  # to learn from
POOL = 16  # completions of each prompt that best-of-n chooses from
COMPLETIONS = 64  # that a step of RLOO samples
PROBE, RANKED = (
    200,
    500,
)  # prompts measured on the way (all of the protocol's at the end); pairs for the reward model's accuracy
DPO = {"lr": 2e-4, "beta": BETA, "epochs": 1.0, "batch_size": 16}
REWARD = {"lr": 4.5e-4, "epochs": 1.0, "batch_size": 16}
RLOO = {"lr": 2e-4, "beta": BETA, "steps": 16, "k": 4}
PPO = {"lr": 1e-4, "beta": BETA, "steps": 16, "batch_size": COMPLETIONS}
WATCHED = ("none",)  # knobs whose runs are measured on the way, too
BIGGER = {"n_embd": 512, "n_layer": 8, "n_head": 8, "n_positions": 128}  # so that weights are what fills the memory


def rlhf_vs_dpo(
    world: World, method: str, knob: str, times: float, seed: int, split: str = "test", lr: float | None = None
) -> dict:
    """Train by `method` with one setting, `knob`, multiplied by `times`; measure what came out and what it cost.

    lr: the learning rate that the protocol chose (None: that of DPO, RLOO or PPO below); `knob` may multiply it.

    knob: "none", a name in DPO, RLOO or PPO, or "reward_" and a name in REWARD; "memory" measures the peak instead.
    Returns metrics: gold_reward and kl (estimates over prompts) · path: points (gold, kl, gain, work, seconds) ·
    tokens: role → [forward, backward] · work and seconds: the whole cost, the reward model's training included and
    evaluation not; seconds are the processor's, on one thread. Metric accuracy: the reward model's on held-out pairs.
    """
    if knob == "memory":
        return {"peak_mb": round(peak_memory(memory_job, method, seed))}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(world, method, knob, times, seed, split, {} if lr is None else {"lr": lr})
    finally:
        torch.set_num_threads(threads)


def _run(world: World, method: str, knob: str, times: float, seed: int, split: str, chosen: dict) -> dict:
    def settings(of: dict, prefix: str = "") -> dict:
        return {name: value * times if prefix + name == knob else value for name, value in of.items()}

    pairs = random.Random(seed).sample(world.pairs["train"], PAIRS)
    prompts = list(dict.fromkeys(row["prompt"] for row in pairs))
    policy, reward = copy.deepcopy(world.sft), world.gold
    before = {"work": 0, "seconds": 0.0}  # what the reward model has cost
    if method in ("rloo", "ppo", "best-of-n"):
        reward, before = reward_model(world, pairs, settings(REWARD, "reward_"), seed, split)
    meter = Meter(policy=policy, reference=world.sft, **({} if reward is world.gold else {"reward_model": reward}))

    def start(count: int | None = None) -> dict[str, Estimate]:
        key = ("SFT, measured", world.name, split, seed, count)
        seen = sft_here(world, seed, split)
        return kept(key, lambda: {"gold_reward": bootstrap(seen.gold[:count]), "kl": Estimate(0.0, 0.0, 0.0)})

    def cost() -> dict:
        return {"work": before["work"] + meter.work, "seconds": round(before["seconds"] + meter.seconds, 2)}

    calls, by_prompt = itertools.count(), {}

    def look(model: PreTrainedModel) -> dict:
        if 0 < next(calls) < 4:  # the first step and the end are measured anyway
            with meter.paused():
                path.append(_point(measure(model, world, seed, split, PROBE, by_prompt), start(PROBE)) | cost())
        return {}

    if method == "best-of-n":
        with meter:
            found, path = best_of_n_path(world, reward, prompts_of(world, split, PROBE), n=POOL, seed=2 * seed + 1)
        found, path, by_prompt = measured_kl(world, reward, seed, split, found, path)
    else:
        path = [_point(start(), start()) | cost()]
        own = settings({"dpo": DPO, "ppo": PPO}.get(method, RLOO) | chosen)
        own["steps"] = round(own.pop("epochs") * PAIRS / own["batch_size"]) if method == "dpo" else round(own["steps"])
        if "k" in own:
            own |= {"k": round(own["k"]), "batch_size": round(COMPLETIONS / own["k"])}
        watch = {"measure": look, "every": max(own["steps"] // 4, 1)} if knob in WATCHED else {}
        common = {"reference": world.sft, "seed": seed, "progress": False, **watch, **own}
        with meter:
            if method == "dpo":
                train(policy, pairs, world.tokenizer, loss="dpo", **common)
            else:
                (ppo if method == "ppo" else rloo)(policy, reward, prompts, world.tokenizer, **common)
        found = measure(policy, world, seed, split, into=by_prompt)
        path.append(_point(found, start()) | cost())
    tokens = {role: [meter.forward[role], meter.backward[role]] for role in meter.forward}
    tokens |= {"reward model's training": before["tokens"]} if "tokens" in before else {}
    found |= {"accuracy": before["accuracy"]} if "accuracy" in before else {}
    return {"metrics": metrics(found, tuple(found)), "path": path, "tokens": tokens, "by_prompt": by_prompt}


def measured_kl(
    world: World, reward: Reward, seed: int, split: str, found: dict[str, Estimate], path: list[dict]
) -> tuple[dict[str, Estimate], list[dict], dict[str, list]]:
    """What `best_of_n_path` found with the KL as measured on the same pool, and KL and gain by prompt for each n.

    A point of the path keeps what n alone bounds as `bound`.
    """
    prompts = prompts_of(world, split, PROBE)
    pool, rewards = sample_pool(world.sft, reward, prompts, world.tokenizer, n=POOL, seed=2 * seed + 1)
    texts = [[c.text for c in row] for row in pool]
    ids = encode_prompts(prompts, world.tokenizer)
    sequences = [(start, c.ids) for start, row in zip(ids, pool, strict=True) for c in row]
    logps = score_all(world.sft, sequences, world.tokenizer.pad_token_id).view(rewards.shape)
    asked = [prompt for prompt in prompts for _ in range(POOL)]
    gold = world.gold(asked, [text for row in texts for text in row]).double().view(rewards.shape)
    spent = [best_of_n_kl_measured(texts, logps, rewards, point["n"]) for point in path]
    gains = [expected_best(gold, point["n"], by=rewards) - gold.mean(-1) for point in path]
    path = [
        {**point, "bound": point["kl"], **rounded({"kl": kl.mean().item()})}
        for point, kl in zip(path, spent, strict=True)
    ]
    rows = {"kl": spent, "gain": gains}
    by_prompt = {name: [[round(x, 3) for x in row.tolist()] for row in values] for name, values in rows.items()}
    return found | {"kl": bootstrap(spent[-1])}, path, by_prompt


def reward_model(world: World, pairs: list[Row], settings: dict, seed: int, split: str) -> tuple[RewardModel, dict]:
    """A reward model trained on `pairs`, and its cost and accuracy; kept for the other runs of the seed."""

    def learn() -> tuple[RewardModel, dict]:
        with Meter() as meter:
            model, _ = train_reward_model(world.sft, pairs, world.tokenizer, seed=seed, progress=False, **settings)
        right = (pair_margins(model, world.pairs[split][:RANKED]) > 0).double()
        tokens = [meter.forward.total(), meter.backward.total()]
        found = {"work": meter.work, "seconds": round(meter.seconds, 2), "tokens": tokens}
        return model, found | {"accuracy": bootstrap(right)}

    return kept(("reward model and its cost", world.name, split, seed, *settings.values()), learn)


def measure(
    policy: PreTrainedModel, world: World, seed: int, split: str = "test", count: int | None = None,
    into: dict[str, list] | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """Gold reward and KL of one sample for each of the first `count` prompts of `split` (None: the protocol's).

    into: gets KL and gain over SFT of the first PROBE prompts, a row each.
    """
    seen = sample(world, policy, seed, split, count or PROTOCOL.prompts)
    if into is not None:
        before = sft_here(world, seed, split)
        for name, values in (("kl", seen.log_ratios), ("gain", seen.gold - before.gold[: len(seen.gold)])):
            into.setdefault(name, []).append([round(x, 3) for x in values[:PROBE].tolist()])
    return {"gold_reward": bootstrap(seen.gold), "kl": bootstrap(seen.log_ratios)}


def sft_here(world: World, seed: int, split: str) -> Sample:
    """SFT's sample with the random numbers that policies get here; drawn once for all runs of a seed."""
    return kept(
        ("SFT, sampled", world.name, split, seed), lambda: sample(world, world.sft, seed, split, PROTOCOL.prompts)
    )


def _point(found: dict[str, Estimate], start: dict[str, Estimate]) -> dict:
    """A point of a path; its gain is over the reference on the same prompts."""
    gold, kl = found["gold_reward"].value, found["kl"].value
    return rounded({"gold": gold, "kl": kl, "gain": gold - start["gold_reward"].value})


def memory_job(method: str, seed: int) -> Callable[[], None]:
    """Two steps of `method` on 16 texts, with a GPT-2 of 29 million random parameters, ready to be watched."""
    world = load_world()
    pairs, prompts = world.pairs["train"][:16], [row["prompt"] for row in world.prompts["train"]]
    size = {"steps": 2, "lr": 1e-5, "progress": False, "seed": seed}

    def steps(shape: dict[str, int]) -> None:
        torch.manual_seed(seed)
        ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), world.tokenizer.eos_token_id)
        policy = GPT2LMHeadModel(GPT2Config(vocab_size=len(world.tokenizer), **ends, **shape)).eval()
        if method == "dpo":
            train(policy, pairs, world.tokenizer, batch_size=8, **size)
        elif method == "rloo":
            reward = RewardModel(policy, world.tokenizer)
            rloo(policy, reward, prompts, world.tokenizer, batch_size=4, max_new_tokens=16, **size)
        else:
            reward = RewardModel(policy, world.tokenizer)
            ppo(policy, reward, prompts, world.tokenizer, batch_size=16, minibatches=1, max_new_tokens=16, **size)

    steps({"n_embd": 16, "n_layer": 1, "n_head": 1})  # warms up
    return lambda: steps(BIGGER)


def _settings() -> list[Setting]:
    """All at their chosen rates; one knob three times too high or too low; three peaks of memory each."""
    found = []

    def add(seeds: Iterable[int], method: str, knob: str, *times: float) -> None:
        for seed in seeds:
            for t in times:
                found.append({"method": method, "knob": knob, "times": t, "seed": seed, "split": PROTOCOL.report_on})

    for seed in range(PROTOCOL.seeds):
        for method in ("dpo", "rloo", "ppo", "best-of-n", "rloo-gold"):
            add([seed], method, "none", 1)
    wrong = {
        "dpo": ("lr", "beta", "epochs"),
        "rloo": ("lr", "beta", "reward_lr", "reward_epochs"),
        "ppo": ("lr", "beta"),
    }
    for method, knob in ((method, knob) for method, knobs in wrong.items() for knob in knobs):
        add(range(PROTOCOL.seeds), method, knob, 3, THIRD)
    for method in ("dpo", "rloo", "ppo"):
        add(range(3), method, "memory", 1)
    return found


def trial(world: World, method: str, seed: int, lr: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts of a run of `method` at the learning rate `lr`."""
    found = rlhf_vs_dpo(world, method, "none", 1, seed, PROTOCOL.choose_on, lr=lr)["metrics"]
    return {"gold": found["gold_reward"]["value"], "kl": found["kl"]["value"]}


RATES = {"dpo": (1e-4, 2e-4, 4e-4), "rloo": (1e-4, 2e-4, 4e-4), "rloo-gold": (1e-4, 2e-4, 4e-4),
         "ppo": (5e-5, 1e-4, 2e-4)}  # fmt: skip
GRIDS: dict[str, Grid] = {
    "rlhf-vs-dpo": Grid(
        what=f"DPO and RLHF from the same {PAIRS:,} pairs, each at its own rate and with one setting wrong",
        settings=_settings(),
        run=rlhf_vs_dpo,
        asks="DPO or RLHF: what comes out of the same pairs, and at which cost?",
        tells="One price of KL for all. The reward model and DPO see the same pairs once; RL's samples come on top. "
        "The true reward's run says what a perfect reward model would give. Best-of-n's KL is measured, not bounded.",
        answer=at_equal_kl("rlhf-vs-dpo", "method", "dpo", BUDGETS, knob=CURVE),
        tries=[s for method, rates in RATES.items() for s in candidates(method=[method], lr=rates)],
        trial=trial,
        by=("method",),
        seconds=45,
        trial_seconds=30,
    ),
}
