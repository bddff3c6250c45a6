"""The grids of lesson 09 under the protocol: every loss, tuned, and label noise; and of lesson 08: β, rates, Adam.

    methods      24 ways to train, each with its own learning rate and main knob, chosen on validation; looks at a
                 quarter, half and three quarters of a run
    best-of-n    no training: the best of n samples of SFT by a learned and by the true reward
    noise        five losses at five shares of flipped labels, settings chosen at FLIPS_TRIED
    beta-sweep   DPO by β, with J = gain - β KL, and by learning rate
    optimiser    the same by Adam's second constant, and by pairs a step

All methods of a seed learn from the same pairs, draw the same batches and are measured with the same random numbers.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prefcourse.comparison.equal_kl import best_of_n_kl_measured
from prefcourse.evaluate import bootstrap
from prefcourse.generate import generate
from prefcourse.logprobs import score_all
from prefcourse.preferences import encode_prompts
from prefcourse.results import variants
from prefcourse.results.answers import at_equal_kl, by_value
from prefcourse.results.look import brief, prompts_of
from prefcourse.results.protocol import PROTOCOL, cross
from prefcourse.results.store import Grid, Setting, kept, metrics, rounded, seeded, shelved, turned
from prefcourse.results.variants import (
    BATCH,
    BETAS,
    CORRECTED,
    NOISY,
    PAIRS,
    STEPS,
    Method,
    draw_pairs,
    finish,
    learn,
    look_at,
)
from prefcourse.rlhf.best_of_n import expected_best
from prefcourse.rlhf.rollouts import Reward
from prefcourse.worlds.world import World

# Three a loss, set by a first round of tries on validation prompts so that the KL limit lies among them: at 5e-5 a loss
# on pairs moves by a quarter of a nat, at 4e-4 DPO goes to 20, and 1.5e-4 alone left half of its seeds below 3 nats.
RATES = (1.5e-4, 2e-4, 4e-4)
SLOW_RATES = (1.5e-4, 4e-4, 1e-3)  # of losses with a likelihood in them, which go less far at one rate
OWN_RATES = dict.fromkeys(("sft", "orpo", "cpo", "unlikelihood"), SLOW_RATES)
OWN_RATES |= dict.fromkeys(("dpo_nll", "dpop"), (4e-4, 6e-4, 1e-3))
OWN_RATES |= {"apo_down": (2.5e-5, 5e-5, 1e-4), "rloo": (1e-4, 3e-4, 6e-4), "ppo": (5e-5, 1e-4, 2e-4)}
SUM, WIDE = (0.02, 0.05, 0.2), (0.02, 0.1, 0.5)  # β of losses on differences of sums, and on single sums
N = 64  # completions of a prompt of which best-of-n takes the best: 3.2 nats at most
FLIPS_TRIED = 0.2
SHARED = ("sft", "dpo", "ppo")  # whose policies the grids of `paper` need, too
JUDGES = ("learned", "gold")


def _pair(loss: str, values: tuple[float, ...] = SUM, knob: str = "beta", **fixed: Any) -> Method:
    return Method(loss, knob, values, fixed)


METHODS: dict[str, Method] = {
    "dpo": _pair("dpo"),
    "cdpo": _pair("cdpo"),
    "rdpo": _pair("rdpo"),
    "hinge": _pair("hinge"),
    "ipo": _pair("ipo", knob="tau"),
    "ipo (mean)": _pair("ipo", (0.1, 0.3, 1.0), "tau", reduce="mean"),
    "dpo_norm": _pair("dpo_norm", (1.0, 2.0, 5.0)),
    "simpo": _pair("simpo", (2.0, 5.0, 10.0), gamma_over_beta=0.5),
    "orpo (from base)": replace(_pair("orpo", (0.1, 1.0, 5.0), "lam"), start="base"),
    "cpo": _pair("cpo", (0.05, 0.2, 1.0), reduce="mean"),
    "kto": _pair("kto", WIDE, batch_size=2 * BATCH),
    "kto (unbalanced)": replace(_pair("kto", WIDE, desirable_weight=4.0), data="unbalanced"),
    "apo_zero": _pair("apo_zero", WIDE),
    "apo_down": _pair("apo_down", WIDE),
    "bco": _pair("bco", WIDE),
    "nca": _pair("nca", WIDE),
    "sppo_hard": _pair("sppo_hard", WIDE),
    "exo": _pair("exo"),
    "dpo_nll": _pair("dpo_nll", (0.1, 0.3, 1.0), "alpha", beta=0.05),
    "dpop": _pair("dpop", (0.5, 1.0, 5.0), "lam", beta=0.05),
    "unlikelihood": _pair("unlikelihood", (0.03, 0.1, 0.5), "alpha"),
    "sft": Method("sft"),
    "rloo": _pair("rloo", (0.01, 0.03, 0.1), steps=20, batch_size=16, k=4),
    "ppo": _pair("ppo", (0.01, 0.03, 0.1), steps=16, batch_size=64),
}


def method_run(
    world: World, method: str, seed: int, split: str = "test", on_the_way: bool = True, **chosen: float
) -> dict:
    """Train by `method` of METHODS with the settings `chosen`; metrics, path, and KL and gain by prompt.

    on_the_way: look at the run at a quarter, half and three quarters of it, too.
    """
    found, look = METHODS[method], look_at(world, seed, split, by_prompt=True)
    rows = draw_pairs(world, seed)
    steps = found.fixed.get("steps", len(rows) // BATCH)
    quarter = max(steps // 4, 1)
    looks = tuple(quarter * k for k in (1, 2, 3)) if on_the_way else ()
    policy, steps, logs = learn(world, found, rows, {**found.fixed, **chosen}, seed, look, looks)
    if method in SHARED and split == "test":
        shelved(policy_name(method, seed, chosen), policy, lambda: policy)
    return finish(look, policy, steps) | logs


def policy_name(method: str, seed: int, chosen: Mapping) -> str:
    """Under which name a policy trained by `method` on the pairs of a seed is kept for other grids."""
    return "_".join([method, f"seed={seed}", *(f"{k}={v}" for k, v in sorted(chosen.items()))])


def method_trial(world: World, method: str, seed: int, **candidate: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts after a run of `method` with the settings `candidate`."""
    found, rows = METHODS[method], draw_pairs(world, seed)
    look = look_at(world, seed, "validation")
    policy, _, _ = learn(world, found, rows, {**found.fixed, **candidate}, seed, look)
    return brief(world, policy, seed)


def best_of_n(world: World, judge: str, seed: int, split: str = "test") -> dict:
    """Best of 1, 2, 4 … N samples of SFT by the true reward, "gold", or by one "learned" from the pairs of the seed.

    metrics at N; path: a point for each n with kl as measured, bound (by n alone), gold, and gain over the mean of the
    pool, which is what one sample has on average; by_prompt: KL and gain.
    """
    reward: Reward = world.gold if judge == "gold" else variants.reward_model(world, draw_pairs(world, seed), seed)
    n = N
    rows, logps, golds = kept(("pool", world.name, seed, split, n), lambda: pool(world, seed, split, n))
    asked = [prompt for prompt in prompts_of(world, split, PROTOCOL.prompts) for _ in range(n)]
    judged = reward(asked, [text for row in rows for text in row]).double().view(-1, n)
    path, found = [], {"kl": [], "gain": []}
    for few in (2**i for i in range(n.bit_length())):
        best = expected_best(golds, few, by=judged)
        spent, gained = best_of_n_kl_measured(rows, logps, judged, few), best - golds.mean(-1)
        for name, values in (("kl", spent), ("gain", gained)):
            found[name].append([round(x, 3) for x in values.tolist()])
        bound = float(torch.tensor(float(few)).log() - (few - 1) / few)
        point = {"kl": spent.mean(), "bound": bound, "gold": best.mean(), "gain": gained.mean()}
        path.append({"n": few} | rounded({name: float(value) for name, value in point.items()}))
    at_end = {"gold_reward": bootstrap(best), "gain": bootstrap(gained), "kl": bootstrap(spent)}
    return {"metrics": metrics(at_end, tuple(at_end)), "path": path, "by_prompt": found}


def pool(world: World, seed: int, split: str, n: int) -> tuple[list[list[str]], Tensor, Tensor]:
    """n texts by SFT for each of B prompts of `split`, log π_SFT of each, EOS included, and gold reward: (B, n)."""
    asked = [prompt for prompt in prompts_of(world, split, PROTOCOL.prompts) for _ in range(n)]
    completions = generate(world.sft, world.tokenizer, asked, seed=2 * seed + 1)
    texts = [c.text for c in completions]
    sequences = [(ids, c.ids) for ids, c in zip(encode_prompts(asked, world.tokenizer), completions, strict=True)]
    logps = score_all(world.sft, sequences, world.tokenizer.pad_token_id).double().view(-1, n)
    gold = world.gold(asked, texts).double().view(-1, n)
    return [texts[i : i + n] for i in range(0, len(texts), n)], logps, gold


def sweep(world: World, **setting: float) -> dict:
    """`variants.beta_sweep` looked at on the protocol's test prompts, each kept; `optimiser` at its end only."""
    return variants.beta_sweep(world, **setting, by_prompt=True, on_the_way="beta2" not in setting)


def noise_trial(world: World, method: str, seed: int, **candidate: float) -> dict[str, float]:
    """Gold reward and KL on validation prompts of a loss on pairs of which FLIPS_TRIED have their label turned."""
    rows, _ = turned(draw_pairs(world, seed), FLIPS_TRIED, random.Random(seed))
    settings = NOISY[method] | candidate | ({"eps": FLIPS_TRIED} if method in CORRECTED else {})
    look = look_at(world, seed, "validation")
    return brief(world, learn(world, Method(method), rows, settings, seed, look)[0], seed)


def _tries(methods: Mapping[str, Method]) -> list[Setting]:
    """A cross of learning rates and values of the main knob, for each method."""
    found = []
    for name, method in methods.items():
        knob = {method.knob: method.values} if method.knob else {}
        found += cross(method=[name], lr=OWN_RATES.get(method.loss, RATES), **knob)
    return found


def _noisy_tries() -> list[Setting]:
    knobs = {name: "tau" if name == "ipo" else "beta" for name in NOISY}
    return [s for name, knob in knobs.items() for s in cross(method=[name], lr=RATES, **{knob: SUM})]


def _memory(stored: Mapping) -> str:
    """The KL at β = 5 by Adam's memory, on labels of both kinds."""
    return "; ".join(by_value("kl", "beta2", beta=5.0, labels=labels)(stored) for labels in ("drawn", "ordered"))


GRIDS: dict[str, Grid] = {
    "beta-sweep": Grid(
        what=f"DPO on {STEPS * BATCH:,} pairs at a constant rate, by β, and by the rate",
        settings=seeded(beta=BETAS, lr=(2e-4,)) + seeded(beta=(0.1,), lr=(5e-5, 8e-4)),
        run=sweep,
        asks="What does β do to KL, to reward and to J, and what does the rate change?",
        tells="One loss, one number of pairs, each read once. At one KL a slow rate has seen more pairs than a fast "
        "one. It does not say what a converged run would do.",
        answer=by_value("kl", "beta", lr=2e-4),
        seconds=150,
    ),
    "optimiser": Grid(
        what="the runs of beta-sweep under other second constants of Adam, with four times the pairs a step, and with "
        "labels that agree",
        settings=[
            *seeded(beta=(0.1, 5.0), lr=(2e-4,), beta2=(0.9, 0.999), batch=(BATCH,), labels=("drawn",)),
            *seeded(beta=(0.1,), lr=(2e-4,), beta2=(0.99,), batch=(4 * BATCH,), labels=("drawn",)),
            *seeded(beta=(0.1, 5.0), lr=(2e-4,), beta2=(0.99, 0.9), batch=(BATCH,), labels=("ordered",)),
        ],
        run=sweep,
        asks="What holds a large β back: Adam's long memory of large gradients, or labels that contradict each other?",
        tells="Two other constants, one other batch, and labels by the order of gold; each changes one thing of "
        "beta-sweep, whose runs (0.99, 16 pairs, drawn labels) are the baseline, seed by seed. One arm changes memory "
        "and labels together. The arms with ordered labels were added when those of the memory had shown nothing.",
        answer=_memory,
        seconds=150,
    ),
    "methods": Grid(
        what=f"every method on the same {PAIRS:,} pairs, its learning rate and main knob chosen on validation",
        settings=seeded(method=tuple(METHODS)),
        run=method_run,
        asks="Which method gains most at the same KL, each at its best settings?",
        tells="One task, one small model, one budget of pairs. It tells differences at equal KL for seeds and "
        "prompts alike; not what other tasks, sizes or budgets would show, nor what a wider search of settings "
        "would.",
        answer=at_equal_kl("methods", "method", "dpo"),
        tries=_tries(METHODS),
        trial=method_trial,
        by=("method",),
        seconds=20,
        trial_seconds=14,
    ),
    "best-of-n": Grid(
        what=f"the best of 1 to {N} samples of SFT, by the true reward and by one learned from {PAIRS:,} pairs",
        settings=seeded(judge=JUDGES),
        run=best_of_n,
        asks="What does choosing among n samples gain, and at which KL?",
        tells="A yardstick without training. By the true reward it is told what no trained policy is told.",
        answer=by_value("gain", "judge"),
        seconds=60,
    ),
    "noise": Grid(
        what=f"losses on {PAIRS:,} pairs with a share of the labels flipped, settings chosen at {FLIPS_TRIED:.0%} "
        f"flips",
        settings=[
            s for s in seeded(flips=(0.0, 0.1, 0.2, 0.3, 0.4), method=tuple(NOISY))
            if s["flips"] or s["method"] not in CORRECTED
        ],
        run=variants.noise,
        asks="What do flipped labels cost each loss, and do the losses that are told the rate lose less?",
        tells="Flips are independent of the texts and their rate is told exactly to cDPO and rDPO; real mistakes "
        "are neither.",
        answer=by_value("gain", "flips", method="dpo"),
        tries=_noisy_tries(),
        trial=noise_trial,
        by=("method",),
        seconds=60,
        trial_seconds=40,
    ),
}  # fmt: skip
