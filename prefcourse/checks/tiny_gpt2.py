"""A random GPT-2 of a few thousand weights, for the checks of `ex07` and `ex11` that need a real model."""

from functools import cache

import torch
from torch import nn

WORDS = 12  # of its vocabulary; 0 ends a text


@cache
def tiny_gpt2(seed: int, **shape: float) -> nn.Module:
    """Built once for each seed and shape: whoever trains it takes a copy."""
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import, and few checks need it

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=WORDS, n_embd=16, n_head=2, bos_token_id=0, eos_token_id=0, **shape)
        )
