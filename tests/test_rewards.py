"""The gold reward: n-grams, a sum of weights, plain sentences on the bundled weights; and Bradley–Terry on tables."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from prefcourse.rewards import (
    GoldReward,
    bradley_terry_loss,
    fit_bradley_terry,
    information,
    log_likelihood,
    ngrams,
)
from prefcourse.tabular import bradley_terry

DATA = Path(__file__).resolve().parents[1] / "data"
TOY = GoldReward({"great": 2.0, "not great": -3.0, "film": 0.25, "dull": -1.5}, bias=0.5)


@pytest.fixture(scope="module")
def gold():
    return GoldReward.load(DATA / "gold.json")


# ------------------------------------------------------------------------------------------- the function


@pytest.mark.parametrize(("text", "expected"), [
    ("Great film", ["great", "film", "great film"]),
    ("Great. Film!", ["great", "film"]),  # punctuation parts neighbours
    ("so, so dull", ["so", "so", "dull", "so dull"]),
    ("I don't know", ["i", "don't", "know", "i don't", "don't know"]),
    ("It's 10 out of 10 -- GREAT", ["it's", "out", "of", "great", "it's out", "out of", "of great"]),
    ("", []),
    (" ... ", []),
])  # fmt: skip
def test_ngrams(text, expected):
    assert ngrams(text) == expected


def test_the_score_is_the_bias_plus_the_weights_as_often_as_they_occur():
    assert TOY.score("") == TOY.score("Unknown words") == 0.5
    assert TOY.score("A great, great film") == 0.5 + 2 * 2.0 + 0.25
    assert TOY.score("Not great") == 0.5 + 2.0 - 3.0
    assert TOY.score("Not. Great") == 0.5 + 2.0


def test_explain_adds_up_to_the_score():
    text = "A film that is not great, a dull film"
    parts = TOY.explain(text)
    assert parts == [("not great", -3.0), ("great", 2.0), ("dull", -1.5), ("film", 0.25), ("film", 0.25)]
    assert TOY.bias + sum(weight for _, weight in parts) == TOY.score(text)


def test_strongest():
    assert TOY.strongest(2) == ([("great", 2.0), ("film", 0.25)], [("not great", -3.0), ("dull", -1.5)])


def test_a_call_scores_prompt_and_completion_as_one_text():
    found = TOY(["This is not", "A dull"], [" great.", " film."])
    assert found.dtype == torch.float32
    assert found.tolist() == [0.5 - 1.0, 0.5 - 1.25]  # "not great" lies across the border
    with pytest.raises(ValueError, match="2 prompts and 1 completion;"):
        TOY(["a", "b"], ["c"])


def test_no_rows_make_an_empty_tensor():
    assert TOY([], []).shape == (0,)


def test_loading(tmp_path):
    path = tmp_path / "gold.json"
    path.write_text(json.dumps({"bias": -0.5, "weights": {"fine": 1.0}}), encoding="utf-8")
    assert GoldReward.load(path).score("Fine") == 0.5


# ------------------------------------------------------------------------------------------- the bundled weights

POSITIVE = (
    "This movie is wonderful.",
    "A great film with excellent acting.",
    "I loved every minute of it.",
    "One of the best movies I have ever seen.",
    "It is a beautiful story and well acted.",
    "The performances are superb.",
    "My favorite film of all time.",
    "Highly recommended.",
    "It is funny, touching and perfect for the whole family.",
)
NEGATIVE = (
    "A waste of time.",
    "This is the worst movie I have ever seen.",
    "The acting is terrible and the plot is awful.",
    "I was bored from the start.",
    "It is dull, stupid and badly written.",
    "Avoid this one.",
    "What a disappointment.",
    "The script is poor and nothing makes sense.",
    "Save your money.",
)


@pytest.mark.parametrize("text", POSITIVE)
def test_praise_scores_above_zero(gold, text):
    assert gold.score(text) > 0, gold.explain(text)


@pytest.mark.parametrize("text", NEGATIVE)
def test_blame_scores_below_zero(gold, text):
    assert gold.score(text) < 0, gold.explain(text)


def test_the_strongest_words_make_sense(gold):
    best, worst = ({n for n, _ in side} for side in gold.strongest(20))
    assert {"excellent", "perfect"} <= best and {"worst", "awful"} <= worst
    assert not best & {"bad", "boring", "dull", "poor"} and not worst & {"good", "great", "best", "love"}
    assert -2 < gold.bias < 2


def test_the_card_states_what_gold_says_of_negations(gold):
    """The reward gets some negations wrong. The card lists them with their scores, and these are the scores."""
    rows = re.findall(
        r"^\| ([A-Z][^|]*\.) \| ([+-]\d+\.\d\d) \|$", (DATA / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) >= 4
    assert [score for _, score in rows] == [f"{gold.score(text):+.2f}" for text, _ in rows]
    good = {"It is not bad at all.": True, "I did not like this film.": False, "It isn't boring.": True}
    wrong = [text for text, score in rows if text in good and (float(score) > 0) != good[text]]
    assert set(good) <= {text for text, _ in rows}
    assert wrong, "no negation is wrong any more: the card says some are"


# ------------------------------------------------------------------------------------------- Bradley–Terry


def random_rewards(*shape, seed=0):
    reward = 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return reward - reward.mean(-1, keepdim=True)


def test_the_loss_has_its_golden_values_and_is_the_one_of_trl():
    chosen, rejected = torch.tensor([1.2, 0.1]), torch.tensor([0.3, 0.5])
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx([0.341154, 0.913015], abs=1e-6)
    assert bradley_terry_loss(chosen, rejected, margin=1.0)[0].item() == pytest.approx(0.744397, abs=1e-6)
    margins = torch.tensor([1.0, 0.0])
    theirs = -torch.nn.functional.logsigmoid(chosen - rejected - margins)  # TRL's RewardTrainer, before the mean
    assert torch.equal(bradley_terry_loss(chosen, rejected, margin=margins), theirs)


def test_only_differences_enter_the_loss_and_it_is_finite_far_out():
    chosen, rejected = torch.tensor([1e4, -1e4]), torch.tensor([0.0, 0.0])
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx([0.0, 1e4])
    a, b = random_rewards(2, 50)
    f = 100 * random_rewards(50, seed=1)
    assert torch.allclose(bradley_terry_loss(a + f, b + f), bradley_terry_loss(a, b), atol=1e-10)


def test_bad_margins_are_named():
    one = torch.zeros(3)
    with pytest.raises(ValueError, match=r"margin is -1.0; allowed are finite numbers, 0 or more"):
        bradley_terry_loss(one, one, margin=-1.0)
    with pytest.raises(ValueError, match=r"margin is nan"):
        bradley_terry_loss(one, one, margin=float("nan"))
    with pytest.raises(ValueError, match=r"margin has shape \(2,\); allowed is \(3,\)"):
        bradley_terry_loss(one, one, margin=torch.zeros(2))
    with pytest.raises(ValueError, match=r"policy_chosen \(3,\), policy_rejected \(3, 1\)"):
        bradley_terry_loss(one, one[:, None])


def test_maximum_likelihood_gives_back_the_rewards_behind_exact_frequencies():
    reward = random_rewards(4, 6)
    assert torch.allclose(fit_bradley_terry(bradley_terry(reward)), reward, atol=1e-10)
    assert torch.allclose(fit_bradley_terry(1000 * bradley_terry(reward)), reward, atol=1e-10)
    assert torch.allclose(fit_bradley_terry(bradley_terry(reward)[0]), reward[0], atol=1e-10)


def test_two_responses_by_hand():
    """With a wins of n, the likelihood is highest at the log-odds log(a / (n - a))."""
    found = fit_bradley_terry(torch.tensor([[0, 7], [3, 0]]))
    assert (found[0] - found[1]).item() == pytest.approx(math.log(7 / 3), abs=1e-10)
    assert found.sum().item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_is_zero_at_the_estimate_and_its_likelihood_is_beaten_nowhere_near():
    wins = torch.randint(1, 9, (5, 5), generator=torch.Generator().manual_seed(2)).double()
    found = fit_bradley_terry(wins).requires_grad_()
    value = log_likelihood(wins, found)
    (gradient,) = torch.autograd.grad(value, found)
    assert gradient.abs().max() < 1e-8
    for seed in range(20):
        assert log_likelihood(wins, found.detach() + 0.1 * random_rewards(5, seed=seed)) < value
    assert log_likelihood(wins, found.detach() + 5).item() == pytest.approx(value.item(), abs=1e-9)


def test_information_is_minus_the_second_derivative():
    wins, reward = torch.arange(16.0, dtype=torch.float64).view(4, 4), random_rewards(4)
    second = torch.autograd.functional.hessian(lambda r: log_likelihood(wins, r), reward)
    assert torch.allclose(information(wins, reward), -second, atol=1e-10)
    assert information(wins, reward).sum(1).abs().max() < 1e-12  # what shifts all rewards is not seen


def test_no_maximum_where_one_side_always_wins():
    with pytest.raises(ValueError, match=r"no response outside \[0\] ever beats one of them"):
        fit_bradley_terry(torch.tensor([[0, 3, 2], [0, 0, 1], [0, 1, 0]]))
    with pytest.raises(ValueError, match=r"no response outside \[1, 3\]"):
        fit_bradley_terry(torch.tensor([[0, 0, 2, 0], [1, 0, 0, 2], [2, 0, 0, 0], [0, 2, 1, 0]]))
    with pytest.raises(ValueError, match="no finite maximum"):  # 2 was never compared
        fit_bradley_terry(torch.tensor([[0, 3, 0], [2, 0, 0], [0, 0, 0]]))
    chain = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]])  # a beats b beats c beats a
    assert torch.allclose(fit_bradley_terry(chain), torch.zeros(3, dtype=torch.float64), atol=1e-10)


def test_a_prior_makes_every_estimate_finite():
    one_sided = torch.tensor([[0, 5], [0, 0]])
    gaps = [float(torch.diff(fit_bradley_terry(one_sided, prior=p)).abs()) for p in (1.0, 0.1, 0.01)]
    assert gaps == sorted(gaps) and 0 < gaps[0] < gaps[-1] < 20
    r = fit_bradley_terry(one_sided, prior=0.1)  # its gradient is 0: wins lost to the sigmoid = pull of the prior
    assert (5 * (-(r[0] - r[1])).sigmoid() - 0.1 * r[0]).item() == pytest.approx(0, abs=1e-8)
    assert fit_bradley_terry(torch.zeros(3, 3), prior=1.0).tolist() == [0, 0, 0]


def test_bad_counts_are_named():
    for wins, message in (
        (torch.zeros(2, 3), r"wins is \(2, 3\)"),
        ([[0, 1], [1, 0]], "wins is list"),
        (torch.tensor([[0, -1], [1, 0]]), "wins: 1 of 4 values (is )?(not finite|outside 0)"),
        (torch.tensor([[0, float("nan")], [1, 0]]), "wins: 1 of 4 values (is )?(not finite|outside 0)"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_bradley_terry(wins)
    with pytest.raises(ValueError, match="prior is -1"):
        fit_bradley_terry(torch.ones(2, 2), prior=-1)
