"""prefcourse.tabular: the theory to 1e-10, learning that reaches it, the regimes of β, sequences, refusals."""

import itertools
import math

import pytest
import torch

from prefcourse.losses import LOSSES
from prefcourse.tabular import (
    bradley_terry,
    fit,
    gradient_ascent,
    hard_labels,
    implicit_reward,
    kl,
    kl_at_steps,
    log_z,
    next_token_logits,
    objective,
    optimal_policy,
    sequence_logps,
)

BETAS = [0.1, 0.3, 1.0]


def world(seed=0, X=3, Y=6):
    """A random reference and a random reward, (X, Y)."""
    g = torch.Generator().manual_seed(seed)
    reference = torch.randn(X, Y, generator=g, dtype=torch.float64).softmax(-1)
    return reference, torch.randn(X, Y, generator=g, dtype=torch.float64)


def gap(a, b):
    return (a - b).abs().max().item()


# --------------------------------------------------------------------------------------- closed form


def test_two_responses_by_hand():
    reference, reward = torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert optimal_policy(reference, reward, 0.5)[0, 0].item() == pytest.approx(1 / (1 + math.exp(-2)))
    assert log_z(reference, reward, 0.5).item() == pytest.approx(math.log((math.exp(2) + 1) / 2))
    assert bradley_terry(reward)[0, 0, 1].item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_kl_of_the_reference_table():
    policy, reference = (torch.tensor([p], dtype=torch.float64) for p in ((0.7, 0.2, 0.1), (0.4, 0.4, 0.2)))
    assert kl(policy, reference).item() == pytest.approx(0.18379, abs=5e-6)


@pytest.mark.parametrize("beta", [0.01, *BETAS, 10.0])
def test_the_best_objective_is_beta_log_z(beta):
    reference, reward = world()
    best = optimal_policy(reference, reward, beta)
    assert gap(best.sum(-1), 1) < 1e-12
    assert gap(objective(best, reference, reward, beta), beta * log_z(reference, reward, beta)) < 1e-10


@pytest.mark.parametrize("beta", BETAS)
def test_20000_random_policies_stay_below(beta):
    reference, reward = (table[:1].expand(20_000, -1) for table in world())
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(20_000, 6, generator=g, dtype=torch.float64) * torch.rand(20_000, 1, generator=g) * 8
    best = beta * log_z(reference[:1], reward[:1], beta)
    scores = objective(logits.softmax(-1), reference, reward, beta)
    assert (scores < best).all()
    # the distance is a KL: J(π*) - J(π) = β KL(π‖π*), so π* is the only maximum
    distance = kl(logits.softmax(-1), optimal_policy(reference, reward, beta))
    assert gap(best - scores, beta * distance) < 1e-10


@pytest.mark.parametrize("beta", BETAS)
def test_the_reward_comes_back_up_to_a_constant_per_prompt(beta):
    reference, reward = world()
    back = implicit_reward(optimal_policy(reference, reward, beta), reference, beta)
    assert gap(back + beta * log_z(reference, reward, beta)[:, None], reward) < 1e-10
    assert gap(bradley_terry(back), bradley_terry(reward)) < 1e-10
    shifted = reward + torch.tensor([[3.0], [-1.0], [0.5]], dtype=torch.float64)
    assert gap(optimal_policy(reference, shifted, beta), optimal_policy(reference, reward, beta)) < 1e-12


def test_the_limits_of_beta():
    reference, reward = world()
    greedy = torch.nn.functional.one_hot(reward.argmax(-1), 6).double()
    assert gap(optimal_policy(reference, reward, 1e-3), greedy) < 1e-10
    assert gap(optimal_policy(reference, reward, 1e12), reference) < 1e-10
    distances = torch.stack([kl(optimal_policy(reference, reward, b), reference) for b in (0.05, 0.1, 0.3, 1.0, 5.0)])
    assert (distances.diff(dim=0) < 0).all()  # KL(π*‖π_ref) falls with β


def test_a_response_the_reference_never_gives_stays_at_0():
    reference, reward = world()
    reference = reference.clone()
    reference[:, 2] = 0
    reference = reference / reference.sum(-1, keepdim=True)
    best = optimal_policy(reference, reward, 0.3)
    assert (best[:, 2] == 0).all() and best.isfinite().all()
    assert gap(objective(best, reference, reward, 0.3), 0.3 * log_z(reference, reward, 0.3)) < 1e-10
    assert kl(world()[0], reference).isinf().all()
    assert gap(fit(reference, bradley_terry(reward), beta=0.3)[-1], best) < 1e-10
    assert gap(gradient_ascent(reference, reward, 0.3, steps=60, lr=2.0, natural=True)[-1], best) < 1e-10


def test_bradley_terry_and_hard_labels():
    reward = torch.tensor([[0.3, 0.3, -1.0]], dtype=torch.float64)
    p = bradley_terry(reward)
    assert gap(p + p.mT, 1) < 1e-15
    expected = torch.tensor([[[0.5, 0.5, 1], [0.5, 0.5, 1], [0, 0, 0.5]]], dtype=torch.float64)
    assert torch.equal(hard_labels(p), expected)


# ------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("seed", range(3))
def test_dpo_with_soft_labels_reaches_the_optimum(beta, seed):
    reference, reward = world(seed)
    path = fit(reference, bradley_terry(reward), "dpo", beta=beta)
    assert gap(path[0], reference) == 0
    assert gap(path[-1], optimal_policy(reference, reward, beta)) < 1e-10


@pytest.mark.parametrize("beta", BETAS)
def test_so_does_plain_gradient_descent(beta):
    """σ' is at most 1/4, so 2(Y - 1)/β² is one over the largest curvature: a safe step for any world."""
    reference, reward = world()
    path = fit(reference, bradley_terry(reward), "dpo", beta=beta, steps=1000, lr=2 * 5 / beta**2)
    assert gap(path[-1], optimal_policy(reference, reward, beta)) < 1e-10


@pytest.mark.parametrize("beta", BETAS)
def test_natural_gradient_ascent_reaches_it_geometrically(beta):
    reference, reward = world()
    best = optimal_policy(reference, reward, beta)
    assert gap(gradient_ascent(reference, reward, beta, steps=1, lr=1 / beta, natural=True)[-1], best) < 1e-12
    path = gradient_ascent(reference, reward, beta, steps=8, lr=0.5 / beta, natural=True)
    log_ratio = (path / best).log()
    spread = log_ratio.amax(-1) - log_ratio.amin(-1)  # (steps + 1, X), free of the normalising constant
    torch.testing.assert_close(spread[1:], spread[:-1] / 2)


def test_gradient_ascent_climbs_and_its_gradient_is_the_formula():
    reference, reward = world()
    path = gradient_ascent(reference, reward, 1.0, steps=3000)
    scores = torch.stack([objective(policy, reference, reward, 1.0) for policy in path])
    assert (scores.diff(dim=0) > -1e-12).all()
    assert gap(path[-1], optimal_policy(reference, reward, 1.0)) < 1e-6
    u = reward - (path[5] / reference).log()
    gradient = path[5] * (u - (path[5] * u).sum(-1, keepdim=True))
    move = (path[6] / path[5]).log() - gradient
    assert gap(move, move.mean(-1, keepdim=True)) < 1e-12  # lr = 1: the logits move by the gradient


def early_and_late(reference, reward):
    """KL(π‖π_ref) for β = .05, .1, .3, 1 after 50 steps of lr .25, and at convergence: two lists of (X,)."""
    early, late = [], []
    for beta in (0.05, 0.1, 0.3, 1.0):
        small = fit(reference, bradley_terry(reward), "dpo", beta=beta, steps=50, lr=0.25)
        early.append(kl(small[-1], reference))
        late.append(kl(fit(reference, bradley_terry(reward), "dpo", beta=beta)[-1], reference))
    return torch.stack(early), torch.stack(late)


def test_kl_rises_with_beta_early_and_falls_at_convergence():
    early, late = early_and_late(*world(seed=3, X=20))
    assert (early.diff(dim=0) > 0).all() and (late.diff(dim=0) < 0).all()


def test_the_table_of_the_two_regimes():
    """The course's table of KL against β, to its last digit.

    The table came without its world. We solved for this one, so that it fits: an example of the table, no evidence for
    it. The evidence is the test above, on 20 random worlds.
    """
    reference = torch.tensor([[0.201, 0.268, 0.093, 0.082, 0.252, 0.104]], dtype=torch.float64)
    reward = torch.tensor([[1.652, 2.199, 1.183, 0.761, 1.888, 0.0]], dtype=torch.float64)
    early, late = early_and_late(reference, reward)
    assert early.flatten().tolist() == pytest.approx([0.0006, 0.0023, 0.0169, 0.0604], abs=5e-5)
    assert late.flatten().tolist() == pytest.approx([1.303, 1.131, 0.510, 0.127], abs=5e-4)


def test_hard_labels_make_beta_no_regulariser():
    """With 0/1 labels the loss has no minimum: every β ends at the same degenerate policy, far from its π*."""
    reference, reward = world()
    greedy = torch.nn.functional.one_hot(reward.argmax(-1), 6).double()
    for beta in BETAS:
        policy = fit(reference, hard_labels(bradley_terry(reward)), "dpo", beta=beta, steps=300)[-1]
        assert gap(policy, greedy) < 1e-3
    assert gap(optimal_policy(reference, reward, 1.0), greedy) > 0.3


def test_ipo_has_a_closed_form_too():
    """Over all pairs IPO is least squares: it fits the log-ratio differences h to (2P - 1)/(2τ)."""
    reference, reward = world()
    p = bradley_terry(reward)
    policy = fit(reference, p, "ipo", tau=0.5)[-1]
    # mean over j of h_ij = (2 P_ij - 1)/(2τ) gives each log-ratio up to a constant
    target = ((2 * p - 1) / (2 * 0.5)).mean(-1)
    expected = (reference.log() + target).softmax(-1)
    assert gap(policy, expected) < 1e-10


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.data == "paired"])
def test_every_pairwise_loss_trains(name):
    reference, reward = world(X=2, Y=4)
    arguments = {"delta": 0.0} if name == "bco" else {}
    path = fit(reference, bradley_terry(reward), name, steps=40, lr=0.3, **arguments)
    assert path.shape == (41, 2, 4) and path.isfinite().all() and gap(path.sum(-1), 1) < 1e-12
    assert gap(path[-1], reference) > 1e-4
    if name != "apo_down":  # it moves mass below the reference before it ranks
        assert ((path[-1] - reference) * reward).sum() > 0


def test_the_frequencies_of_a_sample_serve_as_preferences():
    reference, reward = world(X=1, Y=3)
    g = torch.Generator().manual_seed(0)
    coins = torch.rand(400, 1, 3, 3, generator=g, dtype=torch.float64) < bradley_terry(reward)
    upper = coins.double().mean(0).triu(1)
    frequencies = upper + (1 - upper.mT).tril(-1) + 0.5 * torch.eye(3, dtype=torch.float64)
    policy = fit(reference, frequencies, "dpo", beta=1.0)[-1]
    assert 1e-6 < gap(policy, optimal_policy(reference, reward, 1.0)) < 0.1


# ----------------------------------------------------------------------------------------- sequences


@pytest.mark.parametrize(("V", "T"), [(2, 3), (3, 2), (4, 3)])
def test_an_autoregressive_table_is_any_distribution(V, T):
    policy, _ = world(X=2, Y=V**T)
    tables = next_token_logits(policy, V)
    assert [table.shape for table in tables] == [(2, V**t, V) for t in range(T)]
    assert gap(sequence_logps(tables).exp(), policy) < 1e-12


def test_sequence_logps_by_hand():
    tables = [torch.randn(1, 3**t, 3, dtype=torch.float64) for t in range(2)]
    first, second = (table.log_softmax(-1)[0] for table in tables)
    expected = [first[0, a] + second[a, b] for a, b in itertools.product(range(3), repeat=2)]
    torch.testing.assert_close(sequence_logps(tables)[0], torch.stack(expected))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("V", "T"), [(3, 2), (2, 3)])
def test_an_autoregressive_policy_reaches_the_optimum_over_sequences(V, T, beta):
    """π* weighs whole sequences; DPO on next-token tables gets there, though no token has a reward of its own."""
    reference, reward = world(seed=2, X=2, Y=V**T)
    best = optimal_policy(reference, reward, beta)
    path = fit(reference, bradley_terry(reward), "dpo", beta=beta, steps=250, vocabulary=V)
    assert gap(path[0], reference) < 1e-12
    assert gap(path[-1], best) < 1e-10


def test_gradient_ascent_on_tokens():
    reference, reward = world(X=2, Y=8)
    path = gradient_ascent(reference, reward, 1.0, steps=1500, vocabulary=2)
    assert gap(path[-1], optimal_policy(reference, reward, 1.0)) < 1e-4


def test_a_prefix_the_reference_never_writes():
    reference, reward = world(X=2, Y=8)
    reference = reference.clone()
    reference[:, :4] = 0  # no sequence starts with token 0
    reference = reference / reference.sum(-1, keepdim=True)
    assert gap(sequence_logps(next_token_logits(reference, 2)).exp(), reference) < 1e-12
    path = fit(reference, bradley_terry(reward), "dpo", beta=0.3, steps=250, vocabulary=2)
    assert gap(path[-1], optimal_policy(reference, reward, 0.3)) < 1e-10


# ------------------------------------------------------------------------------------------ refusals


def test_bad_worlds_are_refused():
    reference, reward = world()
    bad = reference.clone()
    bad[1, 0] += 0.1
    negative = reference.clone()
    negative[0, :2] += torch.tensor([-1.0, 1.0], dtype=torch.float64)
    infinite = reward.clone()
    infinite[0, 0] = math.inf
    cases = [
        (r"reference\[1\] sums to 1\.1.*allowed are rows that sum to 1", (bad, reward, 1.0)),
        (r"reference has -.*allowed are probabilities", (negative, reward, 1.0)),
        (
            r"reward: 1 of 18 values is not finite, the first is inf at .0, 0.; allowed are finite numbers",
            (reference, infinite, 1.0),
        ),
        (r"reward has shape \(3, 5\); allowed is the reference's \(3, 6\)", (reference, reward[:, :5], 1.0)),
        (r"reference is torch.float32.*allowed is a torch.float64 tensor", (reference.float(), reward, 1.0)),
        (r"reward is list", (reference, reward.tolist(), 1.0)),
        (r"reference is torch.float64, \(6,\)", (reference[0], reward, 1.0)),
    ]
    for message, arguments in cases:
        for function in (optimal_policy, log_z, gradient_ascent):
            with pytest.raises(ValueError, match=message):
                function(*arguments)
    for beta in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"beta is {beta}; allowed is a finite number above 0"):
            optimal_policy(reference, reward, beta)
    with pytest.raises(ValueError, match=r"policy\[1\] sums to 1\.1"):
        kl(bad, reference)
    with pytest.raises(ValueError, match=r"policy has shape"):
        objective(reference[:, :5] / reference[:, :5].sum(-1, keepdim=True), reference, reward, 1.0)


def test_bad_fits_are_refused():
    reference, reward = world()
    p = bradley_terry(reward)
    with pytest.raises(ValueError, match=r"loss is 'kto'; allowed is a pairwise loss: dpo, cdpo"):
        fit(reference, p, "kto")
    with pytest.raises(ValueError, match=r"loss is 'dppo'"):
        fit(reference, p, "dppo")
    with pytest.raises(ValueError, match=r"preferences is torch.float64, \(3, 6, 5\); allowed: float64, \(3, 6, 6\)"):
        fit(reference, p[..., :5])
    with pytest.raises(ValueError, match=r"P\[x, i, j\] \+ P\[x, j, i\] other than 1"):
        fit(reference, p + 0.1)
    with pytest.raises(ValueError, match=r"beta is -1; allowed"):
        fit(reference, p, beta=-1)
    with pytest.raises(TypeError, match="tau"):
        fit(reference, p, "dpo", tau=0.1)
    with pytest.raises(ValueError, match=r"vocabulary is 4; allowed is a V >= 2 with V\*\*T = 6"):
        fit(reference, p, vocabulary=4)
    with pytest.raises(ValueError, match=r"vocabulary is 2; allowed is None with natural=True"):
        gradient_ascent(reference, reward, 1.0, natural=True, vocabulary=2)


def test_plain_descent_is_the_descent_of_fit():
    """`kl_at_steps` takes the steps of `fit` with the same rate, and several betas and kinds of labels side by side."""
    reference, reward = world(X=1)
    soft = bradley_terry(reward)
    labels = torch.cat([soft, hard_labels(soft)])
    beta = torch.tensor([0.3, 1.0], dtype=torch.float64)
    found = kl_at_steps(reference, labels, beta[:, None, None], [1, 7, 50])  # (3, 2)
    for n, (P, b) in enumerate(zip(labels, beta.tolist(), strict=True)):
        path = fit(reference, P[None], "dpo", beta=b, steps=50, lr=0.25)
        expected = torch.cat([kl(path[step], reference) for step in (1, 7, 50)])
        assert (found[:, n] - expected).abs().max() < 1e-10
