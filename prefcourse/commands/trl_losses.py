"""Each loss of `LOSSES` in TRL: its trainer, its arguments there, and what is not the same.

    translate("simpo", {"beta": 2.0, "gamma_over_beta": 0.5})      # CPOTrainer, simpo_gamma=1.0, cpo_alpha=0.0, …

`tests/test_losses_trl.py` compares the losses one by one, `tests/commands/test_export.py` whole runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefcourse.losses import LOSSES

TRL = "1.16.0"
ELSEWHERE = {"simpo": "CPO", "cpo": "CPO", "orpo": "ORPO", "kto": "KTO", "sft": "SFT"}  # all others: DPOTrainer
NAMES = {"eps": "label_smoothing", "tau": "beta", "lam": "beta"}  # parameters that TRL calls otherwise
SUM = "nll = -chosen.mean()"
MEAN = """lengths = (batch["chosen_labels"][:, 1:] != -100).sum(1).to(chosen.device)
        nll = -(chosen / lengths).mean()"""
APART = (
    "a mean over all tokens of a batch, where ours is a mean of each text's mean: in TRL a long text counts more. The "
    "same where all completions are equally long"
)


@dataclass(frozen=True)
class Translation:
    """A loss in TRL: its trainer, "DPO" for DPOTrainer, what its config gets, and what is not the same there."""

    trainer: str
    settings: Mapping[str, Any]
    differences: Sequence[str] = ()
    nll: str = ""  # lines of code that compute the NLL of CPO and ORPO as ours do; "" where there is none


def translate(loss: str, arguments: Mapping[str, Any]) -> Translation:
    """The loss of `LOSSES` with its parameters, in TRL. Raises ValueError for one that TRL cannot compute."""
    values = LOSSES[loss].defaults | arguments
    reduce = values.pop("reduce", None)
    if LOSSES[loss].trl is None:
        raise ValueError(f"TRL {TRL} has no {loss}. Its relatives there: dpo_nll for dpop, sft for unlikelihood.")
    if loss == "ipo" and reduce == "sum":
        raise ValueError(
            "ipo with reduce=sum, the paper's, is not in TRL, which divides each log-ratio by its length. Train with "
            "--parameter reduce=mean, with τ per token, to have the same in both."
        )
    types = LOSSES[loss].trl.split(" + ")
    named = {NAMES.get(name, name): value for name, value in values.items()}
    trainer, differences, nll = ELSEWHERE.get(loss, "DPO"), [], ""
    settings = named | ({"loss_type": types} if trainer == "DPO" else {})
    if loss == "cdpo":  # TRL ignores label_smoothing for sigmoid; this sum is (1-ε)ℓ(βh) + εℓ(-βh)
        eps = values["eps"]
        settings |= {"loss_weights": [2 * (1 - eps), 2 * eps - 1]}
    elif loss == "dpo_nll":
        settings |= {"loss_weights": [1.0, settings.pop("alpha")]}
        differences.append(f"the NLL of dpo_nll is {APART}.")
    elif loss == "bco":
        differences.append(
            "δ, the running mean of the rewards in bco, is not in TRL's bco_pair: it stays 0 there, as at our step 0."
        )
    elif loss == "simpo":  # γ/β is γ there; without cpo_alpha=0 it would add an NLL
        settings |= {"loss_type": "simpo", "simpo_gamma": settings.pop("gamma_over_beta") * values["beta"]}
        settings |= {"cpo_alpha": 0.0}
    elif loss == "cpo":
        settings |= {"loss_type": "sigmoid", "cpo_alpha": settings.pop("alpha")}
        nll = SUM if reduce == "sum" else MEAN
    elif loss == "orpo":
        nll = SUM  # of what are means per token here
    elif loss == "kto":
        settings |= {"loss_type": "kto"}
        differences.append(
            "z0 of kto: TRL pairs each prompt with the completion before it in its micro-batch, and takes the mean "
            "there; we pair with another prompt of the whole data, and take the mean over the batch. Both are 0 at "
            "step 0 if the policy begins as the reference."
        )
    elif loss == "sft":
        settings |= {"completion_only_loss": True, "packing": False}
        differences.append(f"the loss of sft is {APART}.")
    return Translation(trainer, settings, tuple(differences), nll)
