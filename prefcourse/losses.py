"""Every preference loss of the course, as a pure function that returns one value per example, (B,).

We write the formulas in these letters. Log-probabilities are in nats, summed over the completion, EOS included.

    c = log π(chosen | prompt)      C = the same under the reference    a = c - C    Lc = length in tokens, mc = c/Lc
    r = log π(rejected | prompt)    R = the same under the reference    b = r - R    Lr = length in tokens, mr = r/Lr
    h = a - b, the log-ratio difference      σ = sigmoid      ℓ(x) = -log σ(x)

    loss = dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1).mean()

`LOSSES` says for each name which function it is, what it needs and where it comes from.
`checked` refuses wrong input in a sentence, lets no gradient into a reference, and computes halves in float32. A
function takes only what it uses: `sft_loss` has no place for a rejected text, `simpo_loss` none for a reference.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefcourse.loss_inputs import (
    FLIP_RATE,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    REDUCE,
    SMOOTHING,
    Loss,
    checked,
    require,
    require_all,
)  # fmt: skip

Vec = Tensor  # one number per example: shape (B,)

# In the signatures below the log-probs stand on the first line, the parameters on the second.
# fmt: off
# ---------------------------------------------- pairs, with a reference


@checked(beta=POSITIVE)
def dpo_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
             beta: float = 0.1) -> Vec:
    """Direct preference optimisation: ℓ(βh). Its gradient in c is -βσ(-βh). Rafailov et al. 2023, Eq. 7."""
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -logsigmoid(beta * h)


@checked(beta=POSITIVE, eps=FLIP_RATE)
def cdpo_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
              beta: float = 0.1, eps: float = 0.1) -> Vec:
    """Conservative DPO, labels flipped at rate ε: (1-ε)ℓ(βh) + εℓ(-βh). Mitchell 2023, Eq. 3.

    Its minimum is at the finite margin βh = log((1-ε)/ε).
    """
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -(1 - eps) * logsigmoid(beta * h) - eps * logsigmoid(-beta * h)


@checked(beta=POSITIVE, eps=FLIP_RATE)
def rdpo_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
              beta: float = 0.1, eps: float = 0.1) -> Vec:
    """Robust DPO: [(1-ε)ℓ(βh) - εℓ(-βh)] / (1-2ε). Chowdhury et al. 2024, Sec. 3.

    Averaged over labels flipped at rate ε it equals the DPO loss of the clean labels. It can be negative.
    """
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return (-(1 - eps) * logsigmoid(beta * h) + eps * logsigmoid(-beta * h)) / (1 - 2 * eps)


@checked(beta=POSITIVE)
def hinge_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
               beta: float = 0.1) -> Vec:
    """Hinge on the margin, SLiC with a reference: relu(1 - βh). Liu et al. 2023 (RSO), Sec. 3."""
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return torch.relu(1 - beta * h)


@checked(tau=POSITIVE, reduce=REDUCE)
def ipo_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
             tau: float = 0.1, reduce: str = "sum",
             chosen_lengths: Vec | None = None, rejected_lengths: Vec | None = None) -> Vec:
    """Identity preference optimisation: (h - 1/(2τ))². Azar et al. 2023, Eq. 17.

    reduce="sum" is the paper's h = a - b. reduce="mean" takes h = a/Lc - b/Lr (TRL, HALOs), and needs the lengths.
    """
    a, b = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    h = a - b if reduce == "sum" else a / chosen_lengths - b / rejected_lengths
    return (h - 1 / (2 * tau)) ** 2


@checked(beta=POSITIVE)
def dpo_norm_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
                  beta: float = 2.0, chosen_lengths: Vec, rejected_lengths: Vec) -> Vec:
    """Length-normalised DPO: ℓ(β(a/Lc - b/Lr)), β per token. Lambert et al. 2024 (Tulu 3), Eq. 6."""
    a, b = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return -logsigmoid(beta * (a / chosen_lengths - b / rejected_lengths))


@checked(beta=POSITIVE)
def apo_zero_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
                  beta: float = 0.1) -> Vec:
    """Anchored, chosen up and rejected down: 1 - σ(βa) + σ(βb). D'Oosterlinck et al. 2024, Eq. 7."""
    a, b = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return torch.sigmoid(-beta * a) + torch.sigmoid(beta * b)


@checked(beta=POSITIVE)
def apo_down_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
                  beta: float = 0.1) -> Vec:
    """Anchored, both down and rejected further: σ(βa) + 1 - σ(βh). D'Oosterlinck et al. 2024, Eq. 8."""
    a, b = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return torch.sigmoid(beta * a) + torch.sigmoid(-beta * (a - b))


@checked(delta=NUMBER, beta=POSITIVE)
def bco_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
             delta: float, beta: float = 0.1) -> Vec:
    """Binary classifier of good and bad: ℓ(βa - δ) + ℓ(-(βb - δ)). Jung et al. 2024, Sec. 4.

    δ is the running mean of all rewards βa and βb so far: the caller keeps it, and no gradient flows into it.
    """
    a, b = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return -logsigmoid(beta * a - delta) - logsigmoid(-(beta * b - delta))


@checked(beta=POSITIVE)
def nca_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
             beta: float = 0.1) -> Vec:
    """Noise contrastive alignment: ℓ(βa) + ½ℓ(-βa) + ½ℓ(-βb). Chen et al. 2024, Sec. 4.

    What it changes: the chosen text is held by itself, at βa = log 2, whatever the margin; the rejected one falls.
    """
    a, b = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return -logsigmoid(beta * a) - logsigmoid(-beta * a) / 2 - logsigmoid(-beta * b) / 2


@checked(beta=POSITIVE)
def sppo_hard_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
                   beta: float = 0.1) -> Vec:
    """IPO's square, a target for each side: (a - 1/(2β))² + (b + 1/(2β))². Wu et al. 2024, Eq. 4.7, P of 1 and 0.

    What it changes: h alone does not say which side moves; here both must. Repeated on new samples it is self-play.
    """
    a, b = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return (a - 1 / (2 * beta)) ** 2 + (b + 1 / (2 * beta)) ** 2


@checked(beta=POSITIVE, eps=SMOOTHING)
def exo_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
             beta: float = 0.1, eps: float = 0.1) -> Vec:
    """Efficient exact optimisation, for a pair: KL((σ(βh), σ(-βh)) ‖ (1-ε, ε)). Ji et al. 2024, Eq. 16.

    What it changes: cDPO's KL, turned round. It is 0 at the same margin, βh = log((1-ε)/ε), but lets go of a pair that
    is ranked far wrong. At ε = 0 the KL would be infinite.
    """
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    p, q = torch.sigmoid(beta * h), torch.sigmoid(-beta * h)
    return p * (logsigmoid(beta * h) - math.log1p(-eps)) + q * (logsigmoid(-beta * h) - math.log(eps))


@checked(beta=POSITIVE, alpha=NOT_NEGATIVE)
def dpo_nll_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
                 beta: float = 0.1, alpha: float = 1.0, chosen_lengths: Vec) -> Vec:
    """DPO that also holds the chosen text up: ℓ(βh) + α(-c/Lc). Pang et al. 2024, Eq. 1."""
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -logsigmoid(beta * h) - alpha * policy_chosen / chosen_lengths


@checked(beta=POSITIVE, lam=NOT_NEGATIVE)
def dpop_loss(policy_chosen: Vec, policy_rejected: Vec, reference_chosen: Vec, reference_rejected: Vec, *,
              beta: float = 0.1, lam: float = 5.0) -> Vec:
    """DPO-positive, which fines a chosen text below its reference: ℓ(β(h - λ relu(C - c))). Pal et al. 2024, Eq. 3."""
    h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -logsigmoid(beta * (h - lam * torch.relu(reference_chosen - policy_chosen)))


# ------------------------------------------- pairs, without a reference


@checked(beta=POSITIVE, gamma_over_beta=NOT_NEGATIVE)
def simpo_loss(policy_chosen: Vec, policy_rejected: Vec, *,
               beta: float = 2.0, gamma_over_beta: float = 0.5, chosen_lengths: Vec, rejected_lengths: Vec) -> Vec:
    """Simple preference optimisation: ℓ(β(mc - mr - γ/β)). Meng et al. 2024, Eq. 6.

    We take γ/β, like the official code: a margin in nats per token. TRL's `simpo_gamma` is γ itself.
    """
    mc, mr = policy_chosen / chosen_lengths, policy_rejected / rejected_lengths
    return -logsigmoid(beta * (mc - mr - gamma_over_beta))


@checked(lam=NOT_NEGATIVE)
def orpo_loss(policy_chosen: Vec, policy_rejected: Vec, *,
              lam: float = 0.1, chosen_lengths: Vec, rejected_lengths: Vec) -> Vec:
    """Odds-ratio preference optimisation: -mc + λℓ(LO). Hong et al. 2024, Eq. 6 and 7.

    LO = log odds(mc) - log odds(mr), with log odds(m) = m - log(1 - eᵐ).
    The NLL -mc is over the completion only; TRL's is over the prompt too.
    """
    for name, logps in (("policy_chosen", policy_chosen), ("policy_rejected", policy_rejected)):
        require_all(lambda logps=logps: logps <= 0, name, logps, "0 or less: odds need probabilities")
    mc, mr = policy_chosen / chosen_lengths, policy_rejected / rejected_lengths
    return -mc - lam * logsigmoid(_log_odds(mc) - _log_odds(mr))


def _log_odds(m: Vec) -> Vec:
    """m - log(1 - eᵐ). At m = 0, where the odds are infinite, the largest finite value and no gradient.

    log(-expm1(m)) is exact near 0, where 1 - eᵐ is not. And we need no `torch.where` of two formulas: its unused half
    can turn gradients into NaN.
    """
    m = m.clamp(max=-torch.finfo(m.dtype).tiny)
    return m - torch.log(-torch.expm1(m))


@checked(beta=POSITIVE, alpha=NOT_NEGATIVE, reduce=REDUCE)
def cpo_loss(policy_chosen: Vec, policy_rejected: Vec, *,
             beta: float = 0.1, alpha: float = 1.0, reduce: str = "sum", chosen_lengths: Vec | None = None) -> Vec:
    """Contrastive preference optimisation: ℓ(β(c - r)) + α NLL. Xu et al. 2024, Eq. 3 and the NLL beside it.

    reduce="sum" is the paper's NLL = -c. reduce="mean" takes -c/Lc, near TRL's mean over all tokens of a batch.
    """
    nll = -policy_chosen if reduce == "sum" else -policy_chosen / chosen_lengths
    return -logsigmoid(beta * (policy_chosen - policy_rejected)) + alpha * nll


@checked(alpha=NOT_NEGATIVE)
def unlikelihood_loss(policy_chosen: Vec, policy_rejected: Vec, *,
                      alpha: float = 0.5, chosen_lengths: Vec, rejected_lengths: Vec) -> Vec:
    """Chosen up, rejected down without end: -mc + α mr. Rafailov et al. 2023, Sec. 6 (after Welleck et al. 2020).

    Unbounded below, so it degenerates: our negative example. Keep α at .5 or less to see anything before it does.
    """
    return -policy_chosen / chosen_lengths + alpha * policy_rejected / rejected_lengths


@checked()
def sft_loss(policy_chosen: Vec, *, chosen_lengths: Vec) -> Vec:
    """Fine-tuning on the chosen text, nats per token: -c/Lc. Rafailov et al. 2023, Sec. 6 (Preferred-FT)."""
    return -policy_chosen / chosen_lengths


# ------------------------------------------------------------- unpaired


@checked(beta=POSITIVE, desirable_weight=POSITIVE, undesirable_weight=POSITIVE)
def kto_loss(policy: Vec, reference: Vec, desirable: Vec, *, kl_policy: Vec, kl_reference: Vec,
             beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Vec:
    """Kahneman-Tversky optimisation. Ethayarajh et al. 2024, Sec. 4.

    With k = log π/π_ref of each completion: desirable λ_D(1 - σ(β(k - z0))), undesirable λ_U(1 - σ(β(z0 - k))).
    z0 = max(0, mean(kl_policy - kl_reference)) estimates the KL from mismatched pairs (x_i, y_{i+1}), two or more, and
    gets no gradient. `desirable` is bool, (B,). The kl tensors have one shape, (B,) or that of a pooled batch.
    """
    require(len(kl_policy) >= 2, "kl_policy", f"of size {len(kl_policy)}", "2 or more: z0 needs mismatched pairs")
    k, z0 = policy - reference, (kl_policy - kl_reference).mean().clamp(min=0)
    wanted, unwanted = torch.sigmoid(-beta * (k - z0)), torch.sigmoid(-beta * (z0 - k))
    return torch.where(desirable, desirable_weight * wanted, undesirable_weight * unwanted)


# fmt: on
# ------------------------------------------------------------ the table


_KTO = "desirable λ_D(1-σ(β(k-z0))), undesirable λ_U(1-σ(β(z0-k)))"
LOSSES: dict[str, Loss] = {
    "dpo": Loss(dpo_loss, "ℓ(βh)", "sum", "Rafailov et al. 2023", "Eq. 7", trl="sigmoid"),
    "cdpo": Loss(cdpo_loss, "(1-ε)ℓ(βh) + εℓ(-βh)", "sum", "Mitchell 2023", "Eq. 3", trl="sigmoid + robust"),
    "rdpo": Loss(rdpo_loss, "[(1-ε)ℓ(βh) - εℓ(-βh)] / (1-2ε)", "sum", "Chowdhury et al. 2024", "Sec. 3", trl="robust"),
    "hinge": Loss(hinge_loss, "relu(1-βh)", "sum", "Liu et al. 2023", "Sec. 3", trl="hinge"),
    "ipo": Loss(ipo_loss, "(h - 1/(2τ))²", "sum", "Azar et al. 2023", "Eq. 17", trl="ipo"),
    "dpo_norm": Loss(dpo_norm_loss, "ℓ(β(a/Lc - b/Lr))", "mean", "Lambert et al. 2024", "Eq. 6", trl="sigmoid_norm"),
    "simpo": Loss(simpo_loss, "ℓ(β(mc - mr - γ/β))", "mean", "Meng et al. 2024", "Eq. 6", trl="simpo"),
    "orpo": Loss(orpo_loss, "-mc + λℓ(LO)", "mean", "Hong et al. 2024", "Eq. 6, 7", trl="orpo"),
    "cpo": Loss(cpo_loss, "ℓ(β(c-r)) - αc", "sum", "Xu et al. 2024", "Eq. 3", trl="sigmoid"),
    "kto": Loss(kto_loss, _KTO, "sum", "Ethayarajh et al. 2024", "Sec. 4", data="unpaired", trl="kto"),
    "apo_zero": Loss(apo_zero_loss, "1 - σ(βa) + σ(βb)", "sum", "D'Oosterlinck et al. 2024", "Eq. 7", trl="apo_zero"),
    "apo_down": Loss(apo_down_loss, "σ(βa) + 1 - σ(βh)", "sum", "D'Oosterlinck et al. 2024", "Eq. 8", trl="apo_down"),
    "bco": Loss(bco_loss, "ℓ(βa-δ) + ℓ(-(βb-δ))", "sum", "Jung et al. 2024", "Sec. 4", trl="bco_pair"),
    "nca": Loss(nca_loss, "ℓ(βa) + ½ℓ(-βa) + ½ℓ(-βb)", "sum", "Chen et al. 2024", "Sec. 4", trl="nca_pair"),
    "sppo_hard": Loss(sppo_hard_loss, "(a-1/(2β))² + (b+1/(2β))²", "sum", "Wu et al. 2024", "Eq. 4.7", trl="sppo_hard"),
    "exo": Loss(exo_loss, "KL((σ(βh), σ(-βh)) ‖ (1-ε, ε))", "sum", "Ji et al. 2024", "Eq. 16", trl="exo_pair"),
    "dpo_nll": Loss(dpo_nll_loss, "ℓ(βh) - αmc", "sum + mean", "Pang et al. 2024", "Eq. 1", trl="sigmoid + sft"),
    "dpop": Loss(dpop_loss, "ℓ(β(h - λ relu(C-c)))", "sum", "Pal et al. 2024", "Eq. 3"),
    "unlikelihood": Loss(unlikelihood_loss, "-mc + αmr", "mean", "Rafailov et al. 2023", "Sec. 6"),
    "sft": Loss(sft_loss, "-mc", "mean", "Rafailov et al. 2023", "Sec. 6", trl="nll"),
}
