"""fp16 with loss scaling, as on GPUs without bf16: an overflow costs one step, its memory survives an interruption."""

import math
from itertools import pairwise

import pytest
import torch

from prefcourse.train import train
from prefcourse.training import checkpoint

HALF = {"steps": 8, "batch_size": 6, "lr": 1e-3, "precision": "fp16", "progress": False}
SCALE = 65536.0  # where torch's GradScaler starts; halved at each overflow


class Stop(Exception):
    pass


def overflowing(policy, at):
    """Make the gradients of `policy` infinite at the steps `at`. → a list of its weights before every step."""
    seen = []

    def measure(model):
        seen.append([p.detach().clone() for p in model.parameters()])
        return {}

    def blow_up(gradient):
        return gradient * math.inf if len(seen) - 1 in at else gradient

    policy.transformer.wpe.weight.register_hook(blow_up)
    return seen, measure


def moved(before, after):
    return not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_fp16_learns_what_fp32_learns(tiny_gpt2, tokenizer, pairs):
    half, single = (train(tiny_gpt2(), pairs, tokenizer, **HALF | {"precision": p}) for p in ("fp16", "fp32"))
    for name in ("loss", "grad_norm", "rewards/margins"):  # the norm is that of the gradient itself, without the scale
        assert half[name] == pytest.approx(single[name], rel=0.02, abs=0.02), name
    assert half["loss"] != single["loss"]  # it was another precision


def test_an_overflow_skips_its_step_and_halves_the_scale(tiny_gpt2, tokenizer, pairs, tmp_path):
    policy = tiny_gpt2()
    weights, measure = overflowing(policy, at={2, 5})
    history = train(policy, pairs, tokenizer, measure=measure, every=1, checkpoint=tmp_path, **HALF)
    changes = [moved(a, b) for a, b in pairwise(weights)]
    assert changes == [True, True, False, True, True, False, True, True]
    assert [math.isfinite(norm) for norm in history["grad_norm"][:8]] == changes
    assert all(map(math.isfinite, history["loss"][:8]))
    assert checkpoint.load(checkpoint.latest(tmp_path), policy).scaler["scale"] == SCALE / 4


def test_the_scale_survives_an_interruption(tiny_gpt2, tokenizer, pairs, tmp_path):
    def stopped(measure):
        def stop(model):
            measure(model)
            if checkpoint.latest(tmp_path) is not None:
                raise Stop
            return {}

        return stop

    whole = tiny_gpt2()
    expected = train(whole, pairs, tokenizer, measure=overflowing(whole, at={1})[1], every=1, **HALF)
    policy = tiny_gpt2()
    with pytest.raises(Stop):
        train(policy, pairs, tokenizer, measure=stopped(overflowing(policy, at={1})[1]), every=1, checkpoint=tmp_path,
              checkpoint_every=3, **HALF)  # fmt: skip
    saved = checkpoint.load(checkpoint.latest(tmp_path), tiny_gpt2())
    assert saved.step == 3 and saved.scaler["scale"] == SCALE / 2 and saved.scaler["_growth_tracker"] == 1
    policy = tiny_gpt2()
    found = train(policy, pairs, tokenizer, measure=lambda model: {}, every=1, checkpoint=tmp_path, checkpoint_every=3,
                  resume=True, **HALF)  # fmt: skip
    assert str(found) == str(expected)  # as text, where nan equals nan
    assert not moved(whole.parameters(), policy.parameters())


def test_gradients_that_no_scale_can_save_stop_the_run(tiny_gpt2, tokenizer, pairs):
    """An overflow at a scale of 1 is no matter of precision, and a run that skips every step would end untrained."""
    policy = tiny_gpt2()
    before = [p.detach().clone() for p in policy.parameters()]
    _, measure = overflowing(policy, at=range(99))
    with pytest.raises(FloatingPointError, match=r"step 16: the gradients are not finite \(rows \[\d+, "):
        train(policy, pairs, tokenizer, measure=measure, every=1, **HALF | {"steps": 40})
    assert not moved(before, policy.parameters())  # 2^16 = 65536: sixteen steps were skipped


def test_bf16_keeps_its_weights_in_fp32(tiny_gpt2, tokenizer, pairs):
    policy = tiny_gpt2()
    train(policy, pairs, tokenizer, **HALF | {"precision": "bf16"})
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
