"""Parity with TRL: every loss that TRL 1.16 has, values and gradients, against its own code; and the disagreements.

TRL computes its losses inside trainers. We call those methods themselves, unbound, on a stand-in that holds the few
attributes they read, with a stand-in model whose token log-probs (or logits) we choose. No formula of TRL is copied.
"""

import functools
import os
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from prefcourse import losses, rewards

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
pytest.importorskip("trl")

from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer

N, T = 1000, 24  # examples; completion tokens at most


def stand_in(**attributes):
    """What TRL's loss methods read from `self`, on one CPU process."""
    same = lambda x: x  # noqa: E731
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)
    common = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "label_smoothing": 0.0,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**(common | attributes))


def token_model(tables):
    """A model whose log-probs for a batch of ids are the table that the first id of the batch names."""

    def forward(input_ids, **_):
        logps = tables[int(input_ids[0, 0])]
        still = torch.zeros_like(logps.detach())
        return SimpleNamespace(log_probs=logps, entropy=still, mean_logits=still, is_top1=still.bool())

    return forward


@pytest.fixture
def averaged(monkeypatch):
    """The per-example tensors that TRL averages into its loss, in order."""
    seen = []
    for name in ("mean", "nanmean"):
        original = getattr(torch.Tensor, name)

        def recording(self, *args, original=original, **kwargs):
            if self.requires_grad and self.ndim == 1:
                seen.append(self)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, recording)
    return seen


@pytest.fixture(scope="module")
def batch():
    """N random pairs: completions of 1 to T tokens, log-ratios of every size."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, T + 1, (2, N), generator=g)
    policy = -lengths * torch.rand(2, N, generator=g, dtype=torch.float64) * 5 - 0.01
    reference = policy + torch.randn(2, N, generator=g, dtype=torch.float64) * 8
    return SimpleNamespace(c=policy[0], r=policy[1], C=reference[0], R=reference[1], Lc=lengths[0], Lr=lengths[1])


def spread(logps, lengths):
    """Sequence log-probs as token log-probs (N, T), equal over the completion, 0 after it; and the mask (N, 1 + T)."""
    mask = torch.arange(T) < lengths[:, None]
    return torch.where(mask, (logps / lengths)[:, None], 0.0), torch.cat(
        [torch.zeros(len(mask), 1), mask], dim=1
    ).long()


def trl_dpo(batch, averaged, loss_type, **attributes):
    """TRL's DPOTrainer on the batch: per-example losses (N,) and their gradients in c and r."""
    c, r = batch.c.clone().requires_grad_(), batch.r.clone().requires_grad_()
    (tokens_c, mask_c), (tokens_r, mask_r) = spread(c, batch.Lc), spread(r, batch.Lr)
    mask = torch.cat([mask_c, mask_r])
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    inputs |= {"ref_chosen_logps": batch.C, "ref_rejected_logps": batch.R}
    self = stand_in(
        ld_alpha=None, f_divergence_type="reverse_kl", use_weighting=False, loss_types=[loss_type], loss_weights=[1.0]
    )
    for name, value in attributes.items():
        setattr(self, name, value)
    averaged.clear()
    loss = DPOTrainer._compute_loss(self, token_model([torch.cat([tokens_c, tokens_r])]), inputs, return_outputs=False)
    values = averaged[0] if loss_type != "sft" else loss
    gradients = torch.autograd.grad(loss * len(c), (c, r), allow_unused=True)
    return values.detach(), *gradients


def ours(name, batch, **arguments):
    c, r = batch.c.clone().requires_grad_(), batch.r.clone().requires_grad_()
    given = {"policy_chosen": c, "policy_rejected": r, "reference_chosen": batch.C, "reference_rejected": batch.R}
    given |= {"chosen_lengths": batch.Lc, "rejected_lengths": batch.Lr}
    names = [n for n in losses.LOSSES[name].inputs(**arguments) if n in given]
    values = losses.LOSSES[name].function(**{n: given[n] for n in names}, **arguments)
    return values.detach(), *torch.autograd.grad(values.sum(), (c, r), allow_unused=True)


def assert_same(a, b, atol=1e-10, rtol=1e-10):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=rtol, check_dtype=False)


# ------------------------------------------------------------------------------------------ agreement

AGREE = [
    ("dpo", {}, "sigmoid", {}),
    ("rdpo", {"eps": 0.1}, "robust", {"label_smoothing": 0.1}),
    ("rdpo", {"eps": 0.4}, "robust", {"label_smoothing": 0.4}),
    ("hinge", {}, "hinge", {}),
    ("dpo_norm", {}, "sigmoid_norm", {}),
    ("apo_zero", {}, "apo_zero", {}),
    ("apo_down", {}, "apo_down", {}),
    ("bco", {"delta": 0.0}, "bco_pair", {}),
    ("nca", {}, "nca_pair", {}),
    ("sppo_hard", {}, "sppo_hard", {}),
]


@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
@pytest.mark.parametrize(("name", "arguments", "loss_type", "attributes"), AGREE)
def test_pairwise_losses_agree(batch, averaged, name, arguments, loss_type, attributes, beta):
    expected = trl_dpo(batch, averaged, loss_type, beta=beta, **attributes)
    assert len(expected[0]) == N
    assert_same(ours(name, batch, beta=beta, **arguments), expected)


@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 0.4])
def test_exo_agrees(batch, averaged, eps, beta):
    """To 1e-7: TRL keeps ε in float32."""
    expected = trl_dpo(batch, averaged, "exo_pair", beta=beta, label_smoothing=eps)
    assert_same(ours("exo", batch, beta=beta, eps=eps), expected, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_cdpo_is_two_of_trls_losses(batch, averaged, eps):
    """`label_smoothing` of sigmoid is gone, but 2(1-ε) sigmoid - (1-2ε) robust is (1-ε)ℓ(βh) + εℓ(-βh)."""
    both = {"loss_types": ["sigmoid", "robust"], "loss_weights": [2 * (1 - eps), 2 * eps - 1], "label_smoothing": eps}
    mixed = trl_dpo(batch, averaged, "sft", beta=0.1, **both)  # "sft" here: the mean of all, not the first one's values
    mine = ours("cdpo", batch, eps=eps)
    assert_same((mine[0].mean(), *mine[1:]), mixed)


@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
def test_ipo_mean_agrees(batch, averaged, tau):
    assert_same(ours("ipo", batch, tau=tau, reduce="mean"), trl_dpo(batch, averaged, "ipo", beta=tau))


def test_dpo_nll_is_two_of_trls_losses_when_lengths_are_equal(batch, averaged):
    equal = SimpleNamespace(**(vars(batch) | {"Lc": torch.full((N,), 9), "Lr": torch.full((N,), 5)}))
    mixed = trl_dpo(equal, averaged, "sft", beta=0.1, loss_types=["sigmoid", "sft"], loss_weights=[1.0, 0.7])
    mine = ours("dpo_nll", equal, alpha=0.7)
    assert_same((mine[0].mean(), *mine[1:]), mixed)


def cpo_stand_in(loss_type, beta, gamma=0.0, cpo_alpha=1.0):
    return stand_in(loss_type=loss_type, beta=beta, simpo_gamma=gamma, cpo_alpha=cpo_alpha, alpha=0.0)


def trl_cpo(self, c, r):
    c, r = c.clone().requires_grad_(), r.clone().requires_grad_()
    values = CPOTrainer.cpo_loss(self, c, r)[0]
    return values.detach(), *torch.autograd.grad(values.sum(), (c, r))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_cpo_preference_term_agrees(batch, beta):
    expected = trl_cpo(cpo_stand_in("sigmoid", beta), batch.c, batch.r)
    assert_same(ours("cpo", batch, beta=beta, alpha=0.0), expected)


@pytest.mark.parametrize(("beta", "gamma_over_beta"), [(2.0, 0.5), (2.5, 0.25), (10.0, 0.3)])
def test_simpo_agrees_once_gamma_is_translated(batch, beta, gamma_over_beta):
    self = cpo_stand_in("simpo", beta, gamma=gamma_over_beta * beta)
    values, gc, gr = trl_cpo(self, batch.c / batch.Lc, batch.r / batch.Lr)
    expected = values, gc / batch.Lc, gr / batch.Lr  # TRL is given the means, we the sums
    assert_same(ours("simpo", batch, beta=beta, gamma_over_beta=gamma_over_beta), expected)


@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_orpo_odds_ratio_term_agrees(batch, lam):
    """To 1e-5: TRL casts to float32 first. Its method returns λ log σ(LO), which its loss subtracts."""
    mc = (batch.c / batch.Lc).requires_grad_()
    mr = (batch.r / batch.Lr).requires_grad_()
    values = -ORPOTrainer.odds_ratio_loss(stand_in(beta=lam), mc, mr)[0]
    gc, gr = torch.autograd.grad(values.sum(), (mc, mr))
    mine = ours("orpo", batch, lam=lam)
    nll = ours("sft", batch)
    term = mine[0] - nll[0], mine[1] - nll[1], mine[2]
    assert_same(term, (values.detach(), gc / batch.Lc, gr / batch.Lr), atol=1e-5, rtol=1e-4)


def trl_kto(batch, averaged, kl, kl_reference, **attributes):
    """TRL's KTOTrainer: c desirable, then r undesirable; the policy's mismatched log-probs are `kl`."""
    p, q = torch.cat([batch.c, batch.r]).requires_grad_(), torch.cat([batch.C, batch.R])
    lengths = torch.cat([batch.Lc, batch.Lr])
    (tokens, mask), (kl_tokens, kl_mask) = spread(p, lengths), spread(kl, lengths)
    ids, ones = torch.zeros_like(mask), torch.ones_like(mask)
    inputs = {"input_ids": ids, "attention_mask": ones, "completion_mask": mask, "ref_logps": q}
    inputs |= {"KL_input_ids": ids + 1, "KL_attention_mask": ones, "KL_completion_mask": kl_mask}
    inputs |= {"ref_KL_logps": kl_reference, "label": torch.arange(2 * N) < N}
    self = stand_in(loss_type="kto", calculate_KL=True, **attributes)
    self._compute_kl_logps = functools.partial(KTOTrainer._compute_kl_logps, self)
    averaged.clear()
    loss = KTOTrainer._compute_loss(self, token_model([tokens, kl_tokens]), inputs, return_outputs=False)
    return averaged[0].detach(), torch.autograd.grad(loss * 2 * N, p)[0], self._metrics["train"]["kl"][0]


@pytest.mark.parametrize("shift", [2.0, -40.0])  # z0 above 0, and clamped to 0
@pytest.mark.parametrize(("beta", "weights"), [(0.1, (1.0, 1.0)), (0.5, (1.0, 1.33))])
def test_kto_agrees(batch, averaged, beta, weights, shift):
    kl, kl_reference = torch.cat([batch.r, batch.c]), torch.cat([batch.R, batch.C]) - shift
    named = dict(zip(("desirable_weight", "undesirable_weight"), weights, strict=True))
    values, gradient, z0 = trl_kto(batch, averaged, kl, kl_reference, beta=beta, **named)
    p = torch.cat([batch.c, batch.r]).requires_grad_()
    label, q = torch.arange(2 * N) < N, torch.cat([batch.C, batch.R])
    mine = losses.kto_loss(p, q, label, kl_policy=kl, kl_reference=kl_reference, beta=beta, **named)
    assert (z0 > 0) == (shift > 0) and (z0 == 0) == (shift < 0)
    assert_same((mine.detach(), torch.autograd.grad(mine.sum(), p)[0]), (values, gradient))


# --------------------------------------------------------------------------------------- disagreements


def test_trl_ignores_label_smoothing_for_sigmoid(batch, averaged):
    """cDPO is gone from TRL: `label_smoothing` changes nothing there. Ours differs by ε(ℓ(-βh) - ℓ(βh)) = εβh."""
    smoothed = trl_dpo(batch, averaged, "sigmoid", beta=0.1, label_smoothing=0.1)
    assert_same(smoothed, trl_dpo(batch, averaged, "sigmoid", beta=0.1))
    h = batch.c - batch.C - batch.r + batch.R
    difference = ours("cdpo", batch, eps=0.1)[0] - smoothed[0]
    torch.testing.assert_close(difference, 0.1 * 0.1 * h)
    assert difference.abs().mean() > 0.05


def test_trl_still_smooths_labels_in_cpo_so_cdpo_can_be_checked_there(batch):
    """With the reference subtracted beforehand, the CPO trainer's smoothed sigmoid is cDPO."""
    self = cpo_stand_in("sigmoid", 0.1)
    self.label_smoothing = 0.1
    assert_same(ours("cdpo", batch, eps=0.1), trl_cpo(self, batch.c - batch.C, batch.r - batch.R))


def test_trl_has_only_the_mean_ipo(batch, averaged):
    mean, total = trl_dpo(batch, averaged, "ipo", beta=0.1)[0], ours("ipo", batch)[0]
    h_mean = (batch.c - batch.C) / batch.Lc - (batch.r - batch.R) / batch.Lr
    h_sum = batch.c - batch.C - batch.r + batch.R
    torch.testing.assert_close(total - mean, (h_sum - h_mean) * (h_sum + h_mean - 10))  # (x-5)² - (y-5)²
    assert (total - mean).abs().median() > 20


def test_trls_bco_pair_has_no_delta(batch, averaged):
    delta = 0.5
    without = trl_dpo(batch, averaged, "bco_pair", beta=0.1)[0]
    assert_same(ours("bco", batch, delta=0.0)[:1], (without,))
    moved = ours("bco", batch, delta=delta)[0] - without
    # TRL with both rewards moved by δ beforehand gives ours
    shifted = SimpleNamespace(**(vars(batch) | {"C": batch.C + delta / 0.1, "R": batch.R + delta / 0.1}))
    assert_same((trl_dpo(shifted, averaged, "bco_pair", beta=0.1)[0],), (ours("bco", batch, delta=delta)[0],))
    assert moved.abs().max() > 0.1 and (moved.abs() <= delta + 1e-12).all()


def test_trls_sft_averages_over_tokens_ours_over_texts(batch, averaged):
    """TRL: one mean over all tokens of a batch, so a long text counts more. Ours: a mean per text."""
    trl = trl_dpo(batch, averaged, "sft", beta=0.1)[0]
    mine = ours("sft", batch)[0]
    torch.testing.assert_close(trl, (mine * batch.Lc).sum() / batch.Lc.sum())
    assert abs(trl - mine.mean()) > 1e-3


def test_trls_simpo_gamma_is_gamma(batch):
    """0.5 given to both means a margin of γ/β = .5 here and .25 (β = 2) there."""
    self = cpo_stand_in("simpo", 2.0, gamma=0.5)
    theirs = trl_cpo(self, batch.c / batch.Lc, batch.r / batch.Lr)[0]
    assert_same((theirs,), ours("simpo", batch, gamma_over_beta=0.25)[:1])
    assert (ours("simpo", batch, gamma_over_beta=0.5)[0] - theirs).mean() > 0.05


# The NLL terms of CPO and ORPO come out of TRL's forward pass, so we give it logits.

V, PROMPT = 7, 3


def logits_case(lengths):
    """Random texts with a prompt of 3 tokens, and random logits; returns TRL's batch, its model, and our sums."""
    g = torch.Generator().manual_seed(1)
    size = PROMPT + int(lengths.max())
    ids = torch.randint(1, V, (2, lengths.shape[1], size), generator=g)
    logits = torch.randn(2 * lengths.shape[1], size, V, generator=g, dtype=torch.float64)
    there = torch.arange(size) < PROMPT + lengths[:, :, None]
    completion = there & (torch.arange(size) >= PROMPT)
    batch = {}
    for k, side in enumerate(("chosen", "rejected")):
        batch |= {f"{side}_input_ids": ids[k], f"{side}_attention_mask": there[k].long()}
        batch[f"{side}_labels"] = ids[k].masked_fill(~completion[k], -100)
    tokens = logits[:, :-1].log_softmax(-1).gather(2, ids.flatten(0, 1)[:, 1:, None]).squeeze(2)
    sums = (tokens * completion.flatten(0, 1)[:, 1:]).sum(1).chunk(2)
    everything = (tokens * there.flatten(0, 1)[:, 1:]).sum(1).chunk(2)[0]  # chosen, prompt included
    return batch, (lambda *_, **__: SimpleNamespace(logits=logits)), sums, everything


def trl_with_nll(trainer, self, batch, model):
    self.is_encoder_decoder, self.padding_value, self.pad_token_id = False, 0, 0
    self.concatenated_inputs, self.get_batch_logps = trainer.concatenated_inputs, trainer.get_batch_logps
    for name in ("concatenated_forward", "odds_ratio_loss", "cpo_loss"):
        if hasattr(trainer, name):
            setattr(self, name, functools.partial(getattr(trainer, name), self))
    return trainer.get_batch_loss_metrics(self, model, batch)[0]


EQUAL, UNEQUAL = torch.full((2, 6), 5), torch.tensor([[2, 9, 4, 7, 1, 5], [3, 3, 8, 2, 6, 4]])


def test_cpo_with_nll_agrees_for_equal_lengths_and_not_otherwise():
    """TRL's NLL is a mean over all chosen tokens of the batch; the paper's is a sum per text, ours by choice either."""
    for lengths in (EQUAL, UNEQUAL):
        batch, model, (c, r), _ = logits_case(lengths)
        trl = trl_with_nll(CPOTrainer, cpo_stand_in("sigmoid", 0.1), batch, model)
        mean = losses.cpo_loss(c, r, reduce="mean", chosen_lengths=lengths[0]).mean()
        gap = -c.sum() / lengths[0].sum() + (c / lengths[0]).mean()
        torch.testing.assert_close(trl - mean, gap)
        assert (gap.abs() < 1e-12) == (lengths is EQUAL)
        assert losses.cpo_loss(c, r).mean() - trl > 3  # the summed NLL is several times as large


def test_trls_simpo_adds_an_nll_unless_told_not_to():
    batch, model, (c, r), _ = logits_case(EQUAL)
    mine = losses.simpo_loss(c, r, chosen_lengths=EQUAL[0], rejected_lengths=EQUAL[1]).mean()
    pure = trl_with_nll(CPOTrainer, cpo_stand_in("simpo", 2.0, gamma=1.0, cpo_alpha=0), batch, model)
    default = trl_with_nll(CPOTrainer, cpo_stand_in("simpo", 2.0, gamma=1.0), batch, model)
    torch.testing.assert_close(mine, pure)
    torch.testing.assert_close(default - mine, -(c / EQUAL[0]).mean())


def test_trls_orpo_takes_the_nll_of_the_prompt_too():
    for lengths in (EQUAL, UNEQUAL):
        batch, model, (c, r), everything = logits_case(lengths)
        trl = trl_with_nll(ORPOTrainer, stand_in(beta=0.1), batch, model)
        mine = losses.orpo_loss(c, r, chosen_lengths=lengths[0], rejected_lengths=lengths[1]).mean()
        theirs = -everything.sum() / (lengths[0] + PROMPT - 1).sum()  # the first token is given
        gap = theirs + (c / lengths[0]).mean()
        torch.testing.assert_close(trl.double() - mine, gap, atol=1e-6, rtol=0)
        assert gap.abs() > 0.01


def test_trls_orpo_has_nan_gradients_as_a_mean_logp_reaches_0():
    """The unused half of its torch.where divides by 1 - e^m = 0 in float32. Ours stays finite."""
    m = torch.tensor([-1e-9, -1.0], requires_grad=True)
    ORPOTrainer.odds_ratio_loss(stand_in(beta=0.1), m, m.flip(0).detach())[0].sum().backward()
    assert m.grad[0].isnan() and m.grad[1].isfinite()
    c = torch.tensor([-1e-9, -1.0], requires_grad=True)
    one = torch.ones(2)
    losses.orpo_loss(c, c.flip(0).detach(), chosen_lengths=one, rejected_lengths=one).sum().backward()
    assert c.grad.isfinite().all()


# ------------------------------------------------------------------------------------------- reward models


@pytest.mark.parametrize("with_margin", [False, True])
def test_the_reward_model_loss(with_margin):
    """Values of a mean over the batch, and the gradients in every score; a margin of its own for each pair."""
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2 * N, generator=generator)
    margin = torch.rand(N, generator=generator) if with_margin else torch.zeros(N)
    theirs, ours = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    inputs = {"attention_mask": torch.ones(2 * N, T)} | ({"margin": margin} if with_margin else {})
    trainer = stand_in(args=SimpleNamespace(center_rewards_coefficient=None))
    found = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=theirs[:, None]), inputs)
    loss = rewards.bradley_terry_loss(*ours.chunk(2), margin=margin).mean()
    found.backward()
    loss.backward()
    assert loss.item() == pytest.approx(found.item(), abs=1e-6)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-9)
