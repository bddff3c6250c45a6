"""Log-probabilities against a token-by-token loop, and the golden case with the three usual bugs beside it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prefcourse.generate import sample_ids
from prefcourse.logprobs import kl_k1, kl_k3, pick, score_all, sequence_logps, token_kl, token_logps
from prefcourse.preferences import Batch, collate, collate_pairs

GOLDEN_IDS = [1, 2, 3, 0, 4, 2]  # prompt [1, 2]; EOS is 2
GOLDEN_LOGITS = torch.tensor([[((7 * t + 3 * v) % 5) / 2 for v in range(5)] for t in range(6)])
GOLDEN_TOKENS = [-2.347102, -2.347102, -0.847102, -1.347102, -0.847102]  # of ids[1:]


class Table(torch.nn.Module):
    """A model whose logits (T, V) are given: the body hands them on as hidden states, the head is the identity."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.head = logits, torch.nn.Identity()

    def base_model(self, input_ids, use_cache):
        return SimpleNamespace(last_hidden_state=self.logits.expand(len(input_ids), -1, -1))

    def get_output_embeddings(self):
        return self.head


def golden(prompt=2, end=6):
    mask = torch.zeros(1, 6, dtype=torch.bool)
    mask[0, prompt:end] = True
    return Batch(torch.tensor([GOLDEN_IDS]), mask)


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=atol, rtol=0)


def loop(model, prompt, completion):
    """log π of each completion token, one forward pass for each, in the plainest way there is."""
    found = []
    for n, token in enumerate(completion):
        logits = model(torch.tensor([prompt + completion[:n]])).logits[0, -1]
        found.append(logits.float().log_softmax(-1)[token])
    return torch.stack(found)


@pytest.fixture(scope="module")
def sequences():
    """Twelve (prompt, completion) of many lengths; completions end in EOS = 0 and may hold it before."""
    g = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(0, 300, (n,), generator=g).tolist()  # noqa: E731
    return [(draw(1 + i % 5), [*draw(i % 7), 0]) for i in range(12)]


# ------------------------------------------------------------------------------------------- golden numbers


def test_golden_case():
    close(token_logps(Table(GOLDEN_LOGITS), golden()), [[0.0, *GOLDEN_TOKENS[1:]]])
    close(sequence_logps(Table(GOLDEN_LOGITS), golden()), [-5.388407])
    close(sequence_logps(Table(GOLDEN_LOGITS), golden(), reduce="mean"), [-1.347102])
    close(token_logps(Table(GOLDEN_LOGITS), golden(prompt=1)), [GOLDEN_TOKENS])


def test_the_three_usual_bugs_have_the_values_they_are_known_by():
    """A test that passes for right code alone says little: here are the wrong numbers, made wrong on purpose."""
    close(sequence_logps(Table(GOLDEN_LOGITS), golden(prompt=3)), [-3.041305])  # mask not shifted
    late = GOLDEN_LOGITS.roll(-1, dims=0)  # logits not shifted: position t scores the token at t
    close(sequence_logps(Table(late), golden()), [-8.888407])
    close(sequence_logps(Table(GOLDEN_LOGITS), golden(end=5)), [-4.541305])  # EOS dropped


# ------------------------------------------------------------------------------------------- against a loop


@torch.no_grad()
def test_equal_to_a_loop_over_tokens(tiny_gpt2, sequences):
    model, batch = tiny_gpt2(), collate(sequences)
    tokens, sums, means = token_logps(model, batch), sequence_logps(model, batch), sequence_logps(model, batch, "mean")
    assert tokens.shape == (12, batch.input_ids.shape[1] - 1) and tokens.dtype == torch.float32
    for i, (prompt, completion) in enumerate(sequences):
        expected, begin = loop(model, prompt, completion), len(prompt) - 1
        close(tokens[i, begin : begin + len(completion)], expected, atol=1e-5)
        close(sums[i], expected.sum(), atol=1e-5 * len(completion))
        close(means[i], expected.mean(), atol=1e-5)
    assert (tokens[~batch.completion_mask[:, 1:]] == 0).all()
    assert sums.std() > 5  # the model is far from uniform, so a wrong token would show


@torch.no_grad()
def test_padding_order_and_batch_size_change_nothing(tiny_gpt2, sequences):
    model = tiny_gpt2()
    together = sequence_logps(model, collate(sequences))
    close(torch.cat([sequence_logps(model, collate([s])) for s in sequences]), together, atol=1e-4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    close(sequence_logps(model, collate([sequences[i] for i in order])), together[order], atol=1e-4)
    batch = collate(sequences)
    for pad in (0, 7):  # nine more columns, of whatever token
        wide = torch.nn.functional.pad(batch.input_ids, (0, 9), value=pad)
        mask = torch.nn.functional.pad(batch.completion_mask, (0, 9))
        close(sequence_logps(model, Batch(wide, mask)), together, atol=1e-4)


@torch.no_grad()
def test_any_number_of_texts_is_scored_in_batches_and_in_order(tiny_gpt2, sequences):
    model, many = tiny_gpt2(), sequences * 3
    with torch.no_grad():
        single = torch.cat([sequence_logps(model, collate([one])) for one in many])
    torch.testing.assert_close(score_all(model, many, None, batch_size=4), single, atol=1e-4, rtol=1e-5)
    lengths = score_all(model, many, 0, batch_size=5, score=lambda model, batch: batch.lengths.float())
    assert lengths.tolist() == [len(completion) for _, completion in many] and len(score_all(model, [], 0)) == 0


def test_mean_is_sum_over_length(tiny_gpt2, tokenizer, pairs):
    model, batch = tiny_gpt2(), collate_pairs(pairs, tokenizer)
    assert len(set(batch.lengths.tolist())) > 3
    torch.testing.assert_close(
        sequence_logps(model, batch, "mean") * batch.lengths, sequence_logps(model, batch, "sum")
    )


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'sum' or 'mean', got 'median'"):
        sequence_logps(Table(GOLDEN_LOGITS), golden(), reduce="median")


# ------------------------------------------------------------------------------------------- precision and cost


@torch.no_grad()
def test_bf16_autocast_still_gives_float32_results(tiny_gpt2, sequences):
    model, batch = tiny_gpt2(), collate(sequences)
    exact = sequence_logps(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        tokens, sums = token_logps(model, batch), sequence_logps(model, batch)
    assert tokens.dtype == sums.dtype == torch.float32
    assert not torch.equal(sums, sums.bfloat16().float())  # not rounded to bf16 on the way
    close(sums, exact, atol=0.5)


@torch.no_grad()
def test_the_softmax_is_taken_in_float32():
    """In bf16 all of these logits near 200 would be one number, and each log-prob would be off by up to a nat."""
    logits = 200 + torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]).expand(6, -1)
    found = token_logps(Table(logits.bfloat16()), golden())
    close(found[0, 1:], logits[1:-1].log_softmax(-1).gather(-1, torch.tensor([[3], [0], [4], [2]]))[:, 0], atol=1e-5)


def test_the_output_head_sees_completion_positions_only(tiny_gpt2, tokenizer, pairs):
    model, batch = tiny_gpt2(), collate_pairs(pairs, tokenizer)
    seen = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    sequence_logps(model, batch)
    handle.remove()
    assert sum(shape[:-1].numel() for shape in seen) == batch.lengths.sum() < 0.7 * batch.input_ids.numel()


def test_gradients_are_those_of_the_plain_formula(tiny_gpt2, sequences):
    model, batch = tiny_gpt2(), collate(sequences)
    sequence_logps(model, batch).sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    logps = model(batch.input_ids).logits[:, :-1].log_softmax(-1)
    picked = logps.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    picked[batch.completion_mask[:, 1:]].sum().backward()
    for gradient, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------- KL estimators

PI = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
REF = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_the_expectation_of_both_estimators_is_the_kl(estimator):
    values = estimator(PI.log(), REF.log())  # one for each outcome
    close((PI * values).sum(), 0.18379, atol=5e-6)
    close((PI * values).sum(), (PI * (PI / REF).log()).sum(), atol=1e-12)


def test_k3_is_never_negative_and_k1_may_be():
    assert (kl_k3(PI.log(), REF.log()) > 0).all()
    assert (kl_k1(PI.log(), REF.log()) < 0).any()
    assert kl_k3(PI.log(), PI.log()).abs().max() == 0
    wrong = torch.expm1(PI.log() - REF.log()) - (PI.log() - REF.log())  # the exponent's sign the other way round
    close((PI * wrong).sum(), 0.19121, atol=5e-6)


def test_k3_is_accurate_for_small_differences():
    d = torch.tensor([1e-4], dtype=torch.float32)
    close(kl_k3(d, torch.zeros(1)).double() / 1e-8, [0.5], atol=0.05)


# ------------------------------------------------------------------------------------------- KL of the next token


def test_token_kl_is_the_sum_over_the_vocabulary(tiny_gpt2, sequences):
    policy, reference = tiny_gpt2(0), tiny_gpt2(1)
    batch = collate([(p[:3], [t for t in c if t]) for p, c in sequences if len(c) > 2])
    found = token_kl(policy, reference, batch)
    with torch.no_grad():
        p, q = (model(batch.input_ids).logits[:, :-1].log_softmax(-1) for model in (policy, reference))
    close(found.detach(), (p.exp() * (p - q)).sum(-1) * batch.completion_mask[:, 1:], atol=1e-5)
    assert token_kl(policy, policy, batch).abs().max() == 0 and (found >= 0).all()


def test_token_kl_and_k1_estimate_the_same_sequence_kl(tiny_gpt2, tokenizer):
    """Means over 4,000 samples agree within four standard errors, and the exact tokens vary less."""
    policy, reference = tiny_gpt2(0), tiny_gpt2(1)
    ids = sample_ids(policy, [[5, 9]] * 4_000, max_new_tokens=3, seed=3)
    batch = collate([([5, 9], row) for row in ids])
    with torch.no_grad():
        exact = token_kl(policy, reference, batch).sum(-1)
        k1 = kl_k1(sequence_logps(policy, batch), sequence_logps(reference, batch))
    error = (k1 - exact).std() / len(ids) ** 0.5
    assert (k1 - exact).mean().abs() < 4 * error and exact.std() < k1.std()


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there the peak is the process's own")
def test_completion_positions_need_a_fraction_of_the_memory_of_full_logits():
    """16 x 256 x 50,257: a quarter of the positions are completion; full float32 logits alone are 823 MB."""
    script = Path(__file__).parent / "benchmarks" / "logits_memory.py"
    found = {}
    for way in ("full", "completion"):
        run = subprocess.run([sys.executable, script, way], capture_output=True, encoding="utf-8", check=True)
        found[way], total = (float(x) for x in run.stdout.split())
        found[f"{way} sum"] = total
    print(found)
    assert found["full"] > 1_500 and found["completion"] < 0.4 * found["full"], found
    assert abs(found["full sum"] / found["completion sum"] - 1) < 1e-5, found


def test_the_gradient_by_hand_is_autograds():
    logits = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    tokens = torch.tensor([0, 8, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda x: pick(x, tokens), (logits,))
    close(pick(logits, tokens), logits.log_softmax(-1)[torch.arange(5), tokens])
    far = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)  # no overflow, and a gradient of 0 where p is 1
    pick(far, torch.tensor([0])).sum().backward()
    assert torch.equal(far.grad, torch.zeros(1, 3))
