"""Several processes are one: the same weights, history, samples and checkpoints, whole (DDP) or split (FSDP)."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import two_processes
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from two_processes import DDP, FSDP, launch

from prefcourse.preferences import write_rows
from prefcourse.training import checkpoint, sharding
from prefcourse.training.devices import Devices, find_devices

HERE = Path(__file__).resolve().parents[1]
WAYS = {"DDP": DDP, "FSDP": FSDP}


@pytest.fixture(scope="module", params=[pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
def folder(request, tiny_gpt2, tokenizer, pairs, tmp_path_factory):
    """Everything in `two_processes.RUNS`, run by two processes."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp(request.param)
    tiny_gpt2().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_rows(folder / "pairs.jsonl", pairs)
    done = launch(WAYS[request.param], HERE / "two_processes.py", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def one(folder):
    """A run by this process alone, once for each name: → policy, history."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = two_processes.run(folder, name, folder / "one")
        return found[name]

    return get


def two(folder, name, rank=0):
    """The weights and the history that a process has left behind."""
    history = (folder / f"{name}-{rank}.json").read_text(encoding="utf-8")
    return load_file(folder / f"{name}-{rank}.safetensors"), json.loads(history)


def apart(a, b):
    """The largest gap between two models' weights, and where."""
    a, b = (dict(m.named_parameters()) if isinstance(m, torch.nn.Module) else m for m in (a, b))
    assert a.keys() == b.keys()
    # the gradient of a key's bias is 0 but for rounding, which AdamW blows up
    return max(((a[n] - b[n]).abs().max().item(), n) for n in a if not n.endswith("c_attn.bias"))


@pytest.mark.parametrize("name", ["dpo", "kto", "lora", "max_kl"])
def test_two_processes_are_one(folder, one, name):
    alone, expected = one(name)
    together, found = two(folder, name)
    assert apart(alone, together)[0] < 1e-5, apart(alone, together)
    assert max(abs(x) for x in found["rewards/margins" if name != "kto" else "z0"][1:]) > 1e-3  # something was learnt
    assert found["step"] == expected["step"] and list(found) == list(expected)
    for column in ("loss", "grad_norm", "kl", "length", "logps/chosen"):
        if column in expected:
            assert found[column] == pytest.approx(expected[column], abs=1e-3, nan_ok=True), column
    assert len(found["step"]) == {"max_kl": len(expected["step"]), "kto": 6}.get(name, 7)


@pytest.mark.parametrize("name", ["dpo", "kto", "lora", "max_kl", "stopped"])
def test_all_processes_end_with_the_same_weights(folder, name):
    assert apart(two(folder, name)[0], two(folder, name, rank=1)[0])[0] == 0


def test_a_run_of_two_goes_on_after_an_interruption(folder):
    """An error in the first process ends both; the run that goes on is, bit for bit, the one that was not stopped."""
    (whole, expected), (stopped, found) = two(folder, "dpo"), two(folder, "stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert str(found) == str(expected)  # as text, where nan equals nan
    saved = AutoModelForCausalLM.from_pretrained(checkpoint.latest(folder / "checkpoints" / "stopped"))
    assert all(torch.equal(whole[name], p) for name, p in saved.named_parameters())


def test_a_checkpoint_of_two_processes_is_one_of_a_single_one(folder, one):
    saved = folder / "checkpoints" / "half"
    assert checkpoint.latest(saved).name == "step-000003"  # the run was stopped before step 4
    found = two_processes.run(folder, "half", folder, checkpoint=saved, checkpoint_every=1, resume=True)
    assert apart(one("dpo")[0], found[0])[0] < 1e-5
    assert found[1]["kl"] == pytest.approx(one("dpo")[1]["kl"], abs=1e-3, nan_ok=True)


# ------------------------------------------------------------------------------------------- what cannot work


@pytest.mark.slow
def test_accelerate_that_starts_a_single_process_is_reported(tmp_path):
    """Without --multi_gpu and without a GPU, accelerate starts one process and says nothing."""
    pytest.importorskip("accelerate")
    script = tmp_path / "script.py"
    script.write_text(
        "from types import SimpleNamespace; from prefcourse.training.devices import find_devices\n"
        "print(find_devices(SimpleNamespace(device='cpu')).count)",
        encoding="utf-8",
    )
    done = launch(["--cpu"], script)
    assert done.returncode == 0 and done.stdout == "1\n", done.stderr
    assert "accelerate was asked for several processes but started one. For several write accelerate" in done.stderr


@pytest.mark.filterwarnings("error")
def test_one_process_on_purpose_is_not_warned_of(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # what accelerate launch --num_processes 1 sets
    assert find_devices(SimpleNamespace(device=torch.device("cpu"))).count == 1


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("FSDP_VERSION", "1", "only version 2 is supported; start with accelerate launch --use_fsdp --fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params is not supported; leave it out"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing is not supported"),
    ],
)
def test_settings_of_fsdp_that_we_do_not_follow_are_refused(monkeypatch, setting, value, message):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    assert not sharding.requested()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert sharding.requested() and os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    monkeypatch.setenv(setting, value)
    with pytest.raises(ValueError, match=message):
        sharding.requested()


def test_the_blocks_are_those_that_the_model_names_or_the_user(tiny_gpt2, monkeypatch):
    assert sharding.blocks(tiny_gpt2()) == {"GPT2Block"}
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "GPT2MLP,GPT2Attention")
    assert sharding.blocks(tiny_gpt2()) == {"GPT2MLP", "GPT2Attention"}


def test_parts_of_a_batch_are_dealt_to_the_processes():
    two = [Devices(torch.device("cpu"), rank, 2) for rank in (0, 1)]
    assert [d.parts(8, 3) for d in two] == [[[0, 2, 4], [6]], [[1, 3, 5], [7]]]
    assert str(two[0]) == "2 processes on cpu"
