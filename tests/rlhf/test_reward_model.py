"""The reward model: which token it reads, that it learns, its margins, and that a saved one comes back whole."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2ForSequenceClassification

from prefcourse import results
from prefcourse.preferences import collate, collate_pairs, encode
from prefcourse.results import reward_models
from prefcourse.rewards import GoldReward, bradley_terry_loss
from prefcourse.rlhf.best_of_n import sample_pool
from prefcourse.rlhf.reward_model import RewardModel, pair_margins, train_reward_model

QUICK = {"lr": 3e-3, "steps": 20, "batch_size": 12, "precision": "fp32", "progress": False}


@pytest.fixture
def model(tiny_gpt2, tokenizer):
    """A reward model whose head is not 0."""
    found = RewardModel(tiny_gpt2(), tokenizer)
    torch.manual_seed(1)
    torch.nn.init.normal_(found.head.weight)
    torch.nn.init.normal_(found.head.bias)
    return found


@pytest.fixture
def easy(pairs):
    return [row | {"chosen": " is great fun.", "rejected": " was boring!"} for row in pairs]


# ------------------------------------------------------------------------------------------- the token it reads


def test_the_score_is_read_at_eos_one_text_at_a_time(model, tokenizer, pairs):
    batch = collate_pairs(pairs, tokenizer)
    texts = [(row["prompt"], row[side]) for side in ("chosen", "rejected") for row in pairs]
    alone = []
    for prompt, completion in texts:
        x, y = encode(prompt, completion, tokenizer)
        assert y[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
        hidden = model.body(torch.tensor([x + y])).last_hidden_state  # (1, T, D), no padding
        alone.append(hidden[0, -1] @ model.head.weight[0] + model.head.bias[0])
    assert torch.allclose(model.score(batch), torch.stack(alone), atol=1e-5)
    called = model([x for x, _ in texts], [y for _, y in texts], batch_size=7)
    assert torch.allclose(called, torch.stack(alone), atol=1e-5) and called.device.type == "cpu"
    assert not called.requires_grad and called.dtype == torch.float32


def test_padding_and_order_change_nothing(model, tokenizer, pairs):
    sequences = [encode(row["prompt"], row["chosen"], tokenizer) for row in pairs]
    whole = model.score(collate(sequences, tokenizer.pad_token_id))
    turned = model.score(collate(sequences[::-1], tokenizer.pad_token_id)).flip(0)
    one = torch.cat([model.score(collate([s], tokenizer.pad_token_id)) for s in sequences])
    assert torch.allclose(whole, turned, atol=1e-5) and torch.allclose(whole, one, atol=1e-5)


def test_transformers_own_classifier_reads_another_token(tiny_gpt2, tokenizer, pairs):
    """With pad == eos it takes the last token that is not EOS: the text's end does not reach the score."""
    policy = tiny_gpt2()
    theirs = GPT2ForSequenceClassification(tiny_gpt2(num_labels=1).config).eval()
    theirs.transformer.load_state_dict(policy.transformer.state_dict())
    ours = RewardModel(policy, tokenizer)
    with torch.no_grad():
        ours.head.weight.copy_(theirs.score.weight)
    batch = collate_pairs(pairs, tokenizer)
    with torch.no_grad():
        found = theirs(batch.input_ids).logits[:, 0]
        hidden = ours.body(batch.input_ids).last_hidden_state
        last = batch.completion_mask.int().cumsum(1).argmax(1)  # EOS
        before = ours.head(hidden[torch.arange(len(last)), last - 1])[:, 0]
    assert torch.allclose(found, before, atol=1e-5), "transformers now reads another token: update the lesson"
    assert (found - ours.score(batch)).abs().min() > 1e-3


def test_an_empty_completion_is_eos_alone_and_no_texts_are_no_scores(model, tokenizer):
    ids = tokenizer("This film")["input_ids"]
    hidden = model.body(torch.tensor([[*ids, tokenizer.eos_token_id]])).last_hidden_state
    assert model(["This film"], [""]).item() == pytest.approx(model.head(hidden[0, -1]).item(), abs=1e-5)
    assert model([], []).shape == (0,)


def test_bad_texts_are_named(model):
    with pytest.raises(ValueError, match="2 prompts and 1 completion;"):
        model(["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"text 1 \(from 0\): the prompt is empty"):
        model(["This", ""], [" film.", " film."])
    with pytest.raises(ValueError, match=r"text 0 \(from 0\): \d+ tokens, but the model takes 64"):
        model(["This film"], [" and so on" * 40])


# ------------------------------------------------------------------------------------------- training


def test_it_starts_at_ln_2_and_learns(tiny_gpt2, tokenizer, easy):
    body = tiny_gpt2()
    before = [p.clone() for p in body.parameters()]
    model, history = train_reward_model(body, easy, tokenizer, **QUICK)
    assert history["loss"][0] == pytest.approx(math.log(2), abs=1e-6) and history["loss"][-1] < 0.4
    assert all(torch.equal(a, b) for a, b in zip(before, body.parameters(), strict=True)), "the body given is a copy"
    margins = pair_margins(model, easy)
    assert (margins > 0).all()
    sides = [model([r["prompt"] for r in easy], [r[s] for r in easy]) for s in ("chosen", "rejected")]
    assert torch.cat(sides).mean().item() == pytest.approx(0, abs=1e-5)
    assert torch.allclose(margins, sides[0] - sides[1], atol=1e-6)


def test_the_bias_has_no_gradient_and_a_seed_gives_one_model(tiny_gpt2, tokenizer, easy):
    model = RewardModel(tiny_gpt2(), tokenizer)
    chosen, rejected = model.score(collate_pairs(easy, tokenizer)).chunk(2)
    bradley_terry_loss(chosen, rejected).sum().backward()
    assert model.head.bias.grad.abs().max() < 1e-6 < model.head.weight.grad.abs().max()
    first, again = (train_reward_model(tiny_gpt2(), easy, tokenizer, seed=3, **QUICK)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_margin_pulls_the_scores_apart(tiny_gpt2, tokenizer, easy):
    """Also one for each row, in the column margin, as in Llama 2 and TRL."""
    settings = QUICK | {"steps": 60}
    plain, one = (train_reward_model(tiny_gpt2(), easy, tokenizer, margin=m, **settings) for m in (0.0, 2.0))
    assert one[1]["loss"][0] == pytest.approx(math.log(1 + math.exp(2)), abs=1e-5)
    assert pair_margins(one[0], easy).mean() > pair_margins(plain[0], easy).mean() + 0.5
    same = [row | {"margin": 2} for row in easy]
    assert train_reward_model(tiny_gpt2(), same, tokenizer, **settings)[1]["loss"] == pytest.approx(one[1]["loss"])
    mixed = [row | {"margin": float(i % 2)} for i, row in enumerate(easy)]
    first = train_reward_model(tiny_gpt2(), mixed, tokenizer, **QUICK | {"batch_size": 36})[1]["loss"][0]
    assert first == pytest.approx((math.log(2) + math.log(1 + math.e)) / 2, abs=1e-5)
    with pytest.raises(ValueError, match=r"margin=2\.0, but the pairs have a column 'margin'"):
        train_reward_model(tiny_gpt2(), same, tokenizer, margin=2.0, **QUICK)
    with pytest.raises(ValueError, match="line 36: 'margin' must be a number, 0 or more"):
        train_reward_model(tiny_gpt2(), [*same[:-1], easy[-1]], tokenizer, **QUICK)
    with pytest.raises(ValueError, match="margin is -1"):
        train_reward_model(tiny_gpt2(), easy, tokenizer, margin=-1.0, **QUICK)


def test_a_run_goes_on_from_its_checkpoint(tiny_gpt2, tokenizer, easy, tmp_path):
    class Stop(Exception):
        pass

    def stop(model):
        if stop.looks == 2:
            raise Stop
        stop.looks += 1
        return {}

    stop.looks = 0
    settings = QUICK | {"checkpoint": tmp_path, "checkpoint_every": 5}
    with pytest.raises(Stop):
        train_reward_model(tiny_gpt2(), easy, tokenizer, measure=stop, every=8, **settings)
    resumed, _ = train_reward_model(tiny_gpt2(), easy, tokenizer, resume=True, **settings)
    whole, _ = train_reward_model(tiny_gpt2(), easy, tokenizer, **QUICK)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_rows_that_are_too_long_are_left_out_of_the_centre_too(tiny_gpt2, tokenizer, easy):
    rows = [*easy, easy[0] | {"chosen": " and so on" * 40}]
    model, _ = train_reward_model(tiny_gpt2(), rows, tokenizer, too_long="drop", **QUICK)
    sides = [model([r["prompt"] for r in easy], [r[s] for r in easy]) for s in ("chosen", "rejected")]
    assert torch.cat(sides).mean().item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="line 37"):
        train_reward_model(tiny_gpt2(), rows, tokenizer, **QUICK)


def test_another_tokenizer_is_refused(tiny_gpt2, tokenizer):
    with pytest.raises(ValueError, match="body: its vocabulary has 100 tokens"):
        RewardModel(tiny_gpt2(vocab_size=100), tokenizer)


# ------------------------------------------------------------------------------------------- what one does with it


def test_pair_margins_of_any_reward(pairs):
    gold = GoldReward({"wonderful": 1.0, "dull": -2.0, "boring": -1.0})
    found = pair_margins(gold, pairs[:2])
    assert found.tolist() == [1.0, gold.score(pairs[1]["chosen"]) - gold.score(pairs[1]["rejected"])]
    seen = []
    pair_margins(lambda x, y: (seen.append(len(x)), torch.zeros(len(x)))[1], pairs)
    assert seen == [len({(r["prompt"], r[s]) for r in pairs for s in ("chosen", "rejected")})], "each text once"


def test_it_goes_wherever_the_gold_reward_goes(model, tiny_gpt2, tokenizer):
    prompts = ["This film", "We know the story"]
    pool, rewards = sample_pool(tiny_gpt2(), model, prompts, tokenizer, n=3, max_new_tokens=5)
    texts = [c.text for group in pool for c in group]
    assert torch.allclose(rewards.flatten(), model([p for p in prompts for _ in range(3)], texts), atol=1e-5)


def test_shift_and_divide(model, pairs):
    prompts, texts = [r["prompt"] for r in pairs], [r["chosen"] for r in pairs]
    before, margins = model(prompts, texts), pair_margins(model, pairs)
    model.shift(3.0)
    assert torch.allclose(model(prompts, texts), before + 3, atol=1e-5)
    assert torch.allclose(pair_margins(model, pairs), margins, atol=1e-5)
    model.divide(2.0)
    assert torch.allclose(model(prompts, texts), (before + 3) / 2, atol=1e-5)
    with pytest.raises(ValueError, match="temperature is 0"):
        model.divide(0.0)


# ------------------------------------------------------------------------------------------- on disk


def test_save_and_load(model, tmp_path):
    place = model.save(tmp_path / "rm")
    again = RewardModel.load(place)
    prompts, texts = ["This film", "We know the story"], [" is great fun.", " was boring!"]
    assert torch.equal(again(prompts, texts), model(prompts, texts))
    assert all(p.requires_grad for p in again.parameters())
    with pytest.raises(ValueError):  # transformers must not take it for a language model with random weights
        AutoModelForCausalLM.from_pretrained(place)


def test_loading_says_what_is_wrong(model, tiny_gpt2, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json, so no reward model is here"):
        RewardModel.load(tmp_path / "nothing")
    place = tmp_path / "policy"
    tiny_gpt2().save_pretrained(place)
    tokenizer.save_pretrained(place)
    with pytest.raises(ValueError, match="another kind of model"):
        RewardModel.load(place)
    place = model.save(tmp_path / "rm")
    weights = place / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        RewardModel.load(place)
    weights.write_bytes(whole)
    record = json.loads((place / "config.json").read_text(encoding="utf-8"))
    for text, message in (
        ("{", "config.json is damaged"),
        (json.dumps(record | {"version": 99}), "version 99, and this package reads version 1"),
        (json.dumps(record | {"body": record["body"] | {"n_embd": 16}}), "is damaged"),
    ):
        (place / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            RewardModel.load(place)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors"):
        RewardModel.load(place)


# ------------------------------------------------------------------------------------------- the stored grids


def test_a_run_of_the_grid_reports_before_and_after_the_temperature(monkeypatch):
    """The labels that it trains on are those asked for, and it is judged on the test pairs."""
    rng = random.Random(0)
    rows = []
    for i in range(400):
        gap = rng.gauss(0, 2)
        won = rng.random() < 1 / (1 + math.exp(-gap))
        sides = ((" up", gap), (" down", 0.0)) if won else ((" down", 0.0), (" up", gap))
        (chosen, a), (rejected, b) = sides
        rows.append({"prompt": f"p{i}", "chosen": chosen, "rejected": rejected, "chosen_score": a, "rejected_score": b})
    world = SimpleNamespace(
        pairs={"train": rows, "validation": rows[:200], "test": rows[200:]}, sft=None, tokenizer=None
    )
    gold = {(row["prompt"], row[side]): row[f"{side}_score"] for row in rows for side in ("chosen", "rejected")}
    seen = {}

    def fake(body, pairs, tokenizer, **settings):
        seen.update(pairs=pairs, settings=settings)
        return (lambda x, y: torch.tensor([3 * gold[key] for key in zip(x, y, strict=True)])), {}

    monkeypatch.setattr(reward_models, "train_reward_model", fake)
    _, found = reward_models.fit_and_assess(world, 100, seed=2, flips=0.25, margin=0.5)
    assert seen["settings"]["seed"] == 2 and seen["settings"]["margin"] == 0.5
    assert len(seen["pairs"]) == 100 and sum(row not in rows for row in seen["pairs"]) == 25
    found, temperature = found["metrics"], found["temperature"]
    assert temperature == pytest.approx(3, rel=0.4), "the made-up model is three times too sure"
    assert found["ece_gold"]["value"] > 0.1 > found["ece_gold_scaled"]["value"]
    assert found["gold_order"]["value"] == 1 and found["nll_scaled"]["value"] < found["nll"]["value"]
    assert set(reward_models.GRIDS) <= set(results.GRIDS)

    monkeypatch.setattr(reward_models, "PAIRS", 100)
    found = reward_models.trained_so(world, "two passes", seed=91)["metrics"]
    assert seen["settings"] == {"epochs": 2, "seed": 91, "progress": False}
    assert found["accuracy"]["value"] == sum(row["chosen_score"] > row["rejected_score"] for row in rows[:200]) / 200
