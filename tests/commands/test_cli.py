"""The command line: what it prints, what it writes, and one plain line for every error that we foresee."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prefcourse import evaluate, plots
from prefcourse.__main__ import main
from prefcourse.commands import doctor
from prefcourse.evaluate import METRICS, Estimate, Evaluation
from prefcourse.generate import Completion
from prefcourse.losses import LOSSES
from prefcourse.training.batches import Feed, encode_rows
from prefcourse.training.reference import ReferenceLogps, fingerprint, reference_logps, weights_digest
from prefcourse.worlds import bundled as module
from prefcourse.worlds.models import load_model

DATA = Path(__file__).resolve().parents[2] / "data"
STUB = Evaluation(
    {name: Estimate(0.0, 0.0, 0.0) for name in METRICS}, ["This"] * 8, [Completion(" film.", [1, 0], True)] * 8, [],
    torch.zeros(8), torch.zeros(8),
)  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A copy of the bundled world with few prompts and pairs, whole as far as its checksums go."""
    folder = Path(shutil.copytree(DATA, tmp_path_factory.mktemp("world") / "data"))
    for path in (path for part in ("prompts", "pairs", "unpaired") for path in (folder / part).iterdir()):
        kept = path.read_text(encoding="utf-8").splitlines()[: 5 if path.stem == "validation" else 40]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    (folder / module.LOGPS).unlink()  # they belong to all pairs
    names = set(json.loads((folder / "checksums.json").read_text(encoding="utf-8"))) - {module.LOGPS}
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "checksums.json").write_text(json.dumps(sums), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """The folder that a training run of two steps has written, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "dpo"
    command = ["train", "--world", small, "--steps", "2", "--batch-size", "4", "--lr", "1e-3", "--output", str(out)]
    run = subprocess.run([sys.executable, "-m", "prefcourse", *command], capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    return out, run


def fails(capsys, *command):
    """Run a command that must fail: its one line on stderr."""
    assert main(list(command)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"prefcourse {command[0]}: ")
    return error


def test_the_main_job_takes_the_bundled_log_probs_of_the_reference(tmp_path, monkeypatch):
    """They are a quarter of its work; in bf16, where the policy rounds otherwise, they are of no use."""
    from prefcourse import train as room

    given = []

    def caught(policy, data, tokenizer, *, reference, **rest):
        given.append(reference)
        raise ValueError("far enough")

    monkeypatch.setattr(room, "train", caught)
    for more in ([], ["--loss", "ipo"], ["--precision", "bf16"], ["--loss", "kto"], ["--loss", "orpo"]):
        assert main(["train", "--precision", "fp32", *more, "--output", str(tmp_path / "out")]) == 2
    assert given == [module.data_folder() / module.LOGPS] * 2 + [None] * 3


@pytest.mark.slow
def test_the_bundled_log_probs_are_those_of_sft():
    world = module.load()
    rows = world.pairs["train"]
    cache = ReferenceLogps.load(world.sft_logps)
    few = reference_logps(world.sft, rows[:400], world.tokenizer, precision="fp32", progress=False)
    torch.testing.assert_close(cache.logps[:400], few.logps, atol=2e-3, rtol=1e-4)
    examples = encode_rows(rows, world.tokenizer, needs=LOSSES["dpo"].inputs())
    marks = fingerprint(rows, Feed(examples, [], [], []), torch.float32)
    cache.require(marks | {"reference": weights_digest(world.sft)})
    assert cache.logps.isfinite().all() and len(cache.logps) == len(rows)


# ------------------------------------------------------------------------------------------- doctor


def test_doctor_says_that_all_is_well(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("All is well.\n") and "all files are there and whole" in out
    for name in (*doctor.NEEDED, "python", "device"):
        assert any(line.startswith(f"{name} ") for line in out.splitlines()), name


def test_doctor_names_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "prefcourse" / "worlds" / "bundled.py"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing: pip install no-such-package" in out and "no data/checksums.json" in out
    assert out.endswith("Something is missing or does not work: see above.\n")


def test_doctor_says_whether_the_real_world_can_be_had(monkeypatch, capsys, tmp_path):
    for part in ("SFT", "GOLD", "PROMPTS"):
        monkeypatch.setenv(f"PREFCOURSE_{part}", str(tmp_path))
    assert main(["doctor", "--hub"]) == 1  # the tests run offline, and base comes from the hub
    out = capsys.readouterr().out
    assert "openai-community/gpt2@607a30d7" in out and "cannot be had" in out and "name the folders" in out
    assert out.count("a folder, there") == 3
    monkeypatch.setenv("PREFCOURSE_BASE", str(tmp_path))
    monkeypatch.setenv("PREFCOURSE_WORLD", "gpt2-imdb")
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("All is well.\n")


# ------------------------------------------------------------------------------------------- train and evaluate


def test_train_writes_a_model_a_record_and_a_figure(trained, small):
    out, run = trained
    policy, sft = load_model(out), load_model(Path(small) / "sft")
    change = [(a - b).abs().max().item() for a, b in zip(policy.parameters(), sft.parameters(), strict=True)]
    assert 1e-5 < max(change) < 0.1 and (out / "tokenizer.json").is_file()
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    history = record["history"]
    assert record["settings"]["lr"] == 1e-3 and set(record["results"]) == {"sft", "dpo"}
    assert record["results"]["dpo"]["kl"]["low"] <= record["results"]["dpo"]["kl"]["value"]
    assert history["step"] == [0, 1, 2] and history["rewards/margins"][0] == 0 and history["kl"][0] == 0
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert str(out / "training.png") in run.stdout and str(out) in run.stdout


def test_train_prints_samples_and_the_table(trained):
    _, run = trained
    assert run.stdout.count(" ...\n") >= 8 and run.stdout.count("   sft ") >= 8
    for heading, _ in METRICS.values():
        assert any(line.startswith(heading) and line.count("[") == 2 for line in run.stdout.splitlines()), heading
    assert run.stderr == ""  # no warnings and, where nobody looks, no bars


def test_evaluate_measures_a_saved_policy(trained, small, capsys):
    assert main(["evaluate", str(trained[0]), "--world", small]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.endswith(" ...")]
    assert lines[0].split() == ["sft", "dpo"]
    table = [line for line in trained[1].stdout.splitlines() if line.startswith(tuple(h for h, _ in METRICS.values()))]
    assert lines[2:] == table  # the same numbers as at the end of the training


def test_a_policy_in_a_folder_called_sft_has_a_column_of_its_own(small, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: STUB)
    assert main(["evaluate", str(Path(small) / "sft"), "--world", small]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.endswith(" ...")]
    assert len(lines[0].split()) == 2


@pytest.mark.parametrize(("loss", "beta"), [("dpo_norm", 2.0), ("ipo", 1.0), ("simpo", None), ("sft", None)])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_figure_says_what_is_true_of_other_losses(small, tmp_path, monkeypatch, capsys, loss, beta):
    """The factor between implicit reward and log-ratio is the loss's own; without a reference there is none to show."""
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: STUB)
    figures, save, draw = [], plots.save, plots.training_curves
    monkeypatch.setattr(
        plots, "training_curves", lambda history, beta: figures.append(beta) or draw(history, beta=beta)
    )
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    command = [
        "train",
        "--world",
        small,
        "--loss",
        loss,
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--output",
        str(tmp_path),
    ]
    assert main(command) == 0
    (header,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" " * 16)]
    assert len(header.split()) == 2  # the bundled sft has its column, and what we trained has another
    assert (tmp_path / "training.png").is_file() and figures[0] == beta
    titles = " | ".join(axes.get_title(loc="left") for axes in figures[1].axes)
    assert "nan" not in titles and ("ranked right" in titles) == (beta is not None), titles
    assert loss != "sft" or "rejected" not in titles


# ------------------------------------------------------------------------------------------- errors


def test_an_unknown_loss(capsys, small, tmp_path):
    error = fails(capsys, "train", "--loss", "dop", "--world", small, "--output", str(tmp_path / "out"))
    assert "no loss 'dop'; the losses are: dpo, cdpo" in error
    assert not (tmp_path / "out").exists()


def test_a_parameter_that_the_loss_does_not_take(capsys, small, tmp_path):
    error = fails(capsys, "train", "--loss", "sft", "--beta", "1", "--world", small, "--output", str(tmp_path / "out"))
    assert "'sft' has no parameter 'beta'" in error


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_folder_without_a_world(capsys, tmp_path, trained, command):
    policy = [str(trained[0])] if command == "evaluate" else []
    error = fails(capsys, command, *policy, "--world", str(tmp_path))
    assert str(tmp_path) in error and "checksums.json" in error


def test_a_folder_without_a_policy(capsys, tmp_path):
    error = fails(capsys, "evaluate", str(tmp_path / "nothing"))
    assert "nothing: no model there (no config.json)" in error and "python -m prefcourse train" in error


@pytest.mark.filterwarnings("ignore:lr=1e")
def test_a_run_that_diverges(capsys, small, tmp_path):
    error = fails(capsys, "train", "--lr", "1e30", "--steps", "9", "--world", small, "--output", str(tmp_path / "out"))
    assert "not finite" in error and "lower lr" in error


def test_a_bundle_from_an_empty_folder(capsys, tmp_path):
    (tmp_path / "imdb").mkdir()
    folders = [x for name in ("imdb", "out", "work") for x in (f"--{name}", str(tmp_path / name))]
    error = fails(capsys, "bundle", *folders)
    assert "no train-*.parquet in this folder" in error
    assert "no step 'pair'" in fails(capsys, "bundle", *folders, "--redo", "pair")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_help_fits_and_explains_every_argument(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120 and any(line.startswith(f"  python -m prefcourse {command}") for line in lines)
    options = [n for n, line in enumerate(lines) if line.startswith(("  --", "  policy"))]
    for n in options:  # the explanation stands beside it or, if there is no room, below it
        assert len(lines[n].split("  ")) > 2 or lines[n + 1].startswith(" " * 12), lines[n]
    if command == "train":
        assert "without them accelerate starts one process there" in " ".join(lines)


@pytest.mark.parametrize("command", [[], ["fly"], ["train", "--lr", "fast"], ["evaluate"]])
def test_a_command_line_that_makes_no_sense(capsys, command):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2 and "usage: prefcourse" in capsys.readouterr().err


def test_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    main(["doctor"])
    assert torch.get_num_threads() == before
