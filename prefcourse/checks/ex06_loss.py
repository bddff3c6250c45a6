"""Checks of exercise notebook 06, exercise 1: the DPO loss of each pair, from token log-probs. See also `ex06`."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.checks.core import Case, Limit, exercise

ROWS, TOKENS = 4, 7  # of a batch drawn afresh

# ---------------------------------------------------------------------------------------------- the loss from tokens


def _token_batches(draw: torch.Generator) -> list[Case]:
    """Token log-probs with masks: prompt 0, completion 1 (EOS included), padding 0."""

    def batch(beta: float) -> Case:
        lengths = torch.randint(1, 5, (2, ROWS), generator=draw)
        masks = [((torch.arange(TOKENS) >= 2) & (torch.arange(TOKENS) < 2 + n[:, None])).double() for n in lengths]
        logps = {
            name: -3 * torch.rand(ROWS, TOKENS, generator=draw, dtype=torch.float64)
            for name in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
        }
        return {**logps, "chosen_mask": masks[0], "rejected_mask": masks[1], "beta": beta}

    one = torch.tensor([[-1.0, -2.0, -0.5, -0.25]], dtype=torch.float64)
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    fixed = {
        "policy_chosen": one, "policy_rejected": one - 0.5, "reference_chosen": one - 1.0,
        "reference_rejected": one - 0.25, "chosen_mask": mask, "rejected_mask": mask, "beta": 0.5,
    }  # fmt: skip
    wide = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    full = fixed | {"rejected_mask": wide, "policy_rejected": one - torch.tensor([[0.1, 0.2, 0.4, 0.8]])}
    far = torch.full((1, 4), -400.0)  # float32
    lost = {"policy_chosen": far, "policy_rejected": far / 100, "reference_chosen": far / 100,
            "reference_rejected": far, "chosen_mask": mask.float(), "rejected_mask": mask.float(),
            "beta": 1.0}  # fmt: skip
    return [
        fixed,
        Limit("a completion reaches the last column, as that of the longest row does", full),
        Limit("the pair is far on the wrong side in float32: σ is 0 there, and its logarithm is not", lost),
        batch(0.1),
        batch(0.7),
        batch(2.0),
    ]


def _sums(weights_chosen: Tensor, weights_rejected: Tensor, *logps: Tensor) -> list[Tensor]:
    """Sums over tokens of policy_chosen, policy_rejected, reference_chosen, reference_rejected: four of (B,)."""
    weights = (weights_chosen, weights_rejected, weights_chosen, weights_rejected)
    return [(logp * weight).sum(-1) for logp, weight in zip(logps, weights, strict=True)]


@exercise(
    cases=_token_batches,
    points=3,
    where="Step 5 · Maximum likelihood gives the loss",
    hint="go in three steps and print each: four sums over completion tokens (B,), then h = (c - C) - (r - R), "
    "then -logsigmoid(beta * h).",
)
def dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta):
    """The DPO loss of each pair, from token log-probs and masks."""
    c, r, C, R = _sums(chosen_mask, rejected_mask, policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * ((c - C) - (r - R)))


@dpo_loss.mutant("you average over tokens. log π(y|x) is a sum: with the mean β acts as if divided by the length.")
def mean_for_sum(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(mc / mc.sum(-1, keepdim=True), mr / mr.sum(-1, keepdim=True), pc, pr, rc, rr)
    return -logsigmoid(beta * ((c - C) - (r - R)))


@dpo_loss.mutant("β stands outside the sigmoid. Eq. 7 scales h first: -log σ(β h), not -β log σ(h).")
def beta_outside(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(mc, mr, pc, pr, rc, rr)
    return -beta * logsigmoid((c - C) - (r - R))


@dpo_loss.mutant("the reference is missing: h compares log-ratios to π_ref, not the policy's log-probs alone.")
def no_reference(pc, pr, rc, rr, mc, mr, beta):
    c, r, _, _ = _sums(mc, mr, pc, pr, rc, rr)
    return -logsigmoid(beta * (c - r))


@dpo_loss.mutant("chosen and rejected are swapped, or a minus is lost: a larger h must make the loss smaller.")
def sign_flipped(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(mc, mr, pc, pr, rc, rr)
    return -logsigmoid(-beta * ((c - C) - (r - R)))


@dpo_loss.mutant("the mask of the chosen text is used for both sides: each text has its own.")
def chosen_mask_for_both(pc, pr, rc, rr, mc, mr, beta):
    return dpo_loss.reference(pc, pr, rc, rr, mc, mc, beta)


@dpo_loss.mutant(
    "you shift log-probs against the mask once more. These are token log-probs already: no shift is needed."
)
def shifted_again(pc, pr, rc, rr, mc, mr, beta):
    logps = [logp[:, :-1] for logp in (pc, pr, rc, rr)]
    return dpo_loss.reference(*logps, mc[:, 1:], mr[:, 1:], beta)


@dpo_loss.mutant("you lose the last column: the longest completion of a batch reaches it.")
def last_column_lost(pc, pr, rc, rr, mc, mr, beta):
    return dpo_loss.reference(*(table[:, :-1] for table in (pc, pr, rc, rr, mc, mr)), beta)


@dpo_loss.mutant("the minus is missing: the loss is -log σ(β h), a number above 0.")
def minus_missing(pc, pr, rc, rr, mc, mr, beta):
    return -dpo_loss.reference(pc, pr, rc, rr, mc, mr, beta)


@dpo_loss.mutant("that is the probability σ(β h): the loss is minus its logarithm.")
def probability(pc, pr, rc, rr, mc, mr, beta):
    return (-dpo_loss.reference(pc, pr, rc, rr, mc, mr, beta)).exp()


@dpo_loss.mutant("log σ is computed as the log of the sigmoid: far on the wrong side σ is 0. Use logsigmoid.")
def log_of_sigmoid(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(mc, mr, pc, pr, rc, rr)
    return -(beta * ((c - C) - (r - R))).sigmoid().log()


@dpo_loss.mutant("the policy's reward is divided by β in yours, or β is upside down: the margin is β times h.")
def beta_upside_down(pc, pr, rc, rr, mc, mr, beta):
    return dpo_loss.reference(pc, pr, rc, rr, mc, mr, 1 / beta)


@dpo_loss.mutant("your sums run over the prompt and the padding too: multiply by the mask before you sum.")
def mask_ignored(pc, pr, rc, rr, mc, mr, beta):
    c, r, C, R = _sums(torch.ones_like(mc), torch.ones_like(mr), pc, pr, rc, rr)
    return -logsigmoid(beta * ((c - C) - (r - R)))


@dpo_loss.mutant("you return the mean of the batch; the exercise asks for one loss per pair, of shape (B,).")
def batch_mean(pc, pr, rc, rr, mc, mr, beta):
    return dpo_loss.reference(pc, pr, rc, rr, mc, mr, beta).mean()
