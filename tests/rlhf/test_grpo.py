"""GRPO's parts against numbers by hand, its switches one by one, and the loop on a tiny GPT-2."""

import copy
import math

import pytest
import torch

from prefcourse.preferences import Batch
from prefcourse.rlhf import grpo as module
from prefcourse.rlhf.grpo import advantages_of, contrast, divisors, grpo, grpo_loss, held_share, ratios
from prefcourse.rlhf.table_gradients import exact_gradient, gradient_moments

PROMPTS = ["This movie", "The old film", "I think the story", "We know the cast is"]
QUICK = {"steps": 3, "batch_size": 4, "k": 4, "lr": 1e-2, "max_new_tokens": 8, "progress": False}


def has_word(prompts, completions):
    """1 for a text with a word form in it, not bytes alone: four in ten of what `stopping` writes."""
    return torch.tensor([float(" " in text) for text in completions])


def never(prompts, completions):
    return torch.zeros(len(prompts))


@pytest.fixture
def stopping(tiny_gpt2):
    """Makes a tiny GPT-2 that often ends: its completions have different lengths."""

    def make(seed=0):
        model = tiny_gpt2(seed)
        with torch.no_grad():
            model.transformer.ln_f.bias[0] += 1
            model.transformer.wte.weight[0, 0] += 4  # the row of EOS
        return model

    return make


# ------------------------------------------------------------------------------------------- its parts


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [0.1] * 8, [1.0] * 8])
    plain, scaled = advantages_of(rewards, std=False), advantages_of(rewards, std=True)
    assert plain[0].tolist() == pytest.approx([0.875] + [-0.125] * 7)
    assert plain.abs().sum(1).tolist() == pytest.approx([1.75, 0, 0])
    assert scaled.abs().sum(1).tolist() == pytest.approx([4.9483, 0, 0], abs=1e-3)
    assert (plain[1:] == 0).all() and (scaled[1:] == 0).all(), "no rounding is left where there is no contrast"
    assert contrast(rewards).tolist() == [True, False, False]


def test_divisors_by_hand():
    lengths = torch.tensor([2.0, 6.0])
    found = {name: divisors(lengths, name, 48).tolist() for name in module.LENGTHS}
    assert found == {"own": [2, 6], "most": [48, 48], "batch": [4, 4]}


def loss_of(logps, old, A, **settings):
    mask = torch.tensor([[True, True, False], [True, True, True]])
    return grpo_loss(logps, old, torch.tensor(A), mask, mask.sum(-1).float(), **settings)


def test_the_loss_by_hand():
    old = torch.tensor([[-1.0, -2, 0], [-1, -1, -1]])
    logps = old + torch.tensor([[0.5, -0.5, 0], [0.1, -0.1, 0.3]])
    up, down = math.exp(0.5), math.exp(-0.5)
    first = -(1.2 * 2 + down * 2) / 2  # A = 2: the token that rose is held at 1.2, the one that fell is not
    second = (math.exp(0.1) + math.exp(-0.1) + math.exp(0.3)) / 3
    assert loss_of(logps, old, [2.0, -1.0]).tolist() == pytest.approx([first, second])
    wider = loss_of(logps, old, [2.0, -1.0], clip=(0.2, 10.0))
    assert wider.tolist() == pytest.approx([-(up + down), second])


def test_the_ratio_of_a_sequence_is_the_geometric_mean_and_knows_no_padding():
    old, mask = torch.zeros(2, 3), torch.tensor([[True, True, False], [True, True, True]])
    logps = torch.tensor([[0.4, 0.2, 9.0], [0.3, 0.0, -0.6]])
    assert ratios(logps, old, mask, "sequence")[:, 0].tolist() == pytest.approx([math.exp(0.3), math.exp(-0.1)])
    whole = loss_of(logps, old, [1.0, 1.0], ratio="sequence", clip=(0.5, 0.5))
    assert whole.tolist() == pytest.approx([-math.exp(0.3), -math.exp(-0.1)])  # with |o| below: GSPO
    held = loss_of(logps, old, [1.0, 1.0], ratio="sequence")
    assert held.tolist() == pytest.approx([-1.2, -math.exp(-0.1)])


@pytest.mark.parametrize("ratio", module.RATIOS)
def test_at_the_start_every_ratio_has_the_policy_gradient(ratio):
    logps = torch.tensor([[-1.0, -2, -3], [-1, -1, -1]], requires_grad=True)
    (loss := loss_of(logps, logps.detach(), [2.0, -1.0], ratio=ratio)).sum().backward()
    assert loss.tolist() == pytest.approx([-2, 1]), "and the value says nothing: minus A"
    expected = [[-1, -1, 0], [1 / 3] * 3]
    torch.testing.assert_close(logps.grad, torch.tensor(expected))


@pytest.mark.parametrize("ratio", module.RATIOS)
def test_what_the_clip_holds_has_no_gradient(ratio):
    draw = torch.Generator().manual_seed(0)
    old, move = -torch.rand(6, 5, generator=draw), 0.6 * torch.randn(6, 5, generator=draw)
    logps, A = (old + move).requires_grad_(), torch.tensor([1.0, -1, 2, -2, 1, -1])
    mask = torch.ones(6, 5, dtype=torch.bool)
    grpo_loss(logps, old, A, mask, torch.ones(6), ratio=ratio).sum().backward()
    held = held_share(logps.detach(), old, A, mask, ratio=ratio)
    assert 0 < held < 1 and (logps.grad == 0).float().mean().item() == pytest.approx(held)


def test_clip_higher_lets_a_rare_token_rise_farther():
    old, logps = torch.zeros(2, 3), torch.full((2, 3), math.log(1.25))
    assert loss_of(logps, old, [1.0, 1.0]).tolist() == pytest.approx([-1.2, -1.2])
    assert loss_of(logps, old, [1.0, 1.0], clip=(0.2, 0.28)).tolist() == pytest.approx([-1.25, -1.25])


# ------------------------------------------------------------------------------------------- its biases, exactly


def test_on_the_table_dr_grpo_climbs_j_and_one_over_length_does_not():
    policy, reward = torch.tensor([[0.1, 0.45, 0.45]], dtype=torch.float64), torch.tensor([[1.0, 0, 0]]).double()
    k, lengths = 6, torch.tensor([16.0, 4, 16], dtype=torch.float64)
    centred = lambda r: advantages_of(r, std=False)  # noqa: E731
    right = exact_gradient(policy, policy, reward, 0.0)
    mean, _ = gradient_moments(policy, policy, reward, 0.0, k=k, advantages=centred)
    torch.testing.assert_close(mean, right * (k - 1) / k)
    biased, _ = gradient_moments(policy, policy, reward, 0.0, k=k, advantages=centred, weights=1 / lengths)
    assert right[0, 2] < 0 < biased[0, 2], "the long wrong answer is pushed up on average"


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_the_weight_of_a_prompt_under_std_in_closed_form(p):
    policy, reward, k = torch.tensor([[p, 1 - p]], dtype=torch.float64), torch.tensor([[1.0, 0]]).double(), 8
    scaled = lambda r: advantages_of(r, std=True)  # noqa: E731
    mean, _ = gradient_moments(policy, policy, reward, 0.0, k=k, advantages=scaled)
    found = (mean / exact_gradient(policy, policy, reward, 0.0))[0, 0].item()
    c = torch.arange(k + 1, dtype=torch.float64)
    chance = torch.tensor([math.comb(k, int(i)) * p**i * (1 - p) ** (k - i) for i in c.tolist()], dtype=torch.float64)
    spread = (c / k * (1 - c / k)).sqrt()
    assert found == pytest.approx(math.sqrt((k - 1) / k) * (chance @ spread).item() / (p * (1 - p)), rel=1e-3)


# ------------------------------------------------------------------------------------------- the loop


def test_a_run_learns_and_says_what_it_saw(stopping, tokenizer):
    policy = stopping()
    history = grpo(policy, has_word, PROMPTS, tokenizer, **{**QUICK, "steps": 30, "k": 8}, measure=lambda m: {"x": 1.0})
    assert len(history["step"]) == 31 and history["x"][0] == history["x"][-1] == 1.0
    assert sum(history["reward"][-6:-1]) > sum(history["reward"][:5]) + 0.5
    assert all(0 <= flat <= 1 for flat in history["flat"][:-1]) and history["drawn"][0] == 4
    assert {"length_right", "length_wrong", "clip_fraction", "grad_norm", "eos_rate"} <= set(history)
    assert "kl" not in history, "no reference, no KL"


SWITCHES = [
    {"std": True}, {"length": "own"}, {"length": "batch"}, {"clip": (0.2, 0.28)}, {"ratio": "sequence"},
    {"dynamic": True}, {"minibatches": 3}, {"beta": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("switch", SWITCHES, ids=[next(iter(s)) for s in SWITCHES])
def test_every_switch_runs_and_repeats_itself(stopping, tokenizer, switch):
    reference, found = stopping(), []
    for _ in range(2):
        policy = stopping()
        history = grpo(policy, has_word, PROMPTS, tokenizer, reference=reference if "beta" in switch else None,
                       **QUICK | switch)  # fmt: skip
        found.append((history["loss"], [p.detach() for p in policy.parameters()]))
    assert str(found[0][0]) == str(found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(found[0][1], reference.parameters(), strict=True)]
    assert any(moved)


def test_with_one_update_a_batch_clip_and_ratio_change_nothing(stopping, tokenizer):
    ends = []
    for switch in ({}, {"clip": (0.01, 0.01)}, {"ratio": "sequence"}):
        grpo(policy := stopping(), has_word, PROMPTS, tokenizer, **QUICK | switch)
        ends.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(ends[0], ends[2], atol=1e-5, rtol=0)


def test_flat_groups_get_no_forward_pass_and_change_nothing(stopping, tokenizer, monkeypatch):
    asked = []
    whole = module.token_logps
    monkeypatch.setattr(
        module, "token_logps", lambda model, batch: asked.append(len(batch.lengths)) or whole(model, batch)
    )
    before = copy.deepcopy(policy := stopping())
    history = grpo(policy, never, PROMPTS, tokenizer, **QUICK)
    assert asked == [] and history["flat"] == [1.0] * 3 and all(math.isnan(x) for x in history["loss"])
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before.parameters(), strict=True))
    half = lambda prompts, texts: torch.tensor([float(p == PROMPTS[0] and " " in t) for p, t in zip(prompts, texts)])  # noqa: B905, E731
    grpo(policy, half, PROMPTS, tokenizer, **QUICK)
    assert max(asked) <= QUICK["k"] * 4 and min(asked) >= 1 and sum(n <= QUICK["k"] for n in asked) >= 1


def test_a_kl_in_the_loss_keeps_the_policy_near(stopping, tokenizer):
    reference, kls = stopping(), []
    for beta in (0.01, 3.0):
        policy = stopping()
        history = grpo(policy, has_word, PROMPTS, tokenizer, reference=reference, beta=beta,
                       **{**QUICK, "steps": 20, "lr": 3e-3})  # fmt: skip
        kls.append(history["kl"][-1])
        assert history["kl"][0] == pytest.approx(0, abs=1e-5)
    assert kls[1] < kls[0]


def test_flat_groups_do_not_blow_up_the_kl(stopping, tokenizer):
    """The trap of GRPO's advantages over penalised rewards: here a flat group has A = 0, whatever its KL is."""
    reference, policy = stopping(), stopping()
    with torch.no_grad():
        policy.transformer.wte.weight.add_(0.05 * torch.randn_like(policy.transformer.wte.weight))
    history = grpo(policy, never, PROMPTS, tokenizer, reference=reference, beta=0.05, std=True, **QUICK)
    assert history["clip_fraction"] == [0.0] * 3 and all(0 <= loss < 5 for loss in history["loss"])


def test_dynamic_sampling_draws_until_groups_have_a_contrast(stopping, tokenizer):
    asked = [PROMPTS] * 3
    rare = lambda prompts, texts: torch.tensor([float(len(t) % 3 == 0) for t in texts])  # noqa: E731
    batch, rewards, seen = module._draw(stopping(), rare, asked, tokenizer, 4, 8, 0, 0)
    assert batch.input_ids.shape[0] == 16 and rewards.shape == (4, 4) and 1 <= len(seen) <= 3
    drawn = torch.cat([contrast(s.rewards.view(-1, 4)) for s in seen])
    assert contrast(rewards).sum() == min(int(drawn.sum()), 4)
    assert (batch.completion_mask.sum(-1) > 0).all()
    _, flat, three = module._draw(stopping(), never, asked, tokenizer, 4, 8, 0, 0)
    assert len(three) == 3 and not contrast(flat).any(), "it gives up after the rounds it has"


def test_rounds_of_other_widths_keep_their_tokens(stopping, tokenizer):
    rare = lambda prompts, texts: torch.tensor([float(len(t) % 2) for t in texts])  # noqa: E731
    batch, _, seen = module._draw(stopping(), rare, [["This movie"], ["We know the cast is"]], tokenizer, 8, 8, 3, 0)
    first = Batch(seen[0].batch.input_ids, seen[0].batch.completion_mask)
    assert batch.lengths.tolist() in (first.lengths.tolist(), seen[-1].batch.lengths.tolist())


WRONG = [
    ({"length": "mean"}, "length must be own, most, batch"),
    ({"ratio": "word"}, "ratio must be token or sequence"),
    ({"clip": (1.5, 0.2)}, r"clip\[0\]"),
    ({"k": 1}, "k"),
    ({"minibatches": 9}, "minibatches"),
    ({"beta": 0.1}, "there is no reference"),
]


@pytest.mark.parametrize(("settings", "said"), WRONG)
def test_what_cannot_work_is_refused(stopping, tokenizer, settings, said):
    with pytest.raises(ValueError, match=said):
        grpo(stopping(), has_word, PROMPTS, tokenizer, **QUICK | settings)
