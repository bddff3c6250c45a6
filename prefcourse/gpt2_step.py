"""GPT-2 read token by token, for sampling: what `model.base_model` computes, bit for bit, in less time on a CPU.

All matrix products, norms and activations are calls of the model's own layers. What is written anew is the code between
them, which transformers keeps general: no masks are built, the keys and values of all layers lie in one tensor, so that
a step writes them in one copy a layer and rows leave in one copy for all, and rows whose prompts begin with the same
tokens share the first pass. `generate.sample_ids` uses it where `is_plain_gpt2` says so.
"""

import torch
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

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, n_embd) after the last of the tokens (B, t), which follow those read before."""
        if self.end:
            return self._pass(ids)
        first, which = torch.unique(ids, dim=0, return_inverse=True)  # the distinct ones, and whose each row's is
        if len(first) == len(ids) or first.numel() < SHARED:
            return self._pass(ids)
        hidden = self._pass(first)
        shared, self.past = self.past, self._memory(len(ids))
        self.past[:, : self.end] = shared[:, : self.end, which]
        return hidden[which]

    def _memory(self, rows: int) -> torch.Tensor:
        weight = self.body.wte.weight
        return weight.new_empty(len(self.body.h), self.room, rows, 2, self.heads, weight.shape[1] // self.heads)

    def _pass(self, ids: torch.Tensor) -> torch.Tensor:
        rows, new = ids.shape
        if self.past is None:
            self.past = self._memory(rows)
        begin, self.end = self.end, self.end + new
        x = self.body.wte(ids) + self.body.wpe(torch.arange(begin, self.end))  # (B, t, n_embd)
        for block, past in zip(self.body.h, self.past, strict=True):
            qkv = block.attn.c_attn(block.ln_1(x)).view(rows, new, 3, self.heads, -1)
            past[begin : self.end] = qkv[:, :, 1:].transpose(0, 1)
            keys, values = past[: self.end].permute(2, 1, 3, 0, 4)  # each (B, heads, tokens so far, width)
            mixed = scaled_dot_product_attention(
                qkv[:, :, 0].transpose(1, 2), keys, values, is_causal=new > 1, scale=block.attn.scaling
            )  # (B, heads, t, width)
            x += block.attn.c_proj(mixed.transpose(1, 2).reshape(rows, new, -1))
            x += block.mlp(block.ln_2(x))
        return self.body.ln_f(x[:, -1])

    def drop(self, holes: list[int], last: list[int], left: int) -> None:
        """Rows `last` take the place of rows `holes`, and the first `left` rows stay."""
        if holes:
            past = self.past[:, : self.end]
            past[:, :, holes] = past[:, :, last]
        self.past = self.past[:, :, :left]
