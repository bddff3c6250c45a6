"""Language models as judges: the score is the log-odds of the answers, whatever the batch, and orders are averaged."""

import pytest
import torch

from prefcourse.feedback.judges import ClassifierJudge, ModelJudge, PairJudge, answer_odds

PROMPTS = ["This movie", "The old film", "I think the story"]
TEXTS = [" is wonderful.", " was a waste of time and I like it.", " is boring!"]


def by_hand(model, tokenizer, text, answer):
    """log p(answer | text), token by token."""
    ids, total = tokenizer(text)["input_ids"], 0.0
    for token in tokenizer(answer)["input_ids"]:
        total += model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token].item()
        ids = [*ids, token]
    return total


@torch.no_grad()
def test_a_model_judges_by_the_odds_of_two_answers(tiny_gpt2, tokenizer):
    model = tiny_gpt2()
    judge = ModelJudge(
        model, tokenizer, template="{prompt}{completion} I say:", good=" great fun", bad=" boring", batch_size=2
    )
    found = judge(PROMPTS, TEXTS)
    whole = [f"{x}{y} I say:" for x, y in zip(PROMPTS, TEXTS, strict=True)]
    expected = [by_hand(model, tokenizer, t, " great fun") - by_hand(model, tokenizer, t, " boring") for t in whole]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(judge(PROMPTS[::-1], TEXTS[::-1]), found.flip(0))


def test_braces_in_a_text_are_text(tiny_gpt2, tokenizer):
    assert ModelJudge(tiny_gpt2(), tokenizer, good=" great", bad=" dull")(["A {film}"], [" {0} is"]).shape == (1,)


def test_a_pair_judge_sees_both_orders_and_turns_with_the_texts(tiny_gpt2, tokenizer):
    judge = PairJudge(
        tiny_gpt2(), tokenizer, "Kind?", template="{principle} {first} or{second}:", answers=(" was", " is")
    )
    straight, turned = judge.both_orders(PROMPTS, TEXTS, TEXTS[::-1])
    torch.testing.assert_close(judge(PROMPTS, TEXTS, TEXTS[::-1]), (straight - turned) / 2)
    torch.testing.assert_close(judge(PROMPTS, TEXTS[::-1], TEXTS), (turned - straight) / 2)
    assert judge(PROMPTS, TEXTS, TEXTS).abs().max() == 0  # equal texts: no opinion, whatever the bias
    assert straight.abs().max() > 0


def test_a_classifier_is_asked_for_a_class_by_its_name(tokenizer):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2, num_labels=3, pad_token_id=0,
        id2label={0: "BAD", 1: "GOOD", 2: "MIXED"}, label2id={"BAD": 0, "GOOD": 1, "MIXED": 2},
    )  # fmt: skip
    model = GPT2ForSequenceClassification(config).eval()
    found = ClassifierJudge(model, tokenizer, label="GOOD", batch_size=2)(PROMPTS, TEXTS)
    for x, y, odds in zip(PROMPTS, TEXTS, found.tolist(), strict=True):
        p = model(torch.tensor([tokenizer(x + y)["input_ids"]])).logits[0].softmax(-1)
        assert odds == pytest.approx((p[1] / (1 - p[1])).log().item(), abs=1e-4)
    with pytest.raises(ValueError, match="no class 'POSITIVE'; its classes are: BAD, GOOD, MIXED"):
        ClassifierJudge(model, tokenizer)


def test_what_cannot_be_asked_is_refused(tiny_gpt2, tokenizer):
    model = tiny_gpt2()
    with pytest.raises(ValueError, match="must have tokens, and different ones"):
        answer_odds(model, tokenizer, ["a"], " good", " good")
    with pytest.raises(ValueError, match=r"text 1 has .* tokens; with its answer it must fit into 64"):
        answer_odds(model, tokenizer, ["a", "film " * 100], " good", " bad")
    with pytest.raises(ValueError, match=r"can hold \{prompt\}, \{completion\} and no other field"):
        ModelJudge(model, tokenizer, template="{text}")(["a"], ["b"])
    with pytest.raises(ValueError, match="one of each for every text"):
        ModelJudge(model, tokenizer)(["a"], ["b", "c"])
