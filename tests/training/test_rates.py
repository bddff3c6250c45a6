"""The rate to begin with: 1.5e-4 for the bundled model, TRL's for real ones, ten times that for adapters."""

import argparse
import math
import re
from types import SimpleNamespace

import pytest
import torch

from prefcourse.commands import arguments
from prefcourse.losses import LOSSES
from prefcourse.training import rates
from prefcourse.training.lora import add_lora


def pretended(parameters, width):
    """A stand-in for a model of that size, without its memory."""
    weight = torch.empty(parameters // width, width, device="meta")
    return SimpleNamespace(
        get_input_embeddings=lambda: SimpleNamespace(weight=weight), named_parameters=lambda: [("weight", weight)]
    )


@pytest.mark.parametrize(("parameters", "width", "loss", "want"), [
    (4_200_000, 256, "dpo", 1.5e-4), (4_200_000, 256, "kto", 1.5e-4), (4_200_000, 256, "sft", 1.5e-3),
    (45_000_000, 512, "dpo", 7.5e-5), (135_000_000, 576, "dpo", 1e-6), (135_000_000, 576, "orpo", 1e-6),
    (135_000_000, 576, "sft", 2e-5), (7_000_000_000, 4096, "dpo", 5e-7), (7_000_000_000, 4096, "sft", 2e-5),
    (135_000_000, 576, lambda policy_chosen: policy_chosen, 1e-6),
])  # fmt: skip
def test_the_usual_rate(parameters, width, loss, want):
    assert math.isclose(rates.usual(pretended(parameters, width), loss), want, rel_tol=1e-3)


def test_adapters_take_ten_times_the_rate(tiny_gpt2):
    plain = rates.usual(tiny_gpt2(), "dpo")
    assert math.isclose(rates.usual(add_lora(tiny_gpt2(), 4), "dpo"), 10 * plain)


def test_they_are_trls_defaults():
    import trl

    assert trl.DPOConfig.learning_rate == trl.KTOConfig.learning_rate == rates.PREFERENCES
    assert trl.SFTConfig.learning_rate == rates.IMITATION
    assert set(LOSSES) >= {"dpo", "kto", "sft"}


def test_the_help_names_the_rate_of_the_main_job():
    text = " ".join(arguments.add(argparse.ArgumentParser().add_subparsers()).format_help().split())
    (rate,) = re.findall(r"(\d\S*e-\d) for the main job", text)
    assert float(rate) == rates.MAIN_JOB["lr"]
