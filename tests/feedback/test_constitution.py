"""A constitution of rules: what each rule sees, how rules add up, and what the labels of such a judge are."""

import pytest
import torch

from prefcourse.feedback.constitution import (
    RULES,
    Constitution,
    Rule,
    agreement,
    ai_labels,
    brief,
    fresh,
    reason,
    tone,
    voice,
)

PAIR = {
    "prompt": "The film",
    "chosen": " was great.",
    "rejected": " was awful.",
    "chosen_score": 1.0,
    "rejected_score": -1.0,
}


@pytest.mark.parametrize(
    ("rule", "kept", "broken"),
    [
        (tone, " was great fun.", " was a dull mess."),
        (reason, " was good because it was short.", " was good."),
        (voice, " made me laugh.", " made everyone laugh."),
        (brief, " was short.", " was" + " very" * 40 + " long."),
        (fresh, " was a quiet joy.", " was good, was good, was good."),
    ],
)
def test_each_rule_tells_texts_apart_and_stays_between_0_and_1(rule, kept, broken):
    assert 0 <= rule("The film", broken) < rule("The film", kept) <= 1


def test_tone_counts_words_and_no_parts_of_words():
    assert tone("", " goodness") == tone("", " good but bad") == 0.5 and tone("", " Good!") == 1.0


def test_a_constitution_is_the_weighted_sum_of_its_rules():
    judge = Constitution().weighted(tone=3.0, brief=0.5)
    prompts, texts = ["The film"] * 2, [" was great.", " was awful because I say so."]
    by_rule = judge.by_rule(prompts, texts)
    weights = torch.tensor([3.0, 2.0, 2.0, 0.5, 2.0], dtype=torch.float64)
    assert by_rule.shape == (2, 5)
    torch.testing.assert_close(judge(prompts, texts), by_rule @ weights)
    lighter = judge.without("tone", "fresh")
    assert [r.name for r in lighter.rules] == ["reason", "voice", "brief"]
    torch.testing.assert_close(lighter(prompts, texts), by_rule[:, 1:4] @ weights[1:4])
    assert [r.weight for r in RULES] == [2.0] * 5  # the original is as it was


def test_what_cannot_be_is_refused():
    judge = Constitution()
    with pytest.raises(ValueError, match="no rule kindness; the rules are: tone"):
        judge.without("kindness")
    with pytest.raises(ValueError, match="no rule kindness"):
        judge.weighted(kindness=1.0)
    with pytest.raises(ValueError, match="at least one rule"):
        judge.without(*(rule.name for rule in RULES))
    with pytest.raises(ValueError, match="a name of its own"):
        Constitution((RULES[0], RULES[0]))
    with pytest.raises(ValueError, match="one for each"):
        judge(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="'loud' gave 2; a score lies between 0 and 1"):
        Constitution((Rule("loud", "Be loud.", lambda x, y: 2.0),))(["a"], ["b"])


def test_labels_follow_the_judge_and_scores_follow_their_texts():
    turned = PAIR | {
        "chosen": PAIR["rejected"],
        "rejected": PAIR["chosen"],
        "chosen_score": -1.0,
        "rejected_score": 1.0,
    }
    kind = Constitution(RULES[:1])
    found = ai_labels([PAIR, turned] * 20, kind, reliability=100)
    assert all(row["chosen"] == " was great." and row["chosen_score"] == 1.0 for row in found)
    coin = ai_labels([PAIR, turned] * 200, kind, seed=1)  # two nats: σ(2) = 0.88
    share = sum(row["chosen"] == " was great." for row in coin) / 400
    assert 0.82 < share < 0.94
    assert ai_labels([PAIR] * 5, kind, seed=1) == ai_labels([PAIR] * 5, kind, seed=1)


def test_agreement_counts_ties_as_one_half():
    other = PAIR | {"chosen": " was seen.", "rejected": " was made."}
    kind, gold = Constitution(RULES[:1]), lambda x, y: torch.tensor([float("great" in t or "seen" in t) for t in y])
    assert agreement([PAIR] * 4, kind, gold).value == 1.0
    assert agreement([PAIR, other] * 4, kind, gold).value == 0.75
    assert agreement([PAIR, other] * 4, gold).value == 1.0
    assert agreement([PAIR] * 4, kind, lambda x, y: -gold(x, y)).value == 0.0
