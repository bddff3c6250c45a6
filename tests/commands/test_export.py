"""`export`: the script for TRL runs beside our loop, and every option of `train` is translated or named."""

import json
import os
import re
import runpy
from pathlib import Path

import pytest
from torch.nn.utils import parameters_to_vector

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
pytest.importorskip("trl")

from prefcourse.__main__ import main
from prefcourse.commands import export
from prefcourse.commands.trl_losses import TRL, translate
from prefcourse.losses import LOSSES
from prefcourse.preferences import read_rows, write_rows
from prefcourse.train import train
from prefcourse.training import lora
from prefcourse.worlds.bundled import data_folder
from prefcourse.worlds.models import load_model, load_tokenizer

SMALL = ["--steps", "3", "--batch-size", "12", "--lr", "1e-3", "--precision", "fp32", "--every", "3"]


def exported(mine, out, *more, data="pairs.jsonl"):
    """Export a run of three steps, and return the script's folder."""
    given = ["--data", str(mine / data), "--model", str(mine / "model"), "--output", str(out), *SMALL, *more]
    assert main(["export", "--to", "trl", *given]) == 0
    return out / "trl"


def theirs(folder):
    """The losses of the script's steps, and its learning rates and gradients' norms."""
    runpy.run_path(str(folder / "train_trl.py"), run_name="__main__")
    log = [row for row in json.loads((folder / "log.json").read_text(encoding="utf-8")) if "loss" in row]
    return [[row[name] for row in log] for name in ("loss", "learning_rate", "grad_norm")]


def ours(mine, data="pairs.jsonl", **settings):
    """Loss, learning rate and gradient of our three steps; the trained model."""
    policy, tokenizer = load_model(mine / "model"), load_tokenizer(mine / "model")
    given = {"steps": 3, "batch_size": 12, "lr": 1e-3, "precision": "fp32", "progress": False} | settings
    history = train(policy, read_rows(mine / data, ()), tokenizer, **given)
    return [history[name] for name in ("loss", "lr", "grad_norm")], policy


CASES = {  # options of the line, and the same for `train`
    "dpo": ([], {}),
    "ipo": (["--parameter", "tau=0.5", "--parameter", "reduce=mean"], {"tau": 0.5, "reduce": "mean"}),
    "simpo": (["--beta", "2.5", "--parameter", "gamma_over_beta=0.3"], {"beta": 2.5, "gamma_over_beta": 0.3}),
    "orpo": (["--parameter", "lam=0.3"], {"lam": 0.3}),
    "cdpo": (["--parameter", "eps=0.2"], {"eps": 0.2}),
    "rdpo": (["--parameter", "eps=0.2"], {"eps": 0.2}),
    "hinge": ([], {}),
    "dpo_norm": ([], {}),
    "cpo": (["--parameter", "alpha=0.5"], {"alpha": 0.5}),
    "cpo (mean)": (["--parameter", "reduce=mean"], {"reduce": "mean"}),
    "apo_zero": ([], {}),
    "apo_down": ([], {}),
    "nca": ([], {}),
    "sppo_hard": (["--beta", "0.5"], {"beta": 0.5}),
    "exo": (["--parameter", "eps=0.01"], {"eps": 0.01}),
}


def assert_same(found, expected):
    for name, a, b in zip(("loss", "lr", "gradient"), found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4 if name == "loss" else 0), name
    assert expected[0][2] != pytest.approx(expected[0][0], abs=1e-3)  # the weights have moved meanwhile


@pytest.mark.parametrize("loss", CASES)
def test_the_script_and_ours_agree_for_three_steps(mine, tmp_path, loss):
    """The same 12 of 36 pairs in each step, so losses, rates and gradients must be the same."""
    (options, arguments), loss = CASES[loss], loss.split()[0]
    assert_same(theirs(exported(mine, tmp_path, "--loss", loss, *options)), ours(mine, loss=loss, **arguments)[0])
    code = (tmp_path / "trl" / "train_trl.py").read_text(encoding="utf-8")
    assert not re.search(r"^ *(import|from) prefcourse", code, re.M)
    assert all(
        len(line) <= 120 for line in code.splitlines() if "prefcourse train" not in line and "MODEL = " not in line
    )


def test_kto_agrees_where_there_is_one_mismatch_only(mine, tmp_path):
    """With two prompts each can be paired with the other's completion alone: then z0 is the same, and so is all."""
    more = ["--loss", "kto", "--batch-size", "2", "--parameter", "desirable_weight=1.5", "--parameter",
            "undesirable_weight=0.5"]  # fmt: skip
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    expected, _ = ours(mine, "two.jsonl", loss="kto", batch_size=2, **weights)
    assert_same(theirs(exported(mine, tmp_path, *more, data="two.jsonl")), expected)


@pytest.mark.parametrize("data", ["pairs.jsonl", "unpaired.jsonl"])
def test_kto_has_other_partners_and_says_so(mine, tmp_path, capsys, data):
    """At step 0 z0 is 0 whoever the partners are; from then on it is another estimate of the same KL."""
    folder = exported(mine, tmp_path, "--loss", "kto", data=data)
    assert "z0 of kto: TRL pairs each prompt with the completion before it" in " ".join(capsys.readouterr().out.split())
    found, (expected, _) = theirs(folder), ours(mine, data, loss="kto")
    for a, b in zip(found, expected, strict=True):
        assert a[0] == pytest.approx(b[0], rel=1e-4)
    assert found[1] == pytest.approx(expected[1])
    rows = read_rows(folder / "rows.jsonl", ["prompt", "completion", "label"])
    assert len(rows) == {"pairs.jsonl": 72, "unpaired.jsonl": 36}[data]


NEAR = {"sft": ({}, APART := "where ours is a mean of each text's mean"), "dpo_nll": ({"alpha": 0.5}, APART)}


@pytest.mark.parametrize("loss", NEAR)
def test_a_mean_over_tokens_is_that_of_texts_where_lengths_are_equal(mine, tmp_path, capsys, loss):
    settings, sentence = NEAR[loss]
    given = [word for name, value in settings.items() for word in ("--parameter", f"{name}={value}")]
    rows = [row for row in read_rows(mine / "pairs.jsonl") if row["chosen"] == " is wonderful."]
    write_rows(tmp_path / "equal.jsonl", rows)
    data = str(tmp_path / "equal.jsonl")
    folder = exported(mine, tmp_path, "--loss", loss, "--data", data, "--batch-size", "8", *given)
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert_same(theirs(folder), ours(mine, data, loss=loss, batch_size=8, **settings)[0])


def test_bco_agrees_at_step_0_and_names_delta(mine, tmp_path, capsys):
    folder = exported(mine, tmp_path, "--loss", "bco")
    assert "δ, the running mean of the rewards in bco, is not in TRL" in " ".join(capsys.readouterr().out.split())
    found, (expected, _) = theirs(folder), ours(mine, loss="bco")
    assert found[0][0] == pytest.approx(expected[0][0], abs=1e-4)


OPTIONS = {
    "LoRA": (["--lora", "4", "--merge"], {}),
    "micro-batches": (["--micro-batch", "4"], {"micro_batch": 4}),
    "uneven micro-batches": (["--micro-batch", "5"], {"micro_batch": 5}),
    "a longer warm-up, a line": (["--steps", "12", "--schedule", "linear"], {"steps": 12, "schedule": "linear"}),
    "no decay": (["--steps", "12", "--schedule", "constant"], {"steps": 12, "schedule": "constant"}),
    "gradient checkpointing": (["--gradient-checkpointing"], {}),
    "truncated": (["--max-length", "9", "--too-long", "truncate"], {"max_length": 9, "too_long": "truncate"}),
    "dropped": (
        ["--max-length", "14", "--too-long", "drop", "--batch-size", "4"],
        {"max_length": 14, "too_long": "drop", "batch_size": 4},
    ),
    "another reference": (["--reference", "OTHER"], {"reference": "OTHER"}),
    "another seed": (["--seed", "7"], {"seed": 7}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_are_translated(mine, tmp_path, tiny_gpt2, case):
    """Three steps, one epoch: within it the rows come in the same order, whatever the seed and the lengths."""
    more, settings = OPTIONS[case]
    tiny_gpt2(1).save_pretrained(tmp_path / "other")
    more = [str(tmp_path / "other") if word == "OTHER" else word for word in more]
    if "reference" in settings:
        settings = {"reference": load_model(tmp_path / "other")}
    folder, begin, tokenizer = (
        exported(mine, tmp_path, *more),
        load_model(mine / "model"),
        load_tokenizer(mine / "model"),
    )
    if case == "LoRA":
        policy = lora.add_lora(load_model(mine / "model"), 4, seed=0)
        history = train(policy, read_rows(mine / "pairs.jsonl"), tokenizer, steps=3, batch_size=12, lr=1e-3,
                        precision="fp32", progress=False)  # fmt: skip
        expected, policy = [history[name] for name in ("loss", "lr", "grad_norm")], policy.merge_and_unload()
    else:
        expected, policy = ours(mine, **settings)
    found = theirs(folder)
    if settings.get("steps") == 12:  # the rates of all; the rows of the first epoch
        assert found[1] == pytest.approx(expected[1], rel=1e-6)
        found, expected = [x[:3] for x in found], [x[:3] for x in expected]
    assert_same(found, expected)
    if len(found[0]) == 3 and "steps" not in settings:
        # Adam divides by the size of a gradient, so where that is rounding alone a weight may go either way
        a, b, start = (parameters_to_vector(m.parameters()) for m in (load_model(folder / "model"), policy, begin))
        assert (a - b).norm() < 0.02 * (b - start).norm()


def test_the_rate_is_by_default_that_of_train(mine, tmp_path):
    """Without --lr and --epochs: by the model's size, and more for adapters. These are saved as adapters."""
    for more in ([], ["--lora", "4"]):
        given = ["--data", str(mine / "pairs.jsonl"), "--model", str(mine / "model"), "--batch-size", "12", *more]
        assert main(["export", "--to", "trl", *given, "--output", str(tmp_path / "a"), "--overwrite"]) == 0
        assert main(["train", *given, "--output", str(tmp_path / "b"), "--overwrite", "--precision", "fp32"]) == 0
        record = json.loads((tmp_path / "b" / "run.json").read_text(encoding="utf-8"))
        _, rates, _ = theirs(tmp_path / "a" / "trl")
        assert rates == pytest.approx(record["history"]["lr"][:3]) and len(rates) == 3
    assert (tmp_path / "a" / "trl" / "model" / "adapter_config.json").is_file()


def test_a_bos_that_the_tokenizer_does_not_set_is_not_set(mine, tmp_path, tokenizer):
    """GPT-2 has a BOS and sets none; TRL's CPO and ORPO put it before every prompt, the script does not."""
    assert tokenizer.bos_token_id is not None and tokenizer("The film")["input_ids"][0] != tokenizer.bos_token_id
    code = (exported(mine, tmp_path, "--loss", "orpo") / "train_trl.py").read_text(encoding="utf-8")
    assert "TRL's own puts a BOS before every prompt" in code and "add_special_tokens=False" in code


# ------------------------------------------------------------------------------------- from a run's folder


def test_a_finished_run_is_exported_from_its_folder(mine, tmp_path, capsys):
    given = ["--data", str(mine / "pairs.jsonl"), "--model", str(mine / "model"), "--output", str(tmp_path / "run")]
    assert main(["train", "--loss", "nca", "--beta", "0.3", *given, *SMALL]) == 0
    assert main(["export", "--to", "trl", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "DPOTrainer of TRL 1.16.0, 3 steps of 12 examples" in out and "36 rows" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    losses, rates, _ = theirs(tmp_path / "run" / "trl")
    assert losses == pytest.approx(record["history"]["loss"][:3], abs=1e-4)
    assert rates == pytest.approx(record["history"]["lr"][:3])
    # an option beside the folder takes the place of the run's
    other = ["--lr", "1e-5", "--into", str(tmp_path / "other")]
    assert main(["export", "--to", "trl", str(tmp_path / "run"), *other]) == 0
    code = (tmp_path / "other" / "train_trl.py").read_text(encoding="utf-8")
    assert "learning_rate=1e-05," in code and 'loss_type=["nca_pair"]' in code and "beta=0.3," in code
    # a default of then, which may not be that of today
    record["settings"]["lr"] = 2e-5
    record["command"] = record["command"].replace("--lr 1e-3", "")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert main(["export", "--to", "trl", str(tmp_path / "run"), "--overwrite"]) == 0
    assert "learning_rate=2e-05," in (tmp_path / "run" / "trl" / "train_trl.py").read_text(encoding="utf-8")


def test_a_run_on_the_bundled_world_takes_its_model_and_rows_along(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record = {"command": "python -m prefcourse train --overwrite", "settings": {"loss": "dpo", "seed": 0}}
    (tmp_path / "runs" / "dpo").mkdir(parents=True)
    (tmp_path / "runs" / "dpo" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert main(["export", "--to", "trl", "runs/dpo", "--steps", "1", "--batch-size", "2"]) == 0
    folder = tmp_path / "runs" / "dpo" / "trl"
    assert "the bundled sft" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "runs")  # the script finds what lies beside it
    assert theirs(folder)[0] == [pytest.approx(0.6931, abs=1e-4)]
    bundled = read_rows(data_folder() / "pairs" / "train.jsonl")
    assert len(read_rows(folder / "rows.jsonl")) == len(bundled)
    assert (folder / "model" / "model.safetensors").is_file()


# ------------------------------------------------------------------------------------------------ options


def test_every_option_of_train_is_translated_or_named():
    """A new option of `train` has to be put into one of the three, with a reason if TRL has nothing for it."""
    classes = [export.TRANSLATED, export.OURS, set(export.LEFT_OUT)]
    known = set().union(*classes)
    assert sum(map(len, classes)) == len(known)
    assert set(export._defaults()) == known


def test_what_is_left_out_is_named(mine, tmp_path, capsys):
    more = ["--max-kl", "5", "--resume", "--checkpoint-every", "2", "--micro-batch", "5", "--steps", "7"]
    folder = exported(mine, tmp_path, *more, "--batch-size", "8", "--precision", "bf16")
    out = " ".join(capsys.readouterr().out.split())
    code = " ".join((folder / "train_trl.py").read_text(encoding="utf-8").replace("\n#", " ").split())
    for sentence in (
        "--max-kl 5.0: a stop at a KL.", "--resume: TRL cannot read our checkpoints", "--every 3: a look at samples",
        "--micro-batch 5: TRL wants equal parts of the 8 examples, so the script takes 4.",
        "--precision bf16: ours takes log-softmax and sums in float32",
        "the order of the rows from the second epoch on: ours draws a new one",
        "the last batch of an epoch: ours fills it with rows of the next; TRL's has the 4 left.",
    ):  # fmt: skip
        assert sentence in out and sentence in code, sentence
    in_order = sorted(read_rows(folder / "rows.jsonl"), key=str)
    keys = ("prompt", "chosen", "rejected")
    assert in_order == sorted(({k: row[k] for k in keys} for row in read_rows(mine / "pairs.jsonl")), key=str)
    assert 'save_strategy="steps"' in code and "save_steps=2" in code and "'bf16': True" in code


@pytest.mark.parametrize("finished", [False, True])
def test_looks_that_our_run_does_not_take_are_no_difference(mine, tmp_path, capsys, finished):
    given = ["--data", str(mine / "pairs.jsonl"), "--model", str(mine / "model"), "--output", str(tmp_path / "run")]
    given += [*SMALL, "--every", "0"]
    if finished:
        assert main(["train", *given]) == 0
    assert main(["export", "--to", "trl", *([str(tmp_path / "run")] if finished else given)]) == 0
    assert "--every" not in capsys.readouterr().out.partition("Not as in our run:")[2]


def test_an_option_that_nobody_thought_of_is_named(monkeypatch, mine, tmp_path, capsys):
    add = export.train.add

    def more(commands):
        add(commands)
        commands.choices["train"].add_argument("--new-thing")

    monkeypatch.setattr(export.train, "add", more)
    exported(mine, tmp_path, "--new-thing", "x")
    assert "--new-thing x: this command does not know the option" in capsys.readouterr().out


def test_tokens_that_meet_are_counted(mine, tmp_path, capsys):
    rows = [{"prompt": f"The film {n} is", "chosen": " good.", "rejected": " bad."} for n in range(12)]
    rows[3] |= {"prompt": "The fi", "chosen": "lm is good."}  # one word, cut in two
    write_rows(tmp_path / "cut.jsonl", rows)
    exported(mine, tmp_path, "--data", str(tmp_path / "cut.jsonl"))
    assert re.search(r"the tokens of 1 row of 12, such as line \d+ of rows.jsonl", capsys.readouterr().out)
    exported(mine, tmp_path / "without", "--data", str(mine / "pairs.jsonl"))
    assert "the tokens of" not in capsys.readouterr().out


def test_the_version_is_that_of_the_tests():
    requirements = (Path(__file__).parents[1] / "requirements.txt").read_text(encoding="utf-8")
    assert f"trl=={TRL}\n" in requirements


def test_losses_that_trl_lacks_are_refused():
    for loss in LOSSES:
        if LOSSES[loss].trl is None:
            with pytest.raises(ValueError, match=f"TRL 1.16.0 has no {loss}"):
                translate(loss, {})
        elif loss != "ipo":
            assert translate(loss, {}).settings
    with pytest.raises(ValueError, match="ipo with reduce=sum, the paper's, is not in TRL"):
        translate("ipo", {})


# ------------------------------------------------------------------------------------------------ refusals

WRONG = {  # arguments → what the line says
    "nothing/there": "nothing/there: no such folder. Name the --output of a finished run.",
    "HERE/file.safetensors": "no such folder",
    "HERE": "no run.json there, so no run of `train` has ended there",
    "HERE/broken": "run.json: not the record of a run that can be exported (",
    "HERE/empty": "run.json: not the record of a run that can be exported (",
    "HERE/other": "its command is not `python -m prefcourse train`",
    "HERE/newer": "unrecognized arguments: --from-the-future",
    "HERE/wild": "argument --lr: invalid float value: 'high'",
    "HERE/moved": "Paths of a run count from where it was started",
    "--loss dop": "there is no loss 'dop'",
    "--loss dpop": "TRL 1.16.0 has no dpop",
    "--loss ipo": "--parameter reduce=mean",
    "--loss exo --parameter eps=0": "eps is 0.0; allowed is a number in (0, 0.5)",
    "--parameter lam=1": "loss 'dpo' has no parameter 'lam'",
    "--beta 1 --parameter beta=2": "beta is given twice",
    "--schedule zigzag": "schedule must be one of constant, linear, cosine, got 'zigzag'",
    "--precision fp8": "precision must be one of auto",
    "--model HERE/adapters": "holds adapters, and the script cannot begin there",
    "--steps 0": "need steps >= 1",
    "--lr nan": "a finite lr > 0",
    "--loss kto --micro-batch 1": "--micro-batch must be 2 or more",
    "--reference HERE/file.safetensors": "is a file of log-probs, which TRL cannot read",
    "--data HERE/none.jsonl": "none.jsonl: no such file",
    "--max-length 3": "data, line 1: 13 tokens, but the model takes 3",
    "--max-length 3 --too-long truncate": "the prompt alone has",
    "--too-long maybe": "too_long must be one of",
    "--split test": "a file has no splits",
    "--into=": "--into is empty",
    "--into HERE/file.safetensors/x": "cannot be written",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Folders whose run.json is not what it should be."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "file.safetensors").write_bytes(b"")
    train_line = "python -m prefcourse train"
    (folder / "adapters").mkdir()
    adapters = {"base_model_name_or_path": "gpt2"}
    (folder / "adapters" / "adapter_config.json").write_text(json.dumps(adapters), encoding="utf-8")
    for name, content in {
        "broken": "{", "empty": "[]", "other": json.dumps({"command": "python x.py", "settings": {}}),
        "newer": json.dumps({"command": f"{train_line} --from-the-future", "settings": {}}),
        "wild": json.dumps({"command": train_line, "settings": {"lr": "high"}}),
        "moved": json.dumps({"command": f"{train_line} --data here.jsonl", "settings": {}}),
    }.items():  # fmt: skip
        (folder / name).mkdir()
        (folder / name / "run.json").write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_exported_is_said_in_a_line(mine, records, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    given = [word.replace("HERE", str(records)) for word in words.split()]
    if words.startswith("--"):
        given = ["--data", str(mine / "pairs.jsonl"), "--model", str(mine / "model"), *given]
    assert main(["export", "--to", "trl", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prefcourse export: ") and WRONG[words] in error and len(error.splitlines()) == 1, error
    assert not list(tmp_path.iterdir())  # and nothing was written


def test_another_library_is_refused(capsys):
    for words in (["--to", "axolotl"], []):
        with pytest.raises(SystemExit) as stop:
            main(["export", *words])
        assert stop.value.code == 2
    assert "invalid choice: 'axolotl'" in (error := capsys.readouterr().err) and "required: --to" in error


def test_a_script_is_not_replaced_unasked(mine, tmp_path, capsys):
    folder = exported(mine, tmp_path)
    (folder / "train_trl.py").write_text("# mine\n", encoding="utf-8")
    given = ["--data", str(mine / "pairs.jsonl"), "--model", str(mine / "model"), "--output", str(tmp_path), *SMALL]
    assert main(["export", "--to", "trl", *given]) == 2
    assert "may have been changed" in capsys.readouterr().err
    assert (folder / "train_trl.py").read_text(encoding="utf-8") == "# mine\n"
    assert main(["export", "--to", "trl", *given, "--overwrite"]) == 0
