"""Not only GPT-2: whatever applies a head to its last hidden state trains; what does more is refused."""

import copy

import pytest
import torch
import transformers

from prefcourse import guards
from prefcourse.logprobs import token_logps
from prefcourse.preferences import collate, encode
from prefcourse.reference import reference_logps
from prefcourse.train import train

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    "initializer_range": 0.2,
}  # fmt: skip


def make(name, tokenizer, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL | {"vocab_size": len(tokenizer)} | changes)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "GPTNeoX"])
def test_log_probs_are_those_of_the_plain_forward_and_it_trains(name, tokenizer, pairs):
    policy = make(name, tokenizer)
    batch = collate([encode(row["prompt"], row["chosen"], tokenizer) for row in pairs[:6]])
    with torch.no_grad():
        full = policy(batch.input_ids).logits[:, :-1].log_softmax(-1)
        plain = full.gather(-1, batch.input_ids[:, 1:, None])[..., 0] * batch.completion_mask[:, 1:]
        torch.testing.assert_close(token_logps(policy, batch), plain)
    before = copy.deepcopy(policy)
    history = train(policy, pairs, tokenizer, steps=2, batch_size=6, lr=1e-3, precision="fp32", progress=False,
                    prompts=["This film", "I think the story"])  # fmt: skip
    assert history["rewards/margins"][0] == 0 and history["rewards/margins"][1] > 0
    assert history["kl"][0] == pytest.approx(0, abs=1e-4) and history["kl"][-1] != 0
    assert not any(
        torch.equal(a, b) for a, b in zip(before.parameters(), policy.parameters(), strict=True) if a.ndim > 1
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Cohere", {"logit_scale": 0.0625}), ("Gemma2", {"head_dim": 16}), ("Granite", {"logits_scaling": 8.0}),
     ("MiniCPM3", {})],
)  # fmt: skip
def test_models_that_rescale_around_the_head_are_refused(name, settings, tokenizer, pairs, tmp_path):
    model = make(name, tokenizer, **settings)
    before = copy.deepcopy(model)
    words = f"{name}ForCausalLM rescales hidden states or logits around its output head.* Take a model that does not"
    with pytest.raises(ValueError, match=f"policy: {words}"):
        train(model, pairs, tokenizer, steps=2, progress=False, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match=f"reference: {words}"):
        train(make("Llama", tokenizer), pairs, tokenizer, reference=model, steps=2, progress=False)
    with pytest.raises(ValueError, match=f"reference: {words}"):
        reference_logps(model, pairs, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))
    assert not (tmp_path / "run").exists()


def test_what_counts_is_what_a_model_does(tokenizer, tiny_gpt2):
    guards.check_head(make("Cohere", tokenizer, logit_scale=1.0), "policy")  # a factor of 1 changes nothing
    guards.check_head(make("Gemma2", tokenizer, head_dim=16, final_logit_softcapping=None), "policy")
    guards.check_head(tiny_gpt2().transformer, "policy")  # no head, nothing to check
