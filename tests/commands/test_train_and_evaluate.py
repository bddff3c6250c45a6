"""`train` and `evaluate` on the command line with one's own data and model, in one process and in two."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from two_processes import DDP, launch

from prefcourse.__main__ import main
from prefcourse.preferences import write_rows
from prefcourse.train import train
from prefcourse.worlds.models import load_model

SMALL = ["--steps", "6", "--batch-size", "6", "--lr", "1e-3", "--precision", "fp32", "--every", "3"]


@pytest.fixture(scope="module")
def mine(tiny_gpt2, tokenizer, pairs, tmp_path_factory):
    """A folder with a model and its tokenizer, pairs, and unpaired rows."""
    folder = tmp_path_factory.mktemp("mine")
    tiny_gpt2().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_rows(folder / "pairs.jsonl", pairs)
    rows = [{"prompt": p["prompt"], "completion": p["chosen"], "label": bool(n % 3)} for n, p in enumerate(pairs)]
    write_rows(folder / "unpaired.jsonl", rows)
    return folder


def command(mine, out, *more, data="pairs.jsonl"):
    return ["train", "--data", str(mine / data), "--model", str(mine / "model"), "--output", str(out), *SMALL, *more]


def gaps(a, b):
    """How far the weights of two saved models are apart, by name."""
    weights = zip(load_model(a).named_parameters(), load_model(b).parameters(), strict=True)
    return {name: (x - y).abs().max().item() for (name, x), y in weights}


def test_ones_own_data_and_model(mine, tmp_path, capsys, tokenizer, pairs):
    assert main(command(mine, tmp_path / "out", "--beta", "0.3")) == 0
    out = capsys.readouterr().out
    assert out.count(" ...\n") >= 8 and " before " in out and " after " in out and "36 rows" in out
    assert re.search(r"^kl +-?0\.00 before +-?\d+\.\d\d after$", out, re.M), out
    by_hand = load_model(mine / "model")
    train(by_hand, pairs, tokenizer, beta=0.3, steps=6, batch_size=6, lr=1e-3, precision="fp32", progress=False)
    trained = load_model(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(by_hand.parameters(), trained.parameters(), strict=True))
    text = (tmp_path / "out" / "run.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=pytest.fail)  # no bare NaN
    assert record["command"].startswith("python -m prefcourse train --data ") and "--beta 0.3" in record["command"]
    assert record["history"]["kl"][1] is None and (tmp_path / "out" / "training.png").is_file()


def test_a_model_is_saved_in_the_dtype_that_it_came_in(mine, tmp_path, tiny_gpt2, tokenizer):
    tiny_gpt2().bfloat16().save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    for model, dtype in ((tmp_path / "half", torch.bfloat16), (mine / "model", torch.float32)):
        assert main(command(mine, tmp_path / "out", "--model", str(model), "--overwrite")) == 0
        weights = load_file(tmp_path / "out" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {dtype}
        assert AutoConfig.from_pretrained(tmp_path / "out").dtype == dtype


def test_evaluate_on_pairs(mine, tmp_path, capsys):
    assert main(command(mine, tmp_path / "out", "--loss", "dpo")) == 0
    capsys.readouterr()
    data = ["--data", str(mine / "pairs.jsonl"), "--reference", str(mine / "model")]
    assert main(["evaluate", str(tmp_path / "out"), *data]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "pairs ranked right", "log-ratio chosen, nats", "log-ratio rejected, nats", "KL to the reference, nats",
    ]  # fmt: skip
    assert all(re.search(r"-?\d+\.\d\d \[", line) for line in lines)
    assert main(["evaluate", str(mine / "model"), *data]) == 0  # a model against itself
    assert capsys.readouterr().out.splitlines()[3].split()[-3:-2] in (["0.00"], ["-0.00"], ["nats"])


def test_lora_parameters_and_resume(mine, tmp_path, capsys):
    more = ["--loss", "ipo", "--parameter", "tau=0.5", "--parameter", "reduce=mean", "--lora", "4"]
    assert main(command(mine, tmp_path / "a", *more)) == 0
    assert main(command(mine, tmp_path / "b", *more, "--checkpoint-every", "2")) == 0
    assert not any(gaps(tmp_path / "a", tmp_path / "b").values())
    assert main(command(mine, tmp_path / "b", *more, "--checkpoint-every", "2")) == 2
    assert "holds a finished model, which would be overwritten" in capsys.readouterr().err
    assert main(command(mine, tmp_path / "b", *more, "--checkpoint-every", "2", "--resume")) == 0
    assert not any(gaps(tmp_path / "a", tmp_path / "b").values())


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
@pytest.mark.parametrize("more", [[], ["--batch-size", "2", "--lr", "1e-5"]], ids=["", "few labels, little change"])
def test_the_figure_of_unpaired_data_has_no_ranking(mine, tmp_path, monkeypatch, more):
    from prefcourse import plots

    drawn, save = [], plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure) or save(figure, path))
    assert main(command(mine, tmp_path / "out", "--loss", "kto", *more, data="unpaired.jsonl")) == 0
    words = " | ".join(axes.get_title(loc="left") + axes.get_ylabel() for axes in drawn[0].axes)
    assert "The margin ends at" in words
    assert not any(wrong in words for wrong in ("nan", "ranked", "per pair"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume"], "--resume needs the --checkpoint-every"),
        (["--parameter", "lam"], "--parameter takes NAME=VALUE"),
        (["--parameter", "lam=0.2"], "'dpo' has no parameter 'lam'"),
        (["--data", "nothing.jsonl"], "nothing.jsonl"),
        (["--model", "./nothing"], "nothing: no model there"),
        (["--lora", "0"], "rank must be from 1"),
    ],
    ids=str,
)
def test_errors_are_one_line(mine, tmp_path, capsys, more, message):
    assert main(command(mine, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_are_one(mine, tmp_path):
    """`accelerate launch --multi_gpu --num_processes 2 -m prefcourse train`, as in the help, against one process."""
    pytest.importorskip("accelerate")
    run = launch(DDP, "-m", "prefcourse", *command(mine, tmp_path / "two", "--loss", "dpo", "--checkpoint-every", "2"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 processes on cpu" in run.stdout and run.stdout.count("trained for 6 steps") == 1
    assert main(command(mine, tmp_path / "one", "--loss", "dpo")) == 0
    histories = [json.loads((tmp_path / n / "run.json").read_text(encoding="utf-8"))["history"] for n in ("one", "two")]
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], abs=1e-5)
    assert histories[0]["kl"][::3] == pytest.approx(histories[1]["kl"][::3], abs=1e-3)
    for name, gap in gaps(tmp_path / "one", tmp_path / "two").items():
        if not name.endswith("c_attn.bias"):  # the gradient of a key's bias is 0 but for rounding, which AdamW blows up
            assert gap < 1e-5, name
