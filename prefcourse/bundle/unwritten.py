"""Teach `sft` never to write a token that would make no word: the last sixty steps of its fine-tuning.

A form without a space before it ("Also") is there for the first word of a text; inside one it would be glued to the
word before. Bytes and the wide corpus's own words are there to read, not to write. None of them stands inside a review,
and maximum likelihood makes them rare; but no preference pair holds them either, so DPO's loss does not hold their
probability down (lesson 13), and it drifts up. So we pay for their probability until there is next to nothing left.
"""

import random
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.preferences import Row, collate, encode

STEPS, BATCH, LR = 60, 64, 2e-4
PRICE = 0.2  # per nat that the log of their probability lies above FLOOR
FLOOR = -16.0  # nats, all of them together: once in nine million tokens


def unwritten(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """(V,) True for the tokens that stand nowhere in `texts` but at their beginning, EOS excepted."""
    found = torch.ones(len(tokenizer), dtype=torch.bool)
    found[tokenizer.eos_token_id] = False
    for ids in tokenizer(list(texts))["input_ids"]:
        found[ids[1:]] = False
    return found


def log_share(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log of the probability of all `tokens` (V,) bool together, (...,) nats, at `logits` (..., V)."""
    return logits[..., tokens].logsumexp(-1) - logits.logsumexp(-1)


def silence(
    model: PreTrainedModel, rows: list[Row], tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor, seed: int = 0,
    steps: int = STEPS,
) -> dict[str, float]:  # fmt: skip
    """Fine-tune `model` on `rows` for `steps` more, at a price on the probability of `tokens` (V,) behind a first one.

    Returns the mean log of that probability before and after, in nats.
    """
    sequences = [encode(row["prompt"], row["completion"], tokenizer) for row in rows]
    rng = random.Random(seed)
    optim = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    shares = []
    model.train()
    for step in range(steps):
        optim.param_groups[0]["lr"] = LR * min(1.0, (step + 1) / 10, (steps - step) / steps * 2)
        batch = collate(rng.sample(sequences, min(BATCH, len(sequences))), tokenizer.pad_token_id)
        logits = model(batch.input_ids[:, :-1]).logits  # (B, T, V)
        target, asked = batch.input_ids[:, 1:], batch.completion_mask[:, 1:]  # (B, T)
        inside = asked & (batch.input_ids[:, :-1] != tokenizer.eos_token_id)  # all but a text's first token
        share = log_share(logits[inside], tokens)
        nll = F.cross_entropy(logits[asked], target[asked])
        (nll + PRICE * F.relu(share - FLOOR).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad()
        shares.append(share.mean().item())
    model.eval()
    return {"log_share_before": round(shares[0], 2), "log_share_after": round(shares[-1], 2)}
