"""What a policy writes, as numbers: in training, by a `measure` that keeps a path, and at the end of a run.

    look = Look(world, seed, (kl, gold, gain), count=200)
    train(policy, rows, tokenizer, measure=look.at((16, 32), every=16), every=16)    # look.path: a point for each step
    found = at_end(world, policy, seed)                                             # `evaluate`, and the gain over SFT

A column of a look is a function of a `Sample` that returns numbers by name; each grid has its own columns. Samples of
a run draw the random numbers that `evaluate` would draw for its seed.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel

from prefcourse.evaluate import Evaluation, bootstrap, evaluate, sequence_kl
from prefcourse.generate import Completion, generate
from prefcourse.results.protocol import PROTOCOL
from prefcourse.results.store import kept, rounded
from prefcourse.worlds.world import World

SHOWN = 4  # texts of a run that are kept


@dataclass(frozen=True)
class Sample:
    """What a policy wrote after the first prompts of a split: one completion for each."""

    world: World
    policy: PreTrainedModel
    seed: int  # of the run
    split: str
    prompts: list[str]
    completions: list[Completion]

    @cached_property
    def texts(self) -> list[str]:
        """The completions without EOS."""
        return [c.text for c in self.completions]

    @cached_property
    def gold(self) -> Tensor:
        """Their gold reward, (N,) nats."""
        return self.world.gold(self.prompts, self.texts)

    @cached_property
    def log_ratios(self) -> Tensor:
        """log π/π_SFT of each, (N,) nats, whose mean estimates the KL."""
        return sequence_kl(self.policy, self.world.sft, self.world.tokenizer, self.prompts, self.completions)


def prompts_of(world: World, split: str, count: int | None = None) -> list[str]:
    """The first `count` prompts of `split` (None: all)."""
    return [row["prompt"] for row in world.prompts[split]][:count]


def sample(
    world: World, policy: PreTrainedModel, seed: int, split: str = "test", count: int | None = None, *, draw: int = 1,
    **sampling,
) -> Sample:  # fmt: skip
    """Let `policy` complete the first `count` prompts of `split` (None: all). `sampling`: settings of `generate`.

    draw: which random numbers of the seed; 1 are those of a policy, 0 those of SFT where a policy is compared with it.
    """
    prompts = prompts_of(world, split, count)
    completions = generate(policy, world.tokenizer, prompts, seed=2 * seed + draw, **sampling)
    return Sample(world, policy, seed, split, prompts, completions)


def sft_sample(world: World, seed: int, split: str = "test", count: int | None = None) -> Sample:
    """What SFT writes after the same prompts, to compare with; drawn once for all runs of a seed."""
    key = ("SFT's sample", world.name, seed, split, count)
    return kept(key, lambda: sample(world, world.sft, seed, split, count, draw=0))


def at_end(world: World, policy: PreTrainedModel, seed: int, split: str = "test") -> Evaluation:
    """`evaluate` on the protocol's prompts, and one more estimate, gain: gold reward over SFT's, prompt by prompt."""
    before = sft_sample(world, seed, split, PROTOCOL.prompts)
    found = evaluate(policy, world, seed=seed, split=split, prompts=before.prompts, baseline=before.completions)
    return replace(found, estimates=found.estimates | {"gain": bootstrap(found.rewards - found.baseline_rewards)})


def per_prompt(log_ratios: Tensor, rewards: Tensor, before: Tensor) -> dict[str, list[float]]:
    """KL, log π/π_SFT of a sample, and gain, its gold reward less that of SFT's `before`, of each prompt in nats."""
    found = {"kl": log_ratios, "gain": rewards - before}
    return {name: [round(x, 3) for x in values.tolist()] for name, values in found.items()}


def whole_end(
    world: World, policy: PreTrainedModel, seed: int, split: str = "test"
) -> tuple[Evaluation, dict[str, list[list[float]]]]:
    """`at_end`, and KL and gain of each prompt as a run's `by_prompt`: one row each."""
    found = at_end(world, policy, seed, split)
    values = per_prompt(found.log_ratios, found.rewards, found.baseline_rewards)
    return found, {name: [row] for name, row in values.items()}


def brief(world: World, policy: PreTrainedModel, seed: int, split: str = "validation") -> dict[str, float]:
    """Mean gold reward and KL on all prompts of `split`, and no more: how a candidate of the protocol is measured."""
    seen = sample(world, policy, seed, split)
    return rounded(gold(seen) | kl(seen))


def shown(found: Evaluation | Sample) -> dict[str, list[str]]:
    """The first prompts, and the texts after them, as a stored run keeps them."""
    return {"prompts": found.prompts[:SHOWN], "texts": [c.text for c in found.completions[:SHOWN]]}


# ------------------------------------------------------------------------------------------- columns

Column = Callable[[Sample], dict[str, float]]


def kl(seen: Sample) -> dict[str, float]:
    """KL to SFT in nats, by the estimator k1."""
    return {"kl": seen.log_ratios.mean().item()}


def gold(seen: Sample) -> dict[str, float]:
    """Mean gold reward in nats."""
    return {"gold": seen.gold.mean().item()}


def gain(seen: Sample) -> dict[str, float]:
    """Mean gold reward over SFT's on the same prompts, in nats."""
    before = sft_sample(seen.world, seen.seed, seen.split, len(seen.prompts))
    return {"gain": (seen.gold - before.gold).mean().item()}


def length(seen: Sample, name: str = "length") -> dict[str, float]:
    """Mean number of tokens, EOS included."""
    return {name: sum(len(c.ids) for c in seen.completions) / len(seen.completions)}


def ended(seen: Sample, name: str = "eos") -> dict[str, float]:
    """The share of completions that end with EOS."""
    return {name: sum(c.finished for c in seen.completions) / len(seen.completions)}


# ------------------------------------------------------------------------------------------- looks


class Look:
    """Looks at a policy in training. As a `measure` of `train`, `rloo` or `ppo` it has three ways to be used:

    look.point: the columns go into the history; nothing is kept.
    look: every call adds a point to `path`, and nothing to the history.
    look.at(steps, every): so do the calls at these steps; a point says its step.
    """

    def __init__(
        self, world: World, seed: int, columns: Iterable[Column], *, count: int | None, split: str = "test",
        by_prompt: bool = False, **sampling,
    ):  # fmt: skip
        """columns: what is asked of completions of the first `count` prompts (None: all). sampling: of `generate`.

        by_prompt: keep KL and gain of every prompt too, in `found`: name → a row for each point of the path.
        """
        self.world, self.seed, self.split = world, seed, split
        self.columns, self.sampling = tuple(columns), {"count": count, **sampling}
        self.prompts = prompts_of(world, split, count)
        self.path: list[dict[str, float]] = []
        self.texts: list[list[str]] = []  # of each look
        self.names: tuple[str, ...] = ()  # of the numbers that the last look found
        self.found: dict[str, list[list[float]]] = {"kl": [], "gain": []} if by_prompt else {}

    def point(self, policy: PreTrainedModel) -> dict[str, float]:
        """The columns of what `policy` writes now."""
        seen = sample(self.world, policy, self.seed, self.split, **self.sampling)
        self.texts.append(seen.texts)
        if self.found:
            before = sft_sample(self.world, self.seed, self.split, len(seen.prompts))
            self.keep(seen.log_ratios, seen.gold, before.gold)
        found = {name: value for column in self.columns for name, value in column(seen).items()}
        self.names = tuple(found)
        return found

    def keep(self, log_ratios: Tensor, rewards: Tensor, before: Tensor) -> None:
        """Add a row to what was `found` by prompt, if this look keeps it."""
        if self.found:
            for name, values in per_prompt(log_ratios, rewards, before).items():
                self.found[name].append(values)

    def __call__(self, policy: PreTrainedModel) -> dict[str, float]:
        self.path.append(rounded(self.point(policy)))
        return {}

    def at(self, steps: Sequence[int], every: int) -> Callable[[PreTrainedModel], dict[str, float]]:
        """A `measure`, to be called every `every` steps from 0 on, that looks at `steps` only."""
        called_at = itertools.count(0, every)

        def measure(policy: PreTrainedModel) -> dict[str, float]:
            step = next(called_at)
            if step in steps:
                self.path.append({"step": step} | rounded(self.point(policy)))
            return {}

        return measure
