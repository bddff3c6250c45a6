"""What a run costs: the meter against counts by hand, pauses, peak memory, and the sums behind the budget."""

import copy
import math
from pathlib import Path

import pytest
import torch

from prefcourse.comparison.costs import Meter, model_memory, peak_memory, plan_memory, plan_work, step_memory
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import collate
from prefcourse.rlhf.policy_gradient import rloo
from prefcourse.rlhf.reward_model import RewardModel
from prefcourse.train import train

PAIRS = [{"prompt": "This movie", "chosen": " is good.", "rejected": " is bad and long."}] * 4


@pytest.fixture
def batch():
    # (2, 5), of which two are padding, no prompt is shared, and from the two last tokens nothing is predicted
    return collate([([1, 2], [3, 4, 0]), ([5], [6, 0])])


def test_tokens_by_hand(tiny_gpt2, batch):
    policy, reference = tiny_gpt2(), tiny_gpt2(1)
    meter = Meter(policy=policy, reference=reference)
    with meter:
        sequence_logps(policy, batch).sum().backward()
        with torch.no_grad():
            sequence_logps(reference, batch)
            sequence_logps(tiny_gpt2(2), batch)
    assert meter.forward == {"policy": 6, "reference": 6, "other": 6}
    assert meter.backward == {"policy": 6} and meter.work == 30 and meter.seconds > 0


def test_a_pause_and_the_end_stop_the_count(tiny_gpt2, batch):
    policy = tiny_gpt2()
    meter = Meter(policy=policy)
    with meter:
        policy(batch.input_ids)
        with meter.paused():
            policy(batch.input_ids)
        policy(batch.input_ids)
    policy(batch.input_ids)
    assert meter.forward["policy"] == 20
    with pytest.raises(ZeroDivisionError), meter:
        raise ZeroDivisionError
    policy(batch.input_ids)
    assert meter.forward["policy"] == 20


def test_dpo_scores_the_reference_once_and_learns_each_epoch(tiny_gpt2, tokenizer):
    policy, reference = tiny_gpt2(), tiny_gpt2(1)
    meter = Meter(policy=policy, reference=reference)
    with meter:
        train(policy, PAIRS, tokenizer, reference=reference, epochs=3, batch_size=4, progress=False)
    once = meter.forward["reference"]
    forward, backward = meter.forward["policy"], meter.backward["policy"]
    assert meter.forward.keys() == {"policy", "reference"} and meter.backward.keys() == {"policy"}
    assert 2 * once < backward < 4 * once  # about three times: batches are padded in other ways
    assert backward <= forward < backward + once  # and no pass over the data without learning from it


def test_rloo_samples_scores_and_learns(tiny_gpt2, tokenizer):
    policy, reference = tiny_gpt2(), tiny_gpt2(1)
    reward = RewardModel(reference, tokenizer)
    meter = Meter(policy=policy, reference=reference, reward_model=reward)
    with meter:
        rloo(policy, reward, ["This movie"], tokenizer, reference=reference, steps=1, batch_size=1, k=4,
             max_new_tokens=8, progress=False)  # fmt: skip
    learnt = meter.backward["policy"]
    assert meter.backward == {"policy": learnt} and meter.forward["reference"] == learnt
    assert meter.forward["reward_model"] > 0 and meter.forward["policy"] > learnt  # sampling comes on top


def ten_megabytes(times):
    keep = []
    return lambda: keep.append(torch.ones(times * 2_500_000))


def breaks():
    return lambda: 1 / 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak_memory reads Linux's books")
def test_peak_memory_of_another_process():
    assert 55 < peak_memory(ten_megabytes, 6) < 90
    with pytest.raises(RuntimeError, match="failed in its own process"):
        peak_memory(breaks)


def test_memory_of_models_is_that_of_their_tensors(tiny_gpt2, batch):
    policy = tiny_gpt2()
    optimizer = torch.optim.Adam(policy.parameters())
    sequence_logps(policy, batch).sum().backward()
    optimizer.step()
    tensors = [p for p in policy.parameters()] + [p.grad for p in policy.parameters()]
    tensors += [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    count = sum(p.numel() for p in policy.parameters())
    assert model_memory(count, frozen=0) * 1e6 == sum(t.numel() * t.element_size() for t in tensors)
    frozen = copy.deepcopy(policy)
    size = sum(p.numel() * p.element_size() for p in frozen.parameters())
    assert model_memory(count, frozen=1) - model_memory(count, frozen=0) == pytest.approx(size / 1e6)


def test_plans():
    memory = {name: sum(parts.values()) for name, parts in plan_memory(1e9, frozen_bytes=2).items()}
    assert memory == {
        "DPO, reference cached": 16, "DPO, reference beside": 18, "RLOO": 20, "PPO, value head on the policy": 20,
        "PPO, value model of its own": 36,
    }  # fmt: skip
    work = {name: sum(parts.values()) for name, parts in plan_work(100, 20, 500, epochs=2, reuse=3).items()}
    assert work == {"DPO": 28_000, "RLOO": 72_000, "PPO": 142_000}  # 2·2k + 6·2k·2 | 12k + 6·10k | 12k + 13·10k


def test_the_memory_of_a_step_by_hand():
    """Two layers of width 10, a vocabulary of 100, 50 tokens of which 20 count, 1,000 weights."""
    shape = (1_000, 2, 10, 100, 50, 20)
    bytes_of = lambda **more: {name: gb * 1e9 for name, gb in step_memory(*shape, **more).items()}  # noqa: E731
    full = {"weights": 4_000, "gradients and Adam": 12_000, "reference": 0, "activations": 4 * 2 * 17 * 10 * 50}
    full |= {"logits": 2 * 4 * 20 * 100}
    assert bytes_of() == pytest.approx(full)
    assert bytes_of(beside=2, kept_bytes=2) == pytest.approx(full | {"reference": 8_000, "activations": 34_000})
    assert bytes_of(recompute=True)["activations"] == pytest.approx(4 * (2 + 17) * 10 * 50)
    small = bytes_of(adapters=30, weight_bytes=2, beside=1)
    assert small == pytest.approx(full | {"weights": 2_120, "gradients and Adam": 360, "reference": 2_000})
    assert sum(bytes_of().values()) - full["activations"] - full["logits"] == model_memory(1_000, 0) * 1e6
    with pytest.raises(ValueError, match="activations"):
        step_memory(1_000, 2, 10, 100, math.nan, 20)
