"""Experiments of the DPO paper (Rafailov et al. 2023) that the course had left out, in its own world.

    temperatures    Fig. 2 right and Fig. 3: win rate against the chosen texts of the data, by sampling temperature, for
                    SFT, training on the chosen texts, DPO, PPO, and best-of-128
    ood-prompts     Table 1: the same policies on prompts about other things than films, and on a type of prompt that
                    was left out of the training pairs

Policies are those of the grid `methods`, with the settings that were chosen there: on its shelf, or trained here.
"""

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from prefcourse.evaluate import bootstrap, points, sequence_kl
from prefcourse.generate import generate
from prefcourse.preferences import Row
from prefcourse.results import variants
from prefcourse.results.answers import against, over
from prefcourse.results.look import prompts_of, sft_sample
from prefcourse.results.methods import METHODS, policy_name
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import Grid, kept, metrics, rounded, seeded, shelved
from prefcourse.results.variants import draw_pairs, learn, look_at
from prefcourse.rlhf.best_of_n import expected_best
from prefcourse.worlds.world import World

TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.25)
BEST_OF, POOL_PROMPTS = 128, 30  # completions of a prompt; test pairs that best-of-n is measured on
TRAINED = ("none", "sft", "dpo", "ppo")  # "none": SFT as it is; "sft": trained on the chosen texts (Preferred-FT)
LEFT_OUT = "question"  # a type of prompt
SUBJECTS = ("food", "hotel", "city", "book", "teacher", "weather", "music", "car", "house", "dog", "school", "trip")
OPENINGS = ("The {} was", "I think the {}", "My {} is", "We like the {}", "Is the {}", "This {} has")


def policy_of(world: World, method: str, seed: int, chosen: dict, rows: Sequence[Row] = ()) -> PreTrainedModel:
    """SFT itself for "none", else a policy trained by `method` of `methods.METHODS` with its `chosen` settings.

    rows: what it learns from instead of the pairs of the seed.
    """
    if method == "none":
        return copy.deepcopy(world.sft)

    def train() -> PreTrainedModel:
        found, pairs = METHODS[method], list(rows) or draw_pairs(world, seed)
        return learn(world, found, pairs, {**found.fixed, **chosen}, seed, look_at(world, seed))[0]

    return train() if rows else shelved(policy_name(method, seed, chosen), world.sft, train)


def opponents(world: World, split: str = "test") -> list[Row]:
    """The first pair of each of the protocol's prompts: its chosen text is what policies are compared with."""
    rows = list({row["prompt"]: row for row in reversed(world.pairs[split])}.values())[::-1]
    return rows[: PROTOCOL.prompts]


def temperatures(world: World, method: str, seed: int, split: str = "test", **chosen: float) -> dict:
    """Win rate by gold reward against the chosen texts of test pairs at each of TEMPERATURES; path: a point for each.

    by_prompt: win (1, ½ or 0) of each prompt, a row for each temperature; "best-of-n" is judged by the reward model.
    """
    rows = opponents(world, split)[: POOL_PROMPTS if method == "best-of-n" else None]
    prompts = [row["prompt"] for row in rows]
    theirs = world.gold(prompts, [row["chosen"] for row in rows])
    if method != "best-of-n":
        policy = policy_of(world, method, seed, chosen)
    path, wins = [], []
    for temperature in TEMPERATURES:
        if method == "best-of-n":
            won, reward = best_of_pool(world, prompts, theirs, temperature, seed)
        else:
            written = generate(policy, world.tokenizer, prompts, seed=2 * seed + 1, temperature=temperature)
            ours = world.gold(prompts, [c.text for c in written])
            won, reward = points(ours, theirs), ours.double()
        wins.append([round(x, 3) for x in won.tolist()])
        path.append(
            {"temperature": temperature} | rounded({"win_rate": won.mean().item(), "gold": reward.mean().item()})
        )
    at = TEMPERATURES.index(1.0)
    found = {"win_rate": bootstrap(wins[at])}
    return {"metrics": metrics(found, tuple(found)), "path": path, "by_prompt": {"win": wins}}


def best_of_pool(
    world: World, prompts: list[str], theirs: Tensor, temperature: float, seed: int
) -> tuple[Tensor, Tensor]:
    """How often the best of BEST_OF samples by the reward model beats `theirs`, and its gold reward, (B,) each."""
    reward = variants.reward_model(world, draw_pairs(world, seed), seed)
    asked = [prompt for prompt in prompts for _ in range(BEST_OF)]
    texts = [c.text for c in generate(world.sft, world.tokenizer, asked, seed=2 * seed + 1, temperature=temperature)]
    judged, gold = (of(asked, texts).double().view(-1, BEST_OF) for of in (reward, world.gold))
    won = points(gold, theirs.double()[:, None].expand_as(gold).contiguous())
    return expected_best(won, BEST_OF, by=judged), expected_best(gold, BEST_OF, by=judged)


# ------------------------------------------------------------------------------------------- other prompts


def other_prompts() -> list[str]:
    """Openings of texts about other things than films: every opening with every subject."""
    return [opening.format(subject) for opening in OPENINGS for subject in SUBJECTS]


def out_of_distribution(world: World, method: str, trained: str, seed: int, **chosen: float) -> dict:
    """Gain, win rate and KL over SFT on test prompts, on `other_prompts`, and on test prompts of the type LEFT_OUT.

    trained: "all", or "left out": without pairs whose prompt is of that type, as many pairs in all. Metrics: gain,
    win_rate and kl with the suffixes "" (all test prompts), "_other" and "_left_out".
    """
    types = {row["prompt"]: row["type"] for split in ("train", "test") for row in world.prompts[split]}
    if LEFT_OUT not in types.values():
        raise ValueError(f"the world {world.name!r} has no prompts of the type {LEFT_OUT!r}; change paper.LEFT_OUT")
    rows = []
    if trained == "left out":
        fine = [row for row in world.pairs["train"] if types.get(row["prompt"]) != LEFT_OUT]
        rows = variants.draw_rows(fine, seed, len(draw_pairs(world, seed)))
    policy = policy_of(world, method, seed, chosen, rows)
    test = prompts_of(world, "test", PROTOCOL.prompts)
    left = [prompt for prompt in test if types[prompt] == LEFT_OUT]
    found, by_prompt = {}, {}
    for suffix, prompts in (("", test), ("_other", other_prompts()), ("_left_out", left)):
        gain, won, kl = compared(world, policy, prompts, seed)
        found |= {f"gain{suffix}": bootstrap(gain), f"win_rate{suffix}": bootstrap(won), f"kl{suffix}": bootstrap(kl)}
        by_prompt[f"gain{suffix}"] = [[round(x, 3) for x in gain.tolist()]]
    return {"metrics": metrics(found, tuple(found)), "by_prompt": by_prompt}


def compared(world: World, policy, prompts: list[str], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gain in gold reward over SFT, points of wins against it, and log π/π_SFT, on each of `prompts`, (B,)."""
    written = generate(policy, world.tokenizer, prompts, seed=2 * seed + 1)
    before = kept(
        ("SFT on these", world.name, seed, *prompts[:1], len(prompts)),
        lambda: sft_sample(world, seed, count=len(prompts)).completions
        if prompts == prompts_of(world, "test", len(prompts))
        else generate(world.sft, world.tokenizer, prompts, seed=2 * seed),
    )  # fmt: skip
    ours, theirs = (world.gold(prompts, [c.text for c in side]) for side in (written, before))
    spent = sequence_kl(policy, world.sft, world.tokenizer, prompts, written)
    return (ours - theirs).double(), points(ours, theirs), spent.double()


def _by_temperature(stored: Mapping) -> str:
    """The win rate of each method at the lowest temperature, at 1, and at the highest."""
    places = [TEMPERATURES.index(t) for t in (min(TEMPERATURES), 1.0, max(TEMPERATURES))]
    rows = []
    for method in (*TRAINED, "best-of-n"):
        paths = [run["path"] for run in stored["runs"] if run["setting"]["method"] == method]
        rates = (over([path[place]["win_rate"] for path in paths]) for place in places)
        rows.append(f"{method}: " + ", ".join(f"{rate:.2f}" for rate in rates))
    return f"win rate at {', '.join(f'{TEMPERATURES[place]:g}' for place in places)}: " + " · ".join(rows)


GRIDS: dict[str, Grid] = {
    "temperatures": Grid(
        what=f"win rate against the chosen texts by sampling temperature, and best-of-{BEST_OF} on {POOL_PROMPTS} "
        f"prompts",
        settings=seeded(method=(*TRAINED, "best-of-n")),
        run=temperatures,
        asks="Do the methods keep their win rate when the sampling temperature changes (DPO paper, Fig. 2 right, "
        "Fig. 3)?",
        tells="The judge is the gold reward, not GPT-4, and the opponent a chosen text of a small model, not a "
        f"person's. Best-of-n is on {POOL_PROMPTS} prompts. KL is not measured.",
        answer=_by_temperature,
        chosen_with="methods",
        by=("method",),
        seconds=150,
    ),
    "ood-prompts": Grid(
        what="gain, win rate and KL on prompts about other things, and on a type left out of the training pairs",
        settings=seeded(method=("sft", "dpo", "ppo"), trained=("all", "left out")),
        run=out_of_distribution,
        asks="Does what was learnt on film reviews hold elsewhere (DPO paper, Table 1)?",
        tells="Openings made from a list, in the same language; the gold reward was learnt on films and is not "
        "checked there. Each method ends at a KL of its own.",
        answer=against("gain_other", "method", "dpo", trained="all"),
        chosen_with="methods",
        by=("method",),
        seconds=70,
    ),
}  # fmt: skip
