"""Online DPO: who writes, who labels, and what a round is."""

import copy
import math

import pytest
import torch

from prefcourse import losses
from prefcourse.feedback.judges import ClassifierJudge
from prefcourse.feedback.online import fresh_pairs, online_dpo
from prefcourse.generate import Completion, usable
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import check_rows, collate_pairs
from prefcourse.train import train

PROMPTS = ["This movie", "The old film", "I think the story", "We know the cast"]


@pytest.fixture(scope="module")
def writer(tiny_gpt2, tokenizer, pairs):
    """A model that has learnt to write short sentences and to end them."""
    model = tiny_gpt2()
    train(model, pairs, tokenizer, loss="sft", lr=1e-2, steps=60, batch_size=12, progress=False)
    return model


def long(prompts, texts):
    """A judge who likes length, sharply."""
    return torch.tensor([5.0 * len(text) for text in texts])


def test_pairs_are_labelled_by_the_judge_and_their_scores_stand_with_them(writer, tokenizer):
    rows = fresh_pairs((writer, writer), long, PROMPTS, tokenizer, labels=40, reliability=100, max_new_tokens=16)
    assert len(check_rows(rows)) == 40 and {row["prompt"] for row in rows} == set(PROMPTS)
    for row in rows:
        assert row["chosen_score"] == 5.0 * len(row["chosen"]) >= row["rejected_score"] == 5.0 * len(row["rejected"])
    assert rows == fresh_pairs(
        (writer, writer), long, PROMPTS, tokenizer, labels=40, reliability=100, max_new_tokens=16
    )
    assert rows != fresh_pairs((writer, writer), long, PROMPTS, tokenizer, labels=40, seed=1, max_new_tokens=16)


def test_a_judge_who_sees_nothing_throws_a_fair_coin(writer, tokenizer):
    first = []

    def blind(prompts, texts):
        first.append(list(texts))
        return torch.zeros(len(texts))

    rows = fresh_pairs((writer, writer), blind, PROMPTS, tokenizer, labels=100, max_new_tokens=16)
    share = sum(row["chosen"] == text for row, text in zip(rows, first[0], strict=True)) / 100
    assert 0.3 < share < 0.7


def test_only_texts_that_ended_and_are_read_as_they_were_written_are_used(tokenizer):
    ids = tokenizer(" is great")["input_ids"]
    assert usable("It", Completion(" is great", [*ids, 0], True), tokenizer)
    assert not usable("It", Completion(" is great", ids, False), tokenizer)
    assert not usable("It", Completion(" ", [*tokenizer(" ")["input_ids"], 0], True), tokenizer)
    assert not usable("It", Completion(" is great", [*ids, 5, 0], True), tokenizer)
    assert usable("It", Completion(" is great", ids, False), tokenizer, open_ended=True)
    assert not usable("It", Completion(" is great", [*ids, 5], False), tokenizer, open_ended=True)


def test_a_writer_that_never_ends_is_an_error_that_says_so(writer, tokenizer):
    with pytest.raises(RuntimeError, match=r"pairs can be used .* do not end within 1 token"):
        fresh_pairs((writer, writer), long, PROMPTS, tokenizer, labels=20, max_new_tokens=1)
    rows = fresh_pairs((writer, writer), long, PROMPTS, tokenizer, labels=2, max_new_tokens=2, open_ended=True)
    assert len(rows) == 2


def test_one_round_is_dpo_on_the_policys_own_pairs(writer, tokenizer):
    """A round with one step, by hand."""
    theirs, ours = copy.deepcopy(writer), copy.deepcopy(writer)
    settings = {"lr": 3e-3, "beta": 0.3, "max_new_tokens": 16}
    seen = []
    history = online_dpo(
        theirs, long, PROMPTS, tokenizer, reference=writer, rounds=2, labels=8, batch_size=8, precision="fp32",
        progress=False, after_round=lambda number, rows: seen.append((number, rows)), **settings,
    )  # fmt: skip
    for number in range(2):
        rows = fresh_pairs((ours, ours), long, PROMPTS, tokenizer, labels=8, seed=number, max_new_tokens=16)
        assert seen[number] == (number + 1, rows)
        batch = collate_pairs(rows, tokenizer)
        with torch.no_grad():
            frozen = sequence_logps(writer, batch).chunk(2)
        optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0)
        losses.dpo_loss(*sequence_logps(ours, batch).chunk(2), *frozen, beta=0.3).mean().backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(sequence_logps(theirs, batch), sequence_logps(ours, batch), atol=2e-3, rtol=1e-3)
        assert (sequence_logps(theirs, batch) - sequence_logps(writer, batch)).abs().max() > 0.1
    assert history["round"] == [0, 1] and history["step"] == [0, 1]
    assert history["loss"][0] == pytest.approx(math.log(2)) and history["loss"][1] != pytest.approx(math.log(2))


def test_a_moving_reference_starts_every_round_at_ln_2(writer, tokenizer):
    policy = copy.deepcopy(writer)
    history = online_dpo(
        policy, long, PROMPTS, tokenizer, reference=writer, rounds=3, labels=8, batch_size=8, moving=True, lr=3e-3,
        max_new_tokens=16, progress=False,
    )  # fmt: skip
    assert history["loss"] == pytest.approx([math.log(2)] * 3)


def test_offline_pairs_do_not_depend_on_the_policy(writer, tokenizer):
    seen = {}
    for lr in (1e-4, 1e-2):
        seen[lr] = []
        online_dpo(
            copy.deepcopy(writer), long, PROMPTS, tokenizer, reference=writer, writers=(writer, writer), rounds=2,
            labels=8, batch_size=4, lr=lr, max_new_tokens=16, progress=False, loss="ipo", tau=0.5,
            after_round=lambda number, rows, lr=lr: seen[lr].append(rows),
        )  # fmt: skip
    assert seen[1e-4] == seen[1e-2] and seen[1e-4][0] != seen[1e-4][1]


def test_a_classifier_can_be_the_judge(writer, tokenizer):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=1, pad_token_id=0)
    judge = ClassifierJudge(GPT2ForSequenceClassification(config).eval(), tokenizer, label="LABEL_1")
    assert len(fresh_pairs((writer, writer), judge, PROMPTS, tokenizer, labels=8, max_new_tokens=16)) == 8


@pytest.mark.parametrize("sizes", [{"rounds": 0}, {"labels": 4}, {"labels": 20}])
def test_sizes_that_cannot_be_are_refused(writer, tokenizer, sizes):
    with pytest.raises(ValueError, match=r"labels a multiple of batch_size|rounds is 0"):
        online_dpo(writer, long, PROMPTS, tokenizer, reference=writer, **{"batch_size": 8, "labels": 8} | sizes)


def test_no_prompts_or_one_writer_are_refused(writer, tokenizer):
    with pytest.raises(ValueError, match="give prompts and two writers, got 0 prompts and 1 writer"):
        fresh_pairs((writer,), long, [], tokenizer, labels=8)
