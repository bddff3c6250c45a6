"""Calibration: on made-up margins whose truth we know, and the repair by one temperature."""

import math
from itertools import pairwise

import pytest
import torch

from prefcourse.rlhf import calibration
from prefcourse.rlhf.calibration import assess, by_prompt, confidence, ece, ece_of_noise, fit_temperature, reliability


def coins(n=20_000, seed=0, sharpen=1.0):
    """Margins times `sharpen`, with the side that wins drawn by the true margin: Δ of the label, its probability."""
    generator = torch.Generator().manual_seed(seed)
    true = 1.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    wins = torch.rand(n, generator=generator, dtype=torch.float64) < true.sigmoid()
    signed = torch.where(wins, true, -true)
    return sharpen * signed, signed.sigmoid()


def rows_of(probability):
    """Pairs, two a prompt, whose gold rewards differ by the log-odds of `probability`."""
    return [
        {"prompt": f"p{i // 2}", "chosen": "a", "rejected": "b", "chosen_score": p, "rejected_score": 0.0}
        for i, p in enumerate(probability.logit().tolist())
    ]


def test_confidence_and_rightness():
    margins = torch.tensor([2.0, -2.0, 0.0])
    assert confidence(margins).tolist() == pytest.approx([0.880797, 0.880797, 0.5], abs=1e-6)
    assert calibration.rightness(margins).tolist() == [1, 0, 0.5]
    chance = calibration.rightness(margins, torch.tensor([0.7, 0.7, 0.7], dtype=torch.float64))
    assert chance.tolist() == pytest.approx([0.7, 0.3, 0.5])


def test_ece_by_hand():
    sure, right = torch.tensor([0.6, 0.6, 0.9, 0.9]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert ece(sure, right, bins=2) == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)
    assert ece(sure, right, bins=1) == pytest.approx(0)  # the errors cancel: one bin sees only the means
    assert ece(sure, right, bins=4) == pytest.approx((0.4 + 0.6 + 0.1 + 0.1) / 4)
    with pytest.raises(ValueError, match="got 4 pairs for 5 bins"):
        ece(sure, right, bins=5)


def test_a_calibrated_model_has_the_ece_of_noise_and_a_sharp_one_more():
    margins, probability = coins()
    sure, right = confidence(margins), calibration.rightness(margins)
    noise = ece_of_noise(sure)
    assert noise.low <= ece(sure, right) <= noise.high < 0.02
    assert ece(sure, calibration.rightness(margins, probability)) < 1e-12, "without coins nothing is left"
    sharp = confidence(3 * margins)
    assert ece(sharp, right) > 0.1 > ece_of_noise(sharp).high
    few = ece_of_noise(sure[:200])
    assert few.value > 3 * noise.value, "fewer pairs, more ECE from noise alone"


def test_one_temperature_repairs_what_was_sharpened():
    margins, _ = coins(sharpen=3.0)
    found = fit_temperature(margins)
    assert found == pytest.approx(3.0, rel=0.05)
    slope = (margins / found * (-margins / found).sigmoid()).mean()
    assert slope.abs() < 1e-9, "the mean of -log σ(Δ/T) is flat there"
    assert fit_temperature(margins / 7) == pytest.approx(found / 7, rel=1e-9)
    assert ece(confidence(margins / found), calibration.rightness(margins)) < 0.02


def test_where_no_temperature_exists_it_says_why():
    margins, _ = coins(200)
    with pytest.raises(ValueError, match="Are chosen and rejected exchanged"):
        fit_temperature(-margins)
    with pytest.raises(ValueError, match="the sharper the better"):
        fit_temperature(margins.abs())
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(torch.tensor([1.0, math.nan]))


def test_assess_knows_the_ceiling_and_the_gold_order():
    margins, probability = coins(3_000)
    found = assess(margins, rows_of(probability))
    assert found["ceiling"].value == pytest.approx(torch.maximum(probability, 1 - probability).mean().item())
    assert found["gold_order"].value == 1 and found["ece_gold"].value == pytest.approx(0, abs=1e-9)
    assert found["accuracy"].low < found["ceiling"].value < found["accuracy"].high
    assert found["confidence"].value == pytest.approx(found["ceiling"].value)
    assert found["nll"].value == pytest.approx(-torch.nn.functional.logsigmoid(margins).mean().item())
    assert found["ece"].value == pytest.approx(ece(confidence(margins), calibration.rightness(margins)))
    assert set(assess(margins, [{"prompt": r["prompt"]} for r in rows_of(probability)])) == {
        "accuracy", "nll", "confidence", "ece",
    }  # fmt: skip
    backwards = assess(-margins, rows_of(probability))
    assert backwards["gold_order"].value == 0 and backwards["accuracy"].value == pytest.approx(
        1 - found["accuracy"].value
    )


def test_ties_in_gold_are_left_out_of_its_order():
    margins = torch.tensor([1.0, 1.0, -1.0, 0.0] * 5)
    rows = rows_of(torch.tensor([0.5, 0.8, 0.8, 0.8] * 5, dtype=torch.float64))
    assert assess(margins, rows)["gold_order"].value == pytest.approx((1 + 0 + 0.5) / 3)


def test_assess_refuses_what_does_not_fit():
    margins, probability = coins(40)
    with pytest.raises(ValueError, match=r"39 margins for 40 pairs"):
        assess(margins[1:], rows_of(probability))
    margins[3] = math.inf
    with pytest.raises(ValueError, match="margins: 1 of 40 values is not finite, the first is inf at 3"):
        assess(margins, rows_of(probability))


def test_intervals_resample_prompts_not_pairs():
    """Ten copies of each value under one prompt say no more than one does."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    once = by_prompt(values, range(50))
    copied = by_prompt(values.repeat_interleave(10), [i for i in range(50) for _ in range(10)])
    apart = by_prompt(values.repeat_interleave(10), range(500))
    assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high))
    assert apart.high - apart.low < 0.5 * (once.high - once.low)


def test_reliability_curve():
    margins, probability = coins(4_000)
    prompts = list(range(len(margins)))
    curve = reliability(margins, prompts, bins=5)
    assert [b.count for b in curve] == [800] * 5
    assert all(a.confidence < b.confidence for a, b in pairwise(curve))
    assert sum(b.right.low <= b.confidence <= b.right.high for b in curve) >= 4
    exact = reliability(margins, prompts, bins=5, probability=probability)
    assert [b.right.value for b in exact] == pytest.approx([b.confidence for b in exact])
