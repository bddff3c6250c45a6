"""The grids of lesson 15: GRPO and parts of its successors on a program's reward, and a verifier that is sloppy.

verifiable   Dr. GRPO on "two sentences", and arms that change one thing of it; "grpo" changes two
verifier     Dr. GRPO on a sloppy verifier and on its strict form, each judged by both

    found = run("dr", world, seed=0)            # history of training, and the policy
    passed(world, policy, seed=0)               # (prompts, SAMPLES) 1 or 0 on test prompts, with log π/π_SFT

Settings are the same for all arms and were fixed before any grid was run; nothing is chosen on validation. Every arm
uses its samples for two updates, so that π/π_old is not 1 in the second.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefcourse.evaluate import Estimate, bootstrap, sequence_kl
from prefcourse.generate import Completion, generate
from prefcourse.logprobs import token_logps
from prefcourse.preferences import Batch
from prefcourse.results.answers import against
from prefcourse.results.look import SHOWN, prompts_of
from prefcourse.results.store import Grid, kept, metrics, seeded
from prefcourse.rlhf.grpo import RATIOS, advantages_of, grpo, grpo_loss, ratios
from prefcourse.rlhf.rollouts import Reward, Rollout, update
from prefcourse.rlhf.verifiers import judged_part, new_part, parts_named, pass_at_k, two_sentences
from prefcourse.training.history import History
from prefcourse.worlds.world import World

SETTINGS: dict[str, Any] = {"steps": 20, "batch_size": 16, "k": 8, "minibatches": 2, "lr": 1e-4}
PROMPTS, SAMPLES = 100, 32  # that a policy is examined on: test prompts, completions of each
SCORED = 4  # completions of each prompt whose log π/π_SFT is measured
KS = (1, 8, 32)
ARMS: dict[str, dict[str, Any] | None] = {
    "sft": None,  # not trained
    "dr": {},  # Dr. GRPO
    "length": {"length": "own"},  # 1/|o| alone
    "std": {"std": True},  # the standard deviation alone
    "grpo": {"length": "own", "std": True},
    "clip higher": {"clip": (0.2, 0.28)},
    "dynamic": {"dynamic": True},
    "sequence ratio": {"ratio": "sequence"},
}
NAMES = {
    "sft": "SFT", "dr": "Dr. GRPO", "length": "with 1/|o|", "std": "with /std", "grpo": "GRPO (both)",
    "clip higher": "clip-higher", "dynamic": "dynamic sampling", "sequence ratio": "sequence ratio",
}  # fmt: skip
BASELINE = "dr"
VERIFIERS: dict[str, Reward] = {"sloppy": new_part, "strict": judged_part}
PATH = ("step", "reward", "flat", "drawn", "length", "length_right", "length_wrong", "eos_rate", "clip_fraction")


def run(world: World, arm: str, seed: int, reward: Reward = two_sentences, **settings: Any) -> tuple:
    """A policy trained from SFT by an arm of ARMS, and its history; "sft" is SFT itself, and {}. settings: others."""
    if ARMS[arm] is None:
        return world.sft, {}
    policy = copy.deepcopy(world.sft)
    switches = SETTINGS | ARMS[arm] | settings
    prompts = prompts_of(world, "train")
    return policy, grpo(policy, reward, prompts, world.tokenizer, seed=seed, progress=False, **switches)


def examined(
    world: World, policy: PreTrainedModel, seed: int, split: str = "test"
) -> tuple[list[str], list[Completion]]:
    """The first PROMPTS prompts of `split`, each SAMPLES times, and what `policy` writes after them."""
    asked = [prompt for prompt in prompts_of(world, split, PROMPTS) for _ in range(SAMPLES)]
    return asked, generate(policy, world.tokenizer, asked, seed=2 * seed + (policy is not world.sft))


def judged(reward: Reward, asked: list[str], written: list[Completion]) -> Tensor:
    """What `reward` says of completions of `examined`, (prompts, SAMPLES) float64."""
    return torch.as_tensor(reward(asked, [c.text for c in written])).double().view(-1, SAMPLES)


def kl_of(world: World, policy: PreTrainedModel, asked: list[str], written: list[Completion]) -> Tensor:
    """Mean log π/π_SFT of SCORED completions of each prompt, (prompts,) nats; their mean estimates the KL."""
    some = [i for i in range(len(asked)) if i % SAMPLES < SCORED]
    chosen = [[of[i] for i in some] for of in (asked, written)]
    return sequence_kl(policy, world.sft, world.tokenizer, *chosen).double().view(-1, min(SCORED, SAMPLES)).mean(1)


def path_of(history: History) -> list[dict[str, float | None]]:
    """A point for each step; None where a step has no such number."""
    rows = [dict(zip(PATH, row, strict=True)) for row in zip(*(history.get(name, []) for name in PATH), strict=True)]
    return [{name: round(x, 4) if math.isfinite(x) else None for name, x in row.items()} for row in rows]


def _written(asked: list[str], written: list[Completion]) -> dict[str, list[str]]:
    """One completion of each of the first prompts, as a stored run keeps them."""
    return {
        "prompts": asked[: SHOWN * SAMPLES : SAMPLES],
        "texts": [c.text for c in written[: SHOWN * SAMPLES : SAMPLES]],
    }


def _shape(written: list[Completion], right: Tensor) -> dict[str, Estimate]:
    """Tokens of all, and of right and wrong completions where there are two of them; the share that ends."""
    tokens = torch.tensor([len(c.ids) for c in written], dtype=torch.float64)
    parts = {"length": tokens, "length_right": tokens[right > 0.5], "length_wrong": tokens[right <= 0.5]}
    found = {name: bootstrap(values) for name, values in parts.items() if len(values) > 1}
    return found | {"eos": bootstrap([float(c.finished) for c in written])}


def verifiable(world: World, arm: str, seed: int, split: str = "test") -> dict:
    """Train by `arm` and examine: pass@k, KL, tokens; the path of training; by prompt the pass rate and KL."""
    policy, history = run(world, arm, seed)

    def look() -> dict:
        asked, written = examined(world, policy, seed, split)
        right = judged(two_sentences, asked, written)  # (P, SAMPLES)
        found = {f"pass_{k}": pass_at_k(right.sum(1), SAMPLES, k) for k in KS if k <= SAMPLES}
        kl = kl_of(world, policy, asked, written)
        estimates = {name: bootstrap(each) for name, each in found.items()}
        estimates |= {"kl": bootstrap(kl)} | _shape(written, right.flatten())
        by_prompt = {name: [each.tolist()] for name, each in ({"kl": kl} | found).items()}
        return {"metrics": metrics(estimates, tuple(estimates)), **_written(asked, written), "by_prompt": by_prompt}

    found = kept(("SFT, examined", world.name, seed, split), look) if policy is world.sft else look()
    return {"path": path_of(history), **found}


def verifier(world: World, trained_on: str, seed: int, split: str = "test") -> dict:
    """Train on the "sloppy" or the "strict" verifier, or not ("sft"), and examine with both.

    Metrics besides: words for parts of the film in a text, gold reward, tokens and the share that ends.
    """
    if trained_on == "sft":
        policy, history = run(world, "sft", seed)
    else:
        policy, history = run(world, BASELINE, seed, VERIFIERS[trained_on])
    asked, written = examined(world, policy, seed, split)
    texts = [c.text for c in written]
    values = {name: judged(reward, asked, written).mean(1) for name, reward in VERIFIERS.items()}  # (P,) each
    values |= {"kl": kl_of(world, policy, asked, written), "parts": parts_named(texts).view(-1, SAMPLES).mean(1)}
    values["gold"] = world.gold(asked, texts).double().view(-1, SAMPLES).mean(1)
    estimates = {name: bootstrap(each) for name, each in values.items()}
    estimates |= _shape(written, judged(VERIFIERS["sloppy"], asked, written).flatten())
    return {
        "path": path_of(history), "metrics": metrics(estimates, tuple(estimates)), **_written(asked, written),
        "by_prompt": {name: [each.tolist()] for name, each in values.items()},
    }  # fmt: skip


def drift(
    world: World, seen: Rollout, k: int, at: tuple[int, ...] = (1, 3, 6), lr: float = SETTINGS["lr"]
) -> dict[int, dict[str, Tensor]]:
    """π/π_old of one batch after several updates with it, for lesson 15: update → "token", "sequence", "product".

    seen: groups of k, siblings side by side, that SFT wrote. The updates are Dr. GRPO's, with a clip too wide to hold.
    """
    policy, A = copy.deepcopy(world.sft), advantages_of(seen.rewards.view(-1, k), std=False).flatten()
    kept = A.nonzero()[:, 0]
    batch = Batch(seen.batch.input_ids[kept], seen.batch.completion_mask[kept])
    mask, found, old = batch.completion_mask[:, 1:], {}, None
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    for number in range(max(at) + 1):
        logps = token_logps(policy, batch)
        now = logps.detach()
        old = now if old is None else old
        if number in at:
            tokens, sequence = (ratios(now, old, mask, ratio) for ratio in RATIOS)
            product = ((now - old) * mask).sum(-1).exp()
            found[number] = {"token": tokens[mask].cpu(), "sequence": sequence[:, 0].cpu(), "product": product.cpu()}
        loss = grpo_loss(logps, old, A[kept], mask, torch.full_like(A[kept], 48.0), clip=(0.9, 99.0)).mean()
        update(optimizer, loss, 1.0, number)
    return found


GRIDS: dict[str, Grid] = {
    "verifiable": Grid(
        what=f"GRPO and its successors on a program's reward, {SETTINGS['steps']} steps of {SETTINGS['batch_size']} "
        f"prompts, {SETTINGS['k']} completions each",
        settings=seeded(arm=tuple(ARMS)),
        run=verifiable,
        asks="What do GRPO's divisions by length and by spread do, and what do its successors change?",
        tells="One easy task, a small model, short texts, one learning rate for all arms. An arm differs from Dr. GRPO "
        "in one thing, `grpo` in two; `dynamic` also draws more samples a step. It does not tell what thousands of "
        "steps or long chains of thought would show.",
        answer=against("pass_1", "arm", BASELINE),
        seconds=50,
    ),
    "verifier": Grid(
        what="Dr. GRPO on a sloppy verifier and on its strict form, judged by both",
        settings=seeded(trained_on=("sft", *VERIFIERS)),
        run=verifier,
        asks="What does a policy learn from a verifier that checks less than was meant?",
        tells="One sloppy verifier with one loophole, found in a few steps. The strict form has loopholes too.",
        answer=against("strict", "trained_on", "strict"),
        seconds=45,
    ),
}
