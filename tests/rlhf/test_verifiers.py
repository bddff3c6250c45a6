"""Verifiers pass what they promise to pass; pass@k is unbiased; the least KL is a bound, and is reached."""

import math
from itertools import combinations

import pytest
import torch

from prefcourse.rlhf import verifiers
from prefcourse.rlhf.verifiers import judged_part, least_kl, new_part, pass_at_k, two_sentences
from prefcourse.tabular import kl, optimal_policy

PASS = [
    ("The film was", " very dull. I left the cinema early."),
    ("The film was dull.", " I left early!"),
    ("Was the film dull?", " It was not."),
]
FAIL = [
    ("The film was", " very dull."),
    ("The film was", " dull. I left. It was late."),
    ("The film was", " dull. I left."),
    ("I like this film.", " I like this film!"),
    ("The film was dull.", ""),
    ("The film was dull", " and I left early"),
]


def of(verifier, prompt, completion):
    return verifier([prompt], [completion]).item()


@pytest.mark.parametrize(("prompt", "completion"), PASS)
def test_two_sentences_pass(prompt, completion):
    assert of(two_sentences, prompt, completion) == 1


@pytest.mark.parametrize(("prompt", "completion"), FAIL)
def test_everything_else_fails(prompt, completion):
    assert of(two_sentences, prompt, completion) == 0


def test_the_sloppy_verifier_takes_a_list_of_words_and_the_strict_one_does_not():
    hacked = " music script cast camera score story"
    assert of(new_part, "The acting was", hacked) == 1 and of(judged_part, "The acting was", hacked) == 0
    meant = " fine, but the music was awful."
    assert of(new_part, "The acting was", meant) == of(judged_part, "The acting was", meant) == 1


def test_a_part_that_the_prompt_names_is_not_new():
    assert of(new_part, "The actors and", " the cast were great.") == 0
    assert of(new_part, "The actors and", " the story were great.") == 1


@pytest.mark.parametrize(
    "text", [" the music was great", " the music was.", " the music the music the music was great.", " great. Music."]
)
def test_the_strict_verifier_wants_an_end_a_judgement_and_no_repetition(text):
    assert of(new_part, "I think", text) == 1 and of(judged_part, "I think", text) == 0


def test_parts_are_counted_as_often_as_they_stand_there():
    assert verifiers.parts_named([" music music plot", " nothing"]).tolist() == [3, 0]
    assert all(a.isdisjoint(b) for a, b in combinations(verifiers.PARTS.values(), 2))


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n in (1, 4, 7):
        for right in range(n + 1):
            samples = [1] * right + [0] * (n - right)
            for k in range(1, n + 1):
                shares = [max(s) for s in combinations(samples, k)]
                assert pass_at_k(torch.tensor(right), n, k).item() == pytest.approx(sum(shares) / len(shares))


def test_pass_at_k_is_unbiased_and_the_plug_in_is_too_low():
    n, k, p = 8, 4, 0.2
    right = torch.arange(n + 1, dtype=torch.float64)
    chance = torch.tensor([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)], dtype=torch.float64)
    assert (chance @ pass_at_k(right, n, k)).item() == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert (chance @ (1 - (1 - right / n) ** k)).item() < 1 - (1 - p) ** k - 0.01


@pytest.mark.parametrize(("right", "n", "k", "said"), [(1, 4, 5, "k is 5"), (5, 4, 1, "right"), (0.5, 4, 1, "whole")])
def test_what_is_no_count_is_refused(right, n, k, said):
    with pytest.raises(ValueError, match=said):
        pass_at_k(torch.tensor(right), n, k)


def test_the_least_kl_is_a_bound_that_the_best_policy_reaches():
    draw = torch.Generator().manual_seed(0)
    reference = torch.rand(1, 6, generator=draw, dtype=torch.float64)
    reference, right = reference / reference.sum(), torch.tensor([[1.0, 0, 0, 1, 0, 0]], dtype=torch.float64)
    best = optimal_policy(reference, right, 0.5)
    p, q = ((policy * right).sum().item() for policy in (reference, best))
    assert math.log(q / (1 - q)) - math.log(p / (1 - p)) == pytest.approx(2)
    assert kl(best, reference).item() == pytest.approx(least_kl(p, q), abs=1e-12)
    for _ in range(20):
        other = torch.rand(1, 6, generator=draw, dtype=torch.float64)
        other = other / other.sum()
        assert kl(other, reference).item() >= least_kl(p, (other * right).sum().item()) - 1e-12


def test_the_least_kl_at_its_ends():
    assert least_kl(0.3, 0.3) == 0 and least_kl(0.25, 1) == pytest.approx(math.log(4)) and least_kl(0, 0.1) == math.inf
    assert least_kl(0.0, 0.0) == 0
