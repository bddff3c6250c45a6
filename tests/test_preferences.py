"""Preference data: every wrong row is named by file, line and field; tokens, masks and splits are exact."""

import json

import pytest
import torch

from prefcourse.preferences import (
    PAIRED,
    UNPAIRED,
    check_rows,
    collate,
    collate_pairs,
    encode,
    read_rows,
    split_by_prompt,
    write_rows,
    write_whole,
)

GOOD = {"prompt": "This film", "chosen": " is great.", "rejected": " is dull."}


def file_with(tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), encoding="utf-8"
    )
    return path


# ------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("bad", "field", "why"),
    [
        ({"prompt": "This film", "chosen": " is great."}, "'rejected'", "no column"),
        (GOOD | {"chosen": 3}, "'chosen'", "must be text, got 3"),
        (GOOD | {"chosen": None}, "'chosen'", "must be text, got None"),
        (GOOD | {"prompt": ""}, "'prompt'", "is empty"),
        (GOOD | {"rejected": " \n"}, "'rejected'", "is empty"),
        (GOOD | {"rejected": GOOD["chosen"]}, "chosen and rejected", "are the same text"),
        (["This film"], "prompt, chosen, rejected", "expected a dict"),
        ('{"prompt": "This', "", "not JSON"),
    ],
    ids=["no column", "number", "null", "empty prompt", "blank rejected", "equal", "a list", "not JSON"],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, bad, field, why):
    path = file_with(tmp_path, GOOD, GOOD, bad, GOOD)
    with pytest.raises(ValueError) as error:
        read_rows(path)
    message = str(error.value)
    assert f"{path}, line 3: " in message and field in message and why in message, message
    assert "\n" not in message


def test_an_empty_file_and_a_missing_file_are_named(tmp_path):
    path = file_with(tmp_path)
    with pytest.raises(ValueError, match=r"pairs\.jsonl: no rows"):
        read_rows(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl: no such file.*prompt, chosen, rejected"):
        read_rows(tmp_path / "nothing.jsonl")


def test_unpaired_rows_have_columns_of_their_own(tmp_path):
    row = {"prompt": "This film", "completion": " is great.", "label": True}
    path = file_with(tmp_path, row)
    assert read_rows(path, UNPAIRED) == [row]
    with pytest.raises(ValueError, match=r"line 1: no column 'chosen' \(it has prompt, completion, label\)"):
        read_rows(path, PAIRED)


def test_what_we_write_we_read_back(tmp_path):
    rows = [GOOD | {"chosen_score": 1.5}, GOOD | {"chosen": ' "naïve"\n é \u2028 \x85 \t end.'}]
    path = tmp_path / "new folder" / "rows.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")  # half a character cannot be written
    assert path.read_text(encoding="utf-8") == "old"
    write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "new" and [file.name for file in path.parent.iterdir()] == ["rows.jsonl"]


def test_rows_in_memory_are_checked_too():
    assert check_rows(iter([GOOD])) == [GOOD]
    with pytest.raises(ValueError, match="my labels, line 2: 'prompt' is empty"):
        check_rows([GOOD, GOOD | {"prompt": ""}], where="my labels")


# ------------------------------------------------------------------------------------------- splits


def test_no_prompt_is_in_two_splits_and_no_row_is_lost():
    rows = [{"prompt": f"prompt {i % 50}", "number": i} for i in range(200)]
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    splits = split_by_prompt(rows, shares, seed=1)
    prompts = {name: {row["prompt"] for row in part} for name, part in splits.items()}
    assert {name: len(found) for name, found in prompts.items()} == {"train": 40, "validation": 5, "test": 5}
    assert len(set.union(*prompts.values())) == 50
    assert sorted(row["number"] for part in splits.values() for row in part) == list(range(200))
    assert all(part == sorted(part, key=lambda row: row["number"]) for part in splits.values())


def test_a_split_is_a_function_of_its_seed():
    rows = [{"prompt": f"prompt {i}"} for i in range(50)]
    shares = {"train": 0.5, "test": 0.5}
    assert split_by_prompt(rows, shares, seed=3) == split_by_prompt(rows, shares, seed=3)
    assert split_by_prompt(rows, shares, seed=3) != split_by_prompt(rows, shares, seed=4)


def test_shares_must_sum_to_one():
    with pytest.raises(ValueError, match=r"sum to 1, got .*0\.8"):
        split_by_prompt([GOOD], {"train": 0.8, "test": 0.1})


# ------------------------------------------------------------------------------------------- tokens and batches


def test_tokens_are_those_of_the_whole_text_and_one_eos(tokenizer, pairs):
    for row in pairs:
        for side in ("chosen", "rejected"):
            prompt_ids, completion_ids = encode(row["prompt"], row[side], tokenizer)
            whole = tokenizer(row["prompt"] + row[side])["input_ids"]
            assert prompt_ids + completion_ids == [*whole, tokenizer.eos_token_id]
            assert tokenizer.decode(completion_ids[:-1]) == row[side]
            assert completion_ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(("prompt", "completion"), [("", " is dull."), ("This film", "")])
def test_an_empty_prompt_or_completion_is_refused(tokenizer, prompt, completion):
    with pytest.raises(ValueError, match="must not be empty"):
        encode(prompt, completion, tokenizer)


def test_the_mask_counts_from_lengths_so_eos_is_in_and_padding_out():
    batch = collate([([5, 6], [7, 8, 0]), ([5], [9, 0])], pad_id=0)  # pad == EOS == 0, as in GPT-2
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 0], [5, 9, 0, 0, 0]]
    assert batch.completion_mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.lengths.tolist() == [3, 2]
    assert batch.completion_mask.dtype == torch.bool


def test_every_completion_in_a_batch_of_pairs_ends_in_eos(tokenizer, pairs):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    batch = collate_pairs(pairs, tokenizer)
    seen = [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.completion_mask, strict=True)]
    texts = [row[side] for side in ("chosen", "rejected") for row in pairs]  # first all chosen, then all rejected
    assert [tokenizer.decode(ids) for ids in seen] == [text + tokenizer.eos_token for text in texts]
    assert batch.lengths.tolist() == [len(ids) for ids in seen]
    padding = torch.arange(batch.input_ids.shape[1]) >= torch.tensor(
        [
            [len(s[0] + s[1])]
            for s in (encode(row["prompt"], row[side], tokenizer) for side in ("chosen", "rejected") for row in pairs)
        ]
    )
    assert (batch.input_ids[padding] == tokenizer.pad_token_id).all() and not batch.completion_mask[padding].any()


def test_a_batch_moves_with_its_mask():
    moved = collate([([5, 6], [7, 0])]).to("meta")
    assert moved.input_ids.device.type == moved.completion_mask.device.type == "meta"
