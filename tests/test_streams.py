"""Output and files on systems that do not speak UTF-8: nothing that is printed may end a run, or a check."""

import io
import json
import os
import subprocess
import sys

import pytest

from prefcourse import checks, lesson, streams
from prefcourse.annotation.collector import label_in_terminal
from prefcourse.annotation.labels import LabelFile
from prefcourse.commands.cli import main

SYSTEMS = {
    "a file on Windows": {"PYTHONIOENCODING": "cp1252"},
    "the locale C": {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "LANG": "C"},
}


def prefcourse(system, *command, stdin=None):
    """The command on such a system, read as bytes."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    return subprocess.run(
        [sys.executable, "-m", "prefcourse", *command], input=stdin, capture_output=True,
        env=environment | SYSTEMS[system],
    )  # fmt: skip


@pytest.fixture
def printed_by(monkeypatch):
    """printed_by(function) calls it with standard input and output that know cp1252 alone: what it printed."""

    def call(function):
        out = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="cp1252"))
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x81\nq\n"), encoding="cp1252"))
            function()
            sys.stdout.flush()
            return out.getvalue().decode("cp1252")

    return call


# ------------------------------------------------------------------------------------------- in this process


@pytest.mark.parametrize(
    "verdict",
    [
        lesson.setup,
        lambda: lesson.close("β, two ways", 1.0, 1.0),
        lambda: lesson.within("Δ", 0.5, 0, 1),
        lambda: lesson.check("σ(0) = ½", True),
        lambda: lesson.strip("dpo"),
    ],
)
def test_a_lesson_prints_its_verdicts(printed_by, verdict):
    assert "?" in printed_by(verdict) or verdict is lesson.setup


def test_a_check_prints_its_verdict(printed_by, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "progress.json"))
    exercise = checks.ex06.dpo_loss
    assert printed_by(lambda: print(exercise(exercise.reference))).startswith("? dpo_loss: ")
    assert printed_by(lambda: print(exercise(exercise.mutants[0].function))).startswith("? dpo_loss: ")


def test_a_question_prints_its_options(printed_by):
    @checks.choice()
    def sign():
        """What is σ(β · 0)?"""
        return {"½": None, "0": "σ(0) is one half."}

    assert printed_by(lambda: sign.ask(seed=1)).startswith("What is ?(? · 0)?")


def test_a_stub_says_so(printed_by):
    def stub():
        raise NotImplementedError

    assert printed_by(lambda: checks.attempt(stub)) == "? stub: not attempted yet\n"


def test_an_answer_that_cannot_be_read_is_asked_again(printed_by, tmp_path):
    def label():
        streams.tolerate()
        with LabelFile(tmp_path / "labels.jsonl") as file:
            label_in_terminal(
                [{"prompt": "I", "chosen": " am.", "rejected": " was."}], file, ask=lambda _: sys.stdin.readline()
            )

    assert "Please answer again" in printed_by(label)


def test_the_command_line_begins_with_it(printed_by):
    def ask_for_help():
        with pytest.raises(SystemExit) as end:
            main(["train", "--help"])
        assert end.value.code == 0

    assert "the loss's ? (default" in printed_by(ask_for_help)


def test_streams_that_cannot_be_changed_are_left_alone(monkeypatch):
    closed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    closed.close()
    for stream in (None, io.StringIO(), closed):
        monkeypatch.setattr(sys, "stdout", stream)
        streams.tolerate()


def test_a_stream_that_escapes_goes_on_escaping(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stderr", stream)
    streams.tolerate()
    assert stream.errors == "backslashreplace"


def test_an_argument_that_could_not_be_decoded_is_refused_at_once(capsys):
    """`--output café` in the locale C: the tokenizer could not be saved there, after the training."""
    assert main(["train", "--output", "caf\udcc3\udca9"]) == 2
    assert "argument 'caf\\udcc3\\udca9' has letters that" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- as it is called


@pytest.mark.parametrize("system", SYSTEMS)
def test_help_is_printed(system):
    run = prefcourse(system, "train", "--help")
    assert run.returncode == 0 and b"the loss's ? (default" in run.stdout, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_on_an_emoji_ends_with_its_record_and_its_figure(system, tiny_gpt2, tokenizer, tmp_path):
    model, data, out = tmp_path / "model", tmp_path / "pairs.jsonl", tmp_path / "out"
    tiny_gpt2().save_pretrained(model)
    tokenizer.save_pretrained(model)
    rows = [
        {"prompt": f"This film {n} 🎬", "chosen": " is great fun ✓.", "rejected": " was boring, β."} for n in "abcd"
    ]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    command = ("--data", str(data), "--model", str(model), "--steps", "1", "--batch-size", "2", "--output", str(out))
    run = prefcourse(system, "train", *command)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(b"This film") == 4
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["history"]["step"] == [0, 1] and (out / "training.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_progress_and_labels_are_printed(system, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "progress.json"))
    assert prefcourse(system, "progress").returncode == 0
    prompts, file = tmp_path / "prompts.jsonl", tmp_path / "labels.jsonl"
    prompts.write_text('{"prompt": "This ✓"}\n{"prompt": "The old β"}\n', encoding="utf-8")
    command = ("--prompts", str(prompts), "--file", str(file))
    run = prefcourse(system, "collect", *command, stdin=b"\x81\na\nb\n")
    assert run.returncode == 0 and b"Please answer again" in run.stdout, run.stderr
    assert [json.loads(line)["label"] for line in file.read_text(encoding="utf-8").splitlines()] == ["A", "B"]
