"""The file of labels: nothing lost, nothing mixed, every damage named."""

import errno
import json
import os
import random
import subprocess
import sys
import time

import pytest
from soak_labels import contend

from prefcourse.annotation import labels
from prefcourse.annotation.labels import LabelFile, merge_labels, preference_rows, read_labels

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


def root():
    """The folder that has the package."""
    return labels.__file__.rsplit("/", 3)[0]


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
        ("[" * 100_000, "line 2: too many brackets within brackets"),
        ('{"id": 2, "x": ' + "[" * 100_000, "line 2: too many brackets within brackets"),
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
        (json.dumps(GOOD | {"prompt": "I \ud83d have"}), r"line 2: 'prompt' holds half a character, '\\ud83d'"),
        (json.dumps(GOOD | {"id": True}), "line 2: 'id'"),
        ('{"id": 2, "undo": 9}', "line 2: 'undo' names label 9"),
        ('{"id": 2, "undo": [1]}', r"line 2: 'undo' names label \[1\]"),
        ('{"id": 2, "undo": {"a": 1}}', "line 2: 'undo' names label {'a': 1}"),
        ('{"id": 2, "undo": true}', "line 2: 'undo' names label True"),
        (json.dumps(GOOD)[:-1] + ', "label": "B"}', "line 2: the key 'label' stands there twice"),
        (json.dumps(GOOD)[:-1] + ', "made": {"by": 1, "by": 2}}', "line 2: the key 'by' stands there twice"),
    ],
)
def test_damage_in_the_middle_names_the_line(tmp_path, line, complaint):
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
    before = path.read_bytes() + line.encode() + b"\n" + json.dumps(GOOD | {"id": 3}).encode() + b"\n"
    path.write_bytes(before)
    for read in (LabelFile, read_labels):
        with pytest.raises(ValueError, match=r"l\.jsonl, " + complaint) as error:
            read(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
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


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ({"undo": 1}, "a label has no 'undo'"),
        ({"response_a": "half \ud83d"}, "'response_a' holds half a character"),
        ({"annotator": "half \ud83d"}, "JSON cannot hold this label"),
        ({"annotator": {1, 2}}, "JSON cannot hold this label"),
        ({"time": float("inf")}, "JSON cannot hold this label"),
        ({1: "a", "1": "b"}, "the key '1' stands there twice"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, extra, complaint):
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
        with pytest.raises(ValueError, match=r"l\.jsonl: .*" + complaint):
            file.append({**PAIR, "label": "B", **extra})
        assert file.append({**PAIR, "label": "tie"})["id"] == 2
    assert [r["label"] for r in read_labels(path)] == ["A", "tie"]


def test_an_id_from_elsewhere_is_replaced_and_the_time_kept(tmp_path):
    with LabelFile(tmp_path / "l.jsonl") as file:
        for id_ in (1, 1, "x", None, [7]):
            file.append({"id": id_, "time": "2026-01-01T00:00:00+00:00", **PAIR, "label": "A"})
        assert [r["id"] for r in file.records] == [1, 2, 3, 4, 5]
        assert {r["time"] for r in file.records} == {"2026-01-01T00:00:00+00:00"}
    assert read_labels(file.path) == file.records


# ---------------------------------------------------------------------------------------------- the end of the file


def line(id_, label="A", **more):
    return json.dumps({"id": id_, "time": "t", **PAIR, "label": label, **more}).encode()


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\n \n", b"\r\n\r\n", b"\n\n  \t"])
def test_a_last_line_left_by_an_editor_counts(tmp_path, end):
    path = tmp_path / "l.jsonl"
    path.write_bytes(line(1) + b"\n" + line(2, "B") + end)
    assert [r["label"] for r in read_labels(path)] == ["A", "B"]
    with LabelFile(path) as file:
        assert file.note == "" and [r["label"] for r in file.records] == ["A", "B"]
        assert file.append({**PAIR, "label": "tie"})["id"] == 3
        assert file.append({**PAIR, "label": "skip"})["id"] == 4
    assert read_labels(path) == file.records and len(file.records) == 4
    assert os.listdir(tmp_path) == ["l.jsonl"]


def test_every_cut_of_the_last_line_keeps_the_labels_before(tmp_path):
    path, whole, last = tmp_path / "l.jsonl", line(1) + b"\n", line(2, "B", annotator="Zoë")
    for cut in range(len(last)):
        path.write_bytes(whole + last[:cut])
        assert [r["label"] for r in read_labels(path)] == ["A"]
        with LabelFile(path) as file:
            assert bool(file.note) == (cut > 0)
            file.append({**PAIR, "label": "tie"})
        assert [r["label"] for r in read_labels(path)] == ["A", "tie"]


# ---------------------------------------------------------------------------------------------- disks that refuse


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from prefcourse.annotation.labels import LabelFile
pair = {"prompt": "I have", "response_a": " a cat." * 20, "response_b": " no cat."}
file = LabelFile(sys.argv[1])
file.append({**pair, "label": "A"})
room = file.path.stat().st_size + 100  # for a part of the next line
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
try:
    file.append({**pair, "label": "B"})
except OSError as error:
    print(error)
assert file.path.stat().st_size == room - 100
if sys.argv[3] == "close":
    file.close()
    file = LabelFile(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(file.append({**pair, "label": "tie"})["id"])
file.close()
"""


@pytest.mark.parametrize("then", ["go on", "close"])
def test_a_full_disk_leaves_a_readable_file(tmp_path, then):
    """The disk is full in the middle of a label, then there is room again: the label's id is given once."""
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "skip"})
    child = subprocess.run(
        [sys.executable, "-S", "-c", FULL, path, root(), then], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert child.returncode == 0
    told, id_ = child.stdout.splitlines()
    assert f"[Errno {errno.EFBIG}] " in told and "this label was not written, those before it are safe" in told
    assert "l.jsonl" in told and id_ == "3"
    assert [(r["id"], r["label"]) for r in read_labels(path)] == [(1, "skip"), (2, "A"), (3, "tie")]


@pytest.mark.parametrize("fails", ["write", "fsync"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_label_that_was_not_written_leaves_no_trace(tmp_path, monkeypatch, fails, error):
    def half(number, rest=b""):
        if fails == "write":
            write(number, rest[:20])
        raise error

    path, write = tmp_path / "l.jsonl", os.write
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, fails, half)
            for action in (lambda: file.append({**PAIR, "label": "B"}), file.undo):
                with pytest.raises(type(error)):
                    action()
                assert path.read_bytes() == before and [r["id"] for r in file.records] == [1]
        assert file.append({**PAIR, "label": "tie"})["id"] == 2
    assert read_labels(path) == file.records


def test_what_cannot_be_taken_back_closes_the_file(tmp_path, monkeypatch):
    """Nothing is written behind half a line; the next opening moves that aside."""

    def fail(number, rest):
        if type(rest) is bytes:
            write(number, rest[:20])
        raise OSError(errno.EIO, "Input/output error")

    path, write = tmp_path / "l.jsonl", os.write
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(OSError, match="Input/output error"):
                file.append({**PAIR, "label": "B"})
        with pytest.raises(ValueError, match=r"l\.jsonl was closed, and nothing was written\. Open it again"):
            file.append({**PAIR, "label": "B"})
    with LabelFile(path) as file:
        assert "torn" in file.note and [r["label"] for r in file.records] == ["A"]


# ---------------------------------------------------------------------------------------------- one writer


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_another_name_of_the_file_is_refused(tmp_path, link):
    with LabelFile(tmp_path / "l.jsonl"):
        link(tmp_path / "l.jsonl", tmp_path / "other.jsonl")
        with pytest.raises(BlockingIOError, match=r"other\.jsonl is open in another window or process"):
            LabelFile(tmp_path / "other.jsonl")


def test_no_lock_file_can_get_lost(tmp_path):
    """Whatever else is deleted in the folder, the second writer is refused."""
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as file:
        file.append({**PAIR, "label": "A"})
        for beside in set(tmp_path.iterdir()) - {path}:
            beside.unlink()
        with pytest.raises(BlockingIOError):
            LabelFile(path)


@pytest.mark.parametrize("again", [True, False])
def test_a_writer_whose_file_was_replaced_stops(tmp_path, again):
    """Its labels would land in a file without a name."""
    path = tmp_path / "l.jsonl"
    with LabelFile(path) as first:
        first.append({**PAIR, "label": "A"})
        path.unlink()
        if again:
            with LabelFile(path) as second:
                second.append({**PAIR, "label": "B"})
        for action in (lambda: first.append({**PAIR, "label": "A"}), first.undo):
            with pytest.raises(OSError, match=r"l\.jsonl was deleted, moved or replaced meanwhile; nothing"):
                action()
    if again:
        assert [r["label"] for r in read_labels(path)] == ["B"]


# ---------------------------------------------------------------------------------------------- several annotators


@pytest.fixture
def two_files(tmp_path):
    """Two people's labels of the same two pairs, one of them undone."""
    paths = [tmp_path / "ada.jsonl", tmp_path / "ben.jsonl"]
    for path, given in zip(paths, (("A", "B"), ("A", "tie", "skip")), strict=True):
        with LabelFile(path) as file:
            for number, label in enumerate(given):
                file.append({**PAIR, "prompt": f"I {number}", "label": label, "annotator": "me"})
    with LabelFile(paths[1]) as file:
        file.undo()
    return paths


def test_two_files_become_one(tmp_path, two_files):
    into = tmp_path / "new" / "all.jsonl"
    before = [path.read_bytes() for path in two_files]
    added = merge_labels(*two_files, into=into, annotators=("ada", "ben"))
    assert [(r["id"], r["annotator"], r["label"]) for r in added] == [
        (1, "ada", "A"), (2, "ada", "B"), (3, "ben", "A"), (4, "ben", "tie"),
    ]  # fmt: skip
    assert read_labels(into) == added and before == [path.read_bytes() for path in two_files]
    assert {r["time"] for r in added} == {r["time"] for path in two_files for r in read_labels(path)}


def test_merging_again_adds_what_is_new(tmp_path, two_files):
    into = tmp_path / "all.jsonl"
    assert len(merge_labels(two_files[0], into=into)) == 2
    with LabelFile(into) as file:
        file.undo()  # by whoever keeps the merged file: it stays undone
    with LabelFile(two_files[0]) as file:
        file.append({**PAIR, "label": "A"})
    assert [r["prompt"] for r in merge_labels(two_files[0], two_files[0], into, into=into)] == ["I have"]
    assert [r["prompt"] for r in read_labels(into)] == ["I 0", "I have"]


def test_a_file_that_cannot_be_merged_is_refused_before_anything_is_written(tmp_path, two_files):
    into = tmp_path / "all.jsonl"
    with pytest.raises(ValueError, match=r"2 files need as many annotators, got 1: \('ada',\)"):
        merge_labels(*two_files, into=into, annotators=("ada",))
    with pytest.raises(FileNotFoundError, match=r"cleo\.jsonl: no such file of labels"):
        merge_labels(*two_files, tmp_path / "cleo.jsonl", into=into)
    two_files[1].write_text("{\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"ben\.jsonl, line 1: not a line of JSON"):
        merge_labels(*two_files, into=into)
    assert not into.exists()
    with LabelFile(into), pytest.raises(BlockingIOError, match=r"all\.jsonl is open in another window"):
        merge_labels(two_files[0], into=into)


def test_appending_the_records_of_another_file_keeps_the_file_readable(tmp_path, two_files):
    with LabelFile(tmp_path / "all.jsonl") as file:
        for path in two_files:
            for record in read_labels(path):
                file.append(record)
    assert [r["id"] for r in read_labels(file.path)] == [1, 2, 3, 4]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing here\.jsonl: no such file of labels"):
        read_labels(tmp_path / "nothing here.jsonl")


def test_fifty_kills_lose_no_label(tmp_path):
    """A writer is killed 50 times at random moments: all labels that it reported are there, and the file loads."""
    path, rng, reported, torn = tmp_path / "l.jsonl", random.Random(0), [], 0
    for _ in range(50):
        child = subprocess.Popen([sys.executable, "-S", "-c", WRITER, str(path), root()], stdout=subprocess.PIPE)
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


def test_two_writers_that_are_killed_in_turn_lose_no_label(tmp_path):
    assert contend(tmp_path, kills=20) > 0
