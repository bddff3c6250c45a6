"""Less memory, the same numbers: gradient checkpointing, the output head in parts, and what a full memory is told."""

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

from prefcourse import logprobs
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import collate
from prefcourse.train import train
from prefcourse.training.lora import add_lora
from prefcourse.training.memory import recompute, recomputed_layers, recomputing

QUICK = {"steps": 4, "batch_size": 6, "lr": 1e-3, "progress": False}


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(1, 250, (n,), generator=g).tolist()  # noqa: E731
    prompts = [draw(6) for _ in range(4)]
    return collate([(prompts[i % 4], [*draw(12 + i), 0]) for i in range(8)])


def kept_bytes(model, batch):
    """Gradients, and the bytes that the forward pass keeps for the backward pass; each storage once."""
    seen = {}

    def keep(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), recomputing(model):
        loss = (sequence_logps(model, batch) * torch.linspace(-1, 1, len(batch.input_ids))).sum()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    return found, sum(size for place, size in seen.items() if place not in weights)


def close(found, expected):
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6 * max(1, float(gradient.abs().max())), rtol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_layers_give_the_same_gradients_from_less_memory(tiny_gpt2, batch, reentrant):
    model = tiny_gpt2(n_layer=6)
    plain, all_kept = kept_bytes(model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert not model.training and len(recomputed_layers(model)) == 6
    recomputed, kept = kept_bytes(model, batch)
    close(recomputed, plain)
    assert kept < 0.4 * all_kept, (kept, all_kept)
    print(f"kept for the backward pass: {all_kept:,} bytes, with gradient checkpointing {kept:,}")


@pytest.mark.parametrize("kind", ["all weights", "LoRA"])
def test_train_uses_gradient_checkpointing_that_was_switched_on(tiny_gpt2, tokenizer, pairs, monkeypatch, kind):
    found, calls = [], []
    for switched_on in (False, True):
        policy = tiny_gpt2()
        policy = add_lora(policy, rank=2) if kind == "LoRA" else policy
        if switched_on:
            recompute(policy)
            for layer in recomputed_layers(policy):
                again = layer._gradient_checkpointing_func
                layer._gradient_checkpointing_func = lambda *a, f=again, **k: calls.append(1) or f(*a, **k)
        history = train(policy, pairs, tokenizer, prompts=["This film"], every=2, **QUICK)
        found.append((history, [p.detach() for p in policy.parameters()]))
        assert not any(module.training for module in policy.modules())
    (plain, weights), (recomputed, others) = found
    assert len(calls) == 4 * 2  # steps x layers
    assert recomputed["loss"] == pytest.approx(plain["loss"], abs=1e-6, nan_ok=True)
    assert recomputed["length"][-1] == plain["length"][-1]  # what is sampled on the way still has its cache
    assert max(float((a - b).abs().max()) for a, b in zip(weights, others, strict=True)) < 1e-5


def test_a_layer_with_a_dropout_of_its_own_is_refused(tokenizer, pairs):
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "word_embed_proj_dim": 32, "eos_token_id": 0, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(OPTConfig(**sizes, dropout=0.1))
    recompute(model)
    with pytest.raises(ValueError, match=r"would switch on the dropout of 0.1 in OPTDecoderLayer.*dropout=0"):
        train(model, pairs, tokenizer, **QUICK)


def test_the_output_head_in_parts_gives_the_same_numbers_from_less_memory(tiny_gpt2, batch, monkeypatch):
    model = tiny_gpt2(n_embd=16, n_layer=1, vocab_size=3_000)
    whole, all_kept = kept_bytes(model, batch)
    logps = sequence_logps(model, batch)
    monkeypatch.setattr(logprobs, "LARGEST", 4 * 3_000 * 10)  # ten tokens at a time
    parts, kept = kept_bytes(model, batch)
    close(parts, whole)
    torch.testing.assert_close(sequence_logps(model, batch), logps, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(sequence_logps(model, batch), logps, atol=1e-5, rtol=0)
    assert kept < 0.3 * all_kept, (kept, all_kept)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14.80 GiB."),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")],
    ids=["GPU", "CPU"],
)  # fmt: skip
@pytest.mark.parametrize("when", ["step", "reference"])
def test_a_full_memory_is_answered_with_sizes_and_ways_out(tiny_gpt2, tokenizer, pairs, error, when):
    def full(model, batch):
        if torch.is_grad_enabled() == (when == "step"):
            raise error
        return sequence_logps(model, batch)

    with pytest.raises(MemoryError, match=r"6 examples of up to \d+ tokens at a time in each of 1 process,") as found:
        train(tiny_gpt2(), pairs, tokenizer, score=full, **QUICK)
    message = str(found.value)
    assert "--micro-batch 3" in message and "--gradient-checkpointing" in message and "memory" in message[-150:]
    with pytest.raises(MemoryError, match=r"What helps, the best first: gradient checkpointing"):
        train(tiny_gpt2(), pairs, tokenizer, score=full, micro_batch=1, **QUICK)


def test_another_error_stays_what_it_is(tiny_gpt2, tokenizer, pairs):
    def broken(model, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(tiny_gpt2(), pairs, tokenizer, score=broken, **QUICK)
