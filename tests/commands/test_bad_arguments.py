"""Each argument that cannot be meant is answered in one line, and nothing is trained or written for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset

from prefcourse.__main__ import main

ROWS = [{"prompt": f"The film {i}", "chosen": " is great.", "rejected": " is dull."} for i in range(24)]


@pytest.fixture(scope="module")
def mine(tmp_path_factory, tiny_gpt2, tokenizer):
    """A folder with a model of one's own, and pairs."""
    folder = tmp_path_factory.mktemp("mine")
    tiny_gpt2().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    good = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in ROWS]
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good), encoding="utf-8")
    (folder / "zero.jsonl").write_text("", encoding="utf-8")
    (folder / "half.jsonl").write_text('{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}\n', encoding="utf-8")
    (folder / "deep.jsonl").write_text("[" * 100_000 + "\n", encoding="utf-8")
    (folder / "null.jsonl").write_text('{"prompt": "a", "chosen": null, "rejected": "c"}\n', encoding="utf-8")
    (folder / "twice.jsonl").write_text(
        '{"prompt": "a", "prompt": "b", "chosen": "d", "rejected": "c"}\n', encoding="utf-8"
    )
    (folder / "cut.parquet").write_bytes(b"PAR1 and no more")
    (folder / "script").mkdir()
    (folder / "script" / "script.py").write_text("print('run')", encoding="utf-8")
    (folder / "folder.jsonl").mkdir()
    Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []}).to_parquet(folder / "none.parquet")
    for name in ("cut", "wide", "pickled", "speechless", "other"):
        shutil.copytree(folder / "model", folder / name)
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:999])
    config = json.loads((folder / "wide" / "config.json").read_text(encoding="utf-8"))
    (folder / "wide" / "config.json").write_text(json.dumps(config | {"n_embd": 64}), encoding="utf-8")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    for file in (folder / "speechless").glob("tokenizer*"):
        file.unlink()
    tiny_gpt2(1).save_pretrained(folder / "other")
    return folder


def command(mine: Path, out: Path, *more: str) -> list[str]:
    """A run of two steps on these pairs; `more` comes last, and wins."""
    given = ["--data", str(mine / "pairs.jsonl"), "--model", str(mine / "model"), "--output", str(out)]
    return ["train", *given, "--steps", "2", "--batch-size", "4", "--precision", "fp32", *more]


WRONG = {  # arguments → what the line says
    "--data nothing.jsonl": "nothing.jsonl: no such file. Give one of",
    "--data HERE/folder.jsonl": "folder.jsonl: a folder without a file of data",
    "--data HERE/none.parquet": "none.parquet: cannot be read as parquet (",
    "--model HERE/cut": "cut: the model cannot be loaded (",
    "--model HERE/wide": "wide: the model cannot be loaded (",
    "--model HERE/pickled": "pytorch_model.bin is a pickle, which could run any code",
    "--model HERE/speechless": "speechless: ",
    "--data HERE/script": "a folder without a file of data",
    "--data HERE/zero.jsonl": "no rows",
    "--data HERE/half.jsonl": "line 1: 'chosen': character 1 is half of one",
    "--data HERE/deep.jsonl": "line 1: not JSON (",
    "--data HERE/null.jsonl": "line 1: 'chosen' is null",
    "--data HERE/twice.jsonl": "line 1: not JSON ('prompt' stands there twice)",
    "--data HERE/cut.parquet": "cut.parquet: cannot be read as parquet (",
    "--data=": "--data is empty",
    "--model=": "--model is empty",
    "--reference=": "--reference is empty",
    "--output=": "--output is empty",
    "--world=": "--world is empty",
    "--model nothing/at/all": "nothing/at/all: no model there",
    "--reference /nonexistent": "/nonexistent: no model there",
    "--split nope": "has no splits",
    "--lr inf": "a finite lr > 0",
    "--lr nan": "a finite lr > 0",
    "--lr 0": "a finite lr > 0",
    "--lr -1": "a finite lr > 0",
    "--max-kl nan": "max_kl must be above 0 nats",
    "--max-kl 0": "max_kl must be above 0 nats",
    "--checkpoint-every 0": "checkpoint_every of 1 or more",
    "--checkpoint-every -3": "checkpoint_every of 1 or more",
    "--every -1": "every and checkpoint_every of 1 or more",
    "--micro-batch 0": "need micro_batch",
    "--steps 0": "need steps >= 1",
    "--steps -1": "need steps >= 1",
    "--steps 1000000000": "at most 1,000 are allowed",
    "--batch-size 1000000000": "at most 1,000 are allowed",
    "--batch-size 0": "batch_size >= 1",
    "--seed 100000000000000000000000000": "seed must be a whole number",
    "--seed -1": "seed must be a whole number",
    "--lora 100000": "rank must be from 1 to",
    "--lora -1": "rank must be from 1 to",
    "--beta 0.2 --parameter beta=0.1": "beta is given twice",
    "--parameter beta=0.1 --parameter beta=0.1": "beta is given twice",
    "--beta nan": "beta",
    "--beta inf": "beta",
    "--beta -1": "beta",
    "--loss nope": "nope",
    "--schedule nope": "schedule must be one of",
    "--precision fp8": "fp8",
    "--too-long nope": "too_long must be one of",
    "--max-length 1": "tokens",
    "--max-length 0": "tokens",
    "--max-length -5": "tokens",
    "--resume": "--resume needs the --checkpoint-every",
}


@pytest.mark.parametrize("words", WRONG)
def test_an_argument_that_cannot_be_meant_is_answered_in_one_line(mine, tmp_path, capsys, words):
    given = [word.replace("HERE", str(mine)) for word in words.split()]
    assert main(command(mine, tmp_path / "out", *given)) == 2
    error = capsys.readouterr().err
    assert error.startswith("prefcourse train: ") and error.count("\n") == 1, error
    assert WRONG[words] in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("epochs", ["inf", "nan", "0", "-1", "1e9"])
def test_epochs_that_cannot_be_meant(mine, tmp_path, capsys, epochs):
    given = [word for word in command(mine, tmp_path / "out") if word not in ("--steps", "2")]
    assert main([*given, "--epochs", epochs]) == 2
    assert ("epochs must be a finite number above 0" in (error := capsys.readouterr().err)) != (
        "at most 1,000" in error
    )


@pytest.mark.parametrize(("words", "message"), [
    ("collect --count -1", "--count must be 1 or more"), ("collect --count 0", "--count must be 1 or more"),
    ("collect --prompts HERE/deep.jsonl", "line 1: not JSON"), ("collect --file=", "--file is empty"),
    ("evaluate HERE/nothing", "no model there"), ("evaluate HERE/model --split test", "--split says how rows are read"),
    ("evaluate HERE/model --data HERE/cut.parquet", "cannot be read as parquet"),
    ("evaluate HERE/model --data HERE/pairs.jsonl --reference /nonexistent", "/nonexistent: no model there"),
    ("train --world HERE", "no checksums.json"), ("results nothing", "there is no grid"),
])  # fmt: skip
def test_other_commands_answer_in_one_line_too(mine, capsys, words, message):
    assert main([word.replace("HERE", str(mine)) for word in words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_collect_samples_a_model_of_your_own_with_its_own_tokenizer(mine, tmp_path, monkeypatch, tokenizer):
    from prefcourse.annotation import collector

    shown = []
    monkeypatch.setattr(collector, "label_in_terminal", lambda found, *_, **__: shown.extend(found))
    (mine / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    given = ["--model", str(mine / "model"), "--prompts", str(mine / "prompts.jsonl"), "--count", "2"]
    assert main(["collect", *given, "--file", str(tmp_path / "labels.jsonl")]) == 0
    texts = [text for pair in shown for text in pair["responses"]]
    assert len(texts) == 4 and all(tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in texts)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, capsys, name):
    os.mkfifo(tmp_path / name)
    assert main(["train", "--data", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
    assert "not a file" in (error := capsys.readouterr().err) or "neither a folder nor a file" in error


def test_parquet_needs_no_home(mine, tmp_path):
    """Where the folder for copies cannot be written, as in a container, a file is read all the same."""
    from prefcourse.annotation import exchange

    exchange.save(ROWS, tmp_path / "rows.parquet")
    code = f"from prefcourse.annotation import exchange\nprint(len(exchange.load({str(tmp_path / 'rows.parquet')!r})))"
    home = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    found = subprocess.run(
        [sys.executable, "-c", code], env=home | {"HOME": str(mine / "pairs.jsonl"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert found.stdout.strip() == "24", found.stderr


def test_a_reference_is_what_the_kl_is_measured_against_also_where_the_loss_needs_none(mine, tmp_path):
    given = ["--loss", "orpo", "--parameter", "lam=0.1", "--reference", str(mine / "other")]
    assert main(command(mine, tmp_path / "out", *given)) == 0
    history = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["history"]
    assert history["kl"][0] > 1  # another model, not the policy as it began


def test_labels_of_one_kind_are_warned_of(mine, tmp_path):
    with pytest.warns(UserWarning, match="every label is true"):
        assert main(command(mine, tmp_path / "out", "--data", str(mine / "good.jsonl"), "--loss", "kto")) == 0


def test_a_finished_model_and_the_one_to_start_from_are_not_overwritten(mine, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(mine, out)) == 0
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    from prefcourse.boundary import sha256

    assert record["model"] == {"model.safetensors": sha256(out / "model.safetensors")}
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for more, message in ([], "holds a finished model"), (["--checkpoint-every", "1", "--resume"], "holds a finished"):
        capsys.readouterr()
        assert main(command(mine, out, *more)) == 2
        assert message in capsys.readouterr().err
    assert main(command(mine, mine / "model")) == 2
    assert "is the model to start from" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert main(command(mine, out, "--overwrite", "--seed", "1")) == 0
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]


def started(mine: Path, out: Path, *more: str, **how) -> subprocess.Popen:
    """The command in a process of its own, once it has trained a step."""
    long = command(mine, out, "--steps", "6000", "--checkpoint-every", "1", *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "prefcourse", *long], stderr=subprocess.PIPE, text=True, **how, encoding="utf-8"
    )
    until = time.monotonic() + 60
    while not list(out.glob("checkpoints/step-*")) and time.monotonic() < until:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_a_second_run_is_refused_and_ctrl_c_says_how_to_go_on(mine, tmp_path, capsys):
    process = started(mine, tmp_path / "out", stdout=subprocess.DEVNULL)
    try:
        assert main(command(mine, tmp_path / "out", "--seed", "1")) == 2
        assert "another run writes there now" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted." in error and "the same line with --resume goes on" in error and "Traceback" not in error


def test_ctrl_c_while_labelling_says_that_labels_are_kept(monkeypatch, capsys):
    from prefcourse.worlds import bundled

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundled, "load", stop)
    assert main(["collect"]) == 130
    assert "interrupted. Every label is in its file; the same line goes on." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes of a shell")
def test_who_stops_reading_hears_no_complaint(mine, tmp_path):
    line = " ".join([sys.executable, "-m", "prefcourse", *command(mine, tmp_path / "out", "--every", "1")])
    found = subprocess.run(
        ["bash", "-c", f"{line} | true"], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert found.stderr == ""
