"""Data in and out: every format comes back as it went, TRL agrees, and forty kinds of damage are named."""

import json
import random

import pytest
from datasets import Dataset, load_dataset

from prefcourse.annotation.exchange import check_splits, load, save, to_dataset, unpaired
from prefcourse.annotation.layouts import shared_prompt
from prefcourse.preferences import read_rows

ROWS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "chosen_score": 1.5},
    {"prompt": "The sun is", "chosen": " in the sky\u2028.", "rejected": " in the sea.", "chosen_score": 0.5},
]
LIKED = [{"prompt": "The sky is", "completion": " blue.", "label": True},
         {"prompt": "The sky is", "completion": " green.", "label": False}]  # fmt: skip
USER, SAYS = {"role": "user", "content": "What colour is the sky?"}, {"role": "assistant", "content": "Blue."}
WRONG = {"role": "assistant", "content": "Green."}
TALK = {"prompt": [USER], "chosen": [SAYS], "rejected": [WRONG]}


@pytest.mark.parametrize("rows", [ROWS, LIKED], ids=["pairs", "unpaired"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_files_come_back_as_they_went(tmp_path, rows, suffix):
    path = tmp_path / "new" / f"rows{suffix}"
    save(rows, path)
    assert load(path) == rows


def test_a_dataset_and_a_list_come_back_as_they_went():
    assert load(to_dataset(ROWS)) == ROWS == load(ROWS)
    assert to_dataset(LIKED).features["label"].dtype == "bool"


def test_a_folder_in_the_layout_of_the_hub(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        Dataset.from_list(ROWS if split == "train" else ROWS[:1]).to_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    assert load(str(tmp_path)) == ROWS
    assert load(tmp_path, split="test") == ROWS[:1]
    assert load_dataset(str(tmp_path), split="train").num_rows == 2


def test_unpaired_is_what_trl_makes():
    from trl import unpair_preference_dataset

    theirs = unpair_preference_dataset(
        Dataset.from_list([{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in ROWS])
    )
    assert unpaired(ROWS) == theirs.to_list()


def test_an_implicit_prompt_in_text_is_what_trl_extracts():
    from trl import extract_prompt

    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert load([row]) == [extract_prompt(row)] == [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}]


@pytest.mark.parametrize(
    ("chosen", "rejected", "parts"),
    [
        ("It is blue", "It is black", ("It is", " blue", " black")),  # not "It is bl"
        ("It is", "It is so", ("It", " is", " is so")),  # neither rest is empty
        ("Q: why?\nYes", "Q: why?\nNo", ("Q: why?", "\nYes", "\nNo")),
    ],
)
def test_no_word_is_cut_and_no_rest_is_empty(chosen, rejected, parts):
    assert shared_prompt(chosen, rejected) == parts


def test_conversations_become_text():
    want = [{"prompt": "User: What colour is the sky?\nAssistant:", "chosen": " Blue.", "rejected": " Green."}]
    implicit = {"chosen": [USER, SAYS], "rejected": [USER, WRONG]}
    assert load([TALK]) == load([implicit]) == load(Dataset.from_list([TALK])) == want
    liked = load([{"prompt": [USER], "completion": [SAYS], "label": True}])
    assert liked == [{"prompt": want[0]["prompt"], "completion": " Blue.", "label": True}]


def test_implicit_conversations_share_the_prompt_that_trl_finds():
    from trl import extract_prompt

    row = {"chosen": [USER, SAYS, USER, SAYS], "rejected": [USER, SAYS, USER, WRONG]}
    theirs = extract_prompt(row)
    assert load([row]) == load([theirs])


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
MALFORMED = [  # a row (put second), and what the error says about it
    (7, "line 2: must be a dict"),
    ("text", "line 2: must be a dict"),
    ([], "line 2: must be a dict"),
    (None, "line 2: must be a dict"),
    ({}, "line 2: no 'completion'"),
    ({"prompt": "p"}, "line 2: no 'completion'"),
    ({"prompt": "p", "text": "a"}, r"line 2: no 'completion' \(there is prompt, text\)"),
    ({"prompt": "p", "chosen": "a"}, "line 2: no 'rejected'"),
    ({"prompt": "p", "rejected": "a"}, "line 2: no 'chosen'"),
    ({**PAIR, "chosen": None}, "line 2: 'chosen' is null"),
    ({**PAIR, "rejected": None}, "line 2: 'rejected' is null"),
    ({**PAIR, "prompt": None}, "line 2: 'prompt' is null"),
    ({**PAIR, "prompt": 3}, "line 2: 'prompt' must be text, got 3"),
    ({**PAIR, "chosen": 3}, "line 2: 'chosen' must be text, got 3"),
    ({**PAIR, "rejected": {"a": 1}}, "line 2: 'rejected' must be text"),
    ({**PAIR, "chosen": True}, "line 2: 'chosen' must be text"),
    ({**PAIR, "prompt": ""}, "line 2: 'prompt' is empty"),
    ({**PAIR, "prompt": " \n"}, "line 2: 'prompt' is empty"),
    ({**PAIR, "chosen": ""}, "line 2: 'chosen' is empty"),
    ({**PAIR, "rejected": "\t"}, "line 2: 'rejected' is empty"),
    ({**PAIR, "rejected": "a"}, "line 2: chosen and rejected are the same text"),
    ({"chosen": "yes", "rejected": "no"}, "line 2: there is no 'prompt', and chosen and rejected share no beginning"),
    ({"chosen": "blue", "rejected": "black"}, "line 2: there is no 'prompt'"),
    ({"chosen": "same", "rejected": "same"}, "line 2: there is no 'prompt'"),
    ({"chosen": 1, "rejected": 2}, "line 2: no column 'prompt'"),
    ({"prompt": "p", "chosen": [SAYS], "rejected": "b"}, "line 2: 'chosen' is a conversation and 'prompt' is text"),
    ({"prompt": [USER], "chosen": "a", "rejected": "b"}, "line 2: 'prompt' is a conversation and 'chosen' is text"),
    ({**TALK, "chosen": []}, r"line 2: 'chosen' must add one message of the assistant to the prompt, got 0"),
    ({**TALK, "chosen": [USER]}, r"line 2: 'chosen' must add one message of the assistant.*\['user'\]"),
    ({**TALK, "rejected": [WRONG, USER]}, "line 2: 'rejected' must add one message of the assistant"),
    ({**TALK, "chosen": ["Blue."]}, "line 2: 'chosen', message 1 must have role and content"),
    ({**TALK, "chosen": [{"role": "assistant"}]}, "line 2: 'chosen', message 1 must have role and content"),
    ({**TALK, "prompt": [{"content": "x"}]}, "line 2: 'prompt', message 1 must have role and content"),
    ({**TALK, "prompt": [USER, {"role": "human", "content": "x"}]}, "line 2: the role 'human' has no line in 'plain'"),
    ({**TALK, "chosen": [{"role": "assistant", "content": 4}]}, "line 2: 'chosen', message 1: 'content' must be text"),
    ({**TALK, "chosen": [{"role": "assistant", "content": " "}]}, "line 2: 'chosen' is empty"),
    ({**TALK, "rejected": [SAYS]}, "line 2: chosen and rejected are the same text"),
    ({**TALK, "prompt": []}, "line 2: there is no 'prompt', and the conversations share no message"),
    ({"chosen": [SAYS], "rejected": [WRONG]}, "line 2: there is no 'prompt', and the conversations share no message"),
    ({"chosen": [USER, SAYS], "rejected": [USER]}, "line 2: 'rejected' must add one message"),
    ({"chosen": [USER, SAYS], "rejected": [USER, SAYS]}, "line 2: 'chosen' must add one message"),
]  # fmt: skip
MALFORMED_UNPAIRED = [
    ({"prompt": "p", "completion": "a"}, "line 2: no column 'label'"),
    ({"prompt": "p", "completion": "a", "label": "yes"}, "line 2: 'label' must be true or false, got 'yes'"),
    ({"prompt": "p", "completion": "a", "label": 2}, "line 2: 'label' must be true or false, got 2"),
    ({"prompt": "p", "completion": "a", "label": None}, "line 2: 'label' must be true or false, got None"),
    ({"prompt": "p", "completion": "", "label": True}, "line 2: 'completion' is empty"),
    ({"prompt": "p", "completion": 5, "label": True}, "line 2: 'completion' must be text"),
    ({"completion": "a", "label": True}, "line 2: no column 'prompt'"),
]


def test_there_are_at_least_forty():
    assert len(MALFORMED) + len(MALFORMED_UNPAIRED) >= 40


@pytest.mark.parametrize(("row", "complaint"), MALFORMED)
def test_a_malformed_pair_is_named(row, complaint):
    with pytest.raises(ValueError, match=f"data, {complaint}"):
        load([PAIR, row])


@pytest.mark.parametrize(("row", "complaint"), MALFORMED_UNPAIRED)
def test_a_malformed_unpaired_row_is_named(row, complaint):
    with pytest.raises(ValueError, match=f"data, {complaint}"):
        load([LIKED[0], row])


def test_malformed_files_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR) + "\n{oops\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: not JSON"):
        load(path)
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps({**PAIR, "chosen": ""}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: 'chosen' is empty"):
        load(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows\.jsonl: no rows"):
        load(path)
    for name in ("none.jsonl", "none.parquet"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            load(tmp_path / name)
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"cannot read a file that ends in \.xlsx; use \.jsonl"):
        load(tmp_path / "rows.xlsx")
    with pytest.raises(ValueError, match=r"the name must end in \.jsonl or \.parquet"):
        save([PAIR], tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="there are no rows"):
        save([], tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.csv").exists()


def test_a_bad_row_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    save([PAIR], path)
    with pytest.raises(ValueError, match="line 1: 'chosen' is empty"):
        save([{**PAIR, "chosen": ""}], path)
    assert read_rows(path) == [PAIR]


def test_a_prompt_in_two_splits_is_named():
    check_splits({"train": [PAIR], "test": [{**PAIR, "prompt": "q"}]})
    with pytest.raises(ValueError, match=r"test, line 2: the prompt 'p' stands in train, line 1, too"):
        check_splits({"train": [PAIR], "test": [{**PAIR, "prompt": "q"}, PAIR]})


def test_the_shared_prompt_and_the_rests_make_the_texts_again():
    rng = random.Random(0)
    for _ in range(300):
        texts = ["It is " + "".join(rng.choice("ab \n") for _ in range(8)) for _ in range(2)]
        prompt, chosen, rejected = shared_prompt(*texts)
        assert prompt.strip() and [prompt + chosen, prompt + rejected] == texts
