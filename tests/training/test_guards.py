"""Other models than GPT-2: the log-probs are those of the whole forward pass, or the model is refused."""

import pytest
import torch
import transformers

from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import collate, encode
from prefcourse.train import train
from prefcourse.training import guards
from prefcourse.training.reference import reference_logps

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LLAMA = SIZES | {"num_key_value_heads": 1}
FINE = {"Llama": LLAMA, "Qwen2": LLAMA, "GPTNeoX": SIZES}
RESCALED = {  # what each does around its head
    "Gemma2": LLAMA | {"head_dim": 16, "final_logit_softcapping": 2.0},
    "Cohere": LLAMA | {"logit_scale": 0.0625},
    "Granite": LLAMA | {"logits_scaling": 8.0},
    "MiniCPM3": LLAMA | {"num_key_value_heads": 2},  # the only one that rescales before the head
}


def make(name, sizes, tokenizer):
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    settings = sizes | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "initializer_range": 0.2}
    torch.manual_seed(0)
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config = getattr(transformers, f"{name}Config")(**settings)
    return getattr(transformers, f"{name}ForCausalLM")(config).float().eval()


@pytest.mark.parametrize("name", FINE)
def test_other_architectures_train_on_the_log_probs_of_the_plain_forward(name, tokenizer, pairs):
    model = make(name, FINE[name], tokenizer)
    sequences = [encode(row["prompt"], row[side], tokenizer) for row in pairs[:4] for side in ("chosen", "rejected")]
    batch = collate(sequences, tokenizer.pad_token_id)  # of different lengths, so some are padded
    found = sequence_logps(model, batch)
    for value, (prompt, completion) in zip(found, sequences, strict=True):  # one by one, without padding
        logps = model(torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
        places = range(len(prompt), len(prompt) + len(completion))
        by_hand = sum(logps[k - 1, token] for k, token in zip(places, completion, strict=True))
        torch.testing.assert_close(value, by_hand, atol=1e-4, rtol=1e-5)

    before = [p.detach().clone() for p in model.parameters()]
    history = train(model, pairs, tokenizer, steps=2, batch_size=6, lr=1e-3, precision="fp32", progress=False)
    assert history["rewards/margins"][0] == pytest.approx(0, abs=1e-4)
    assert abs(history["rewards/margins"][1]) > 1e-3
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", RESCALED)
def test_models_that_rescale_around_their_head_are_refused(name, tokenizer, pairs):
    model = make(name, RESCALED[name], tokenizer)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=f"policy: {name}ForCausalLM rescales hidden states or logits .* Take a model"):
        train(model, pairs, tokenizer, steps=2, batch_size=6, precision="fp32", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_reference_that_rescales_is_refused_too(tiny_gpt2, tokenizer, pairs):
    reference = make("Cohere", RESCALED["Cohere"], tokenizer)
    with pytest.raises(ValueError, match="reference: CohereForCausalLM rescales"):
        train(tiny_gpt2(), pairs, tokenizer, reference=reference, steps=2, batch_size=6, progress=False)
    with pytest.raises(ValueError, match="reference: CohereForCausalLM rescales"):
        reference_logps(reference, pairs, tokenizer)


def test_the_check_leaves_the_model_as_it_was(tiny_gpt2):
    model = tiny_gpt2()
    guards.check_head(model, "policy")
    assert not model.lm_head._forward_hooks


def test_what_counts_is_what_a_model_does(tiny_gpt2, tokenizer):
    guards.check_head(make("Cohere", LLAMA | {"logit_scale": 1.0}, tokenizer), "policy")  # times 1 changes nothing
    guards.check_head(make("Gemma2", LLAMA | {"head_dim": 16, "final_logit_softcapping": None}, tokenizer), "policy")
    guards.check_head(tiny_gpt2().transformer, "policy")  # no head, nothing to check
