"""Take from `sft`, before it is fine-tuned, the tokens that would make no word: one direction, in closed form.

A form without a space before it ("Also") is there for the first word of a text; inside one it would be glued to the
word before. Bytes and the wide corpus's own words are there to read, not to write. None of them stands inside a review,
and maximum likelihood makes them rare; but no preference pair holds them either, so DPO's loss does not hold their
probability down (lesson 13), and it drifts up.

A token's logit is e·h, with e its row of the embedding and h the last hidden state. With a direction u for which u·h is
about 1 inside a text and 0 where a text begins, e - c u instead of e takes c nats from the logit there and none here.
In one trial of each on 1,500 validation reviews, a price on them in further training cost 0.016 nats per character for
1 nat of their log-probability, 0.05 for 3 and 0.17 for 6; this cost 0.002 for about 8. No other logit moves but by what
a first word, read, passes on.
"""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.preferences import Row, collate, encode

NATS = 10.0  # that the logits fall by
SHOWN = 512  # rows of which the hidden states are taken
RIDGE = 0.01  # added to the mean of h hᵀ, whose diagonal is about 1


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


@torch.no_grad()
def hidden(
    model: PreTrainedModel, rows: list[Row], tokenizer: PreTrainedTokenizerBase
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states before tokens inside the completions of `rows`, (N, H), and before a text's first, (H,)."""
    sequences = [encode(row["prompt"], row["completion"], tokenizer) for row in rows]
    batch = collate(sequences, tokenizer.pad_token_id)
    ids, asked = batch.input_ids[:, :-1], batch.completion_mask[:, 1:].bool()
    states = model.transformer(ids, attention_mask=torch.ones_like(ids)).last_hidden_state  # padding is on the right
    begin = model.transformer(torch.tensor([[tokenizer.eos_token_id]])).last_hidden_state[0, 0]
    return states[asked & (ids != tokenizer.eos_token_id)], begin


def direction(inside: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
    """The u (H,) for which u·h is nearest to 1 on average over `inside` (N, H), at u·`begin` (H,) next to 0."""
    inside, begin = inside.double(), begin.double()
    square = inside.T @ inside / len(inside)
    # A hundred times a common row's weight: what is asked of the one state before a text is nearly an equation.
    apart = 100 * square.diagonal().mean() * torch.outer(begin, begin) / (begin @ begin)
    return torch.linalg.solve(square + apart + RIDGE * torch.eye(len(begin)).double(), inside.mean(0)).float()


def silence(
    model: PreTrainedModel, rows: list[Row], tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor,
    nats: float = NATS,
) -> None:  # fmt: skip
    """Take about `nats` from the logits of `tokens` (V,) bool, inside a text and not at its beginning, in place."""
    u = direction(*hidden(model, rows[:SHOWN], tokenizer))
    with torch.no_grad():
        model.transformer.wte.weight[tokens] -= nats * u


def mean_share(
    model: PreTrainedModel, rows: list[Row], tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor
) -> float:
    """log of the mean probability of all `tokens` (V,) bool together inside the completions of `rows`, in nats."""
    logits = model.lm_head(hidden(model, rows, tokenizer)[0])
    return log_share(logits, tokens).exp().mean().log().item()
