"""The file of labels: nothing lost, nothing mixed, every damage named."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefcourse.annotation.labels import LabelFile, preference_rows, read_labels

PAIR = {"prompt": "I have", "response_a": " a cat.", "response_b": " no cat."}
WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from prefcourse.annotation.labels import LabelFile
with LabelFile(sys.argv[1]) as file:
    while True:
        record = file.append({"prompt": "I have", "response_a": " a cat." * 40, "response_b": " no cat.", "label": "A"})
        print(record["id"], flush=True)
"""


def test_labels_come_back_in_order(tmp_path):
    path = tmp_path / "new" / "labels.jsonl"
    with LabelFile(path) as file:
        for label in ("A", "B", "tie", "skip"):
            file.append({**PAIR, "label": label, "seconds": 1.5})
        assert file.undo()["label"] == "skip"
    with LabelFile(path) as file:
        assert [r["label"] for r in file.records] == ["A", "B", "tie"] and file.note == ""
        assert file.append({**PAIR, "label": "B"})["id"] == 6
        assert file.undo()["id"] == 6 and file.undo()["label"] == "tie"
    assert read_labels(path) == file.records
    assert len(path.read_text(encoding="utf-8").splitlines()) == 8  # nothing was rewritten
    rows, counts = preference_rows(file.records)
    assert rows == [
        {"prompt": "I have", "chosen": " a cat.", "rejected": " no cat."},
        {"prompt": "I have", "chosen": " no cat.", "rejected": " a cat."},
    ]
    assert counts == {"A": 1, "B": 1, "tie": 0, "skip": 0}


def test_undo_of_nothing(tmp_path):
    with LabelFile(tmp_path / "l.jsonl") as file:
        assert file.undo() is None and file.records == []


def test_a_second_opener_is_told(tmp_path):
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
        with pytest.raises(BlockingIOError, match=r"l\.jsonl is open in another window or process"):
            LabelFile(path)
        assert len(read_labels(path)) == 1
    LabelFile(path).close()


@pytest.mark.parametrize("torn", [b'{"id": 2, "prompt": "I ha', b"{", b"\xf0\x9f", b'{"id": 2}'])
def test_a_torn_last_line_is_kept_aside(tmp_path, torn):
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
    with open(path, "ab") as broken:
        broken.write(torn)
    assert len(read_labels(path)) == 1
    with LabelFile(path) as file:
        assert "torn" in file.note and "l.jsonl.torn-1" in file.note
        file.append({**PAIR, "label": "B"})
    assert (tmp_path / "l.jsonl.torn-1").read_bytes() == torn
    assert [r["label"] for r in read_labels(path)] == ["A", "B"]


GOOD = {"id": 2, "time": "t", **PAIR, "label": "A"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not a line of JSON"),
        ("[]", "line 2: 'id'"),
        ("3", "line 2: 'id'"),
        (json.dumps(PAIR | {"label": "A"}), "line 2: 'id'"),
        (json.dumps(GOOD | {"id": "2"}), "line 2: 'id'"),
        (json.dumps(GOOD | {"id": 1}), "line 2: 'id' must be a whole number of its own"),
        (json.dumps(GOOD | {"label": "C"}), "line 2: 'label' must be one of A, B, tie, skip, got 'C'"),
        (json.dumps(GOOD | {"label": None}), "line 2: 'label'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "label"}), "line 2: 'label'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "prompt"}), "line 2: no 'prompt'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "response_a"}), "line 2: no 'response_a'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "response_b"}), "line 2: no 'response_b'"),
        (json.dumps(GOOD | {"prompt": ""}), "line 2: 'prompt' must be text"),
        (json.dumps(GOOD | {"response_a": "  "}), "line 2: 'response_a' must be text"),
        (json.dumps(GOOD | {"response_b": 7}), "line 2: 'response_b' must be text"),
        (json.dumps(GOOD | {"response_b": " a cat."}), "line 2: both responses are"),
        ('{"id": 2, "undo": 9}', "line 2: 'undo' names label 9"),
    ],
)
def test_damage_in_the_middle_names_the_line(tmp_path, line, complaint):
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
    before = path.read_bytes() + line.encode() + b"\n" + json.dumps(GOOD | {"id": 3}).encode() + b"\n"
    path.write_bytes(before)
    for read in (LabelFile, read_labels):
        with pytest.raises(ValueError, match=complaint):
            read(path)
    assert path.read_bytes() == before
    path.write_bytes(b"")
    LabelFile(path).close()  # the lock was given back


def test_a_bad_label_is_not_written(tmp_path):
    with LabelFile(tmp_path / "l.jsonl") as file:
        with pytest.raises(ValueError, match="'label' must be one of A, B, tie, skip, got 'maybe'"):
            file.append({**PAIR, "label": "maybe"})
        with pytest.raises(ValueError):
            file.append({**PAIR, "label": "A", "seconds": float("nan")})
        assert file.records == []
    assert (tmp_path / "l.jsonl").read_bytes() == b""


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing here\.jsonl: no such file of labels"):
        read_labels(tmp_path / "nothing here.jsonl")


def test_fifty_kills_lose_no_label(tmp_path):
    """A writer is killed 50 times at random moments: all labels that it reported are there, and the file loads."""
    from prefcourse.annotation import labels

    path, rng, reported, torn = tmp_path / "l.jsonl", random.Random(0), [], 0
    root = str(Path(labels.__file__).parents[2])
    for _ in range(50):
        child = subprocess.Popen([sys.executable, "-S", "-c", WRITER, str(path), root], stdout=subprocess.PIPE)
        reported.append(int(child.stdout.readline()))  # it is writing now
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        reported += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
        child.wait()
        with LabelFile(path) as file:
            found = [record["id"] for record in file.records]
            torn += bool(file.note)
        assert set(reported) <= set(found) and found == list(range(1, len(found) + 1))
    assert len(found) - len(reported) <= 50  # at most the one that was being written each time
