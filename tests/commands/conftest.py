"""What the tests of `train`, `evaluate` and `export` begin with."""

import pytest

from prefcourse.preferences import write_rows


@pytest.fixture(scope="module")
def mine(tiny_gpt2, tokenizer, pairs, tmp_path_factory):
    """A folder with a model and its tokenizer, pairs, unpaired rows, and two of these."""
    folder = tmp_path_factory.mktemp("mine")
    tiny_gpt2().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_rows(folder / "pairs.jsonl", pairs)
    rows = [{"prompt": p["prompt"], "completion": p["chosen"], "label": bool(n % 3)} for n, p in enumerate(pairs)]
    write_rows(folder / "unpaired.jsonl", rows)
    two = [rows[0] | {"label": True}, rows[4] | {"label": False}]  # KTO: each is the other's only mismatch
    write_rows(folder / "two.jsonl", two)
    return folder
