"""The quality report finds what was planted, leaves clean data in peace, and names what is wrong with bad input."""

import random
import time

import numpy as np
import pytest

from prefcourse.annotation.annotators import Annotator, exchanged, flipped, panel, questions, resolve
from prefcourse.preferences import read_rows
from prefcourse.quality.duplicates import jaccard, near_duplicates, words_of
from prefcourse.quality.findings import clustered_mean, clustered_share
from prefcourse.quality.label_noise import flip_share, label_noise
from prefcourse.quality.report import report
from prefcourse.rewards import GoldReward
from prefcourse.worlds.bundled import data_folder
from prefcourse.worlds.world import SPLITS

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("ax", "el", "ido", "um", "oxi")]  # 60 made-up words


def made_up(count=600, prompts=150, seed=0):
    """Pairs of random sentences without any fault: like lengths, nothing twice, no scores."""
    rng = random.Random(seed)
    rows = []
    for n in range(count):
        sides = [" " + " ".join(rng.choices(WORDS, k=rng.randint(6, 12))) + "." for _ in range(2)]
        rows.append({"prompt": f"Opening {n % prompts}", "chosen": sides[0], "rejected": sides[1]})
    return rows


@pytest.fixture(scope="module")
def clean():
    return made_up()


@pytest.fixture(scope="module")
def bundled():
    return {split: read_rows(data_folder() / "pairs" / f"{split}.jsonl") for split in SPLITS}


@pytest.fixture(scope="module")
def types():
    return read_rows(data_folder() / "prompts" / "train.jsonl", ("prompt", "type"))


# ------------------------------------------------------------------------------------------------ the report


@pytest.fixture(scope="module")
def found(bundled, types):
    return report(bundled["train"], types=types, splits=bundled)


def test_the_bundled_pairs(found, bundled):
    """What the lesson says about them, as it was on the day they were made."""
    prompts = {row["prompt"] for row in bundled["train"]}
    assert (found.pairs, found.prompts) == (len(bundled["train"]), len(prompts))
    verdicts = {name: finding.verdict for name, finding in found.items()}
    assert {name for name, verdict in verdicts.items() if verdict != "ok"} == {"close pairs", "repeated responses"}
    assert found["label against score"].value.value == pytest.approx(0.326, abs=0.001)
    assert found["close pairs"].value.value == pytest.approx(0.455, abs=0.001)
    assert found["flipped labels"].value.low < 0.02 and found["flipped labels"].value.value < 0.06
    assert found["distinct-2"].value.value == pytest.approx(0.91, abs=0.01)
    assert found["prompts in two splits"].value == 0
    assert set(found.types) == {"negative", "neutral", "positive", "first person", "question"}
    assert sum(found.types.values()) == found.pairs and list(found.types)[-1] == "question"


def test_the_table_can_be_read(found):
    text = str(found)
    lines = text.splitlines()
    assert lines[0] == f"{found.pairs:,} pairs on {found.prompts:,} prompts · {found.summary()}"
    assert found.summary() == "11 findings: 9 ok, 2 to look at, 0 to act on"
    assert max(map(len, lines)) <= 120
    for finding in found.values():
        assert any(line.startswith(f"{finding.verdict:<5} {finding.name} ") for line in lines)
        assert finding.shown in text and finding.advice.endswith(".")
    assert len(found) == len(list(found)) == 11
    with pytest.raises(KeyError, match="no finding 'colour'; this report has: label against score"):
        found["colour"]


def test_ten_thousand_pairs_take_seconds(bundled):
    rows = (bundled["train"] + bundled["test"])[:10_000]
    start = time.process_time()
    report(rows)
    assert time.process_time() - start < 15  # about 3 seconds on an idle core


def test_clean_data_raise_no_alarm(clean):
    found = report(clean, splits={"train": clean})
    assert {finding.verdict for name, finding in found.items() if name != "prompts"} == {"ok"}
    assert "flipped labels" not in found  # too few pairs to tell
    assert "label against score" not in found and "prompt types" not in found and "agreement" not in found


def test_every_row_once_is_enough():
    row = {"prompt": "Once", "chosen": " upon a time.", "rejected": " more."}
    found = report([row])
    assert found.pairs == found.prompts == 1
    assert "distinct-2" not in found
    assert str(report([{**row, "rejected": " at a time."}])).count("\n") > 5  # like lengths: nothing to compare


# ------------------------------------------------------------------------------------------------ planted faults


def test_length_bias_beyond_the_score_is_found(clean):
    longer = [row if len(row["chosen"]) > len(row["rejected"]) else exchanged(row) for row in clean]
    finding = report(longer)["longer side chosen"]
    assert finding.verdict == "act" and "longer" in finding.advice
    assert finding.value.low > 0.9
    assert report([exchanged(row) for row in longer])["longer side chosen"].advice.startswith(
        "A model can win by being sh"
    )

    def likes_length(prompts, texts):
        return np.array([3.0 * len(text.split()) for text in texts])

    earned = report(longer, gold=likes_length)["longer side chosen"]
    assert earned.verdict == "ok"  # where length is what people want, choosing it is no bias


def test_an_annotators_length_bias_is_found(bundled):
    rows = bundled["test"][:900]
    asked = questions(rows)
    judged = resolve(rows, asked, Annotator(length_bias=0.2).label(asked))
    assert report(judged)["longer side chosen"].verdict == "act"


def test_length_is_counted_in_tokens_where_there_is_a_tokenizer(clean, tokenizer):
    assert report(clean).unit == "words"
    found = report(clean, tokenizer=tokenizer)
    expected = len(tokenizer(clean[0]["chosen"])["input_ids"]) - len(tokenizer(clean[0]["rejected"])["input_ids"])
    assert found.unit == "tokens" and found.length[0] == expected
    assert "tokens" in found["longer side chosen"].shown


def test_position_bias_is_found_where_it_is_known(clean):
    rng = random.Random(0)
    assert "first shown chosen" not in report(clean)
    fair = [{**row, "shown_first": rng.choice(["chosen", "rejected"])} for row in clean]
    assert report(fair)["first shown chosen"].verdict == "ok"
    biased = [{**row, "shown_first": "chosen" if rng.random() < 0.8 else "rejected"} for row in clean]
    assert report(biased)["first shown chosen"].verdict == "act"


def test_labels_of_the_collector_are_read_as_they_are(clean):
    rows = [
        {"prompt": r["prompt"], "response_a": r["chosen"], "response_b": r["rejected"], "label": "A"} for r in clean
    ]
    rows[0]["label"], rows[1]["label"], rows[2]["label"] = "B", "tie", "skip"
    found = report(rows)
    assert found.pairs == len(rows) - 2
    assert found["first shown chosen"].value.value == pytest.approx(1 - 1 / 598)
    assert found["first shown chosen"].verdict == "act"
    rows[5]["label"] = "left"
    with pytest.raises(ValueError, match=r"label 6: 'label' must be one of"):
        report(rows)


def test_repeated_and_contradictory_pairs_are_counted(clean):
    finding = report(clean + clean[:60] + [exchanged(row) for row in clean[100:130]])["repeated pairs"]
    assert finding.value.value == pytest.approx(180 / 690)
    assert "30 pairs are labelled both ways" in finding.shown
    assert finding.verdict == "act"


def test_repeated_responses_and_like_sides_are_found(clean):
    phrases = [" I do not know what to say.", " I do not know what to say!", " Nothing to say here at all."]
    said = [{**row, "rejected": phrases[i // 150 % 3]} for i, row in enumerate(clean)]
    finding = report(said)["repeated responses"]  # 600 chosen, and three phrases for each of the 150 prompts
    assert finding.verdict == "look" and finding.value.value == pytest.approx(450 / 1050)
    assert (
        report([{**row, "chosen": " a b c d " + row["prompt"]} for row in said])["repeated responses"].verdict == "act"
    )
    one_word = [{**row, "rejected": row["chosen"].replace(".", " indeed.")} for row in clean]
    assert report(one_word)["sides nearly the same"].verdict == "act"


def test_a_narrow_vocabulary_is_found():
    rng = random.Random(0)
    rows = [
        {
            "prompt": f"p{n}",
            "chosen": " so very good and " + rng.choice(WORDS),
            "rejected": " so very bad and " + WORDS[n % 60],
        }
        for n in range(200)
    ]
    assert report(rows)["distinct-2"].verdict == "act"


def test_few_and_lopsided_prompts_are_found(clean):
    assert report(made_up(prompts=20))["prompts"].verdict == "act"
    assert report(made_up(prompts=600))["prompts"].verdict == "ok"
    lopsided = [{**row, "prompt": "Again"} if i % 2 else row for i, row in enumerate(made_up(prompts=600))]
    finding = report(lopsided)["prompts"]
    assert finding.value == pytest.approx(600**2 / (300**2 + 300), rel=1e-6)
    assert finding.verdict == "act"


def test_rare_and_absent_types_are_found(clean):
    kinds = {f"Opening {n}": "a" if n % 2 else "b" for n in range(150)}
    assert report(clean, types=kinds)["prompt types"].verdict == "ok"
    finding = report(clean, types=kinds | {"never used": "c"})["prompt types"]
    assert finding.verdict == "act" and "the rarest, c, has 0.0%" in finding.shown
    typed = [{**row, "type": kinds[row["prompt"]]} for row in clean]
    assert report(typed).types == report(clean, types=typed).types == {"b": 300, "a": 300}


def test_leaking_prompts_are_found(clean):
    test = [{"prompt": "opening  7"}, {"prompt": "Something else"}]
    finding = report(clean, splits={"train": clean, "test": test})["prompts in two splits"]
    assert (finding.value, finding.verdict) == (1, "act")
    assert "opening 7" in finding.shown


def test_close_pairs_and_contradictions_are_found(bundled):
    far = [
        {**row, "chosen_score": 4 * row["chosen_score"], "rejected_score": 4 * row["rejected_score"]}
        for row in bundled["test"][:900]
    ]
    found = report(far)
    assert found["close pairs"].verdict == "ok"
    assert found["label against score"].verdict == "act"  # on such a scale the coin would have made fewer mistakes
    turned = report(flipped(bundled["test"][:900], 0.3)[0])["label against score"]
    assert turned.verdict == "act" and "of the labels had been flipped" in turned.advice


def test_agreement_of_a_panel(bundled):
    rows = bundled["test"][:900]
    asked = questions(rows)
    sharp = report(rows, annotations=panel([Annotator(reliability=5)] * 3, asked).labels)
    assert sharp["agreement"].verdict == "ok" and sharp["weakest annotator"].verdict == "ok"
    mixed = report(rows, annotations=panel([Annotator(3), Annotator(3), Annotator(lapse=1)], asked).labels)
    assert mixed["agreement"].verdict == "look"
    assert mixed["weakest annotator"].verdict == "act" and "no. 2" in mixed["weakest annotator"].shown
    clickers = panel([Annotator(lapse=1)] * 3, asked, per_item=2).labels
    assert report(rows, annotations=clickers)["agreement"].verdict == "act"
    two = report(rows, annotations=panel([Annotator()] * 2, asked).labels)
    assert "weakest annotator" not in two
    with pytest.raises(ValueError, match="the same label"):
        report(rows, annotations=np.ones((5, 2)))
    with pytest.raises(ValueError, match="at least 2 annotators"):
        report(rows, annotations=np.ones((5, 1)))


# ------------------------------------------------------------------------------------------------ label noise


@pytest.fixture(scope="module")
def noise(bundled):
    """Planted share → what we find. The estimates of ten seeds each stand in prefcourse/quality/label_noise.py."""
    return {share: label_noise(flipped(bundled["train"], share, seed=1)[0], seed=1) for share in (0.0, 0.1, 0.2, 0.3)}


def test_the_estimate_of_flips_rises_with_the_truth(noise):
    estimates = [found.flips.value for found in noise.values()]
    assert estimates == sorted(estimates) and len(set(estimates)) == 4
    for share, found in noise.items():  # root mean square errors over ten seeds: 0.01, 0.06, 0.07, 0.04
        assert found.flips.value == pytest.approx(share, abs=0.15)
        assert 0 <= found.flips.low <= found.flips.value <= found.flips.high < 0.5


def test_contradictions_rise_and_accuracy_falls_with_the_truth(noise):
    for measure, direction in (("contradicted", 1), ("accuracy", -1)):
        values = [direction * getattr(found, measure) for found in noise.values()]
        assert values == sorted(values)


def test_suspects_are_flipped_more_often_than_others(bundled, noise):
    turned, found = flipped(bundled["train"], 0.2, seed=1)[1], noise[0.2]
    assert turned[found.suspects[:200]].mean() > 0.35  # 20 % of all
    assert (found.margins[np.isin(found.pairs, found.suspects)] < 0).all()


def test_the_gold_reward_as_judge_knows_better(bundled):
    gold = GoldReward.load(data_folder() / "gold.json")
    for share in (0.0, 0.2):
        found = label_noise(flipped(bundled["train"], share, seed=1)[0], reward_model=gold)
        assert found.flips.value == pytest.approx(share, abs=0.04)
        assert found.flips.low <= share <= found.flips.high


def test_a_mistake_that_all_share_is_not_seen(bundled):
    turned = [exchanged(row) for row in bundled["train"]]
    assert label_noise(turned).flips.value < 0.06  # every label is wrong, and nothing contradicts any other


def test_the_fitted_curve_is_the_one_that_made_the_data():
    rng = np.random.default_rng(0)
    sure = np.abs(rng.normal(0, 3, 6_000))
    agrees = rng.random(6_000) < 0.15 + 0.7 / (1 + np.exp(-1.3 * sure))
    flips, slope = flip_share(np.where(agrees, sure, -sure), np.arange(6_000), rng)
    assert flips.value == pytest.approx(0.15, abs=0.02) and flips.low <= 0.15 <= flips.high
    assert slope == pytest.approx(1.3, rel=0.2)


def test_label_noise_needs_pairs_and_prompts(clean):
    with pytest.raises(ValueError, match="needs 1,000 pairs and 10 prompts, got 600"):
        label_noise(clean)
    with pytest.raises(ValueError, match="10 prompts"):
        label_noise(made_up(count=1200, prompts=5))
    assert label_noise(made_up(count=1000, prompts=10)).accuracy == pytest.approx(0.5, abs=0.06)


def test_of_many_pairs_some_are_drawn(bundled, monkeypatch):
    monkeypatch.setattr("prefcourse.quality.label_noise.MOST", 1_200)
    found = label_noise(bundled["train"])
    assert len(found.pairs) == len(set(found.pairs)) == len(found.margins) == 1_200
    assert found.pairs.max() > 8_000


# ------------------------------------------------------------------------------------------------ the parts


def test_near_duplicates_are_those_that_comparing_all_finds(bundled):
    texts = list(dict.fromkeys(words_of(row["chosen"]) for row in bundled["validation"]))
    texts += [frozenset(list(text)[:-1]) for text in texts[:80] if len(text) > 5]  # a word less: similar, not equal
    slow = [any(i != j and jaccard(a, b) >= 0.8 for j, b in enumerate(texts)) for i, a in enumerate(texts)]
    assert 0.05 < np.mean(slow) < 0.6
    assert near_duplicates(texts).tolist() == slow
    assert near_duplicates(texts, seed=3).tolist() == slow


def test_a_crowd_of_copies_is_quick_and_complete():
    crowd = [words_of("I do not know what to say")] * 5_000 + [words_of("Something else")]
    assert near_duplicates(crowd).tolist() == [True] * 5_000 + [False]
    assert near_duplicates([]).tolist() == []


def test_texts_without_words_are_compared_as_they_are():
    assert words_of(" .") == {"."} != words_of(" ?")
    assert words_of("Good, GOOD film!") == {"good", "film"}


def test_intervals_count_groups_not_copies():
    values, groups = np.random.default_rng(0).random(200), np.arange(200)
    alone = clustered_mean(values, groups)
    error = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert (alone.high - alone.low) / 2 == pytest.approx(error, rel=1e-9)
    copies = clustered_mean(np.repeat(values, 10), np.repeat(groups, 10))
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high))


def test_shares_have_wilsons_interval():
    # Wilson's interval for 15 of 50, by the formula: [0.191, 0.438].
    found = clustered_share([True] * 15 + [False] * 35, np.arange(50))
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.191, 0.438), abs=2e-3)
    none = clustered_share([False] * 50, np.arange(50))
    assert none.low == none.value == 0 and none.high == pytest.approx(1.96**2 / (50 + 1.96**2))


def test_share_intervals_cover_the_truth():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        p = rng.beta(2, 2, 60)  # 60 groups of 5 with shares of their own, 0.5 on average
        groups = np.repeat(np.arange(60), 5)
        found = clustered_share(rng.random(300) < p[groups], groups)
        inside += found.low <= 0.5 <= found.high
    assert 0.91 < inside / 300 < 0.98


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.clear(), "no rows"),
        (lambda rows: rows[3].pop("rejected"), "line 4: no column 'rejected'"),
        (lambda rows: rows[3].update(chosen=" "), "line 4: 'chosen' is empty"),
        (lambda rows: rows[3].update(chosen=rows[3]["rejected"]), "line 4: chosen and rejected are the same text"),
        (lambda rows: rows[3].update(shown_first="left"), "row 1: shown_first must be"),
        (lambda rows: rows[3].update(chosen_score=1.0), "row 1 has no chosen_score and rejected_score"),
        (lambda rows: rows.__setitem__(3, "text"), "line 4: expected a dict"),
    ],
)
def test_what_is_wrong_with_rows_is_said(clean, change, message):
    rows = [dict(row) for row in clean]
    change(rows)
    with pytest.raises(ValueError, match=message):
        report(rows)


def test_what_is_wrong_beside_the_rows_is_said(clean):
    with pytest.raises(ValueError, match="row 2: there is no type for the prompt 'Opening 1'"):
        report(clean, types={"Opening 0": "a"})
    with pytest.raises(ValueError, match="split test, row 1: no column 'prompt'"):
        report(clean, splits={"train": clean, "test": [{"text": "x"}]})
    with pytest.raises(ValueError, match="a finite number for each of 600 rows"):
        report(clean, gold=lambda prompts, texts: [0.0])
    with pytest.raises(ValueError, match="finite number"):
        report(clean, gold=lambda prompts, texts: [float("nan")] * len(texts))
