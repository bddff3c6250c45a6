"""Rows of other people's files: each layout is recognised and said, or refused with the way out; none is half read."""

import gzip
import json

import pytest
from datasets import Dataset

from prefcourse.annotation.exchange import leaked, load, oddities
from prefcourse.preferences import write_rows

PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
USER, SAYS = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
ASKED = {"prompt": "User: 2+2?\nAssistant:", "chosen": " 4", "rejected": " 5"}
KNOWN = {  # a row, what it becomes, and the name of its layout
    "alpaca": ({"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"}, ASKED, "Alpaca's"),
    "alpaca with input": (
        {"instruction": "Translate.", "input": "Haus", "chosen": "house", "rejected": "mouse"},
        {"prompt": "User: Translate.\n\nHaus\nAssistant:", "chosen": " house", "rejected": " mouse"}, "Alpaca's",
    ),
    "hh": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: The dog\n\nHuman: And?\n\nAssistant: The cat",
         "rejected": "\n\nHuman: Hi\n\nAssistant: The dog\n\nHuman: And?\n\nAssistant: The cow"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant: The dog\n\nHuman: And?\n\nAssistant:", "chosen": " The cat",
         "rejected": " The cow"}, "HH's dialogues",
    ),
    "messages with a prompt": ({"prompt": [USER], "chosen": [SAYS], "rejected": [WRONG]}, ASKED, "as messages"),
    "messages, implicit": ({"chosen": [USER, SAYS], "rejected": [USER, WRONG]}, ASKED, "as messages"),
    "a text prompt beside messages that have it": (  # ultrafeedback_binarized
        {"prompt": "2+2?", "chosen": [USER, SAYS], "rejected": [USER, WRONG], "messages": [USER, SAYS]},
        ASKED, "as messages",
    ),
    "one message without a list": ({"messages": [USER], "chosen": SAYS, "rejected": WRONG}, ASKED, "messages"),
    "content in parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}], "chosen": [SAYS],
         "rejected": [WRONG]}, ASKED, "as messages",
    ),
    "messages with a label": (
        {"messages": [USER, SAYS], "label": True}, {"prompt": ASKED["prompt"], "completion": " 4", "label": True},
        "messages",
    ),
    "labels as numbers": (
        {"prompt": "Q a", "completion": " x", "label": 1}, {"prompt": "Q a", "completion": " x", "label": True},
        "TRL's",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_a_layout_is_recognised_and_said(name):
    row, want, layout = KNOWN[name]
    said = []
    (found,) = load([row], say=said.append)
    assert {column: found[column] for column in want} == want
    assert layout in said[0] and said[0].startswith("data: 1 row, layout ")


REFUSED = {  # a row, and what the error names
    "orca": ({"system": "", "question": "2+2?", "chosen": "It is 4.", "rejected": "It is 5."},
             "column 'question' looks like a part of the question.*--columns prompt=question"),
    "a system text beside a prompt": ({**PAIR, "system": "Be terse."}, "column 'system' .*--columns system="),
    "input beside a prompt": ({**PAIR, "input": "more"}, "column 'input'"),
    "messages beside a prompt": ({**PAIR, "messages": [USER]}, "column 'messages'"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "2+2?"}], "chosen": "4 or so", "rejected": "4 or not"},
                 "column 'conversations'"),
    "answers that are no answers": ({"messages": [USER], "label": True}, "must hold a question and an answer"),
    "another prompt in text": ({"prompt": "3+3?", "chosen": [USER, SAYS], "rejected": [USER, WRONG]},
                               "the conversations do not have it. Leave it out: --columns prompt="),
    "dialogues that differ earlier": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: a b", "rejected": "\n\nHuman: Ho\n\nAssistant: a c"},
        "differ before the last answer"),
    "a tool": ({"prompt": [USER, {"role": "tool", "content": "sunny"}], "chosen": [SAYS], "rejected": [WRONG]},
               "the role 'tool' has no line in 'plain'"),
    "an image": ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": [SAYS], "rejected": [WRONG]},
                 "'content' must be text"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_half_read_is_refused(name):
    row, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"data, line 1: .*{message}"):
        load([row])


def test_columns_are_mapped_and_left_out():
    row = {"system": "Be terse.", "question": "2+2? ", "good": "It is 4.", "bad": "It is 5.", "source": "me"}
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad", "system": ""}
    want = {"prompt": "2+2? ", "chosen": "It is 4.", "rejected": "It is 5.", "source": "me"}
    assert load([row], columns=columns) == [want]
    with pytest.raises(ValueError, match=r"no column 'query' \(there is system, question"):
        load([row], columns={"prompt": "query"})


def test_code_keeps_its_indentation():
    talk = {
        "prompt": [USER],
        "chosen": [{**SAYS, "content": "    return 1\n"}],
        "rejected": [{**SAYS, "content": "return 1"}],
    }
    (row,) = load([talk])
    assert row["chosen"] == "     return 1\n" and row["rejected"] == " return 1"


FILES = {
    "pairs.jsonl": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "blank.jsonl": lambda rows: ("\n".join(map(json.dumps, rows)) + "\n\n  \n").encode(),
    "PAIRS.JSONL": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "pairs.jsonl.gz": lambda rows: gzip.compress("\n".join(map(json.dumps, rows)).encode()),
    "pairs.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "inside.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "pairs.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "lines.json": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "pairs.csv": lambda rows: csv(rows),
    "pairs.csv.gz": lambda rows: gzip.compress(csv(rows)),
}  # fmt: skip
ROWS = [
    {"prompt": "2+2?", "chosen": " 4, I think", "rejected": ' "5"\nor 6'},
    {"prompt": "12", "chosen": " 3", "rejected": " 4"},
]


def csv(rows):
    def quoted(text):
        return '"' + text.replace('"', '""') + '"'

    lines = [",".join(rows[0]), *(",".join(map(quoted, row.values())) for row in rows)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name](ROWS))
    assert load(tmp_path / name) == ROWS  # "3" in a CSV file is a text, too


def test_labels_of_a_csv_file(tmp_path):
    (tmp_path / "liked.csv").write_text("prompt,completion,label\nA b, c,True\nA d, e,0\n", encoding="utf-8")
    assert [row["label"] for row in load(tmp_path / "liked.csv")] == [True, False]


def test_folders_and_names_with_dots(tmp_path):
    folder = tmp_path / "fold.v2"
    for split in ("train", "test"):
        folder.mkdir(exist_ok=True)
        Dataset.from_list(ROWS if split == "train" else ROWS[:1]).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    assert load(folder) == ROWS and load(str(folder), split="test") == ROWS[:1]
    with pytest.raises(OSError, match=r"someone/truthy-v0\.1 \(train\): cannot be read as a data set"):
        load("someone/truthy-v0.1")  # a name on the hub, and there is no network


def test_a_subset_of_a_folder_in_the_hubs_layout(tmp_path):
    for subset in ("easy", "hard"):
        (tmp_path / subset).mkdir()
        rows = [{**PAIR, "source": subset}]
        Dataset.from_list(rows).to_parquet(tmp_path / subset / "train-00000-of-00001.parquet")
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files: {name}/train-*.parquet\n" for name in ("easy", "hard")
    )
    (tmp_path / "README.md").write_text(card + "---\n", encoding="utf-8")
    assert load(tmp_path, subset="hard")[0]["source"] == "hard"
    with pytest.raises(ValueError, match="cannot be read as a data set"):
        load(tmp_path, subset="absent")


def test_bad_rows_are_counted_by_reason_and_the_first_ten_named(tmp_path):
    bad = [{**PAIR, "chosen": ""}] * 9 + [{**PAIR, "rejected": PAIR["chosen"]}] * 5
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{**PAIR, "prompt": f"Row {n} is"} for n in range(40)] + bad)
    with path.open("a", encoding="utf-8") as file:
        file.write("{oops\n")
    with pytest.raises(ValueError) as error:
        load(path)
    said = str(error.value)
    assert "15 of 55 rows cannot be used (9 times: 'chosen' is empty; 5 times: chosen and rejected are the same" in said
    assert said.count("\n  line ") == 10 and "line 41: 'chosen' is empty" in said and "line 55" not in said
    assert said.endswith("--skip-bad-rows (skip_bad=True).")
    heard = []
    assert len(load(path, skip_bad=True, say=heard.append)) == 40
    assert "40 rows" in heard[0] and "15 rows left out that cannot be used" in heard[0]
    write_rows(path, bad)
    with pytest.raises(ValueError, match="none of the 14 rows can be used"):
        load(path, skip_bad=True)


def test_text_and_messages_in_one_file_are_not_mixed():
    talk = {"prompt": [USER], "chosen": [SAYS], "rejected": [WRONG]}
    with pytest.raises(ValueError, match=r"line 2: is messages, and the rows before are text\. Make two files"):
        load([PAIR, talk])
    with pytest.raises(ValueError, match="line 2: is text, and the rows before are messages"):
        load([talk, PAIR])


def test_what_is_odd_is_counted():
    turned = {"prompt": PAIR["prompt"], "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    assert oddities([PAIR]) == []
    assert oddities([PAIR, PAIR]) == ["1 row repeats an earlier one."]
    assert oddities([PAIR, turned]) == ["1 pair stands there both ways round: labels contradict."]
    glued = {"prompt": "2+2", "chosen": "four", "rejected": "five"}
    assert oddities([glued])[0].startswith("2 answers begin with a letter right behind the prompt's last")
    whole = {"prompt": "The sky is", "chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert any(line.startswith("2 answers begin with the whole prompt") for line in oddities([whole]))
    del whole["prompt"]
    assert oddities(load([whole])) == []  # without the column, the prompt is what they share
    liked = [{"prompt": f"Q{n}", "completion": " x", "label": n > 0} for n in range(9)]
    assert "labels: 8 desirable, 1 undesirable" in oddities(liked)[0]
    contradiction = [{"prompt": "Q", "completion": " x", "label": flag} for flag in (True, False)]
    assert oddities(contradiction) == ["1 pair stands there both ways round: labels contradict."]
    assert leaked([PAIR], [PAIR]) == "1 prompt of the test rows is trained on, too."
    assert leaked([PAIR], [{**PAIR, "prompt": "The sea is"}]) is None
