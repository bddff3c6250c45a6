"""A batch without padding, each prompt once: what `logprobs` feeds a model in place of N rows of T tokens.

A pair has one prompt and two completions. Padded to rows, the prompt is computed twice, and so is every filler:

    the film was great <eos>            5 tokens are distinct and predict something, 10 positions are computed
    the film bad <eos> <pad>

Packed, the model reads the distinct tokens as one row, each with the position it has in its text, and attention obeys
this mask (a token looks at those that are marked in its row; a causal mask, except that a completion never sees another
one):

                position   the  film  was  great  bad
        the        0        x
        film       1        x    x
        was        2        x    x     x
        great      3        x    x     x    x
        bad        2        x    x                x

The last token of a text, here <eos>, is left out: it is predicted, but nothing is predicted from it.

Everything that works token by token (embeddings, norms, the linear layers, which are nine tenths of the work) needs
nothing new. Attention alone must know who sees whom. We never build that mask, which would have M × M entries: `attend`
copies queries, keys and values to padded rows, where the mask is causal and fast kernels exist, and copies the result
back. The log-probs are those of padded rows up to rounding, and so are the gradients.

It works for every model of transformers that looks up its attention by name, as GPT-2, Llama and Qwen do; `can_pack`
tries it out with a few tokens. All others are fed padded rows.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prefcourse.layout import Layout, lay_out


class _Spread(torch.autograd.Function):
    """(M, ...) → (N · T, ...). Backward, a prompt's token collects the gradients of all rows that borrow it."""

    @staticmethod
    def forward(ctx, tokens: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return tokens.index_select(0, layout.slots.flatten())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        own, borrowed = ctx.layout.own, ctx.layout.borrowed
        found = gradient.index_select(0, own)
        if len(borrowed):
            found.index_add_(0, ctx.layout.slots.flatten()[borrowed], gradient.index_select(0, borrowed))
        return found, None


class _Collect(torch.autograd.Function):
    """(N · T, ...) → (M, ...), each token from the position where it is computed."""

    @staticmethod
    def forward(ctx, positions: Tensor, layout: Layout) -> Tensor:
        ctx.layout, ctx.shape = layout, positions.shape
        return positions.index_select(0, layout.own)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        found = gradient.new_zeros(ctx.shape)
        found[ctx.layout.own] = gradient
        return found, None


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    layout: Layout | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Scaled dot-product attention as transformers has it, but of packed tokens, (1, heads, M, width), given a layout.

    It stands in for "sdpa" in transformers' table of attention functions. Called without a layout, that is by anyone
    but us, it is the original.
    """
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, width = layout.slots.shape
    padded = [
        _Spread.apply(x[0].transpose(0, 1), layout).view(rows, width, *x.shape[1::2]).transpose(1, 2)
        for x in (query, key, value)
    ]  # (N, heads, T, width) each
    mixed, _ = sdpa_attention_forward(module, *padded, None, **kwargs)  # (N, T, heads, width)
    return _Collect.apply(mixed.flatten(0, 1), layout)[None], None  # (1, M, heads, width)


ALL_ATTENTION_FUNCTIONS["sdpa"] = attend


def read(body: PreTrainedModel, layout: Layout) -> Tensor:
    """The last hidden states of the M tokens of `layout`, (M, D)."""
    mask = layout.own.new_ones(1, 1, 1, 1)  # a mask of four dimensions is handed on as it is: none is built
    ids, positions = layout.input_ids[None], layout.position_ids[None]
    return body(ids, position_ids=positions, attention_mask=mask, use_cache=False, layout=layout).last_hidden_state[0]


_answers: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def can_pack(model: nn.Module) -> bool:
    """Does `read` give what this model says of padded rows? Found out once, with seven tokens.

    No for a model in training mode: with dropout two readings of one prompt must differ. And no for a model some of
    whose layers see a window or a chunk of a text only, which so few tokens would not show.
    """
    body = getattr(model, "base_model", None)
    if not isinstance(body, PreTrainedModel) or body.training or body.config._attn_implementation != "sdpa":
        return False
    if not _sees_all(body.config):
        return False
    if body not in _answers:
        _answers[body] = _try_out(body)
    return _answers[body]


def _sees_all(config: PreTrainedConfig) -> bool:
    """Does every layer see the whole text?"""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not (windowed or getattr(config, "attention_chunk_size", None))


@torch.no_grad()
def _try_out(body: PreTrainedModel) -> bool:
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 6, 7, 0]]) % body.config.vocab_size
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]).bool()
    ids, layout = ids.to(body.device), lay_out(ids, mask, ends=True).to(body.device)
    with torch.autocast(body.device.type, enabled=False):
        try:  # `forward`, so that nobody who counts calls of the model counts these
            whole = torch.ones_like(ids)  # without a mask transformers may warn
            padded = (
                body.forward(ids, attention_mask=whole, use_cache=False)
                .last_hidden_state.flatten(0, 1)[layout.own]
                .float()
            )
            packed = body.forward(
                layout.input_ids[None], position_ids=layout.position_ids[None], use_cache=False,
                attention_mask=layout.own.new_ones(1, 1, 1, 1), layout=layout,
            ).last_hidden_state[0].float()  # fmt: skip
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
    close = 1e-4 if body.dtype == torch.float32 else 3e-2
    return packed.shape == padded.shape and bool((packed - padded).abs().max() <= close * padded.abs().max())
