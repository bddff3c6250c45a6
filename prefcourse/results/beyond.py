"""The runs of lessons 13 and 14, whose grids are in `beyond_grids`: online DPO, AI feedback, the price on other text.

    online          who writes the pairs: SFT, the policy in training, or one text each; a reference that moves along
    ai-feedback     who labels them: the gold reward, a constitution, the same without a rule, a language model
    alignment-tax   what methods cost on held-out text, by its kind, and four ways to pay less

In the first two grids all runs go through the same loop, `online_dpo`: the same prompts, number of labels and steps,
the same rate. The arms of a seed differ in one thing only.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefcourse.annotation.annotators import Reward
from prefcourse.evaluate import METRICS, Estimate, bootstrap
from prefcourse.feedback.constitution import Constitution, agreement
from prefcourse.feedback.judges import ModelJudge
from prefcourse.feedback.online import online_dpo
from prefcourse.generate import generate, usable
from prefcourse.logprobs import score_all
from prefcourse.preferences import Row, encode
from prefcourse.results.look import SHOWN, Look, Sample, gold, prompts_of, sample, shown, whole_end
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import kept, metrics, reference_of, rounded
from prefcourse.results.variants import PROBE, draw_pairs, finish, look_at
from prefcourse.train import train
from prefcourse.training import lora
from prefcourse.worlds.world import World

ROUNDS, LABELS = 4, 256  # of `online`: 1,024 labels
BATCH, LR = 16, 1.5e-4  # 64 steps at a constant rate
AI_ROUNDS, AI_BETA = 2, 0.1  # of `ai-feedback`
HELD_OUT = 4  # held-out texts of each test prompt
SAME = 0.25  # nats of gold reward between a held-out text and what SFT writes there
MEASURED = (*METRICS, "length", "eos_rate", "repetition")
GOOD, BAD = " great", " bad"  # the model judge's answers: the best of five pairs on the validation pairs
ARMS = {"offline": ("sft", "sft"), "online": ("policy", "policy"), "half": ("policy", "sft"),
        "moving reference": ("policy", "policy")}  # fmt: skip

TAX = {  # what each run is told besides the pairs that its seed draws; 64 steps of 16
    "SFT on chosen": {"loss": "sft"},
    "DPO": {"loss": "dpo", "beta": 0.05},
    "DPO, β = 0.5": {"loss": "dpo", "beta": 0.5},
    "DPO + NLL": {"loss": "dpo_nll", "beta": 0.05, "alpha": 0.3},
    "DPO, averaged": {"of": "DPO", "share": 0.5},
    "DPO, LoRA": {"loss": "dpo", "beta": 0.05, "rank": 8, "lr": 1e-3},
}


# ------------------------------------------------------------------------------------------- online against offline


def online(
    world: World, arm: str, beta: float, seed: int, split: str = "test", lr: float | None = None, at: str = ""
) -> dict:
    """One run of ARMS with labels from the gold reward; path: a point after every round, on the protocol's prompts
    if `at` is said.

    at: "common", with the same β and rate for all arms, or "tuned", each arm with its own, which may be the same.

    stopped: whether the writers no longer ended their texts, and the run with them, before its last round.
    """
    if at:
        key = ("online", world.name, arm, beta, lr, seed, split)
        return copy.deepcopy(kept(key, lambda: _online(world, arm, beta, seed, split, lr, True)))
    return _online(world, arm, beta, seed, split, lr, False)


def _online(world: World, arm: str, beta: float, seed: int, split: str, lr: float | None, by_prompt: bool) -> dict:
    policy, look = copy.deepcopy(world.sft), look_at(world, seed, split, by_prompt)
    stopped = False
    try:
        climb(world, policy, arm, world.gold, seed, measure=look.point, path=look.path, beta=beta, lr=lr)
    except RuntimeError:
        stopped = True
    last = look.path.pop()  # measured again by `finish`, with all metrics
    for rows in look.found.values():
        rows.pop()
    found = finish(look, policy, last["step"])
    return found | {"stopped": stopped} | shown(sample(world, policy, seed, split, SHOWN))


def climb(
    world: World, policy: PreTrainedModel, arm: str, judge: Reward, seed: int, *, beta: float = AI_BETA,
    measure: Callable[[PreTrainedModel], dict] | None = None, path: list[dict] | None = None,
    rounds: int | None = None, rows: list[Row] | None = None, lr: float | None = None,
) -> PreTrainedModel:  # fmt: skip
    """Train `policy` by an arm of ARMS. path: gets what `measure` finds after each round. rows: gets all pairs."""
    writers = tuple(None if who == "policy" else world.sft for who in ARMS[arm])

    def after_round(number: int, pairs: list[Row]) -> None:
        if measure is not None:
            path.append({"step": number * LABELS // BATCH} | rounded(measure(policy)))
        if rows is not None:
            rows.extend(pairs)

    online_dpo(
        policy, judge, prompts_of(world, "train"), world.tokenizer, reference=world.sft, writers=writers,
        moving=arm == "moving reference", rounds=ROUNDS if rounds is None else rounds, labels=LABELS, batch_size=BATCH,
        lr=LR if lr is None else lr, beta=beta, seed=seed, after_round=after_round, open_ended=world.open_ended,
        progress=False,
    )  # fmt: skip
    return policy


# ------------------------------------------------------------------------------------------- AI feedback


def judge_of(world: World, name: str) -> Reward:
    """The judge `name`: gold, constitution, without RULE, coin, or model: SFT itself asked for one more word."""
    if name == "gold":
        return world.gold
    if name == "coin":  # prefers nothing: every label is a coin
        return lambda prompts, texts: torch.zeros(len(texts))
    if name == "model":
        return ModelJudge(world.sft, world.tokenizer, good=GOOD, bad=BAD)
    whole = Constitution()
    return whole if name == "constitution" else whole.without(*name.removeprefix("without ").split(" and "))


def ai_feedback(
    world: World, judge: str, arm: str, seed: int, split: str = "test", lr: float | None = None, beta: float = AI_BETA
) -> dict:
    """DPO on labels of a judge, offline or online. rules: how far SFT's texts keep each rule, and the policy's.

    gain_constitution: what the policy's texts gain over SFT's by the whole constitution, in nats. right: the share of
    labels that put the text with the higher gold reward first. path: `look_at_rules` after each round.
    """
    policy, look = copy.deepcopy(world.sft), look_at_rules(world, seed, split)
    rows: list[Row] = []
    climb(
        world, policy, arm, judge_of(world, judge), seed, rounds=AI_ROUNDS, rows=rows, measure=look.point,
        path=look.path, lr=lr, beta=beta,
    )  # fmt: skip
    (found, by_prompt), whole = whole_end(world, policy, seed, split), Constitution()
    after, before = (
        whole.by_rule(found.prompts, [c.text for c in side]) for side in (found.completions, found.baseline)
    )  # (N, K)
    weights = torch.tensor([rule.weight for rule in whole.rules], dtype=torch.float64)
    more = {"gain": found["gain"], "gain_constitution": bootstrap((after - before) @ weights)}
    rules = {
        rule.name: [round(x, 4) for x in (before[:, k].mean().item(), after[:, k].mean().item())]
        for k, rule in enumerate(whole.rules)
    }
    right = round(agreement(rows, world.gold).value, 4)
    numbers = metrics({**found, **more}, (*MEASURED, *more))
    return {
        "metrics": numbers,
        "path": look.path,
        "rules": rules,
        "right": right,
        **shown(found),
        "by_prompt": by_prompt,
    }


def look_at_rules(world: World, seed: int, split: str = "test") -> Look:
    """How far completions of the first PROBE prompts keep each rule, and their gold reward."""
    return Look(world, seed, (rules_kept, gold), count=PROBE, split=split)


def rules_kept(seen: Sample) -> dict[str, float]:
    """Mean score of each rule, from 0 to 1."""
    whole = Constitution()
    means = whole.by_rule(seen.prompts, seen.texts).mean(0).tolist()
    return {rule.name: mean for rule, mean in zip(whole.rules, means, strict=True)}


# ------------------------------------------------------------------------------------------- alignment tax


def alignment_tax(world: World, method: str, seed: int, split: str = "test", **chosen: float) -> dict:
    """Train by `method` of TAX on the pairs of the seed; metrics as ever, and what `taxes` finds on held-out text."""
    policy = align(world, method, seed, **chosen)
    (found, by_prompt), costs = whole_end(world, policy, seed, split), taxes(world, policy, split, unchanged=True)
    numbers = metrics({**found, **costs}, (*MEASURED, "forward_kl", "gain", *costs))
    return {"metrics": numbers, **shown(found), "by_prompt": by_prompt}


def align(world: World, method: str, seed: int, **changes) -> PreTrainedModel:
    """A copy of SFT trained as TAX says, `changes` applied; or the average of SFT and such a model."""
    settings = {"lr": 3e-4, "batch_size": BATCH} | TAX[method] | changes
    if "of" in settings:
        return averaged(align(world, settings["of"], seed, **changes), world.sft, settings["share"])
    if all(other.get("of") != method for other in TAX.values()):
        return _aligned(world, seed, settings)
    return kept(("policy", world.name, method, seed, *changes.items()), lambda: _aligned(world, seed, settings))


def _aligned(world: World, seed: int, settings: dict) -> PreTrainedModel:
    rows, policy = draw_pairs(world, seed), copy.deepcopy(world.sft)
    rank = settings.pop("rank", None)
    if rank is not None:
        policy = lora.add_lora(policy, rank=rank, seed=seed)
    reference = world.sft if rank is not None else reference_of(world, rows, settings["loss"])
    common = {"reference": reference, "steps": len(rows) // BATCH, "seed": seed, "progress": False}
    train(policy, rows, world.tokenizer, **common | settings)
    return policy.merge_and_unload() if rank is not None else policy


@torch.no_grad()
def averaged(policy: PreTrainedModel, reference: PreTrainedModel, share: float) -> PreTrainedModel:
    """A model with weights share · θ + (1 - share) · θ_ref (Wortsman et al. 2022; for the tax: Lin et al. 2024)."""
    if not 0 <= share <= 1:
        raise ValueError(f"share lies between 0 and 1, got {share}")
    middle = copy.deepcopy(policy)
    for ours, theirs in zip(middle.parameters(), reference.parameters(), strict=True):
        ours.lerp_(theirs, 1 - share)
    return middle


def held_out_texts(world: World, split: str = "test") -> list[Row]:
    """Texts in the style that SFT was taught, and that no run has seen: what `base` writes at temperature 0.7.

    HELD_OUT completions of each prompt of `split`; left out are those that are not `usable` or come twice. Columns:
    prompt, completion, score (the gold reward).
    """

    def write() -> list[Row]:
        asked = [prompt for prompt in prompts_of(world, split, PROTOCOL.prompts) for _ in range(HELD_OUT)]
        written = zip(asked, generate(world.base, world.tokenizer, asked, temperature=0.7, seed=13), strict=True)
        pairs = sorted({(x, c.text) for x, c in written if usable(x, c, world.tokenizer, world.open_ended)})
        prompts, texts = (list(column) for column in zip(*pairs, strict=True))
        cells = zip(prompts, texts, world.gold(prompts, texts).tolist(), strict=True)
        return [{"prompt": x, "completion": y, "score": score} for x, y, score in cells]

    return kept(("held out", world.name, split), write)


def taxes(world: World, policy: PreTrainedModel, split: str = "test", unchanged: bool = False) -> dict[str, Estimate]:
    """log π_ref - log π of held-out texts, nats per completion: of all, of thirds by gold reward, and where it stays.

    Above 0, the policy finds the texts less likely than SFT does. For negative texts that is what the labels ask for:
    the optimum loses log Z - r/β. tax_unchanged: of texts whose gold reward is within SAME nats of what SFT's texts
    after the same prompt have on average. The optimum takes log Z from these: what is above that is drift. Only if
    `unchanged`, and if there are 20 of them.
    """
    rows = held_out_texts(world, split)
    before = kept(("held out logps", world.name, split), lambda: text_logps(world, world.sft, rows))
    cost = before - text_logps(world, policy, rows)  # (N,)
    found = {name: bootstrap(cost[part]) for name, part in kinds(rows).items()}
    if not unchanged:
        return found
    usual = kept(("SFT's usual gold", world.name, split), lambda: usual_gold(world, split))
    same = torch.tensor([abs(row["score"] - usual[row["prompt"]]) <= SAME for row in rows])
    return found | ({"tax_unchanged": bootstrap(cost[same])} if same.sum() >= 20 else {})


def kinds(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Places of all held-out texts, under "tax", and of their thirds by gold reward, under "tax_negative" and so on."""
    order = np.argsort([row["score"] for row in rows], kind="stable")
    thirds = zip(("negative", "neutral", "positive"), np.array_split(order, 3), strict=True)
    return {"tax": torch.arange(len(rows))} | {f"tax_{name}": torch.as_tensor(part) for name, part in thirds}


def tokens_a_text(world: World, split: str = "test") -> dict[str, float]:
    """Tokens of a held-out text, EOS included, in the mean, by `kinds`: what a tax per text is divided by per token."""
    rows = held_out_texts(world, split)
    counts = torch.tensor([float(len(encode(row["prompt"], row["completion"], world.tokenizer)[1])) for row in rows])
    return {name: counts[part].mean().item() for name, part in kinds(rows).items()}


def usual_gold(world: World, split: str) -> dict[str, float]:
    """The mean gold reward of HELD_OUT completions by SFT, by prompt."""
    asked = [prompt for prompt in dict.fromkeys(prompts_of(world, split, PROTOCOL.prompts)) for _ in range(HELD_OUT)]
    texts = [c.text for c in generate(world.sft, world.tokenizer, asked, seed=17)]
    means = world.gold(asked, texts).view(-1, HELD_OUT).mean(1).tolist()
    return dict(zip(asked[::HELD_OUT], means, strict=True))


def text_logps(world: World, model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    """log π(completion | prompt) of each row, EOS included: (N,) nats."""
    sequences = [encode(row["prompt"], row["completion"], world.tokenizer) for row in rows]
    return score_all(model, sequences, world.tokenizer.pad_token_id)
