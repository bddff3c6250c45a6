"""Measurements: intervals that cover, ties that count half, a KL that is exact in expectation, and the table."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prefcourse.evaluate import (
    METRICS,
    MORE,
    Estimate,
    bootstrap,
    distinct_2,
    evaluate,
    non_words,
    over_seeds,
    pair_logps,
    points,
    repetition,
    sequence_kl,
    table,
    typicality,
    win_rate,
)
from prefcourse.generate import Completion, generate, sample_ids
from prefcourse.logprobs import kl_k3
from prefcourse.rewards import GoldReward

PROMPTS = ["This movie", "The old film", "I think the story", "That cast"] * 12


@pytest.fixture(scope="module")
def world(tiny_gpt2, tokenizer):
    """What `evaluate` asks of a world."""
    gold = GoldReward({"great": 1.0, "is": 0.3, "was": -0.5, "boring": -2.0}, 0.1)
    rows = [{"prompt": prompt, "type": "neutral"} for prompt in PROMPTS]
    world = {"sft": tiny_gpt2(), "base": tiny_gpt2(2), "tokenizer": tokenizer, "gold": gold, "prompts": {"test": rows}}
    return SimpleNamespace(**world, words=frozenset(["this", "movie", "old", "film", "was"]))


# ------------------------------------------------------------------------------------------- intervals


def test_a_bootstrap_interval_covers_the_mean_about_19_times_in_20():
    g = torch.Generator().manual_seed(0)
    values = torch.empty(200, 60).exponential_(generator=g)  # skewed, with mean 1
    covers = [found.low <= 1 <= found.high for found in map(bootstrap, values)]
    assert 0.89 <= sum(covers) / 200 <= 0.98


def test_a_bootstrap_interval_is_that_of_the_normal_approximation():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, spread = bootstrap(values), 1.96 * values.std().item() / 20
    assert found.value == pytest.approx(values.mean().item())
    assert found.low == pytest.approx(found.value - spread, abs=0.02)
    assert found.high == pytest.approx(found.value + spread, abs=0.02)
    assert bootstrap(values) == found != bootstrap(values, seed=1)


def test_intervals_over_seeds_are_students():
    found = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3 and found.high - 3 == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5))
    for wrong in ([1.0], [1.0] * 11):
        with pytest.raises(ValueError, match=r"seeds?; allowed are 2 to 10"):
            over_seeds(wrong)
    few = [over_seeds(x) for x in np.random.default_rng(0).normal(size=(2000, 3))]
    assert np.mean([one.low <= 0 <= one.high for one in few]) == pytest.approx(0.95, abs=0.015)


def test_numbers_that_differ_by_factors_have_an_interval_above_0():
    found = over_seeds([1.0, 10.0, 100.0], factors=True)
    logs = over_seeds([math.log(x) for x in (1.0, 10.0, 100.0)])
    assert found.value == pytest.approx(10) and found.low == pytest.approx(math.exp(logs.low)) and found.low > 0
    with pytest.raises(ValueError, match=r"got 0 among the values; .*allowed are numbers above 0"):
        over_seeds([0.0, 1.0], factors=True)


def test_equal_values_have_an_interval_of_width_0():
    assert bootstrap([2.0, 2.0, 2.0]) == Estimate(2.0, 2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0], [3.0, 4.0]]])
def test_a_bootstrap_needs_a_row_of_at_least_two(values):
    with pytest.raises(ValueError, match=r"allowed is one row, .*at least 2 long"):
        bootstrap(values)


def test_points_are_wins_and_half_of_the_ties():
    assert points(torch.tensor([2.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, 1.0])).tolist() == [1.0, 0.5, 0.0]
    assert points(torch.tensor([2.0, 0.0, -1.0]), 0.0).tolist() == [1.0, 0.5, 0.0]


def test_pairs_are_scored_side_by_side(tiny_gpt2, tokenizer, pairs):
    chosen, rejected = pair_logps(tiny_gpt2(), pairs[:5], tokenizer)
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs[:5]]
    other, one = pair_logps(tiny_gpt2(), turned, tokenizer)
    torch.testing.assert_close(torch.stack([chosen, rejected]), torch.stack([one, other]), atol=1e-4, rtol=1e-5)
    assert chosen.shape == (5,) and bool((chosen < 0).all()) and not chosen.requires_grad


def test_an_estimate_prints_with_its_interval():
    estimate = Estimate(1.2345, 1.1, 1.3)
    assert str(estimate) == "1.23 [1.10, 1.30]" and f"{estimate:.1f}" == "1.2 [1.1, 1.3]"


def test_a_tie_counts_one_half():
    found = win_rate(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 2.0, 3.0, 1.0]))
    assert found.value == 0.5 and 0 <= found.low < 0.5 < found.high <= 1
    equal = torch.randn(10)
    assert win_rate(equal, equal) == Estimate(0.5, 0.5, 0.5)
    assert win_rate(equal + 1, equal) == Estimate(1.0, 1.0, 1.0)


# ------------------------------------------------------------------------------------------- KL


def test_the_kl_of_a_model_to_itself_is_0(world, tiny_gpt2):
    completions = generate(world.sft, world.tokenizer, PROMPTS, max_new_tokens=12)
    found = sequence_kl(world.sft, tiny_gpt2(), world.tokenizer, PROMPTS, completions)
    assert found.shape == (48,) and (found == 0).all()


def test_each_value_is_the_log_ratio_of_its_own_completion(world, tiny_gpt2):
    other = tiny_gpt2(1)
    sampled = generate(world.sft, world.tokenizer, PROMPTS[:8], max_new_tokens=12)
    cut = [(5 * i) % 11 + 1 for i in range(8)]  # of many lengths: sorting by them inside must not mix the rows up
    completions = [Completion("", c.ids[:n], False) for c, n in zip(sampled, cut, strict=True)]
    found = sequence_kl(world.sft, other, world.tokenizer, PROMPTS[:8], completions, batch_size=3)
    for prompt, completion, value in zip(PROMPTS, completions, found, strict=False):
        prompt_ids = world.tokenizer(prompt)["input_ids"]
        ids = torch.tensor([prompt_ids + completion.ids])
        a, b = (m(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0] for m in (world.sft, other))
        assert value.item() == pytest.approx((a - b)[len(prompt_ids) - 1 :].sum().item(), abs=1e-4)


def test_its_mean_is_the_kl_by_enumeration(tiny_gpt2):
    """Completions of up to two tokens from a vocabulary of five (0 is EOS): 21 outcomes, so the KL is a sum."""
    policy, reference = (tiny_gpt2(seed, vocab_size=5, n_embd=16, n_layer=1, n_head=1) for seed in (3, 4))
    words_of = {"a": [1, 2, 3], "b": [4]}

    class Words:
        pad_token_id = 0

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": words_of[text] if isinstance(text, str) else [words_of[one] for one in text]}

    def logps(model, ids):
        return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).double()

    with torch.no_grad():
        exact = 0.0
        for ids in words_of.values():
            p, q = logps(policy, ids), logps(reference, ids)
            exact += (p.exp() * (p - q)).sum().item() / 2
            for first in range(1, 5):  # 0 ends it
                p2, q2 = logps(policy, [*ids, first]), logps(reference, [*ids, first])
                exact += (p[first].exp() * (p2.exp() * (p2 - q2)).sum()).item() / 2
    prompts = ["a", "b"] * 3_000
    ids = sample_ids(policy, [words_of[p] for p in prompts], max_new_tokens=2, batch_size=6_000)
    completions = [Completion("", row, row[-1] == 0) for row in ids]
    values = sequence_kl(policy, reference, Words(), prompts, completions, batch_size=2_000)
    assert values.mean().item() == pytest.approx(exact, abs=4 * values.std().item() / math.sqrt(6_000))
    assert exact > 10 * values.std().item() / math.sqrt(6_000) and values.min() < 0


# ------------------------------------------------------------------------------------------- diversity


def test_distinct_2_counts_pairs_within_groups_of_20():
    assert distinct_2(["a b c"] * 40).value == pytest.approx(2 / 40)
    assert distinct_2([f"{i} {i + 1}" for i in range(40)]) == Estimate(1.0, 1.0, 1.0)
    assert distinct_2(["A b", "a B"] * 20).value == pytest.approx(1 / 20)  # case does not count
    half = ["a b"] * 20 + [f"{i} x" for i in range(20)]
    assert distinct_2(half).value == pytest.approx((1 / 20 + 1) / 2)
    assert distinct_2(half + ["new pair"] * 19) == distinct_2(half)  # what is left over is not used
    assert distinct_2(["one"] * 40).value == 0


def test_distinct_2_needs_two_groups():
    with pytest.raises(ValueError, match="at least 40 texts, got 39"):
        distinct_2(["a b"] * 39)


def test_repetition_counts_triples_that_came_before():
    assert repetition("very very very very very") == pytest.approx(2 / 3)  # three triples, all the same
    assert repetition("A good film and a GOOD film and") == pytest.approx(2 / 6)
    assert repetition("one two three") == repetition("one two") == repetition("") == 0


# ------------------------------------------------------------------------------------------- worth


def test_typicality_is_the_mean_nats_of_a_token_after_eos(tiny_gpt2, tokenizer):
    model = tiny_gpt2()
    texts = [("This film", " is great fun."), ("", "That"), ("The old cast", " was boring!")]
    sequences = [(tokenizer(x)["input_ids"], [*tokenizer(y)["input_ids"], 0]) for x, y in texts]
    for (prompt, completion), found in zip(sequences, typicality(model, tokenizer, sequences), strict=True):
        ids = torch.tensor([[0, *prompt, *completion]])
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
        assert found.item() == pytest.approx(-logps[len(prompt) :].mean().item(), abs=1e-5)


def test_non_words_are_those_that_are_not_known():
    known = {"this", "film", "isn't", "well", "made", "i"}
    assert non_words("This film isn't well-made. I ...", known) == []
    assert non_words("This film ofwork isn't Portrafted", known) == ["ofwork", "portrafted"]
    assert non_words("", known) == non_words("12 !", known) == []


# ------------------------------------------------------------------------------------------- all of it


@pytest.fixture(scope="module")
def result(world, tiny_gpt2):
    return evaluate(tiny_gpt2(1), world, max_new_tokens=12)


def test_every_metric_comes_with_what_it_rests_on(world, result, tiny_gpt2, tokenizer):
    other = tiny_gpt2(1)
    assert list(result) == [*METRICS, *MORE] and len(result) == 11
    assert result.prompts == PROMPTS and len(result.completions) == len(result.baseline) == 48
    assert result["gold_reward"].value == pytest.approx(result.rewards.mean().item(), abs=1e-6)
    texts = [prompt + c.text for prompt, c in zip(PROMPTS, result.completions, strict=True)]
    assert result.rewards.tolist() == pytest.approx([world.gold.score(text) for text in texts])
    wins = (result.rewards > result.baseline_rewards).double() + 0.5 * (result.rewards == result.baseline_rewards)
    assert result["win_rate"].value == pytest.approx(wins.mean().item())
    assert result["length"].value == pytest.approx(sum(len(c.ids) for c in result.completions) / 48)
    assert result["eos_rate"].value == pytest.approx(sum(c.finished for c in result.completions) / 48)
    assert result["kl"].low > 1 and result["forward_kl"].low > 1  # two random models
    forgotten = sequence_kl(world.sft, other, world.tokenizer, PROMPTS, result.baseline)
    assert result["forward_kl"].value == pytest.approx(forgotten.mean().item(), abs=1e-5)
    ratios = sequence_kl(other, world.sft, world.tokenizer, PROMPTS, result.completions)
    assert result["kl_k3"].value == pytest.approx(kl_k3(ratios, 0 * ratios).mean().item(), rel=1e-4)
    assert result["repetition"].value == pytest.approx(sum(map(repetition, texts)) / 48)
    assert 0 < result["non_words"].value == sum(bool(non_words(text, world.words)) for text in texts) / 48
    ids = [(tokenizer(p)["input_ids"], c.ids) for p, c in zip(PROMPTS, result.completions, strict=True)]
    assert result["typicality"].value == pytest.approx(typicality(world.base, tokenizer, ids).mean().item())
    for estimate in result.values():
        assert estimate.low <= estimate.value <= estimate.high


def test_a_policy_equal_to_its_reference_draws_other_samples_and_wins_about_half(world):
    found = evaluate(world.sft, world, prompts=PROMPTS * 16, max_new_tokens=12)
    assert found["kl"] == Estimate(0.0, 0.0, 0.0)
    assert found.completions != found.baseline
    assert found["win_rate"].low < 0.5 < found["win_rate"].high and found["win_rate"].low < found["win_rate"].value


def test_a_world_without_a_list_of_words_has_no_non_words(world):
    found = evaluate(world.sft, SimpleNamespace(**vars(world) | {"words": None}), max_new_tokens=12)
    assert list(found) == [name for name in (*METRICS, *MORE) if name != "non_words"]
    assert "non-word" not in table({"sft": found}) and "nats/token" in table({"sft": found})


def test_a_baseline_can_be_used_again(world, result, tiny_gpt2):
    again = evaluate(tiny_gpt2(1), world, baseline=result.baseline, max_new_tokens=12)
    assert again.estimates == result.estimates
    assert evaluate(tiny_gpt2(1), world, seed=1, max_new_tokens=12).completions != result.completions


def test_the_table_has_a_line_for_each_metric_and_a_column_for_each_policy(result):
    lines = table({"sft": result, "dpo": result}).splitlines()
    assert lines[0].split() == ["sft", "dpo"] and set(lines[1]) == {"-"} and len(lines) == 10
    for line, (heading, decimals) in zip(lines[2:], METRICS.values(), strict=True):
        assert line.startswith(heading) and line.count("[") == 2
        assert len(line.split("[")[1].split(",")[0].split(".")[1]) == decimals
    starts = {line.index(f"{result['kl']:.2f}") for line in lines if line.startswith("KL")}
    assert starts == {lines[0].index("sft")}  # columns are aligned
