"""prefcourse.losses: golden values, hand formulas, properties, extremes, refusals. The parity with TRL is next door."""

import dataclasses
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefcourse import losses
from prefcourse.loss_inputs import POSITIVE, checked
from prefcourse.losses import LOSSES

F64 = torch.float64
PAIRED = [name for name, loss in LOSSES.items() if loss.data == "paired"]
WITH_REFERENCE = [name for name in PAIRED if LOSSES[name].needs_reference]


def vec(*values, dtype=F64):
    return torch.tensor(values, dtype=dtype)


# The five golden pairs of the course's reference table.
PAIRS = {
    "policy_chosen": vec(-10, -12.5, -30, -45, -20),
    "policy_rejected": vec(-12, -11, -25, -60, -22),
    "reference_chosen": vec(-11, -12.5, -28, -50, -20),
    "reference_rejected": vec(-11.5, -11.5, -27, -50, -22),
    "chosen_lengths": vec(5, 8, 20, 30, 10),
    "rejected_lengths": vec(6, 8, 10, 40, 10),
}


def call(name, batch=PAIRS, **arguments):
    """Call a pairwise loss with what its table entry says that it takes; bco's delta is 0 unless given."""
    if name == "bco":
        arguments.setdefault("delta", 0.0)
    names = [n for n in LOSSES[name].inputs(**arguments) if n not in arguments]
    return LOSSES[name].function(**{n: batch[n] for n in names}, **arguments)


# ------------------------------------------------------------------------------------ golden values

GOLDEN = [
    ("dpo", {}, (0.620957, 0.718460, 0.913015, 0.201413, 0.693147)),
    ("dpo", {"beta": 0.5}, (0.386871, 0.825939, 2.126928, 0.000553, 0.693147)),
    ("cdpo", {}, (0.635957, 0.713460, 0.873015, 0.351413, 0.693147)),
    ("rdpo", {}, (0.602207, 0.724710, 0.963015, 0.013913, 0.693147)),
    ("hinge", {}, (0.85, 1.05, 1.4, 0, 1)),
    ("ipo", {}, (12.25, 30.25, 81, 100, 25)),
    ("ipo", {"reduce": "mean"}, (22.246944, 25.628906, 28.09, 21.006944, 25)),
    ("dpo_norm", {"beta": 2.0}, (0.449427, 0.757599, 1.037488, 0.360885, 0.693147)),
    ("apo_zero", {}, (0.962523, 1.012497, 1.099668, 0.646482, 1)),
    ("apo_down", {}, (0.987549, 1.012497, 1.048854, 0.804885, 1)),
    ("bco", {"delta": 0.0}, (1.312856, 1.411607, 1.596278, 0.787339, 1.386294)),
    ("nca", {}, (1.350825, 1.398951, 1.496278, 1.117746, 1.386294)),
    ("sppo_hard", {}, (36.25, 55.25, 98, 25, 50)),
    ("exo", {"eps": 0.1}, (0.431388, 0.538598, 0.747272, 0.031139, 0.510826)),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), GOLDEN)
def test_golden(name, arguments, expected):
    torch.testing.assert_close(call(name, **arguments), vec(*expected), atol=5e-7, rtol=0)


def test_golden_gradient_of_dpo():
    c = PAIRS["policy_chosen"].clone().requires_grad_()
    call("dpo", PAIRS | {"policy_chosen": c}).sum().backward()
    torch.testing.assert_close(c.grad, vec(-0.046257, -0.051250, -0.059869, -0.018243, -0.05), atol=5e-7, rtol=0)


STEP_0 = {
    **dict.fromkeys(("dpo", "cdpo", "rdpo", "dpo_norm", "dpop"), 0.693147),
    **{"hinge": 1, "ipo": 25, "apo_zero": 1, "apo_down": 1, "bco": 1.386294},
    **{"nca": 1.386294, "sppo_hard": 50, "exo": 0.510826},
}
logps = st.lists(st.floats(-300, -0.01), min_size=2, max_size=6)


@pytest.mark.parametrize("name", STEP_0)
@given(values=logps)
@settings(max_examples=15, deadline=None)
def test_step_0_is_known_before_training(name, values):
    c = vec(*values)
    same = {"policy_chosen": c, "reference_chosen": c, "policy_rejected": c.flip(0), "reference_rejected": c.flip(0)}
    same |= {"chosen_lengths": torch.full_like(c, 7), "rejected_lengths": torch.full_like(c, 3)}
    torch.testing.assert_close(call(name, same), torch.full_like(c, STEP_0[name]), atol=5e-7, rtol=0)


def test_step_0_of_dpo_nll_is_dpo_and_the_nll():
    start = PAIRS | {"policy_chosen": PAIRS["reference_chosen"], "policy_rejected": PAIRS["reference_rejected"]}
    expected = math.log(2) - start["reference_chosen"] / start["chosen_lengths"]
    torch.testing.assert_close(call("dpo_nll", start), expected)


def test_every_loss_with_a_reference_has_a_step_0_test():
    assert set(STEP_0) | {"dpo_nll"} == set(WITH_REFERENCE)


# ---------------------------------------------------- the others, pair by pair with Python's own math


def ell(x):
    return math.log1p(math.exp(-x))


def by_hand(name, c, r, C, R, Lc, Lr):
    mc, mr, h = c / Lc, r / Lr, (c - C) - (r - R)
    odds_c, odds_r = math.exp(mc) / (1 - math.exp(mc)), math.exp(mr) / (1 - math.exp(mr))
    return {
        "simpo": ell(2.0 * (mc - mr - 0.5)),
        "orpo": -mc + 0.1 * ell(math.log(odds_c / odds_r)),
        "cpo": ell(0.1 * (c - r)) - c,
        "dpo_nll": ell(0.1 * h) - mc,
        "dpop": ell(0.1 * (h - 5 * max(0.0, C - c))),
        "unlikelihood": -mc + 0.5 * mr,
        "sft": -mc,
    }[name]


@pytest.mark.parametrize("name", ["simpo", "orpo", "cpo", "dpo_nll", "dpop", "unlikelihood", "sft"])
def test_by_hand(name):
    rows = zip(*(PAIRS[n].tolist() for n in PAIRS), strict=True)
    expected = [by_hand(name, c, r, C, R, Lc, Lr) for c, r, C, R, Lc, Lr in rows]
    torch.testing.assert_close(call(name), vec(*expected))


def test_cpo_mean_nll():
    difference = call("cpo", reduce="mean", alpha=2.0) - call("cpo", alpha=0.0)
    torch.testing.assert_close(difference, -2 * PAIRS["policy_chosen"] / PAIRS["chosen_lengths"])


def test_bco_delta_moves_both_sides():
    a = PAIRS["policy_chosen"] - PAIRS["reference_chosen"]
    b = PAIRS["policy_rejected"] - PAIRS["reference_rejected"]
    expected = [ell(0.1 * x - 0.3) + ell(0.3 - 0.1 * y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    torch.testing.assert_close(call("bco", delta=0.3), vec(*expected))


def test_the_gradients_of_nca_sppo_and_exo_by_hand():
    """In c and r, derived on paper; sides are told apart, so a sign or a factor on one of them shows."""
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = {
        "nca": lambda a, b: (0.1 * (1.5 * sigma(0.1 * a) - 1), 0.05 * sigma(0.1 * b)),
        "sppo_hard": lambda a, b: (2 * (a - 5), 2 * (b + 5)),
        "exo": lambda a, b: tuple(
            sign * 0.1 * sigma(0.1 * (a - b)) * sigma(0.1 * (b - a)) * (0.1 * (a - b) - math.log(9)) for sign in (1, -1)
        ),
    }
    a = (PAIRS["policy_chosen"] - PAIRS["reference_chosen"]).tolist()
    b = (PAIRS["policy_rejected"] - PAIRS["reference_rejected"]).tolist()
    for name, slopes in expected.items():
        sides = {side: PAIRS[side].clone().requires_grad_() for side in ("policy_chosen", "policy_rejected")}
        call(name, PAIRS | sides).sum().backward()
        rows = [slopes(x, y) for x, y in zip(a, b, strict=True)]
        for side, column in zip(sides.values(), zip(*rows, strict=True), strict=True):
            torch.testing.assert_close(side.grad, vec(*column), atol=1e-14, rtol=1e-12)


# ------------------------------------------------------------------------------------------ identities


def test_special_cases_coincide():
    torch.testing.assert_close(call("cdpo", eps=0.0), call("dpo"))
    torch.testing.assert_close(call("rdpo", eps=0.0), call("dpo"))
    torch.testing.assert_close(call("dpop", lam=0.0), call("dpo"))
    torch.testing.assert_close(call("dpo_nll", alpha=0.0), call("dpo"))
    torch.testing.assert_close(call("unlikelihood", alpha=0.0), call("sft"))
    one = torch.ones(5, dtype=F64)
    single = PAIRS | {"chosen_lengths": one, "rejected_lengths": one}
    torch.testing.assert_close(call("dpo_norm", single, beta=0.1), call("dpo"))
    torch.testing.assert_close(call("ipo", single, reduce="mean"), call("ipo"))
    torch.testing.assert_close(call("simpo", single, beta=0.1, gamma_over_beta=0.0), call("cpo", alpha=0.0))


def test_what_nca_sppo_and_exo_change():
    """NCA holds the chosen text at βa = log 2, SPPO each side at its target; EXO is cDPO's KL, turned round."""
    zero = torch.zeros(5, dtype=F64)
    at = {"reference_chosen": zero, "reference_rejected": zero}
    # NCA: the chosen text rests at its target, with any margin
    c = torch.full((5,), math.log(2) / 0.1, dtype=F64).requires_grad_()
    call("nca", at | {"policy_chosen": c, "policy_rejected": vec(-50, -5, 0, 5, 50)}).sum().backward()
    torch.testing.assert_close(c.grad, zero, atol=1e-15, rtol=0)
    # SPPO: 0 where both sides are at their targets, h = 1/β; IPO's minimum needs half of that
    there = at | {"policy_chosen": zero + 5, "policy_rejected": zero - 5}
    torch.testing.assert_close(call("sppo_hard", there), zero)
    torch.testing.assert_close(call("ipo", there | {"policy_rejected": zero}), zero)
    # EXO: 0 at cDPO's minimum, and no pull from a pair that is ranked far wrong, where cDPO pulls hardest
    margin = math.log(0.7 / 0.3) / 0.1
    torch.testing.assert_close(
        call("exo", at | {"policy_chosen": zero + margin, "policy_rejected": zero}, eps=0.3), zero
    )
    for name, least, most in (("exo", 0, 1e-3), ("cdpo", 0.08, 0.1)):
        c = (zero - 100).requires_grad_()
        call(name, at | {"policy_chosen": c, "policy_rejected": zero}).sum().backward()
        assert ((-c.grad > least) & (-c.grad < most)).all()


def test_exo_turns_the_kl_of_cdpo():
    """cDPO is KL(label ‖ policy) and the label's entropy; EXO is KL(policy ‖ label)."""
    h = PAIRS["policy_chosen"] - PAIRS["reference_chosen"] - PAIRS["policy_rejected"] + PAIRS["reference_rejected"]
    policy = torch.stack([torch.sigmoid(0.1 * h), torch.sigmoid(-0.1 * h)])
    label = vec(0.8, 0.2)[:, None].expand(2, 5)
    kl = lambda p, q: (p * (p / q).log()).sum(0)  # noqa: E731
    torch.testing.assert_close(call("exo", eps=0.2), kl(policy, label))
    torch.testing.assert_close(call("cdpo", eps=0.2), kl(label, policy) - (label * label.log()).sum(0))


def test_exo_refuses_a_rate_of_0():
    for eps in (0, 0.0):
        with pytest.raises(ValueError, match=r"^eps is 0.*; allowed is a number in \(0, 0.5\): its logarithm is taken"):
            call("exo", eps=eps)


def test_rdpo_is_unbiased_under_label_flips():
    swapped = {n: PAIRS[n.replace("chosen", "~").replace("rejected", "chosen").replace("~", "rejected")] for n in PAIRS}
    noisy = 0.8 * call("rdpo", eps=0.2) + 0.2 * call("rdpo", swapped, eps=0.2)
    torch.testing.assert_close(noisy, call("dpo"))
    assert (call("rdpo", PAIRS | {"policy_chosen": vec(0, 0, 0, 0, 0)}, beta=1.0) < 0).any()  # and it can be negative


@pytest.mark.parametrize("length", [1, 7, 50])
def test_ipo_sum_is_a_scaled_mean(length):
    equal = PAIRS | {"chosen_lengths": torch.full((5,), length), "rejected_lengths": torch.full((5,), length)}
    torch.testing.assert_close(call("ipo", tau=0.1), length**2 * call("ipo", equal, tau=0.1 * length, reduce="mean"))


@pytest.mark.parametrize("name", PAIRED)
def test_gradients_match_finite_differences(name):
    free = [n for n in LOSSES[name].inputs() if n.startswith("policy")]
    smooth = PAIRS | {"policy_chosen": PAIRS["policy_chosen"] - 0.013}  # off the kinks of hinge and dpop
    inputs = [smooth[n].clone().requires_grad_() for n in free]
    assert torch.autograd.gradcheck(lambda *x: call(name, smooth | dict(zip(free, x, strict=True))), inputs)


# ----------------------------------------------------------------------------------------- properties

numbers = st.integers(2, 6).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(-200, -0.5), min_size=n, max_size=n) for _ in range(4)])
)


def random_batch(values, dtype=F64):
    keys = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    batch = {key: vec(*v, dtype=dtype) for key, v in zip(keys, values, strict=True)}
    n = len(values[0])
    return batch | {"chosen_lengths": torch.arange(1, n + 1), "rejected_lengths": torch.arange(n, 0, -1)}


@pytest.mark.parametrize("name", PAIRED)
@given(values=numbers)
@settings(max_examples=20, deadline=None)
def test_gradients_point_the_right_way_and_never_into_the_reference(name, values):
    batch = {n: v.requires_grad_() if v.is_floating_point() else v for n, v in random_batch(values).items()}
    call(name, batch).sum().backward()
    gc, gr = batch["policy_chosen"].grad, batch["policy_rejected"].grad
    assert batch["reference_chosen"].grad is None and batch["reference_rejected"].grad is None
    assert gc.isfinite().all()
    if name == "sft":
        assert (gc < 0).all() and gr is None
    elif name == "apo_down":
        # "both down, rejected further": chosen may go either way, the margin only up
        assert (gr >= 0).all()
    elif name == "ipo":  # a target, not a direction: up when the margin is below 1/(2τ), down above
        h = batch["policy_chosen"] - batch["reference_chosen"] - batch["policy_rejected"] + batch["reference_rejected"]
        assert torch.equal(gc.sign(), (h - 5).sign()) and torch.equal(gr, -gc)
    elif name == "cdpo":  # the same with its own target, βh = log((1-ε)/ε)
        h = batch["policy_chosen"] - batch["reference_chosen"] - batch["policy_rejected"] + batch["reference_rejected"]
        off = (0.1 * h - math.log(9)).abs() > 1e-9
        assert torch.equal(gc.sign()[off], (0.1 * h - math.log(9)).sign()[off])
    elif name == "exo":  # cDPO's target, and a pull that fades on both sides: β σ(βh) σ(-βh) (βh - log((1-ε)/ε))
        h = batch["policy_chosen"] - batch["reference_chosen"] - batch["policy_rejected"] + batch["reference_rejected"]
        p = torch.sigmoid(0.1 * h.detach())
        torch.testing.assert_close(gc, 0.1 * p * (1 - p) * (0.1 * h.detach() - math.log(9)), atol=1e-14, rtol=1e-9)
        torch.testing.assert_close(gr, -gc)
    elif name in ("nca", "sppo_hard"):  # a target for the chosen text itself: βa = log 2, a = 1/(2β)
        a, b = (batch[f"policy_{side}"] - batch[f"reference_{side}"] for side in ("chosen", "rejected"))
        target = math.log(2) / 0.1 if name == "nca" else 5.0
        off = (a - target).abs() > 1e-9
        assert torch.equal(gc.sign()[off], (a - target).sign()[off])
        assert (gr > 0).all() if name == "nca" else torch.equal(gr.sign(), (b + 5).sign())
    elif name == "rdpo":  # down for every margin: -β[(1-ε)σ(-βh) + εσ(βh)]/(1-2ε)
        assert (gc < 0).all() and (gr > 0).all()
    else:
        assert (gc <= 0).all() and (gr >= 0).all()


@pytest.mark.parametrize("name", WITH_REFERENCE)
@given(values=numbers, shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_only_log_ratios_matter(name, values, shift):
    """A constant on both the policy's and the reference's log-prob of a response changes nothing."""
    batch = random_batch(values)
    moved = batch | {n: batch[n] + shift for n in ("policy_chosen", "reference_chosen")}
    if name == "dpo_nll":  # except for the NLL term, by exactly that much
        torch.testing.assert_close(call(name, moved), call(name, batch) - shift / batch["chosen_lengths"].double())
    else:
        torch.testing.assert_close(call(name, moved), call(name, batch), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", PAIRED)
@given(values=numbers, shift=st.floats(0.5, 50))
@settings(max_examples=10, deadline=None)
def test_a_constant_per_prompt_cancels_where_only_the_margin_counts(name, values, shift):
    """log π(y|x) + f(x), for both responses of a prompt: this is why log Z(x) drops out of DPO."""
    batch = random_batch(values)
    moved = batch | {n: batch[n] - shift for n in ("policy_chosen", "policy_rejected")}
    same = (call(name, moved) - call(name, batch)).abs().max() < 1e-8
    if name in ("dpo", "cdpo", "rdpo", "hinge", "ipo", "exo"):
        assert same
    elif name in ("sft", "cpo", "dpo_nll", "sppo_hard"):  # they price the chosen text itself
        assert not same


@pytest.mark.parametrize("name", PAIRED)
@given(values=numbers)
@settings(max_examples=10, deadline=None)
def test_examples_do_not_see_each_other(name, values):
    batch = random_batch(values)
    first = {n: v[:1] for n, v in batch.items()}
    torch.testing.assert_close(call(name, first), call(name, batch)[:1])


# ------------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PAIRED)
def test_finite_at_extremes(name, dtype):
    big = [-1e4, -1e-4, -1e4, -1.0]
    batch = {
        "policy_chosen": vec(*big, dtype=dtype).requires_grad_(),
        "policy_rejected": vec(*reversed(big), dtype=dtype).requires_grad_(),
        "reference_chosen": vec(-1e-4, -1e4, -1e4, -1.0, dtype=dtype),
        "reference_rejected": vec(-1e4, -1e-4, -1.0, -1e4, dtype=dtype),
        "chosen_lengths": torch.ones(4, dtype=torch.long),
        "rejected_lengths": torch.ones(4, dtype=torch.long),
    }
    loss = call(name, batch)
    loss.mean().backward()
    assert loss.shape == (4,) and loss.isfinite().all()
    assert loss.dtype == (dtype if dtype in (torch.float64, torch.float32) else torch.float32)
    for n in ("policy_chosen", "policy_rejected"):
        if batch[n].grad is not None:
            assert batch[n].grad.dtype == dtype
            assert batch[n].grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("m", [-1e-2, -1e-5, -1e-8, -1e-12, -1e-30, 0.0])
@pytest.mark.parametrize("name", ["orpo", "simpo", "unlikelihood", "sft", "dpo_nll"])
def test_finite_as_the_mean_logp_reaches_0(name, m, dtype):
    for chosen, rejected in ((m, -1.0), (-1.0, m), (m, m)):
        batch = random_batch(([chosen] * 2, [rejected] * 2, [-1.0] * 2, [-1.0] * 2), dtype)
        batch = {n: v.requires_grad_() if n.startswith("policy") else v for n, v in batch.items()}
        loss = call(name, batch)
        loss.sum().backward()
        grads = [batch[n].grad for n in ("policy_chosen", "policy_rejected") if batch[n].grad is not None]
        assert loss.isfinite().all() and all(g.isfinite().all() for g in grads)


def test_orpo_is_exact_near_0():
    """At m = -1e-9, 1 - eᵐ has lost half the digits of float64; log odds(m) = -log(-m) + m/2 + … shows the truth."""
    batch = random_batch(([-1e-9], [-2e-9], [-1.0], [-1.0]))
    log_odds = math.log(2) + (-1e-9 + 2e-9) / 2
    torch.testing.assert_close(call("orpo", batch), vec(1e-9 + 0.1 * ell(log_odds)), atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", PAIRED)
def test_float32_is_close_to_float64(name):
    single = {n: v.float() for n, v in PAIRS.items()}
    torch.testing.assert_close(call(name, single).double(), call(name), atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ KTO


def kto_batch(dtype=F64):
    return {
        "policy": vec(-10, -12.5, -30, -45, dtype=dtype),
        "reference": vec(-11, -12.5, -28, -50, dtype=dtype),
        "desirable": torch.tensor([True, False, True, False]),
        "kl_policy": vec(-50, -40, -61, -70, dtype=dtype),
        "kl_reference": vec(-52, -40, -64, -71, dtype=dtype),
    }


def test_kto_by_hand():
    z0 = (2 + 0 + 3 + 1) / 4
    ratios, wanted = [1, 0, -2, 5], [True, False, True, False]
    expected = [
        1.5 * (1 - 1 / (1 + math.exp(-0.1 * (k - z0)))) if good else 0.5 * (1 - 1 / (1 + math.exp(-0.1 * (z0 - k))))
        for k, good in zip(ratios, wanted, strict=True)
    ]
    loss = losses.kto_loss(**kto_batch(), desirable_weight=1.5, undesirable_weight=0.5)
    torch.testing.assert_close(loss, vec(*expected))


@given(values=logps)
@settings(max_examples=20, deadline=None)
def test_kto_step_0_is_one_half(values):
    p = vec(*values)
    loss = losses.kto_loss(p, p, p < -100, kl_policy=p - 3, kl_reference=p - 3)
    torch.testing.assert_close(loss, torch.full_like(p, 0.5))


@given(values=logps, kl=logps)
@settings(max_examples=20, deadline=None)
def test_kto_gradients(values, kl):
    p = vec(*values).requires_grad_()
    q, kp, kq = vec(*values[::-1]).requires_grad_(), vec(*kl).requires_grad_(), vec(*kl[::-1]).requires_grad_()
    desirable = torch.arange(len(p)) % 2 == 0
    losses.kto_loss(p, q, desirable, kl_policy=kp, kl_reference=kq).sum().backward()
    assert q.grad is None and kp.grad is None and kq.grad is None  # z0 is a number, not a path for gradients
    assert (p.grad[desirable] <= 0).all() and (p.grad[~desirable] >= 0).all()


def test_kto_gradient_matches_finite_differences():
    batch = kto_batch()
    p = batch.pop("policy").requires_grad_()
    assert torch.autograd.gradcheck(lambda p: losses.kto_loss(p, **batch), [p])


def test_kto_z0_is_never_below_0():
    batch = kto_batch()
    worse = batch | {"kl_policy": batch["kl_reference"] - 100}
    same = batch | {"kl_policy": batch["kl_reference"]}
    torch.testing.assert_close(losses.kto_loss(**worse), losses.kto_loss(**same))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kto_finite_at_extremes(dtype):
    p, q = vec(-1e4, -1.0, -1e4, -1.0, dtype=dtype).requires_grad_(), vec(-1.0, -1e4, -1.0, -1e4, dtype=dtype)
    loss = losses.kto_loss(p, q, kto_batch()["desirable"], kl_policy=q, kl_reference=p)
    loss.sum().backward()
    assert loss.isfinite().all() and p.grad.isfinite().all()


def test_kto_takes_a_pooled_kl_batch_of_another_size():
    batch = kto_batch()
    pooled = batch | {"kl_policy": batch["kl_policy"].repeat(3), "kl_reference": batch["kl_reference"].repeat(3)}
    torch.testing.assert_close(losses.kto_loss(**pooled), losses.kto_loss(**batch))


def test_kto_refuses_a_batch_of_one():
    one = {n: v[:1] for n, v in kto_batch().items()}
    with pytest.raises(ValueError, match=r"kl_policy is of size 1; allowed is 2 or more"):
        losses.kto_loss(**one)
    with pytest.raises(ValueError, match=r"desirable is of torch.float64; allowed is torch.bool"):
        losses.kto_loss(**(kto_batch() | {"desirable": vec(1, 0, 1, 0)}))
    with pytest.raises(ValueError, match=r"kl_reference is of shape \(3,\).* here \(4,\)"):
        losses.kto_loss(**(kto_batch() | {"kl_reference": vec(1, 2, 3)}))


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", PAIRED)
def test_bad_tensors_are_refused(name):
    for argument in [n for n in LOSSES[name].inputs() if n != "delta"]:
        good = PAIRS[argument]
        # the first argument sets the shape, so a short one shows in the second
        shape = argument if argument != "policy_chosen" else "policy_rejected|chosen_lengths"
        with pytest.raises(ValueError, match=rf"({shape}) is of shape .*allowed is one shape"):
            call(name, PAIRS | {argument: good[:3]})
        with pytest.raises(ValueError, match=rf"{argument} is of shape \(5, 1\)"):
            call(name, PAIRS | {argument: good[:, None]})
        with pytest.raises(ValueError, match=rf"{argument} is \[.*allowed is a tensor"):
            call(name, PAIRS | {argument: good.tolist()})
        for bad in (math.nan, math.inf, -math.inf):
            wrong = good.clone()
            wrong[3] = bad
            with pytest.raises(ValueError, match=rf"{argument}\[3\] is {bad}; allowed is a finite number"):
                call(name, PAIRS | {argument: wrong})
        if argument.endswith("lengths"):
            with pytest.raises(ValueError, match=rf"{argument} is .*allowed is 1 token or more"):
                call(name, PAIRS | {argument: 0 * good})
        elif argument != "policy_chosen":
            with pytest.raises(ValueError, match=rf"{argument} is of torch.float32; .* here torch.float64"):
                call(name, PAIRS | {argument: good.float()})
            with pytest.raises(ValueError, match=rf"{argument} is on meta; allowed is one device for all, here cpu"):
                call(name, PAIRS | {argument: good.to("meta")})
    with pytest.raises(ValueError, match=r"policy_chosen is of torch.int64"):
        call(name, {n: v.long() for n, v in PAIRS.items()})


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match=r"policy_chosen is of shape \(0,\)"):
        call("dpo", {n: v[:0] for n, v in PAIRS.items()})


BAD_VALUES = {
    "beta": [0, -0.1, math.nan, math.inf, "0.1", None],
    "tau": [0, -1, math.nan],
    "eps": [-0.01, 0.5, 0.7, math.nan],
    "lam": [-1, math.inf],
    "alpha": [-1, math.nan],
    "gamma_over_beta": [-0.5, math.nan],
    "delta": [math.nan, math.inf, torch.tensor(0.0)],
    "desirable_weight": [0, -1],
    "undesirable_weight": [0, math.nan],
    "reduce": ["average", None],
}
PARAMETERS = [
    (name, p) for name, loss in LOSSES.items() for p in BAD_VALUES if p in loss.defaults or p in loss.inputs()
]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_bad_parameters_are_refused(name, parameter):
    for value in BAD_VALUES[parameter]:
        with pytest.raises(ValueError, match=rf"^{parameter} is .*; allowed is "):
            losses.kto_loss(**kto_batch(), **{parameter: value}) if name == "kto" else call(name, **{parameter: value})


def test_every_parameter_has_bad_values():
    assert {p for loss in LOSSES.values() for p in loss.defaults} <= set(BAD_VALUES)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_parameters_are_refused(name):
    """No **kwargs anywhere: what a loss does not use, it does not take."""
    function = LOSSES[name].function
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    batch = kto_batch() if name == "kto" else {n: PAIRS[n] for n in LOSSES[name].inputs() if n != "delta"}
    with pytest.raises(TypeError, match="label_smoothing"):
        function(**batch, label_smoothing=0.1)


@pytest.mark.parametrize("name", ["ipo", "cpo"])
def test_lengths_are_taken_exactly_when_they_are_used(name):
    with pytest.raises(ValueError, match=r'chosen_lengths is given; allowed is None with reduce="sum"'):
        call(name, reduce="sum", chosen_lengths=PAIRS["chosen_lengths"])
    with pytest.raises(ValueError, match="chosen_lengths is None; allowed is a tensor"):
        call(name, reduce="mean", chosen_lengths=None)


def test_orpo_refuses_a_positive_logp():
    with pytest.raises(ValueError, match=r"policy_rejected is tensor.*allowed is 0 or less"):
        call("orpo", PAIRS | {"policy_rejected": vec(-1, -1, 0.1, -1, -1)})


def test_huge_but_finite_values_are_not_mistaken_for_infinite():
    big = PAIRS | {"policy_chosen": torch.full((5,), -1e300, dtype=F64), "reference_chosen": vec(*[-1e300] * 5)}
    assert call("dpo", big).isfinite().all()


# ------------------------------------------------------------------------------------------ the table


def test_the_table_has_every_loss_of_the_module():
    functions = {f for name, f in vars(losses).items() if name.endswith("_loss")}
    assert functions == {loss.function for loss in LOSSES.values()}
    assert all(loss.function.__name__ == f"{name}_loss" for name, loss in LOSSES.items())


def test_the_table_names_the_losses_of_trl():
    without = {name for name, loss in LOSSES.items() if loss.trl is None}
    assert without == {"dpop", "unlikelihood"}  # `python -m prefcourse export` says so
    names = {
        "dpo": "sigmoid",
        "dpo_norm": "sigmoid_norm",
        "nca": "nca_pair",
        "sppo_hard": "sppo_hard",
        "exo": "exo_pair",
    }
    assert {name: LOSSES[name].trl for name in names} == names


def test_the_table_tells_what_a_loss_needs():
    assert {n for n, loss in LOSSES.items() if not loss.needs_reference} == {
        "simpo",
        "orpo",
        "cpo",
        "sft",
        "unlikelihood",
    }
    lengths = {"dpo_norm", "simpo", "orpo", "dpo_nll", "unlikelihood", "sft"}
    assert {n for n, loss in LOSSES.items() if loss.needs_lengths} == lengths
    assert {n for n, loss in LOSSES.items() if loss.data == "unpaired"} == {"kto"}
    assert {n for n, loss in LOSSES.items() if loss.reduce != "sum"} == lengths
    assert LOSSES["ipo"].inputs(reduce="mean")[-2:] == ("chosen_lengths", "rejected_lengths")
    assert LOSSES["ipo"].inputs() == LOSSES["dpo"].inputs()
    assert LOSSES["kto"].defaults == {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        LOSSES["dpo"].formula = "?"


@pytest.mark.parametrize("name", LOSSES)
def test_docstrings_name_the_source(name):
    loss = LOSSES[name]
    author = loss.paper.split(" ")[0]
    assert author in loss.function.__doc__ and loss.equation.split(",")[0] in loss.function.__doc__
    assert loss.formula and loss.data in ("paired", "unpaired")


def test_no_parameter_of_a_loss_goes_unchecked():
    """A new parameter without a rule, or a rule with a misspelt name, is an error when the loss is defined."""
    with pytest.raises(TypeError, match="gamma"):
        checked(beta=POSITIVE)(lambda policy_chosen, *, beta=0.1, gamma=1.0: policy_chosen)
    with pytest.raises(TypeError, match="bta"):
        checked(bta=POSITIVE, beta=POSITIVE)(lambda policy_chosen, *, beta=0.1: policy_chosen)
