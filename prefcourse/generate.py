"""Batched sampling from a causal language model, short enough to read and the same whatever the batch size.

Rows have prompts of different lengths. Where the lengths differ little, all rows walk from the first token on together:
while a row still has prompt tokens left it takes the next of those, afterwards it takes a sampled one. So every row
sits at the same position, no padding mask is needed, and the keys and values of past tokens are computed once. Where
they differ much, that would take a call of the model for each token between the shortest prompt and the longest. There
the shorter prompts get fillers in front, a mask hides these, and one call reads all prompts (`_at_once` decides).

A plain GPT-2 on a CPU is read by `gpt2_step`, in less time; every other model does its own reading here. Its first pass
leaves out the fillers where `packing` knows how.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from prefcourse.chat import end_of_turn
from prefcourse.finite import counted, number, whole
from prefcourse.gpt2_step import Gpt2Reader, is_plain_gpt2
from prefcourse.layout import lay_out
from prefcourse.packing import can_pack
from prefcourse.preferences import encode, encode_prompts
from prefcourse.worlds.models import config_ends, context

FILLER = -1  # stands before the tokens of a shorter prompt
FEW = 16  # calls of the model; to save no more than that, nothing is gained by fillers
CROWD = 32  # fillers for each call they save; on a CPU, far more of them cost a small model more than the calls do


@dataclass(frozen=True)
class Completion:
    """One sampled completion: its text (without EOS), its token ids (EOS included if it came), and whether EOS came.

    EOS is any of the model's `eos_ids`.
    """

    text: str
    ids: list[int]
    finished: bool


def usable(prompt: str, completion: Completion, tokenizer: PreTrainedTokenizerBase, open_ended: bool = False) -> bool:
    """Can it stand in a pair: did it end, does it say something, will its text be read as the tokens it was drawn as?

    open_ended: it need not have ended; see `World.open_ended`.
    """
    if not completion.text.strip() or not (completion.finished or open_ended):
        return False
    drawn = completion.ids[:-1] if completion.finished else completion.ids  # whichever EOS it was
    return encode(prompt, completion.text, tokenizer)[1][:-1] == drawn


def next_token(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_k: int, top_p: float
) -> torch.Tensor:
    """One token id per row from logits (B, V) and uniform numbers in [0, 1) (B,): inverse-transform sampling, (B,).

    temperature 0 takes the most probable token. top_k keeps the k most probable (0: all), top_p the smallest set
    whose probability reaches p (Holtzman et al. 2020).
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    probs = logits.softmax(-1)  # (B, V)
    if top_k == 0 and top_p == 1:  # nothing to cut off, so nothing to sort
        cumulative = probs.cumsum_(-1)
        token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)  # (B, 1)
        return token[:, 0].clamp(max=probs.shape[-1] - 1)
    probs, order = probs.topk(min(top_k or probs.shape[-1], probs.shape[-1]), -1)  # sorted, the most probable first
    cumulative = probs.cumsum(-1)
    keep = cumulative - probs < top_p  # the token that crosses p still belongs to the set
    mass = (probs * keep).sum(-1, keepdim=True)  # (B, 1) what is left to draw from
    rank = torch.searchsorted(cumulative, uniform[:, None] * mass, right=True)  # (B, 1)
    last = keep.sum(-1, keepdim=True) - 1  # rounding must not step over the last token we kept
    return order.gather(-1, rank.minimum(last))[:, 0]


@torch.no_grad()
def sample_ids(
    model: PreTrainedModel, prompts: Sequence[list[int]], *, max_new_tokens: int = 48, temperature: float = 1.0,
    top_k: int = 0, top_p: float = 1.0, seed: int = 0, batch_size: int = 256, eos_id: int | Sequence[int] = 0,
) -> list[list[int]]:  # fmt: skip
    """Sample one completion, as token ids with EOS if it came, for each prompt (a list of token ids).

    Row i draws its random numbers from its own stream (seed, i): batch size and the other rows do not change a sample,
    up to the rounding of its probabilities. eos_id: the token that ends a completion, or several of which each does.
    Raises ValueError for an empty prompt, one too long for the model, or settings out of range.
    """
    max_new_tokens, batch_size = whole("max_new_tokens", max_new_tokens), whole("batch_size", batch_size)
    temperature, seed = number("temperature", temperature, least=0), whole("seed", seed, -(2**63), 2**63 - 1)
    top_k, top_p = whole("top_k", top_k, 0), number("top_p", top_p, above=0, most=1)
    room = context(model) - max_new_tokens
    for i, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= room:
            raise ValueError(
                f"prompt {i} has {counted(len(prompt), 'token')}; with {max_new_tokens=} this model takes 1 to {room}"
            )
    if not prompts:
        return []
    device, ends = model.device, {eos_id} if isinstance(eos_id, int) else set(eos_id)
    uniforms = torch.stack(
        [
            torch.rand(max_new_tokens, generator=torch.Generator().manual_seed((1_000_003 * seed + i) % 2**32))
            for i in range(len(prompts))
        ]
    )  # (N, max_new_tokens)
    completions: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # few forced steps in each batch
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]  # the rows still being written, as indices into prompts
        lengths = [len(prompts[i]) for i in rows]
        position = lengths[-1 if _at_once(model, lengths) else 0]  # to there the first pass reads
        step_ids = torch.tensor([[*[FILLER] * (position - len(prompts[i])), *prompts[i][:position]] for i in rows])
        step_ids = step_ids.to(device)  # (B, position)
        reader = (Gpt2Reader if is_plain_gpt2(model) else _Reader)(model, room=lengths[-1] + max_new_tokens)
        while rows:
            hidden = reader.read(step_ids)  # (B, width) of the last token
            draw = [k for k, i in enumerate(rows) if len(prompts[i]) <= position]  # the others still read their prompt
            logits = model.get_output_embeddings()(hidden[draw] if len(draw) < len(rows) else hidden)  # (draws, V)
            uniform = uniforms[[rows[k] for k in draw], [len(completions[rows[k]]) for k in draw]].to(device)
            drawn = next_token(logits, uniform, temperature, top_k, top_p).tolist()
            done = []
            for k, token in zip(draw, drawn, strict=True):
                written = completions[rows[k]]
                written.append(token)
                if token in ends or len(written) == max_new_tokens:
                    done.append(k)
            left, gone = len(rows) - len(done), set(done)
            holes = [k for k in done if k < left]  # the last rows that go on move into the holes of the others
            last = [k for k in range(left, len(rows)) if k not in gone]
            for hole, k in zip(holes, last, strict=True):
                rows[hole] = rows[k]
            del rows[left:]
            if done and rows:
                reader.drop(holes, last, left)
            tokens = [completions[i][-1] if completions[i] else prompts[i][position] for i in rows]
            step_ids = torch.tensor(tokens, device=device)[:, None]  # (B, 1)
            position += 1
    return completions


def _at_once(model: PreTrainedModel, lengths: list[int]) -> bool:
    """Are prompts of these lengths, the shortest first, read in one pass with fillers, or token by token from there on?

    That saves a call of the model for each token between the shortest and the longest. On a GPU it is what counts. On a
    CPU the fillers cost time too: they are places among the keys and values at which each later step looks.
    """
    saved, fillers = lengths[-1] - lengths[0], lengths[-1] * len(lengths) - sum(lengths)
    if saved <= FEW or (model.device.type == "cpu" and fillers > CROWD * saved):
        return False
    return is_plain_gpt2(model) or _takes_fillers(model)


_answers: WeakKeyDictionary[PreTrainedModel, dict[tuple, bool]] = WeakKeyDictionary()


def _takes_fillers(model: PreTrainedModel) -> bool:
    """Does this model give the same for a prompt with fillers before it? Found out once, with a few tokens."""
    known = _answers.setdefault(model, {})
    kind = (model.config._attn_implementation, model.dtype, model.device.type, model.training)
    if kind not in known:
        known[kind] = _try_out(model)
    return known[kind]


def _try_out(model: PreTrainedModel) -> bool:
    tokens = 1 + torch.arange(16, device=model.device) % (model.config.vocab_size - 1)
    rows, body = (tokens[:12], tokens[12:]), model.base_model.forward  # `forward`: nobody counts these calls
    first = torch.full((2, 11), FILLER, device=model.device)
    for k, row in enumerate(rows):
        first[k, 12 - len(row) :] = row[:-1]
    with torch.autocast(model.device.type, enabled=False):
        try:
            whole = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in rows]
            alone = [body(**row, use_cache=False).last_hidden_state[0, -2:].float() for row in whole]
            reader = _Reader(model, room=12)
            reader.body = body
            read = [reader.read(first), reader.read(torch.stack([row[-1:] for row in rows]))]
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):
            return False
    found, expected = torch.stack(read, 1).float(), torch.stack(alone)  # (2, 2, width)
    close = 1e-4 if model.dtype == torch.float32 else 3e-2
    return bool((found - expected).abs().max() <= close * expected.abs().max())


class _Layer(DynamicLayer):
    """Keys and values of one layer in memory taken once: a new token is written behind the others, nothing is copied.

    Time comes first, (room, B, heads, width): what one step writes lies together, and room not used is not touched.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room, self.end = room, 0  # tokens that fit, tokens that are there
        self.slots = None  # (t, B) where the tokens of packed rows are, when such rows come next

    def update(self, key_states, value_states, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        new = [states.permute(2, 0, 1, 3) for states in (key_states, value_states)]  # (t, B, heads, width)
        slots, self.slots = self.slots, None
        if slots is not None:
            new = [states[:, 0][slots] for states in new]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.store = [states.new_empty(self.room, *states.shape[1:]) for states in new]
        begin, self.end = self.end, self.end + len(new[0])
        for store, states in zip(self.store, new, strict=True):
            store[begin : self.end] = states
        self.keys, self.values = (store[: self.end].permute(1, 2, 0, 3) for store in self.store)
        return (self.keys, self.values) if slots is None else (key_states, value_states)

    def move(self, holes: list[int], last: list[int], left: int) -> None:
        """Rows `last` take the place of rows `holes`, and the first `left` rows stay."""
        for k, store in enumerate(self.store):
            store[: self.end, holes] = store[: self.end, last]
            self.store[k] = store[:, :left]


class _Reader:
    """Reads one batch with a model of any kind, and remembers keys and values."""

    def __init__(self, model: PreTrainedModel, room: int):
        self.model, self.body, self.cache = model, model.base_model, DynamicCache(config=model.config)
        layers = self.cache.layers
        self.cache.layers = [_Layer(room) if type(layer) is DynamicLayer else layer for layer in layers]
        self.real = None  # (B, tokens so far): False at fillers; None where no row has fillers

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, width) after the last of the tokens (B, t), which follow those read before.

        The first call takes fillers, -1, before the tokens of a shorter row.
        """
        places, real = {}, ids >= 0
        if self.real is not None:
            self.real = torch.cat([self.real, real], 1)
        elif ids.shape[1] > 1 and not bool(real.all()):
            self.real = real
            if can_pack(self.model) and all(type(layer) is _Layer for layer in self.cache.layers):
                return self._packed(ids.cpu(), real.cpu())
        if self.real is not None:
            position_ids = self.real.cumsum(1)[:, -ids.shape[1] :] - 1
            places = {"attention_mask": self.real.long(), "position_ids": position_ids.clamp(min=0)}
            ids = ids.clamp(min=0)
        return self.body(ids, past_key_values=self.cache, use_cache=True, **places).last_hidden_state[:, -1]

    def _packed(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The first pass without fillers, and each prompt once (`packing`); keys and values go to their places."""
        behind = torch.zeros_like(ids)
        behind[real.flip(1)] = ids[real]  # the fillers stand behind the tokens, as `lay_out` wants it
        last = torch.arange(ids.shape[1]) == real.sum(1, keepdim=True) - 1
        layout, slots = lay_out(behind, last, ends=True), torch.zeros_like(ids)
        slots[real] = layout.slots[real.flip(1)]
        layout, slots = layout.to(self.real.device), slots.T.to(self.real.device)
        for layer in self.cache.layers:
            layer.slots = slots
        return self.body(
            layout.input_ids[None], position_ids=layout.position_ids[None], layout=layout, past_key_values=self.cache,
            attention_mask=layout.own.new_ones(1, 1, 1, 1), use_cache=True,
        ).last_hidden_state[0, layout.last]  # fmt: skip

    def drop(self, holes: list[int], last: list[int], left: int) -> None:
        """Rows `last` take the place of rows `holes`, and the first `left` rows stay."""
        if self.real is not None:
            self.real[holes] = self.real[last]
            self.real = self.real[:left]
        for layer in self.cache.layers:
            if isinstance(layer, _Layer):
                layer.move(holes, last, left)
            else:  # of another kind, such as a sliding window: it copies what stays
                moved = dict(zip(holes, last, strict=True))
                layer.batch_select_indices(torch.tensor([moved.get(k, k) for k in range(left)], dtype=torch.long))


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All token ids that end a completion: the tokenizer's EOS, and those in the model's configurations.

    A chat model often has several, one for the end of a turn and one for the end of a text; `model.generate` stops at
    those of its generation_config. The mark with which the chat template ends a turn is one, too.
    """
    named = (tokenizer.eos_token_id, end_of_turn(tokenizer), *config_ends(model))
    return sorted({i for i in named if i is not None})


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], **settings
) -> list[Completion]:
    """One completion for each prompt, with the settings of `sample_ids`. Raises ValueError for an empty prompt."""
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"prompt {i} is {prompt!r}; each prompt must be text that is not empty")
    ends = eos_ids(model, tokenizer)
    ids = sample_ids(model, encode_prompts(prompts, tokenizer), eos_id=ends, **settings)
    finished = [bool(row) and row[-1] in ends for row in ids]
    texts = [tokenizer.decode(row[:-1] if end else row) for row, end in zip(ids, finished, strict=True)]
    return [Completion(t, row, end) for t, row, end in zip(texts, ids, finished, strict=True)]
