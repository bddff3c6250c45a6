"""Packed is padded: the same log-probs and gradients, for any causal model of transformers, over random lengths."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from prefcourse import packing
from prefcourse.layout import lay_out
from prefcourse.logprobs import last_states, sequence_logps, token_kl, token_logps
from prefcourse.packing import can_pack
from prefcourse.preferences import Batch, collate
from prefcourse.training.lora import add_lora

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SMALL |= {"head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}


def grouped(config_class=LlamaConfig):
    """A Llama-like model in which two heads share keys and values."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_class(**SMALL, num_key_value_heads=2)).eval()


def with_lora(tiny_gpt2):
    """GPT-2 with adapters that do something; what `train` scores with is the model inside."""
    policy = add_lora(tiny_gpt2(), rank=2)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return policy.get_base_model()


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3", "lora"])
def model(request, tiny_gpt2):
    """Each kind of model that has to be packed."""
    makers = {"gpt2": tiny_gpt2, "llama": grouped, "qwen3": lambda: grouped(Qwen3Config)}
    return makers.get(request.param, lambda: with_lora(tiny_gpt2))()


def plain(model, batch):
    """(N, T - 1) of `token_logps`, from rows with padding and all logits."""
    logps = model(batch.input_ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    return logps.gather(-1, batch.input_ids[:, 1:, None])[..., 0] * batch.completion_mask[:, 1:]


def gradients(model, logps):
    """Of a sum in which every row has another weight, for all that trains."""
    model.zero_grad()
    (logps.sum(-1) * torch.linspace(-1, 1.5, len(logps))).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


tokens = st.integers(1, 299)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=4)
completions = st.lists(tokens, min_size=0, max_size=9).map(lambda ids: [*ids, 0])
batches = prompts.flatmap(lambda some: st.lists(st.tuples(st.sampled_from(some), completions), min_size=1, max_size=9))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(sequences=batches)
def test_packed_is_padded(model, sequences):
    batch = collate(sequences)
    assert can_pack(model)
    expected, found = plain(model, batch), token_logps(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # The sum over a row is what a loss sees; its gradient, too.
    for name, gradient in gradients(model, token_logps(model, batch)).items():
        right = gradients(model, plain(model, batch))[name]
        torch.testing.assert_close(gradient, right, atol=1e-5 * max(1, float(right.abs().max())), rtol=1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sequences=batches)
def test_the_layout_leaves_out_what_is_not_distinct(sequences):
    batch = collate(sequences)
    found = batch.whole_layout
    distinct = {(tuple(prompt), i) for prompt, _ in sequences for i in range(len(prompt))}
    assert len(found.input_ids) == len(distinct) + sum(len(completion) for _, completion in sequences)
    for row, (prompt, completion) in enumerate(sequences):
        numbers = found.slots[row, : len(prompt) + len(completion)]
        assert found.input_ids[numbers].tolist() == [*prompt, *completion]
        assert found.position_ids[numbers].tolist() == list(range(len(numbers)))
        assert found.last[row] == numbers[-1]
    assert found.targets.tolist() == [token for _, completion in sequences for token in completion]
    assert found.rows(torch.ones(len(found.targets))).bool().equal(batch.completion_mask[:, 1:])
    # What a log-prob needs is less: from a row's last token nothing is predicted.
    lean = batch.layout
    assert len(lean.input_ids) == len(found.input_ids) - len(sequences)
    assert lean.input_ids[lean.before].equal(found.input_ids[found.before])
    assert lean.position_ids[lean.before].equal(found.position_ids[found.before])
    assert len(found.before) == len(found.targets) and len(found.borrowed) == int(
        (found.slots.flatten()[found.borrowed] >= 0).sum()
    )


def test_pairs_share_their_prompts_and_others_with_the_same_prompt_do_too():
    pair = collate([([5, 6, 7], [8, 0]), ([5, 6, 7], [9, 9, 9, 0]), ([5, 6], [7, 8, 0])])
    assert pair.whole_layout.input_ids.tolist() == [5, 6, 7, 8, 0, 9, 9, 9, 0, 5, 6, 7, 8, 0]
    assert pair.whole_layout.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1, 2, 3, 4]
    assert pair.layout.input_ids.tolist() == [5, 6, 7, 8, 9, 9, 9, 5, 6, 7, 8]


def test_a_mask_with_holes_counts_its_own_tokens_only(tiny_gpt2):
    """Of a conversation, say, in which only the assistant's turns count."""
    model, ids = tiny_gpt2(), torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 1, 0, 0, 0, 0]]).bool()
    torch.testing.assert_close(token_logps(model, Batch(ids, mask)), plain(model, Batch(ids, mask)), atol=1e-5, rtol=0)


def test_a_row_without_a_completion_has_the_log_prob_zero(tiny_gpt2):
    ids, mask = torch.ones(3, 4, dtype=torch.long), torch.zeros(3, 4, dtype=torch.bool)
    mask[1, 2:] = True
    found = sequence_logps(tiny_gpt2(), Batch(ids, mask))
    assert found[0] == found[2] == 0 and found[1] < 0


def test_the_end_of_each_row_is_its_last_completion_token(tiny_gpt2):
    body = tiny_gpt2().base_model
    batch = collate([([1, 2], [3, 0]), ([1, 2], [4, 5, 6, 0]), ([7], [0])])
    rows = body(batch.input_ids).last_hidden_state
    torch.testing.assert_close(last_states(body, batch), rows[[0, 1, 2], [3, 5, 1]], atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------- what cannot be packed is padded


def test_what_cannot_be_packed_is_fed_rows(monkeypatch):
    """Bloom tells positions by the mask it is given, and takes no position ids."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    bloom = AutoModelForCausalLM.from_config(BloomConfig(**sizes)).eval()
    batch = collate([([1, 2], [3, 0]), ([1, 2], [4, 5, 6, 0])])
    assert not can_pack(bloom)
    torch.testing.assert_close(token_logps(bloom, batch), plain(bloom, batch), atol=1e-5, rtol=0)
    assert last_states(bloom.base_model, batch).shape == (2, 32)


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2"])
def test_a_model_with_a_window_is_fed_rows(kind):
    """A few tokens fit into the window, so only rows that are longer show that packing leaves it out."""
    torch.manual_seed(0)
    config = MistralConfig if kind == "Mistral" else Qwen2Config
    more = {} if kind == "Mistral" else {"use_sliding_window": True, "max_window_layers": 1}
    model = AutoModelForCausalLM.from_config(config(**SMALL, num_key_value_heads=2, sliding_window=8, **more)).eval()
    g = torch.Generator().manual_seed(0)
    batch = collate([(torch.randint(1, 300, (12,), generator=g).tolist(), [*range(5, 5 + n), 0]) for n in (20, 27)])
    assert not can_pack(model)
    torch.testing.assert_close(token_logps(model, batch), plain(model, batch), atol=1e-5, rtol=0)


def test_a_model_that_drops_the_layout_is_found_out(tiny_gpt2, monkeypatch):
    """Without it attention would be causal over all texts of the batch: every number wrong, and no error."""
    model = tiny_gpt2()
    forward = type(model.base_model).forward
    monkeypatch.setattr(
        type(model.base_model), "forward", lambda self, *a, layout=None, **kwargs: forward(self, *a, **kwargs)
    )
    batch = collate([([1, 2], [3, 0]), ([1, 2], [4, 5, 6, 0])])
    assert not can_pack(model)
    torch.testing.assert_close(token_logps(model, batch), plain(model, batch), atol=1e-5, rtol=0)


def test_other_attention_and_training_mode_are_fed_rows(tiny_gpt2):
    eager, training = tiny_gpt2(), tiny_gpt2().train()
    eager.set_attn_implementation("eager")
    assert not can_pack(eager) and not can_pack(training) and can_pack(training.eval())
    batch = collate([([1, 2], [3, 0]), ([1, 2], [4, 5, 6, 0])])
    torch.testing.assert_close(token_logps(eager, batch), token_logps(training, batch), atol=1e-5, rtol=0)


def test_the_table_of_attention_functions_serves_everybody_else_as_before(tiny_gpt2, monkeypatch):
    model, ids = tiny_gpt2(), torch.randint(1, 300, (2, 9))
    with torch.no_grad():
        ours = model(ids).logits
        monkeypatch.setitem(packing.ALL_ATTENTION_FUNCTIONS, "sdpa", packing.sdpa_attention_forward)
        assert model(ids).logits.equal(ours)


# ------------------------------------------------------------------------------------------------------ lower precision


@pytest.mark.parametrize("kind", ["autocast", "weights"])
def test_packed_is_padded_in_bf16_up_to_its_rounding(kind):
    model, batch = grouped(), collate([([1, 2], [3, 0]), ([1, 2], [4, 5, 6, 0])])
    exact = token_logps(model, batch).detach()
    if kind == "weights":
        model = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        assert can_pack(model)
        found = token_logps(model, batch)
    assert found.dtype == torch.float32 and not found.equal(exact)
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0)


def test_the_kl_of_the_next_token_is_packed_too(tiny_gpt2):
    policy, reference = tiny_gpt2(0), tiny_gpt2(1)
    batch = collate([([1, 2], [3, 0]), ([1, 2], [4, 5, 6, 0])])
    packed = token_kl(policy, reference, batch)
    for one in (policy, reference):
        one.set_attn_implementation("eager")
    torch.testing.assert_close(token_kl(policy, reference, batch), packed, atol=1e-5, rtol=0)


def test_a_layout_is_made_once_and_moves_with_its_batch(monkeypatch):
    made = []
    monkeypatch.setattr("prefcourse.preferences.lay_out", lambda *both: made.append(1) or lay_out(*both))
    batch = collate([([1, 2], [3, 0]), ([1, 2], [4, 5, 6, 0])])
    assert batch.layout is batch.layout and len(made) == 1
    moved = batch.to("cpu")
    assert moved.layout.targets.equal(batch.layout.targets) and len(made) == 1
