"""Learning rates that a model stands: what to begin with, and when to warn.

    rate = usual(policy, "dpo")                   # 1e-6 for a model of 135 million parameters, 1e-5 with LoRA

Adam moves every weight by about lr a step, whatever the gradient's size, and the sum over a row of n weights moves by
up to n times that. So the rate that a model stands falls as 1/width (Yang et al. 2022, Tensor Programs V, for the
matrices that read a hidden layer).
"""

import warnings

from torch import nn

from prefcourse.losses import LOSSES, Loss
from prefcourse.training import lora

MAIN_JOB = {"lr": 2e-4, "epochs": 0.25, "beta": 0.2}  # chosen on validation prompts by the grid "main-job"
SANE_LR, AT_WIDTH = 1.5e-4, 256  # what `train` takes if not told, at β = 0.1, and the width of the course's model
FAR = 10  # times the sane rate took the KL to 85 nats in ten steps (lesson 07)
SMALL = 50e6  # parameters; up to here our own measurements speak, above TRL's defaults
ADAPTERS = 10  # times the rate of full fine-tuning (Schulman et al. 2025, "LoRA Without Regret")
PREFERENCES, IMITATION = 1e-6, 2e-5  # the defaults of TRL's DPOConfig and SFTConfig
LARGE, LARGE_PREFERENCES = 3e9, 5e-7  # parameters, and the rate of Zephyr 7B (Tunstall et al. 2023; TRL's dpo.py)


def usual(policy: nn.Module, loss: str | Loss) -> float:
    """The learning rate to begin with, by the model's size, the loss, and whether adapters alone are trained.

    Up to 50 million parameters it is the default of `train`, 1.5e-4 at width 256 and less for a wider model, ten times
    that for supervised losses. Above, it is TRL's default. A loss of one's own counts as one on preferences.
    """
    spec = LOSSES.get(loss) if isinstance(loss, str) else loss if isinstance(loss, Loss) else None
    plain, imitation = lora.plain(policy), spec is not None and _supervised(spec)
    size = sum(p.numel() for name, p in plain.named_parameters() if "lora_" not in name)
    if size <= SMALL:
        return _sane(policy, imitation)
    full = IMITATION if imitation else PREFERENCES if size < LARGE else LARGE_PREFERENCES
    return full * (ADAPTERS if lora.has_adapters(policy) else 1)


def warn(policy: nn.Module, lr: float, loss: Loss) -> None:
    """Warn if `lr` is more than ten times what full fine-tuning on preferences takes at this width.

    Supervised fine-tuning and LoRA stand about ten times more.
    """
    width, sane = _width(policy), _sane(policy, _supervised(loss))
    if lr > 1.001 * FAR * sane:
        warnings.warn(
            f"lr={lr:g} is {lr / sane:.0f} times what a model of width {width} takes in this kind of training (about "
            f"{sane:.2g}): Adam moves every weight by about lr a step, so expect a KL out of bounds, repetition, or "
            "nan within a few steps.",
            stacklevel=3,
        )


def _supervised(loss: Loss) -> bool:
    return not {"policy_rejected", "policy"} & set(loss.inputs())


def _width(policy: nn.Module) -> int:
    return lora.plain(policy).get_input_embeddings().weight.shape[1]


def _sane(policy: nn.Module, supervised: bool) -> float:
    return SANE_LR * AT_WIDTH / _width(policy) * (10 if supervised or lora.has_adapters(policy) else 1)
