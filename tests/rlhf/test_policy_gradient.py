"""RLOO, PPO and best-of-n: golden numbers, exact enumeration, the solvable world, the loops on a tiny GPT-2, errors."""

import copy
import math
from itertools import product

import pytest
import torch

from prefcourse.logprobs import kl_k1, kl_k3, token_logps
from prefcourse.preferences import Batch
from prefcourse.rlhf.advantages import (
    adapt_coefficient,
    gae,
    grpo_advantages,
    kl_penalty,
    masked_mean,
    ppo_clip_loss,
    rloo_advantages,
    whiten,
)
from prefcourse.rlhf.best_of_n import best_of_n, best_of_n_kl, best_of_n_policy, expected_best, sample_pool
from prefcourse.rlhf.policy_gradient import logps_and_values, make_value_head, ppo, rloo
from prefcourse.rlhf.rollouts import rollout
from prefcourse.rlhf.table_gradients import exact_gradient, gradient_moments, penalised_reward, ppo_path, rloo_path
from prefcourse.tabular import gradient_ascent, kl, log_z, objective, optimal_policy

PROMPTS = ["This movie", "The old film", "I think the story", "We know the cast is"]
QUICK = {"steps": 3, "lr": 1e-2, "max_new_tokens": 8, "progress": False}
RLOO, PPO = {"batch_size": 4, "k": 4} | QUICK, {"batch_size": 16} | QUICK
SHARED = {"step", "lr", "reward", "kl", "kl_coefficient", "loss", "grad_norm", "length", "eos_rate", "entropy"}
LOOPS = [(rloo, RLOO), (ppo, PPO)]
both = pytest.mark.parametrize(("train", "settings"), LOOPS, ids=["rloo", "ppo"])


def letters(prompts, completions):
    """A reward that a tiny model learns at once: the share of completions' characters that are an "o"."""
    return torch.tensor([10 * text.count("o") / (len(text) + 1) for text in completions])


def world(seed, X=3, Y=8, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    reference, policy = torch.randn(2, X, Y, generator=generator, dtype=torch.float64).softmax(-1)
    return reference, policy, spread * torch.randn(X, Y, generator=generator, dtype=torch.float64)


@pytest.fixture
def stopping(tiny_gpt2):
    """Makes a tiny GPT-2 that often ends: its completions have EOS, and different lengths."""

    def make(seed=0, by=2):
        model = tiny_gpt2(seed)
        with torch.no_grad():
            model.transformer.ln_f.bias[0] += 1
            model.transformer.wte.weight[0, 0] += by  # the row of EOS
        return model

    return make


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ------------------------------------------------------------------------------------------- golden numbers


def test_advantages_of_one_group():
    rewards = torch.tensor([[1, 0, 0, 0.5]], dtype=torch.float64)
    assert rloo_advantages(rewards).tolist()[0] == pytest.approx([0.833333, -0.5, -0.5, 0.166667], abs=1e-6)
    golden = [1.305310, -0.783186, -0.783186, 0.261062]
    assert grpo_advantages(rewards).tolist()[0] == pytest.approx(golden, abs=1e-6)
    by_hand = [rewards[0, i] - (rewards.sum() - rewards[0, i]) / 3 for i in range(4)]
    assert torch.allclose(rloo_advantages(rewards)[0], torch.stack(by_hand), atol=1e-15)
    assert rloo_advantages(rewards.expand(5, 3, 4)).shape == (5, 3, 4)
    alike = grpo_advantages(torch.full((2, 3), 1.7))  # nothing to learn, and no division by 0
    assert alike.abs().max() < 0.01


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
def test_one_completion_has_no_siblings(advantages):
    with pytest.raises(ValueError, match=r"k = 1 .*k >= 2"):
        advantages(torch.ones(5, 1))


@pytest.mark.parametrize(("ratio", "A", "loss"), [(1.5, 1, -1.2), (1.5, -1, 1.5), (0.5, 1, -0.5), (0.5, -1, 0.8)])
def test_clipped_loss_and_where_its_gradient_stops(ratio, A, loss):
    logp = torch.tensor(math.log(ratio), dtype=torch.float64, requires_grad=True)
    found = ppo_clip_loss(logp, torch.zeros((), dtype=torch.float64), torch.tensor(float(A)), eps=0.2)
    assert found.item() == pytest.approx(loss, abs=1e-12)
    found.backward()
    clipped = (ratio > 1.2 and A > 0) or (ratio < 0.8 and A < 0)
    assert logp.grad.item() == pytest.approx(0 if clipped else -ratio * A, abs=1e-12)


def test_kl_estimators_of_the_reference_table():
    policy, reference = (torch.tensor(p, dtype=torch.float64) for p in ([0.7, 0.2, 0.1], [0.4, 0.4, 0.2]))
    for estimator in (kl_k1, kl_k3):
        assert (policy * estimator(policy.log(), reference.log())).sum().item() == pytest.approx(0.18379, abs=5e-6)


@pytest.mark.parametrize(("n", "bound"), [(1, 0), (2, 0.1931), (4, 0.6363), (16, 1.8351), (64, 3.1745)])
def test_best_of_n_bound(n, bound):
    assert best_of_n_kl(n) == pytest.approx(bound, abs=5e-5)


def test_rewards_of_tokens_sum_to_the_penalised_reward():
    policy, reference = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    found = kl_penalty(torch.tensor([3.0, -1.0]), policy.requires_grad_(), reference, mask, 0.5)
    assert not found.requires_grad and not found[~mask].any()
    ratio = (policy - reference).detach()
    expected = torch.tensor([[0, 0, 0, 3.0, 0], [0, 0, 0, 0, -1.0]]) - 0.5 * ratio * mask
    assert torch.equal(found, expected)


def test_gae_against_its_sum_and_its_two_ends():
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[s <= t < s + n for t in range(7)] for s, n in ((0, 7), (2, 3), (1, 1), (4, 3))])
    gamma, lam = 0.9, 0.7
    A = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row in range(4):
        inside = mask[row].nonzero()[:, 0].tolist()
        r, V = rewards[row, inside].tolist(), [*values[row, inside].tolist(), 0.0]
        delta = [r[t] + gamma * V[t + 1] - V[t] for t in range(len(r))]
        for t in range(len(r)):  # Eq. 16: the discounted sum of all later δ
            expected = sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(r)))
            assert A[row, inside[t]].item() == pytest.approx(expected, abs=1e-12)
            rest = sum(gamma ** (s - t) * r[s] for s in range(t, len(r))) - V[t]
            assert gae(rewards, values, mask, gamma=gamma, lam=1.0)[row, inside[t]].item() == pytest.approx(rest)
            assert gae(rewards, values, mask, gamma=gamma, lam=0.0)[row, inside[t]].item() == pytest.approx(delta[t])
    assert not A[~mask].any()


def test_coefficient_goes_towards_the_target_and_no_faster_than_2_percent():
    assert adapt_coefficient(0.1, kl=20, target=5) == pytest.approx(0.102)
    assert adapt_coefficient(0.1, kl=0, target=5) == pytest.approx(0.098)
    assert adapt_coefficient(0.1, kl=5.5, target=5) == pytest.approx(0.101)
    assert adapt_coefficient(0.1, kl=5, target=5) == 0.1


def test_whitening_sees_only_the_mask():
    values, mask = torch.tensor([[1.0, 3.0, 99.0], [5.0, -99.0, 7.0]]), torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
    found = whiten(values, mask)
    assert masked_mean(values, mask).item() == 4
    assert torch.allclose(found, torch.tensor([[-3.0, -1, 0], [1, 0, 3]]) / 5**0.5)


# ------------------------------------------------------------------------------------------- exact, on the table


@pytest.mark.parametrize("k", [2, 3, 4])
def test_rloo_is_unbiased_over_all_draws_and_its_baseline_cuts_the_variance(k):
    reference, policy, reward = world(k, X=2, Y=4)
    reward = reward + 5  # adding a constant changes no policy, but REINFORCE without a baseline suffers from it
    logits = policy.log().requires_grad_()
    pi = logits.softmax(-1)
    J = (pi * (reward - 0.5 * (pi.log() - reference.log()))).sum()
    (gradient,) = torch.autograd.grad(J, logits)
    assert torch.allclose(exact_gradient(policy, reference, reward, 0.5), gradient, atol=1e-14)
    mean, variance = gradient_moments(policy, reference, reward, 0.5, k=k)
    assert (mean - gradient).abs().max() < 1e-10
    plain, without = gradient_moments(policy, reference, reward, 0.5, k=k, advantages=lambda u: u)
    assert (plain - gradient).abs().max() < 1e-10
    assert (variance < 0.6 * without).all()
    _, unmoved = gradient_moments(policy, reference, reward - 5, 0.5, k=k)
    assert torch.allclose(unmoved, variance, atol=1e-12)
    biased, _ = gradient_moments(policy, reference, reward, 0.5, k=k, advantages=grpo_advantages)
    assert (biased - gradient).abs().max() > 0.01
    group_mean, _ = gradient_moments(
        policy, reference, reward, 0.5, k=k, advantages=lambda u: u - u.mean(-1, keepdim=True)
    )
    assert torch.allclose(group_mean, (1 - 1 / k) * gradient, atol=1e-14)  # with itself in the mean: shorter by 1 - 1/k


def test_two_siblings_can_be_worse_than_no_baseline():
    """One sibling's reward is a noisy baseline: where J is near 0 already, k = 2 makes the variance larger."""
    reference, policy, reward = world(0, Y=4)
    reward = reward - (policy * penalised_reward(policy, reference, reward, 0.5)).sum(-1, keepdim=True)  # now J = 0
    variance = {k: [gradient_moments(policy, reference, reward, 0.5, k=k, advantages=a)[1]
                    for a in (rloo_advantages, lambda u: u)] for k in (2, 8)}  # fmt: skip
    assert (variance[2][0] > 1.2 * variance[2][1]).all() and (variance[8][0] < 1.2 * variance[8][1]).all()


def test_moments_by_a_plain_loop():
    reference, policy, reward = world(7, X=1, Y=3)
    u = penalised_reward(policy, reference, reward, 0.3)[0]
    mean, square = torch.zeros(3, dtype=torch.float64), 0.0
    for y in product(range(3), repeat=2):
        A = (u[y[0]] - u[y[1]]).item()
        estimate = sum(a * (torch.eye(3)[i] - policy[0]) for a, i in zip((A, -A), y, strict=True)) / 2
        chance = policy[0, y[0]] * policy[0, y[1]]
        mean, square = mean + chance * estimate, square + chance * (estimate**2).sum()
    found = gradient_moments(policy, reference, reward, 0.3, k=2)
    assert torch.allclose(found[0][0], mean) and torch.allclose(found[1][0], square - (mean**2).sum())


def test_at_the_optimum_the_estimate_has_no_noise():
    reference, _, reward = world(3, Y=4)
    best = optimal_policy(reference, reward, 0.5)
    mean, variance = gradient_moments(best, reference, reward, 0.5, k=3)
    assert mean.abs().max() < 1e-14 and variance.abs().max() < 1e-14


def test_clipped_surrogate_at_ratio_1_has_the_policy_gradient():
    reference, policy, reward = world(5)
    u = penalised_reward(policy, reference, reward, 0.4)
    A = u - (policy * u).sum(-1, keepdim=True)
    logits = policy.log().requires_grad_()
    loss = (policy * ppo_clip_loss(logits.log_softmax(-1), policy.log(), A)).sum()  # E over samples from π_old = π
    assert torch.allclose(-torch.autograd.grad(loss, logits)[0], exact_gradient(policy, reference, reward, 0.4))


@pytest.mark.parametrize("learn", [rloo_path, ppo_path])
def test_their_defaults_reach_the_best_objective_within_1_percent(learn):
    reference, _, reward = world(0)
    best = 0.5 * log_z(reference, reward, 0.5).mean()
    path = learn(reference, reward, 0.5, seed=0)
    J = [objective(policy, reference, reward, 0.5).mean() for policy in (path[0], path[-1])]
    assert torch.equal(path[0], reference) and J[0] < 0.8 * best < 0.99 * best < J[1] <= best + 1e-12
    assert (kl(path[-1], optimal_policy(reference, reward, 0.5)) < 0.05).all()


@pytest.mark.parametrize("vocabulary", [None, 2])
@pytest.mark.parametrize("learn", [rloo_path, ppo_path])
def test_same_seed_same_path_on_the_table(learn, vocabulary):
    reference, _, reward = world(0)
    one, again, other = (learn(reference, reward, 0.5, vocabulary=vocabulary, steps=5, seed=s) for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (6, 3, 8) and torch.allclose(one.sum(-1), torch.ones(6, 3, dtype=torch.float64))


@pytest.mark.parametrize(("beta", "vocabulary"), [(0.3, None), (0.3, 2), (1.0, None), (2.0, 2)])
@pytest.mark.parametrize(
    ("learn", "settings"),
    [(rloo_path, {"k": 8, "steps": 3000}), (ppo_path, {"samples": 64, "steps": 150})],
    ids=["rloo", "ppo"],
)
def test_both_come_within_1_percent_of_the_best_on_five_worlds(learn, settings, beta, vocabulary):
    """With steps of min(1, 0.5/β). Below β = 0.3 a run may settle on a second-best sequence and stay there."""
    reference, _, reward = (torch.cat(tables) for tables in zip(*map(world, range(5)), strict=True))  # (15, 8)
    lr = min(1.0, 0.5 / beta)
    settings = settings | ({"value_lr": lr} if learn is ppo_path else {})
    policy = learn(reference, reward, beta, lr=lr, vocabulary=vocabulary, seed=0, **settings)[-1]
    best, J, start = (
        x.view(5, 3).mean(-1)
        for x in (
            beta * log_z(reference, reward, beta),
            objective(policy, reference, reward, beta),
            objective(reference, reference, reward, beta),
        )
    )
    assert ((best - J) / best).max() < 0.01 and ((best - start) / best).min() > 0.1
    assert kl(policy, optimal_policy(reference, reward, beta)).max() < 0.1


def test_where_rloo_is_slow_the_exact_gradient_is_slow_too():
    """World 2 has a plateau: 300 steps of softmax gradient ascent miss a prompt's best J by a tenth, sampled or not."""
    reference, _, reward = (table[[1]] for table in world(2))
    best = 0.3 * log_z(reference, reward, 0.3)

    def missed(path):
        return ((best - objective(path[-1], reference, reward, 0.3)) / best).item()

    assert missed(gradient_ascent(reference, reward, 0.3, steps=300)) > 0.1
    assert missed(gradient_ascent(reference, reward, 0.3, steps=1000)) < 0.01


def test_too_many_draws_to_enumerate():
    reference, policy, reward = world(0)
    with pytest.raises(ValueError, match=r"8\*\*7 draws"):
        gradient_moments(policy, reference, reward, 0.5, k=7)


# ------------------------------------------------------------------------------------------- best of n


@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_policy_is_that_of_all_draws_ties_included(n):
    reference, _, reward = world(2, X=2, Y=4)
    reward = reward.round()
    reward[0, :3] = 1.0
    expected = torch.zeros_like(reference)
    for x in range(2):
        for draw in product(range(4), repeat=n):
            expected[x, max(draw, key=lambda y: reward[x, y])] += reference[x, list(draw)].prod()
    assert torch.allclose(best_of_n_policy(reference, reward, n), expected, atol=1e-14)


def test_its_kl_stays_below_the_bound_and_reaches_it_with_many_responses():
    for seed, n in product(range(5), (2, 4, 16, 64)):
        reference, _, reward = world(seed)
        assert (kl(best_of_n_policy(reference, reward, n), reference) <= best_of_n_kl(n)).all()
    many = torch.full((1, 4000), 1 / 4000, dtype=torch.float64)
    ranks = torch.arange(4000, dtype=torch.float64)[None]
    assert kl(best_of_n_policy(many, ranks, 16), many).item() == pytest.approx(best_of_n_kl(16), abs=0.01)
    assert kl(best_of_n_policy(many, ranks.sign(), 16), many).item() < 0.001  # one worse response, the rest tied


def test_expected_best_is_the_mean_over_all_picks():
    rewards = torch.tensor([[3.0, -1.0, 0.5, 2.0], [1.0, 1.0, 0.0, 4.0]], dtype=torch.float64)
    for n in (1, 2, 3, 4):
        picks = torch.combinations(torch.arange(4), n)
        assert torch.allclose(expected_best(rewards, n), rewards[:, picks].amax(-1).mean(-1))
        assert torch.allclose(expected_best(rewards, n, by=-rewards), rewards[:, picks].amin(-1).mean(-1))
    with pytest.raises(ValueError, match="allowed is a whole number, 1 to 4"):
        expected_best(rewards, 5)


def test_best_of_n_keeps_the_best_of_each_prompt(tiny_gpt2, tokenizer):
    model, settings = tiny_gpt2(), {"n": 6, "seed": 3, "max_new_tokens": 8}
    pool, rewards = sample_pool(model, letters, PROMPTS, tokenizer, **settings)
    best = best_of_n(model, letters, PROMPTS, tokenizer, **settings)
    assert rewards.shape == (4, 6) and [len(row) for row in pool] == [6] * 4
    assert letters(PROMPTS, [c.text for c in best]).tolist() == rewards.amax(-1).tolist()
    assert all(c in row for c, row in zip(best, pool, strict=True))
    with pytest.raises(ValueError, match="n is 0"):
        best_of_n(model, letters, PROMPTS, tokenizer, n=0)
    with pytest.raises(ValueError, match=r"best of n: .*shape \(\)"):
        best_of_n(model, lambda p, c: 1.0, PROMPTS, tokenizer, n=2, max_new_tokens=4)


# ------------------------------------------------------------------------------------------- the loops


def test_log_probs_and_values_are_read_in_one_pass(stopping, tokenizer):
    model = stopping()
    seen = rollout(model, letters, PROMPTS * 5, tokenizer, max_new_tokens=12)
    with torch.no_grad():
        torch.nn.init.normal_((head := make_value_head(model)).weight)
        logps, values = logps_and_values(model, head, seen.batch)
        rows = head(model.base_model(seen.batch.input_ids).last_hidden_state[:, :-1])[..., 0]
    torch.testing.assert_close(logps, token_logps(model, seen.batch), atol=1e-5, rtol=0)
    torch.testing.assert_close(values[seen.mask], rows[seen.mask], atol=1e-5, rtol=0)
    assert len(set(seen.batch.lengths.tolist())) > 1 and values[seen.mask].std() > 0.1 and not values[~seen.mask].any()
    assert seen.rewards.equal(letters(None, seen.texts))


def test_the_value_before_a_token_does_not_see_the_token(tiny_gpt2, tokenizer):
    model = tiny_gpt2()
    torch.nn.init.normal_((head := make_value_head(model)).weight)
    batch = rollout(model, letters, PROMPTS[:1], tokenizer, max_new_tokens=6).batch
    changed = batch.input_ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % len(tokenizer)
    with torch.no_grad():
        a, b = (logps_and_values(model, head, Batch(ids, batch.completion_mask)) for ids in (batch.input_ids, changed))
    assert torch.equal(a[1], b[1]) and not torch.equal(a[0], b[0])


@both
def test_first_step_is_exact_and_columns_are_whole(tiny_gpt2, tokenizer, train, settings):
    policy, reference = tiny_gpt2(resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3).train(), None
    before = weights(policy)
    calls = []
    measure = lambda model: calls.append(model) or {"probe": float(len(calls))}  # noqa: E731
    history = train(policy, letters, PROMPTS, tokenizer, reference=reference, measure=measure, every=2, **settings)
    extra = {"policy_loss", "value_loss", "clip_fraction"} if train is ppo else set()
    assert set(history) == SHARED | extra | {"probe"}
    assert history["kl"][0] == 0.0 and history["kl"][1] != 0.0  # with dropout on, the first would not be 0
    assert history["step"] == [0, 1, 2, 3]
    assert history["probe"][::2] == [1, 2] and math.isnan(history["probe"][1]) and history["probe"][3] == 3
    assert all(math.isnan(history[name][3]) == (name not in ("step", "probe")) for name in history)
    assert all(math.isfinite(x) for name in SHARED | extra for x in history[name][:3])
    assert history["kl_coefficient"][:3] == [0.3] * 3 and not torch.equal(before, weights(policy))


def test_the_first_ratios_are_exactly_1(tiny_gpt2, tokenizer):
    settings = PPO | {"steps": 1, "epochs": 1, "minibatches": 1}
    history = ppo(tiny_gpt2(), letters, PROMPTS, tokenizer, eps=1e-12, **settings)
    assert history["clip_fraction"] == [0.0]
    assert history["policy_loss"][0] == pytest.approx(0, abs=1e-6)  # whitened advantages at ratio 1
    more = ppo(tiny_gpt2(), letters, PROMPTS, tokenizer, eps=1e-12, **settings | {"epochs": 2, "minibatches": 2})
    assert 0.5 < more["clip_fraction"][0] < 1  # all but the first of four updates


@both
def test_both_raise_the_reward_and_beta_holds_them_back(tiny_gpt2, tokenizer, train, settings):
    ends = {}
    for beta in (0.0, 10.0):
        policy, reference = tiny_gpt2(), tiny_gpt2()
        before = weights(reference)
        history = train(
            policy, letters, PROMPTS, tokenizer, reference=reference, beta=beta, **settings | {"steps": 20, "lr": 3e-3}
        )
        ends[beta] = [sum(history[name][-4:]) / 4 for name in ("reward", "kl")]
        assert torch.equal(before, weights(reference)) and all(p.grad is None for p in reference.parameters())
    first = history["reward"][0]
    assert ends[0.0][0] > first + 0.5, ends
    assert ends[10.0][1] < 0.25 * ends[0.0][1], ends


@both
def test_same_seed_same_run(tiny_gpt2, tokenizer, train, settings):
    runs = [train(tiny_gpt2(), letters, PROMPTS, tokenizer, seed=seed, **settings) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] and runs[0]["reward"] != runs[2]["reward"]


def test_one_step_of_rloo_is_the_gradient_by_hand(stopping, tokenizer):
    policy, reference = stopping(), stopping(1)
    other = copy.deepcopy(policy)
    settings = RLOO | {"steps": 1, "batch_size": 2, "k": 3}
    calls = {}

    def reward(prompts, completions):
        calls.update(prompts=prompts, completions=completions)
        return letters(prompts, completions)

    history = rloo(policy, reward, PROMPTS, tokenizer, reference=reference, beta=0.7, missing_eos_penalty=2, **settings)
    prompts = calls["prompts"]
    assert len(prompts) == 6 and len(set(prompts[:3])) == len(set(prompts[3:])) == 1 and prompts[0] != prompts[3]
    seen = rollout(other, letters, prompts, tokenizer, max_new_tokens=8, seed=100_000)
    assert seen.texts == calls["completions"] and 0 < seen.finished.sum() < 6
    logps = token_logps(other, seen.batch).sum(-1)
    u = letters(None, seen.texts) - 2.0 * (~seen.finished)
    u = (u - 0.7 * (logps - token_logps(reference, seen.batch).sum(-1))).detach().view(2, 3)
    A = torch.stack([u[:, i] - (u.sum(-1) - u[:, i]) / 2 for i in range(3)], -1).flatten()
    loss = -(A * logps).mean()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in other.parameters()]).norm().item()
    assert history["loss"][0] == pytest.approx(loss.item(), rel=1e-4)
    assert history["grad_norm"][0] == pytest.approx(norm, rel=1e-4)
    assert history["eos_rate"][0] == seen.finished.float().mean().item()
    assert history["reward"][0] == pytest.approx(seen.rewards.mean().item())  # the penalty is not in it


def test_grpo_pays_for_kl_in_the_loss_so_that_a_group_without_contrast_teaches_nothing(stopping, tokenizer):
    """With the penalties inside the rewards, a flat group's tiny differences would become advantages of full size."""
    asked = []

    def flat(prompts, completions):
        asked[:] = prompts
        return torch.ones(len(completions))

    settings = RLOO | {"steps": 1, "reference": stopping(1), "advantages": grpo_advantages}
    with pytest.raises(ValueError, match=r"of the KL penalties: noise of full size\. Take kl_in='loss', or beta=0"):
        rloo(stopping(), flat, PROMPTS, tokenizer, **settings)
    with pytest.raises(ValueError, match="kl_in must be reward or loss, got 'both'"):
        rloo(stopping(), flat, PROMPTS, tokenizer, kl_in="both", **settings)

    policy, other = stopping(), stopping()
    before = weights(policy)
    rloo(policy, flat, PROMPTS, tokenizer, kl_in="loss", beta=0.0, **settings)
    assert torch.equal(weights(policy), before)  # all rewards are equal, and KL is free
    history = rloo(policy, flat, PROMPTS, tokenizer, kl_in="loss", beta=0.5, **settings)
    seen = rollout(other, flat, asked, tokenizer, max_new_tokens=8, seed=100_000)
    ratio = token_logps(other, seen.batch) - token_logps(settings["reference"], seen.batch).detach()  # (N, T - 1)
    loss = 0.5 * ((-ratio).exp() - 1 + ratio).sum(-1).mean()  # what is left: β times k3, summed over a completion
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in other.parameters()]).norm().item()
    assert history["loss"][0] == pytest.approx(loss.item(), rel=1e-4) and loss > 0
    assert history["grad_norm"][0] == pytest.approx(norm, rel=1e-4)


def test_one_update_of_ppo_is_the_gradient_by_hand(stopping, tokenizer):
    policy, reference = stopping(), stopping(1)
    torch.nn.init.normal_((head := make_value_head(policy)).weight, std=0.1)
    other, other_head = copy.deepcopy((policy, head))
    settings = PPO | {"steps": 1, "batch_size": 12, "minibatches": 1, "epochs": 1, "gamma": 0.9, "lam": 0.8}
    settings |= {"beta": 0.7, "missing_eos_penalty": 2.0, "value_coefficient": 0.3}
    asked = []
    reward = lambda prompts, texts: asked.extend(prompts) or letters(prompts, texts)  # noqa: E731
    history = ppo(policy, reward, PROMPTS, tokenizer, reference=reference, value_head=head, **settings)
    seen = rollout(other, letters, asked, tokenizer, max_new_tokens=8, seed=100_000)
    logps, V, A, returns = [], [], [], []  # one row after another, without padding
    for i, (ids, mask) in enumerate(zip(seen.batch.input_ids, seen.batch.completion_mask, strict=True)):
        where = mask.nonzero()[:, 0]
        out, ref = (m(ids[None], output_hidden_states=True) for m in (other, reference))
        lp, ref_lp = (x.logits[0].log_softmax(-1)[where - 1, ids[where]] for x in (out, ref))
        v = other_head(out.hidden_states[-1][0])[where - 1, 0]
        r = (-0.7 * (lp - ref_lp)).tolist()
        r[-1] += letters(None, [seen.texts[i]]).item() - 2.0 * (not seen.finished[i])
        a, after = [0.0] * (len(r) + 1), [*v.tolist(), 0.0]
        for t in reversed(range(len(r))):
            a[t] = r[t] + 0.9 * after[t + 1] - after[t] + 0.9 * 0.8 * a[t + 1]
        logps, V, A = [*logps, *lp], [*V, *v], [*A, *a[:-1]]
        returns += [x + y for x, y in zip(a[:-1], after[:-1], strict=True)]
    logps, V, A, returns = torch.stack(logps), torch.stack(V), torch.tensor(A), torch.tensor(returns)
    A = (A - A.mean()) / A.std(correction=0)
    value_loss = 0.5 * (V - returns).square().mean()
    (-(A * logps).mean() + 0.3 * value_loss).backward()
    grads = [p.grad.flatten() for p in (*other.parameters(), *other_head.parameters())]
    assert history["value_loss"][0] == pytest.approx(value_loss.item(), rel=1e-4)
    assert history["grad_norm"][0] == pytest.approx(torch.cat(grads).norm().item(), rel=1e-4)
    assert 0 < seen.finished.sum() < 12


@both
def test_every_step_and_every_seed_draws_afresh(tiny_gpt2, tokenizer, train, settings):
    seen = []
    reward = lambda prompts, texts: seen.append(tuple(zip(prompts, texts, strict=True))) or torch.zeros(16)  # noqa: E731
    for seed in (0, 1):  # one prompt and next to no learning: only the sampler's seed makes a difference
        train(tiny_gpt2(), reward, PROMPTS[:1], tokenizer, seed=seed, **settings | {"lr": 1e-12})
    assert len(seen) == len(set(seen)) == 6


def test_a_missing_eos_costs_and_the_reward_sees_the_text_as_it_is(stopping, tokenizer):
    seen = rollout(stopping(by=1), letters, PROMPTS * 8, tokenizer, max_new_tokens=3)
    cut = (~seen.finished).nonzero()[:, 0].tolist()
    assert 0 < len(cut) < 32 and all(seen.batch.lengths[i] == 3 for i in cut)
    assert seen.rewards.equal(letters(None, seen.texts))
    for train, settings in LOOPS:
        runs = [
            train(
                stopping(by=1),
                letters,
                PROMPTS,
                tokenizer,
                missing_eos_penalty=p,
                **settings | {"steps": 30, "lr": 3e-3},
            )
            for p in (0.0, 20.0)
        ]
        assert runs[0]["reward"][0] == runs[1]["reward"][0]
        ends = [sum(run["eos_rate"][-5:]) / 5 for run in runs]
        assert ends[1] > ends[0] + 0.1, ends


@both
def test_max_kl_stops_without_another_update(tiny_gpt2, tokenizer, train, settings):
    reference, policies = tiny_gpt2(1), [tiny_gpt2(), tiny_gpt2()]  # another model: far away from the start
    before = weights(policies[0])
    history = train(
        policies[0],
        letters,
        PROMPTS,
        tokenizer,
        reference=reference,
        max_kl=0.5,
        measure=lambda m: {"x": 1.0},
        **settings,
    )
    assert history["step"] == [0, 1] and history["kl"][0] > 0.5 and history["x"][1] == 1.0
    assert torch.equal(before, weights(policies[0])) and math.isnan(history["grad_norm"][0])


def test_adaptive_coefficient_and_a_value_head_of_ones_own(tiny_gpt2, tokenizer):
    policy = tiny_gpt2()
    head = make_value_head(policy)
    history = ppo(policy, letters, PROMPTS, tokenizer, kl_target=1e-4, beta=0.1, value_head=head, **PPO)
    assert history["kl_coefficient"] == [
        pytest.approx(x) for x in (0.1, 0.098, 0.09996)
    ]  # below at first, then far above
    assert head.weight.abs().max() > 0 and head.bias.abs() > 0
    assert history["value_loss"][-1] != history["value_loss"][0]


# ------------------------------------------------------------------------------------------- errors


BAD = [
    ({"beta": -0.1}, "beta is -0.1"),
    ({"beta": math.nan}, "beta is nan"),
    ({"steps": 0}, "steps is 0; allowed is a whole number, 1 or more"),
    ({"lr": 0}, "lr is 0"),
    ({"schedule": "wild"}, "schedule must be"),
    ({"prompts": []}, "prompts is"),
    ({"prompts": "one text"}, "prompts is"),
]


@both
@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arguments(tiny_gpt2, tokenizer, train, settings, change, message):
    arguments = {"prompts": PROMPTS} | settings | change
    with pytest.raises(ValueError, match=message):
        train(tiny_gpt2(), letters, tokenizer=tokenizer, **arguments)


@both
def test_the_policy_is_no_reference(tiny_gpt2, tokenizer, train, settings):
    policy = tiny_gpt2()
    with pytest.raises(ValueError, match="reference is the policy itself"):
        train(policy, letters, PROMPTS, tokenizer, reference=policy, **settings)


@pytest.mark.parametrize(
    ("train", "change", "message"),
    [
        (rloo, {"k": 1}, "k is 1; allowed is a whole number, 2 or more"),
        (ppo, {"minibatches": 17}, "minibatches is 17; allowed is a whole number, 1 to 16"),
        (ppo, {"epochs": 0}, "epochs is 0"),
        (ppo, {"eps": 1.0}, "above 0 and below 1"),
        (ppo, {"lam": 1.5}, "lam is 1.5; allowed is a finite number from 0 to 1"),
        (ppo, {"kl_target": 5.0, "beta": 0.0}, "kl_target needs"),
    ],
)
def test_bad_arguments_of_one(tiny_gpt2, tokenizer, train, change, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_gpt2(), letters, PROMPTS, tokenizer, **(RLOO if train is rloo else PPO) | change)


@both
def test_rewards_that_are_no_rewards(tiny_gpt2, tokenizer, train, settings):
    later = iter([torch.zeros(16), torch.zeros(16, 1)])
    with pytest.raises(ValueError, match=r"step 1: .*shape \(16, 1\) for 16 completions"):
        train(tiny_gpt2(), lambda p, c: next(later), PROMPTS, tokenizer, **settings)
    for bad in (math.nan, math.inf):
        rewards = [0.0] * 16
        rewards[3] = bad
        with pytest.raises(ValueError, match=f"step 0: the reward of completion 3 is {bad}.*prompt is '"):
            train(tiny_gpt2(), lambda p, c, found=rewards: found, PROMPTS, tokenizer, **settings)


@both
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tiny_gpt2, tokenizer, train, settings):
    policy, calls = tiny_gpt2(), []

    def reward(prompts, completions):  # the second time they are finite, but their differences are not
        calls.append(weights(policy))
        return letters(prompts, completions) if len(calls) == 1 else torch.tensor([3e38, -3e38] * 8)

    with pytest.raises(FloatingPointError, match=r"step 1: the loss is (nan|inf|-inf)"):
        train(policy, reward, PROMPTS, tokenizer, **settings)
    assert torch.equal(weights(policy), calls[1]) and not torch.equal(calls[0], calls[1])
