"""GPT-2 read token by token, for sampling: what `model.base_model` computes, bit for bit, in less time on a CPU.

All matrix products, norms and activations are calls of the model's own layers. What is written anew is the code between
them, which transformers keeps general: no masks are built, the keys and values of all layers lie in one tensor, so that
a step writes them in one copy a layer and rows leave in one copy for all, and rows whose prompts begin with the same
tokens share the first pass. `generate.sample_ids` uses it where `is_plain_gpt2` says so.

Prompts of unequal length that are read in one pass have fillers in front. Their layers compute no filler (that is
exact to rounding, not bit for bit), and afterwards a mask hides those places.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from transformers import PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block, GPT2LMHeadModel, GPT2Model

SHARED = 16  # tokens; for a smaller product the BLAS takes another kernel, which may round the last bit otherwise


def is_plain_gpt2(model: PreTrainedModel) -> bool:
    """Whether `Gpt2Reader` does what this model does: GPT-2 on a CPU, in evaluation mode, and nobody hooked into it.

    Adapters inside its linear layers do no harm, as those layers are called; a model wrapped in a class is another.
    """
    if type(model) is not GPT2LMHeadModel or type(model.base_model) is not GPT2Model or model.device.type != "cpu":
        return False
    if model.config.add_cross_attention or model.config._attn_implementation != "sdpa":
        return False
    if torch.is_autocast_enabled("cpu") or _global_forward_hooks or _global_forward_pre_hooks:
        return False  # somebody counts calls of modules, such as `costs.Meter`
    if not all(type(block) is GPT2Block and type(block.attn) is GPT2Attention for block in model.base_model.h):
        return False
    return not any(
        module.training or module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in model.modules()
    )


class Gpt2Reader:
    """Reads one batch, and remembers keys and values: `read` takes (B, t) token ids, `drop` forgets rows."""

    def __init__(self, model: GPT2LMHeadModel, room: int):
        self.body, self.heads = model.base_model, model.config.n_head
        self.room, self.end = room, 0  # tokens that fit, tokens that are there
        self.past = None  # (layers, room, B, 2, heads, width): keys and values; what one step writes lies together
        self.fillers = None  # (B,) how many stand before a row's first token; None where no row has any

    def read(self, ids: Tensor) -> Tensor:
        """Hidden states (B, n_embd) after the last of the tokens (B, t), which follow those read before.

        The first call takes fillers, -1, before the tokens of a shorter row.
        """
        if self.end:
            return self._pass(ids)
        first, which = torch.unique(ids, dim=0, return_inverse=True)  # the distinct ones, and whose each row's is
        unequal = bool((ids < 0).any())
        read = self._unequal if unequal else self._pass
        if len(first) == len(ids) or first.numel() < SHARED:
            return read(ids)
        hidden = read(first)
        shared, self.past = self.past, self._memory(len(ids))
        self.past[:, : self.end] = shared[:, : self.end, which]
        self.fillers = self.fillers[which] if unequal else None
        return hidden[which]

    def _memory(self, rows: int) -> Tensor:
        weight = self.body.wte.weight
        return weight.new_empty(len(self.body.h), self.room, rows, 2, self.heads, weight.shape[1] // self.heads)

    def _layers(self, x: Tensor, mix: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
        """All blocks, (B, t, n_embd) → the same; mix(qkv, past, scale) is attention, (B, t, n_embd), without c_proj."""
        for block, past in zip(self.body.h, self.past, strict=True):
            qkv = block.attn.c_attn(block.ln_1(x)).view(*x.shape[:2], 3, self.heads, -1)
            x += block.attn.c_proj(mix(qkv, past, block.attn.scaling))
            x += block.mlp(block.ln_2(x))
        return x

    def _pass(self, ids: Tensor) -> Tensor:
        rows, new = ids.shape
        if self.past is None:
            self.past = self._memory(rows)
        begin, self.end = self.end, self.end + new
        places, mask = torch.arange(self.end), None
        x = self.body.wte(ids)  # (B, t, n_embd)
        if self.fillers is None:
            x += self.body.wpe(places[begin:])
        else:  # one token a row
            x += self.body.wpe(begin - self.fillers)[:, None]
            mask = x.new_zeros(rows, self.end).masked_fill_(places < self.fillers[:, None], -torch.inf)[:, None, None]

        def mix(qkv: Tensor, past: Tensor, scale: float) -> Tensor:
            past[begin : self.end] = qkv[:, :, 1:].transpose(0, 1)
            keys, values = past[: self.end].permute(2, 1, 3, 0, 4)  # each (B, heads, tokens so far, width)
            mixed = scaled_dot_product_attention(
                qkv[:, :, 0].transpose(1, 2), keys, values, attn_mask=mask, is_causal=new > 1, scale=scale
            )  # (B, heads, t, width)
            return mixed.transpose(1, 2).reshape(rows, new, -1)

        return self.body.ln_f(self._layers(x, mix)[:, -1])

    def _unequal(self, ids: Tensor) -> Tensor:
        """The first pass over rows with fillers: the layers see the M tokens as one row without them.

        Attention sees padded rows, but with the fillers behind the tokens. There a causal mask is all it takes.
        """
        real = ids >= 0  # (B, t)
        behind = real.flip(1)  # where the same tokens stand, in the same order, with the fillers behind
        self.fillers, self.end = (~real).sum(1), ids.shape[1]
        self.past = self._memory(len(ids))
        number = real.flatten().cumsum(0).view_as(ids) - 1  # of each token among the M
        slots = number.where(real, 0).T  # (t, B) fillers get what token 0 has, which nobody sees
        padded = torch.zeros_like(ids).masked_scatter_(behind, number[real]).flatten()
        own = behind.flatten().nonzero()[:, 0]  # (M,)
        x = (self.body.wte(ids[real]) + self.body.wpe(real.cumsum(1)[real] - 1))[None]  # (1, M, n_embd)

        def mix(qkv: Tensor, past: Tensor, scale: float) -> Tensor:
            past[: self.end] = qkv[0, :, 1:][slots]
            rows = qkv[0].index_select(0, padded).view(*ids.shape, *qkv.shape[2:])
            query, keys, values = rows.permute(2, 0, 3, 1, 4)  # each (B, heads, t, width)
            mixed = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale)
            return mixed.transpose(1, 2).flatten(0, 1).index_select(0, own).flatten(1)[None]  # (1, M, n_embd)

        return self.body.ln_f(self._layers(x, mix)[0, number[:, -1]])

    def drop(self, holes: list[int], last: list[int], left: int) -> None:
        """Rows `last` take the place of rows `holes`, and the first `left` rows stay."""
        if holes:
            past = self.past[:, : self.end]
            past[:, :, holes] = past[:, :, last]
        self.past = self.past[:, :, :left]
        if self.fillers is not None:
            self.fillers[holes] = self.fillers[last]
            self.fillers = self.fillers[:left]
