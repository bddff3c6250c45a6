"""`train` and `evaluate` on the command line with one's own data and model, in one process and in two."""

import copy
import gzip
import io
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from two_processes import DDP, launch

from prefcourse.__main__ import main
from prefcourse.preferences import read_rows, write_rows
from prefcourse.train import train
from prefcourse.worlds.models import load_model

SMALL = ["--steps", "6", "--batch-size", "6", "--lr", "1e-3", "--precision", "fp32", "--every", "3"]


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
    found = numbers_of(capsys.readouterr().out)
    assert list(found) == [
        "pairs ranked right (a tie is ½)", "log-ratio chosen, nats", "log-ratio rejected, nats", "margin h, nats",
        "KL to the reference, nats", *(f"{name}, {side}" for name in ("length, tokens", "ends with EOS", "repetition")
                                       for side in ("before", "after")),
    ]  # fmt: skip
    assert main(["evaluate", str(mine / "model"), *data]) == 0  # a model against itself: all pairs are ties
    same = numbers_of(capsys.readouterr().out)
    assert same["pairs ranked right (a tie is ½)"][0] == 0.5 and same["KL to the reference, nats"] == [0, 0, 0]
    assert same["length, tokens, before"] == same["length, tokens, after"]


def numbers_of(out: str) -> dict[str, list[float]]:
    """The numbers that `evaluate` prints behind its samples: name → value, low, high."""
    lines = [re.match(r"(.{32}) (-?\d+\.\d\d) \[(-?\d+\.\d\d), (-?\d+\.\d\d)\]$", line) for line in out.splitlines()]
    return {line[1].strip(): [float(line[k]) for k in (2, 3, 4)] for line in lines if line}


def test_evaluate_takes_the_reference_from_the_run_and_never_another(mine, tmp_path, capsys, tiny_gpt2, tokenizer):
    assert main(command(mine, tmp_path / "out")) == 0
    data = ["--data", str(mine / "pairs.jsonl")]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), *data]) == 0
    silent = capsys.readouterr().out
    assert f"reference: {mine / 'model'} (from {tmp_path / 'out' / 'run.json'})" in silent
    assert main(["evaluate", str(tmp_path / "out"), *data, "--reference", str(mine / "model")]) == 0
    assert numbers_of(capsys.readouterr().out) == numbers_of(silent)
    (tmp_path / "out" / "run.json").unlink()
    assert main(["evaluate", str(tmp_path / "out"), *data]) == 2
    assert (
        "no run.json there that says which model training began with. Name it: --reference" in capsys.readouterr().err
    )
    tiny_gpt2(vocab_size=280, bos_token_id=0, eos_token_id=0).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    assert main(["evaluate", str(tmp_path / "out"), *data, "--reference", str(tmp_path / "small")]) == 2
    assert "reference: its vocabulary has 280 tokens" in capsys.readouterr().err


def test_evaluate_reads_unpaired_rows_and_long_ones(mine, tmp_path, capsys):
    assert main(command(mine, tmp_path / "out", "--loss", "kto", data="unpaired.jsonl")) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), "--data", str(mine / "unpaired.jsonl")]) == 0
    assert list(numbers_of(capsys.readouterr().out))[:2] == ["log-ratio desirable, nats", "log-ratio undesirable, nats"]
    long = [{"prompt": "The film " * 80, "chosen": " good", "rejected": " bad"}]
    rows = read_rows(mine / "pairs.jsonl")
    write_rows(tmp_path / "long.jsonl", rows + long)
    line = ["evaluate", str(tmp_path / "out"), "--data", str(tmp_path / "long.jsonl")]
    assert main(line) == 2 and "too_long (--too-long) drop" in capsys.readouterr().err
    assert main([*line, "--too-long", "drop"]) == 0
    assert f"{len(rows)} examples (too long: 1 dropped)" in capsys.readouterr().out


def test_eval_data_is_ranked_on_the_way(mine, tmp_path, capsys):
    assert main(command(mine, tmp_path / "out", "--eval-data", str(mine / "pairs.jsonl"))) == 0
    out = capsys.readouterr().out
    assert "of the test rows are trained on, too." in out and re.search(
        r"^eval_accuracy +0\.50 before +[01]\.\d\d after", out, re.M
    )
    history = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["history"]
    assert history["eval_margin"][0] == 0 and history["eval_margin"][-1] > 0 and history["eval_margin"][1] is None


def test_a_dry_run_shows_what_the_loss_sees_and_writes_nothing(mine, tmp_path, capsys, tokenizer, pairs):
    assert main(command(mine, tmp_path / "out", "--dry-run", "--show-batch")) == 0
    out = capsys.readouterr().out
    assert (
        "36 examples" in out and "steps      6 of 6 examples: 1.00 epochs" in out and "MB before the first step" in out
    )
    end = tokenizer.decode([tokenizer.eos_token_id])
    shown = {row["prompt"] + "⟦" + row["chosen"] + end + "⟧" for row in pairs}
    assert sum(text in out for text in shown) == 3
    assert not (tmp_path / "out").exists()


def test_no_samples_with_every_0_and_shorter_ones_on_demand(mine, tmp_path, capsys):
    line = command(mine, tmp_path / "out")
    line[line.index("--every") + 1] = "0"
    assert main([*line, "--max-kl", "1"]) == 2 and "--every 0 switches off" in capsys.readouterr().err
    assert main(line) == 0
    out = capsys.readouterr().out
    assert " ...\n" not in out and "kl " not in out and "step 5/6: loss" in out
    assert main(command(mine, tmp_path / "short", "--sample-tokens", "5")) == 0
    history = json.loads((tmp_path / "short" / "run.json").read_text(encoding="utf-8"))["history"]
    assert 1 <= history["length"][0] <= 5


def test_defaults_for_a_model_of_ones_own_and_a_warning_far_above(mine, tmp_path, capsys):
    line = ["train", "--data", str(mine / "pairs.jsonl"), "--model", str(mine / "model"), "--dry-run"]
    assert main(line) == 0
    out = capsys.readouterr().out
    width = load_model(mine / "model").config.n_embd
    assert f"1 epoch, lr {1.5e-4 * 256 / width:.3g}" in out and "warning" not in out
    assert main([*line, "--lr", "0.1"]) == 0
    assert re.search(r"warning: lr 0\.1 is \d+ times what is usual", capsys.readouterr().out)


def test_adapters_are_kept_and_merged_on_demand(mine, tmp_path, capsys):
    assert main(command(mine, tmp_path / "kept", "--lora", "4")) == 0
    assert main(command(mine, tmp_path / "merged", "--lora", "4", "--merge")) == 0
    assert (tmp_path / "kept" / "adapter_model.safetensors").is_file() and not (
        tmp_path / "kept" / "config.json"
    ).exists()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert max(gaps(tmp_path / "kept", tmp_path / "merged").values()) < 1e-6
    capsys.readouterr()
    numbers = []
    names = ("kept", "merged")
    for name in names:
        assert main(["evaluate", str(tmp_path / name), "--data", str(mine / "pairs.jsonl")]) == 0
        numbers.append(numbers_of(capsys.readouterr().out))
    assert numbers[0] == numbers[1]
    lines = [
        ["--model", str(tmp_path / name), "--lora", "2", "--output", str(tmp_path / f"on {name}")] for name in names
    ]
    for line in lines:  # adapters on a model that is itself one with adapters
        assert main([*command(mine, tmp_path / "unused"), *line]) == 0
    assert max(gaps(tmp_path / "on kept", tmp_path / "on merged").values()) < 1e-6
    assert max(gaps(tmp_path / "on kept", tmp_path / "kept").values()) > 1e-4
    assert main(command(mine, tmp_path / "kept", "--lora", "4")) == 2
    assert "holds a finished model" in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def chat_model(tiny_gpt2, tokenizer, tmp_path_factory):
    """A folder with a model whose tokenizer has a chat template, marks for turns, and the end of a turn as EOS."""
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.eos_token = "<|im_end|>"
    own.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    folder = tmp_path_factory.mktemp("chat") / "model"
    tiny_gpt2(vocab_size=len(own), n_positions=128, eos_token_id=own.eos_token_id).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def question(n, **more):
    return {"instruction": f"What do you say of film {n}?", "input": "", "chosen": "It is wonderful.",
            "rejected": f"It was boring {n}."} | more  # fmt: skip


def test_a_newcomers_file_is_trained_right_from_one_command(chat_model, tmp_path, capsys):
    """Questions in another column, compressed, one row in twenty broken, and a model with a chat template."""
    rows = [question(n) for n in range(38)] + [question(38, chosen=""), question(39, rejected="It is wonderful.")]
    (tmp_path / "mine.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    line = ["train", "--data", str(tmp_path / "mine.jsonl.gz"), "--model", str(chat_model), "--output",
            str(tmp_path / "out"), "--steps", "3", "--every", "0"]  # fmt: skip
    assert main(line) == 2
    error = capsys.readouterr().err
    assert (
        "2 of 40 rows cannot be used" in error and "line 39: 'chosen' is empty" in error and "--skip-bad-rows" in error
    )
    assert main([*line, "--skip-bad-rows", "--show-batch"]) == 0
    out = capsys.readouterr().out
    assert (
        "38 rows, layout Alpaca's (instruction, input), through the tokenizer's chat template; 2 rows left out" in out
    )
    asked = (
        "<|im_start|>user\nWhat do you say of film {}?<|im_end|>\n<|im_start|>assistant\n⟦It is wonderful.<|im_end|>⟧"
    )
    assert sum(asked.format(n) in out for n in range(38)) == 3
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["history"]["loss"][0] == pytest.approx(math.log(2), abs=1e-4)
    assert main(["evaluate", str(tmp_path / "out"), "--data", str(tmp_path / "mine.jsonl.gz"), "--skip-bad-rows"]) == 0
    assert "38 examples; 38 prompts completed" in capsys.readouterr().out


def test_collect_asks_a_chat_model_in_its_own_words(chat_model, tmp_path, capsys, monkeypatch):
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}])
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    line = ["collect", "--model", str(chat_model), "--prompts", str(tmp_path / "prompts.jsonl"), "--file",
            str(tmp_path / "labels.jsonl"), "--template", "chat"]  # fmt: skip
    assert main(line) == 0
    text = (tmp_path / "labels.jsonl").read_text(encoding="utf-8")
    assert "<|im_start|>user\\nWhy?<|im_end|>\\n<|im_start|>assistant\\n" in text
