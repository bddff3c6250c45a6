"""A run as it can be watched: lines, history.jsonl that grows and goes on, TensorBoard's files."""

import json
import math
import re

import pytest

from prefcourse.__main__ import main
from prefcourse.commands import watch as watching
from prefcourse.commands.watch import Watch
from prefcourse.terminal import Bar

ROWS = [{"step": s, "loss": 0.7 - s / 100, "grad_norm": 1.0, "rewards/margins": s / 10} for s in range(6)]


def rows(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_lines_come_every_so_many_steps_with_what_is_known(tmp_path):
    said = []
    watch = Watch(2, tmp_path, say=said.append)
    for row in ROWS:
        watch(row | ({"kl": 0.5} if row["step"] == 4 else {}), 6)
    watch({"step": 6, "kl": 0.75}, 6)
    assert [line.split(":")[0] for line in said] == ["step 0/6", "step 2/6", "step 4/6", "step 5/6"]
    assert re.fullmatch(r"step 4/6: loss 0\.660, margin \+0\.40, KL 0\.50, gradient 1\.00, 0 s left", said[2]), said[2]
    assert "s left" not in said[0] and "s left" not in said[3] and "KL" not in said[1]


def test_before_the_first_update_nothing_is_ranked(tmp_path):
    said = []
    watch = Watch(1, tmp_path, say=said.append)
    for step, margin in enumerate((1e-7, 0.2)):
        watch({"step": step, "loss": 0.69, "rewards/margins": margin, "rewards/accuracies": 0.75}, 3)
    assert "ranked right" not in said[0] and "ranked right 75%" in said[1], said


@pytest.mark.parametrize(("looks", "want"), [(False, [0, 2, 4, 5]), (True, [0, 5])])
def test_a_log_hears_of_slow_steps_in_between_and_a_terminal_has_its_bar(tmp_path, monkeypatch, looks, want):
    """Steps of 40 s, a line a minute: two steps on from the last line, whatever it came from."""
    said = []
    monkeypatch.setattr(Bar, "seconds", 60.0)
    monkeypatch.setattr(watching, "watched", lambda: looks)
    watch = Watch(100, tmp_path, say=said.append)
    for row in ROWS:
        monkeypatch.setattr(watching.time, "monotonic", lambda now=40.0 * row["step"]: now)
        watch(row, 6)
    assert [line.split(":")[0] for line in said] == [f"step {step}/6" for step in want]


@pytest.mark.parametrize("told", [{"on_step": lambda row, steps: print("a line")}, {}], ids=["with lines", "without"])
def test_a_pipe_has_one_kind_of_progress(tiny_gpt2, tokenizer, pairs, monkeypatch, capsys, told):
    from prefcourse.train import train

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(Bar, "seconds", 1e-9)
    train(tiny_gpt2(), pairs, tokenizer, loss="sft", steps=3, batch_size=2, lr=1e-4, progress=True, **told)
    printed = capsys.readouterr().out
    assert (printed.count("a line"), printed.count("train ")) == ((3, 0) if told else (0, 3))


def test_the_file_grows_and_a_resumed_run_goes_on_in_it(tmp_path):
    first = Watch(9, tmp_path, say=lambda line: None)
    for row in ROWS[:5]:
        first(row, 6)
        assert rows(tmp_path)[-1] == row
    path = tmp_path / "history.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 5, "lo', encoding="utf-8")  # killed while it wrote
    again = Watch(9, tmp_path, say=lambda line: None)
    for row in ROWS[3:]:  # from the checkpoint of step 3
        again(row | {"loss": math.nan}, 6)
    assert [row["step"] for row in rows(tmp_path)] == list(range(6))
    assert rows(tmp_path)[:3] == ROWS[:3] and rows(tmp_path)[3]["loss"] is None
    fresh = Watch(9, tmp_path, say=lambda line: None)
    fresh(ROWS[0], 6)
    assert rows(tmp_path) == ROWS[:1]


def test_a_run_on_the_command_line_is_watched(tiny_gpt2, tokenizer, pairs, tmp_path, capsys):
    from prefcourse.preferences import write_rows

    tiny_gpt2().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "pairs.jsonl", pairs)
    command = ["train", "--data", str(tmp_path / "pairs.jsonl"), "--model", str(tmp_path / "model"), "--steps", "6"]
    command += ["--batch-size", "6", "--lr", "1e-3", "--every", "2", "--checkpoint-every", "2", "--precision", "fp32"]
    out = tmp_path / "out"
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main([*command, "--output", str(out), "--log-dir", str(tmp_path / "log"), "--gradient-checkpointing"]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^step (\d)/6: loss \d\.\d+, margin ", printed, re.M) == ["0", "2", "4", "5"]
    history = json.loads((out / "run.json").read_text(encoding="utf-8"))["history"]
    found = rows(out)
    assert [row["step"] for row in found] == history["step"] == list(range(7))
    assert [row.get("loss") for row in found] == history["loss"]
    events = board.EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    seen = events.Scalars("loss")
    assert [event.step for event in seen] == list(range(6))
    assert [event.value for event in seen] == pytest.approx(history["loss"][:6])
    # The reference's log-probs that the run kept serve the next one, and the KL is still measured.
    cached = str(out / "checkpoints" / "reference.safetensors")
    assert main([*command, "--output", str(tmp_path / "again"), "--reference", cached]) == 0
    again = json.loads((tmp_path / "again" / "run.json").read_text(encoding="utf-8"))["history"]
    assert again["loss"] == pytest.approx([*history["loss"][:6], None])
    assert again["kl"][-1] == pytest.approx(history["kl"][-1], abs=1e-3)


def test_tensorboard_that_is_missing_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"--log-dir needs tensorboard\. .*not installed: pip install tensorboard"):
        Watch(1, tmp_path, tmp_path / "log")
