"""From rows to what a step is fed: slices change nothing, and fingerprints are those of older versions."""

import hashlib
import json
from array import array

import pytest
import torch

from prefcourse.losses import LOSSES
from prefcourse.training import token_ids
from prefcourse.training.batches import Feed, encode_rows
from prefcourse.training.reference import fingerprint


@pytest.fixture
def singles(pairs):
    """Unpaired rows, half of them desirable."""
    sides = ("chosen", "rejected")
    return [{"prompt": row["prompt"], "completion": row[s], "label": s == "chosen"} for row in pairs for s in sides]


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
@pytest.mark.parametrize(("loss", "data"), [("dpo", "pairs"), ("kto", "pairs"), ("kto", "singles"), ("sft", "singles")])
def test_slices_change_nothing(loss, data, too_long, pairs, singles, tokenizer, monkeypatch):
    settings = {"needs": LOSSES[loss].inputs(), "longest": 9, "too_long": too_long}
    rows, found = {"pairs": pairs, "singles": singles}[data], []
    for size in (7, 1_000):
        monkeypatch.setattr(token_ids, "SLICE", size)
        found.append(encode_rows(rows, tokenizer, **settings))
    assert found[0] == found[1] and found[0].dropped + found[0].truncated > 5
    assert max(len(x) + len(y) for group in found[0].sequences for x, y in group) == 9


def test_an_error_in_a_later_slice_has_its_line(pairs, tokenizer, monkeypatch):
    monkeypatch.setattr(token_ids, "SLICE", 4)
    rows = [*pairs[:6], pairs[6] | {"chosen": " boring" * 90}, *pairs[7:]]
    with pytest.raises(ValueError, match=r"data, line 7: \d+ tokens, but the model takes 64"):
        encode_rows(rows, tokenizer, needs=LOSSES["dpo"].inputs(), longest=64)


def test_lengths_count_the_prompt_of_every_sequence(pairs, tokenizer):
    examples = encode_rows(pairs, tokenizer, needs=LOSSES["dpo"].inputs())
    assert examples.lengths == [sum(len(x) + len(y) for x, y in group) for group in examples.sequences]


@pytest.mark.parametrize(("loss", "data"), [("dpo", "pairs"), ("kto", "pairs"), ("kto", "singles")])
def test_the_fingerprint_is_that_of_all_rows_in_one_string(loss, data, pairs, singles, tokenizer):
    """The formula of the files that exist."""
    rows = {"pairs": pairs, "singles": singles}[data]
    rows = [*rows, rows[0] | {"prompt": 'Ein "schöner" Film, 映画\n'}]
    examples = encode_rows(rows, tokenizer, needs=LOSSES[loss].inputs())
    feed = Feed.plan(examples, batch_size=4, steps=3, seed=0, mismatched=loss == "kto")
    columns = ["prompt", "chosen", "rejected", "completion", "label"]
    texts = json.dumps([[row.get(c) for c in columns] for row in rows])
    ids = [array("q", [len(group), len(x), *x, *y]).tobytes() for group in examples.sequences for x, y in group]
    found = fingerprint(rows, feed, torch.float32)
    assert found["data"] == hashlib.sha256(texts.encode()).hexdigest()[:16]
    assert found["tokens"] == hashlib.sha256(b"".join(ids)).hexdigest()[:16]
    assert ("mismatched" in found) == (loss == "kto")
