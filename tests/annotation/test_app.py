"""The labelling app, driven as a user would: buttons, keys, undo, stopping and going on."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from prefcourse.annotation.app import BUTTONS, added, label_pairs, summary
from prefcourse.annotation.labels import LabelFile, my_labels, read_labels
from prefcourse.rewards import GoldReward

PAIRS = [{"prompt": f"Film {i}", "chosen": f" is <b>good</b> {i}.", "rejected": f" is bad {i}."} for i in range(4)]
GOLD = GoldReward({"good": 1.0, "bad": -1.0})


def find(box, kind):
    """All widgets of a kind inside `box`, in order."""
    found = [box] if type(box).__name__ == kind else []
    return found + [w for child in getattr(box, "children", ()) for w in find(child, kind)]


def click(app, words):
    [button] = [b for b in find(app, "Button") if b.description.startswith(words)]
    button.click()


def words(app):
    return " ".join(widget.value for widget in find(app, "HTML"))


def test_buttons_and_keys_write_labels(tmp_path):
    path = tmp_path / "l.jsonl"
    app = label_pairs(PAIRS, path, gold=GOLD)
    assert "0 of 4 labelled" in words(app) and "&lt;b&gt;good" in words(app)
    click(app, "A is better")
    [keys] = find(app, "Text")
    keys.value = "b"
    assert [r["label"] for r in read_labels(path)] == ["A", "B"]
    click(app, "undo")
    assert "1 of 4 labelled" in words(app) and "Undone" in words(app)
    keys.value = "bx"
    assert "none of a, b, t, s, u" in words(app) and len(read_labels(path)) == 1
    keys.value = "bxTs"  # two keys before the kernel had time
    assert [r["label"] for r in read_labels(path)] == ["A", "tie", "skip"]
    assert "true reward" not in words(app)  # not before the end
    keys.value = "bxTsa"
    assert "All 4 pairs are labelled" in words(app) and "2 choices, 2 ties and skips" in words(app)
    assert all(b.disabled for b in find(app, "Button") if not b.description.startswith("undo"))
    record = read_labels(path)[0]
    assert record["annotator"] == "me" and record["seconds"] >= 0 and record["shown_first"] == "A"


def test_the_label_is_of_the_text_on_that_side(tmp_path):
    path = tmp_path / "l.jsonl"
    app = label_pairs(PAIRS, path, seed=5)
    for _ in PAIRS:
        left = next(w.value for w in find(app, "HTML") if "<b>A</b>" in w.value)
        find(app, "Text")[0].value += "a" if "good" in left else "b"
    for record in read_labels(path):
        assert "good" in record[f"response_{record['label'].lower()}"]


def test_running_the_cell_again_goes_on(tmp_path):
    path = tmp_path / "l.jsonl"
    find(label_pairs(PAIRS, path), "Text")[0].value = "ab"
    again = label_pairs(PAIRS, path)
    assert "2 of 4 labelled" in words(again)
    find(again, "Text")[0].value = "t"
    assert len(read_labels(path)) == 3


@pytest.mark.parametrize("typed", [["a", "ab", "abt"], ["ab", "abt"], ["abt"], ["a", "abt"], ["A", "A b", "A b t"]])
def test_what_was_handled_does_not_count_again_however_the_keys_arrive(tmp_path, typed):
    """A front end sends what the box holds: each key by itself, or several while the kernel was busy."""
    app = label_pairs(PAIRS, tmp_path / "l.jsonl")
    for value in typed:
        find(app, "Text")[0].value = value
    assert [r["label"] for r in read_labels(tmp_path / "l.jsonl")] == ["A", "B", "tie"]
    find(app, "Text")[0].value = typed[-1][:-1]  # the backspace key takes nothing back: that is what undo is for
    assert len(read_labels(tmp_path / "l.jsonl")) == 3
    find(app, "Text")[0].value += "u"
    assert len(read_labels(tmp_path / "l.jsonl")) == 2


@pytest.mark.parametrize(
    ("old", "new", "put"),
    [("", "a", "a"), ("a", "aa", "a"), ("ab", "ab", ""), ("ab", "a", ""), ("ab", "xab", "x"), ("ab", "axb", "x"),
     ("aba", "ababa", "ba"), ("ab", "", ""), ("ab", "t", "t")],
)  # fmt: skip
def test_what_was_put_into_the_box(old, new, put):
    assert added(old, new) == put


def test_without_a_focus_to_lead_the_buttons_promise_no_keys(tmp_path, monkeypatch):
    """ipywidgets 7.7, Colab's."""
    monkeypatch.delattr("ipywidgets.DOMWidget.focus", raising=False)
    app = label_pairs(PAIRS, tmp_path / "l.jsonl")
    assert [b.description for b in find(app, "Button")] == ["A is better", "B is better", "tie", "skip", "undo"]
    click(app, "A is better")
    assert [r["label"] for r in read_labels(tmp_path / "l.jsonl")] == ["A"]


def test_events_that_come_in_threads_label_each_pair_once(tmp_path):
    """As newer JupyterLabs send them: the box's and each button's events have threads of their own."""
    many = [{**PAIRS[0], "prompt": f"{PAIRS[0]['prompt']} {i}"} for i in range(40)]
    app = label_pairs(many, tmp_path / "l.jsonl")
    buttons = [next(b for b in find(app, "Button") if b.description.startswith(w)) for w in ("A is", "B is", "tie")]
    start = threading.Barrier(len(buttons))

    def press(button):
        start.wait()
        for _ in range(10):
            button.click()

    threads = [threading.Thread(target=press, args=(button,)) for button in buttons]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_labels(tmp_path / "l.jsonl")
    assert len(found) == len({r["prompt"] for r in found}) == 30
    assert Counter(r["label"] for r in found) == {"A": 10, "B": 10, "tie": 10}


def test_the_labels_go_to_one_file_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_LABELS", str(tmp_path / "mine.jsonl"))
    for folder in ("notebooks", "elsewhere"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        click(label_pairs(PAIRS), "tie")
        assert list(Path(tmp_path / folder).iterdir()) == []
    assert my_labels() == tmp_path / "mine.jsonl" and len(read_labels(my_labels())) == 2
    monkeypatch.delenv("PREFCOURSE_LABELS")
    monkeypatch.chdir(tmp_path)
    assert my_labels().is_absolute() and my_labels().name == "my-labels.jsonl"


def test_every_button_has_words_and_a_hint(tmp_path):
    app = label_pairs(PAIRS, tmp_path / "l.jsonl")
    keys_work = hasattr(find(app, "Text")[0], "focus")  # ipywidgets 8; with 7.7 the buttons name no key
    said = [text if keys_work else text.rpartition(" (")[0] for _, text, _ in BUTTONS]
    assert [b.description for b in find(app, "Button")] == said
    assert all(b.tooltip for b in find(app, "Button"))


def test_a_torn_line_is_reported(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text('{"id": 1, "pro', encoding="utf-8")
    assert "was torn; it is kept in l.jsonl.torn-1" in words(label_pairs(PAIRS, path))


def test_a_label_that_was_not_written_is_told_and_asked_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    app = label_pairs(PAIRS, tmp_path / "l.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        click(app, "A is better")
        assert "0 of 4 labelled" in words(app) and "No space left on device; this label was not written" in words(app)
    click(app, "A is better")
    assert "1 of 4 labelled" in words(app) and "not written" not in words(app)
    label_pairs(PAIRS, tmp_path / "l.jsonl")
    click(app, "A is better")
    assert "l.jsonl was closed" in words(app)


def test_what_cannot_be_labelled_is_refused_before_a_file_is_made(tmp_path):
    with pytest.raises(ValueError, match="row 1: needs chosen and rejected"):
        label_pairs([{"prompt": "p"}], tmp_path / "l.jsonl")
    assert not (tmp_path / "l.jsonl").exists()
    with LabelFile(tmp_path / "held.jsonl"), pytest.raises(BlockingIOError, match=r"held\.jsonl is open in another"):
        label_pairs(PAIRS, tmp_path / "held.jsonl")


@pytest.mark.parametrize(("labels", "said"), [("AB" * 20, "which is fair"), ("A" * 40, "not left to chance")])
def test_the_summary_looks_at_the_place(labels, said):
    records = [
        {"prompt": "p", "response_a": " good", "response_b": " bad", "label": label, "seconds": 3.0} for label in labels
    ]
    text = summary(records, GOLD)
    assert said in text and "took you 3 seconds" in text and f"in {labels.count('A')} of 40 pairs" in text
