"""Online DPO: the policy in training writes the pairs that it learns from; a judge labels them; again and again.

    history = online_dpo(policy, world.gold, prompts, world.tokenizer, reference=world.sft, rounds=8, labels=256)

One round: two completions of each prompt, one label for the two, a few DPO steps on the new pairs (Guo et al. 2024,
Alg. 1; iterative DPO: Xu et al. 2023, Xiong et al. 2024). The reference stays what it was. With
`writers=(world.sft, world.sft)` the same loop is offline DPO: same prompts, labels and steps, other authors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.annotation.annotators import Annotator, Questions, Reward, resolve
from prefcourse.finite import counted, numbers, whole
from prefcourse.generate import generate, usable
from prefcourse.preferences import Row
from prefcourse.train import train
from prefcourse.terminal import Bar
from prefcourse.training.history import History

ATTEMPTS = 10  # how often we draw more prompts for pairs that cannot be used
Writers = tuple[PreTrainedModel | None, PreTrainedModel | None]


def online_dpo(
    policy: PreTrainedModel, judge: Reward, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *,
    reference: PreTrainedModel, rounds: int = 8, labels: int = 256, batch_size: int = 16,
    writers: Writers = (None, None), moving: bool = False, reliability: float = 1.0, lr: float = 1.5e-4,
    beta: float = 0.1, max_new_tokens: int = 48, open_ended: bool = False, seed: int = 0, progress: bool = True,
    after_round: Callable[[int, list[Row]], None] | None = None, **settings: Any,
) -> History:  # fmt: skip
    """Train `policy` in place for `rounds` × (labels // batch_size) DPO steps; return the history, with a column round.

    judge: a reward; a pair's label is a coin of probability σ(reliability · (s_a - s_b)).
    writers: who writes the first and the second completion; None is the policy as it is at the start of the round.
    moving: each round takes the policy at its start as reference. Then nothing holds the policy near `reference`.
    open_ended: completions that were cut at max_new_tokens count too; see `World.open_ended`.
    after_round: called with the number of the round, from 1, and its pairs, when the round is over.
    settings: further arguments of `prefcourse.train.train`, such as loss="ipo". The optimiser starts anew every round.

    Raises ValueError for sizes that cannot be, RuntimeError if a writer gives too few usable pairs (`fresh_pairs`).
    """
    rounds, labels, batch_size = whole("rounds", rounds), whole("labels", labels), whole("batch_size", batch_size)
    if labels % batch_size:
        raise ValueError(
            f"need rounds >= 1 and labels a multiple of batch_size, got {rounds=}, {labels=}, {batch_size=}"
        )
    settings = {"schedule": "constant", "lr": lr, "beta": beta, "batch_size": batch_size} | settings
    if settings.get("loss") == "ipo":
        del settings["beta"]  # its parameter is τ
    history: History = {}
    for number in Bar(range(rounds), "rounds", progress):
        authors = [policy if writer is None else writer for writer in writers]
        rows = fresh_pairs(
            authors, judge, prompts, tokenizer, labels=labels, reliability=reliability, seed=1_000 * seed + number,
            max_new_tokens=max_new_tokens, open_ended=open_ended,
        )  # fmt: skip
        found = train(
            policy, rows, tokenizer, reference=None if moving else reference, steps=labels // batch_size,
            seed=1_000 * seed + number, progress=False, **settings,
        )  # fmt: skip
        _extend(history, found, number, labels // batch_size)
        if after_round:
            after_round(number + 1, rows)
    return history


def fresh_pairs(
    writers: Sequence[PreTrainedModel], judge: Reward, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *,
    labels: int, reliability: float = 1.0, seed: int = 0, max_new_tokens: int = 48, open_ended: bool = False,
) -> list[Row]:  # fmt: skip
    """`labels` pairs for prompts in random order: a completion by each of two writers, and which one `judge` prefers.

    Columns: prompt, chosen, rejected, chosen_score, rejected_score. A prompt may come again when all have been used.
    Left out are pairs of two equal texts, and completions whose text has other tokens or, unless open_ended, that did
    not end. Raises RuntimeError if ten times as many prompts do not give enough: then a writer has degenerated or runs
    out of tokens.
    """
    labels = whole("labels", labels)
    if not prompts or len(writers) != 2:
        had = f"{counted(len(prompts), 'prompt')} and {counted(len(writers), 'writer')}"
        raise ValueError(f"give prompts and two writers, got {had}")
    rng = torch.Generator().manual_seed(seed)
    found, drawn = [], 0  # pairs that can be used, and how many were drawn for them
    for attempt in range(ATTEMPTS):
        order = [
            i for _ in range(-(-labels // len(prompts))) for i in torch.randperm(len(prompts), generator=rng).tolist()
        ]
        asked = [prompts[i] for i in order[:labels]]
        drawn += len(asked)
        sides = [
            generate(writer, tokenizer, asked, seed=2 * (ATTEMPTS * seed + attempt) + k, max_new_tokens=max_new_tokens)
            for k, writer in enumerate(writers)
        ]
        found += [
            (prompt, a.text, b.text)
            for prompt, a, b in zip(asked, *sides, strict=True)
            if a.text != b.text and all(usable(prompt, side, tokenizer, open_ended) for side in (a, b))
        ]
        if len(found) >= labels:
            return _labelled(found[:labels], judge, reliability, seed)
    raise RuntimeError(
        f"only {len(found)} of {counted(drawn, 'pair')} can be used ({labels} needed): the texts are equal or do not "
        f"end within {counted(max_new_tokens, 'token')}. Look at samples; a smaller learning rate or a larger beta "
        "keeps the language."
    )


def _labelled(found: list[tuple[str, str, str]], judge: Reward, reliability: float, seed: int) -> list[Row]:
    """Pairs (prompt, first, second) as rows, with the judge's scores and labels."""
    prompts, first, second = zip(*found, strict=True)
    a, b = (numbers("the judge's scores", judge(prompts, side)) for side in (first, second))  # (N,) nats
    if not len(a) == len(b) == len(found):
        had = f"{len(a)} and {len(b)} scores for {counted(len(found), 'pair')}"
        raise ValueError(f"the judge gave {had}; allowed is one for each text")
    columns = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")
    cells = zip(prompts, first, second, a.tolist(), b.tolist(), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in cells]  # as if the first were always better
    asked = Questions((a - b).numpy(), a_is_chosen=np.ones(len(rows), dtype=bool))
    return resolve(rows, asked, Annotator(reliability=reliability).label(asked, seed=seed))


def _extend(history: History, found: History, number: int, steps: int) -> None:
    """Put the columns of a round behind those of the rounds before; steps go on counting."""
    found = {**found, "step": [step + number * steps for step in found["step"]], "round": [number] * len(found["step"])}
    for name, column in found.items():
        history.setdefault(name, []).extend(column)
