"""Checkpoints: whole or not there, refused by another run, and a run that was killed ends as one that was not."""

import errno
import math
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prefcourse.train import train
from prefcourse.training import checkpoint, lora, saving
from prefcourse.training.reference import ReferenceLogps

QUICK = {"steps": 14, "batch_size": 6, "lr": 1e-3, "precision": "fp32", "progress": False, "checkpoint_every": 3}
KINDS = {
    "paired": {"loss": "dpo"},
    "unpaired": {"loss": "kto"},
    "running mean": {"loss": "bco"},
    "accumulation": {"loss": "dpo", "micro_batch": 2},
    "LoRA": {"loss": "dpo"},
    "loss scaling": {"loss": "dpo", "precision": "fp16"},
}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def make(tiny_gpt2, kind):
    return lora.add_lora(tiny_gpt2(), rank=4) if kind == "LoRA" else tiny_gpt2()


def slow(model):
    """A measurement that takes a while and draws random numbers, as a user's may."""
    time.sleep(0.01)
    return {"luck": torch.rand(()).item() + random.random()}


@pytest.mark.posix
@pytest.mark.parametrize(("loss", "last"), [("dpo", 7), ("kto", 11)])
def test_a_run_killed_in_its_reference_pass_goes_on_bit_for_bit(tiny_gpt2, tokenizer, pairs, tmp_path, loss, last):
    settings = QUICK | {"loss": loss, "reference": tiny_gpt2(1)}
    whole, again = tiny_gpt2(), tiny_gpt2()
    expected = train(whole, pairs, tokenizer, **settings, checkpoint=tmp_path / "whole")

    def run():
        calls, reading = 0, torch.nn.Module.__call__

        def counted(model, *args, **kwargs):
            nonlocal calls
            calls += model is settings["reference"].base_model
            if calls == last:  # three batches have been scored and kept, and one or two more
                os.kill(os.getpid(), signal.SIGKILL)
            return reading(model, *args, **kwargs)

        torch.nn.Module.__call__ = counted
        train(tiny_gpt2(), pairs, tokenizer, **settings, checkpoint=tmp_path / "killed", resume=True)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kept = ReferenceLogps.load(tmp_path / "killed" / "reference.safetensors")
    assert 0 < int(kept.logps.isnan().any(1).sum()) < len(kept.logps)
    settings["reference"], scored = tiny_gpt2(1), []
    settings["reference"].base_model.register_forward_hook(lambda *_: scored.append(1))
    found = train(again, pairs, tokenizer, **settings, checkpoint=tmp_path / "killed", resume=True)
    assert same(again, whole) and str(found) == str(expected)
    batches = QUICK["steps"] * (2 if loss == "kto" else 1)
    assert len(scored) < batches  # the parts that were written are not computed again
    parts = [ReferenceLogps.load(tmp_path / name / "reference.safetensors") for name in ("whole", "killed")]
    assert parts[0].fingerprint == parts[1].fingerprint
    torch.testing.assert_close(parts[0].logps, parts[1].logps, atol=0, rtol=0, equal_nan=True)


@pytest.mark.posix
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_bit_for_bit(tiny_gpt2, tokenizer, pairs, tmp_path, kind):
    settings = QUICK | KINDS[kind] | {"every": 1, "progress": False}
    torch.manual_seed(5)
    random.seed(5)
    whole = make(tiny_gpt2, kind)
    expected = train(whole, pairs, tokenizer, measure=slow, **settings, checkpoint=tmp_path / "whole")
    seed = random.SystemRandom().randrange(2**32)
    print(f"killed by the dice of seed {seed}")  # pytest shows it if the test fails
    dice = random.Random(seed)

    def run(steps, delay):
        def measure(model):
            nonlocal steps
            steps -= 1
            if steps < 0:  # from now on it may come at any moment, also while a checkpoint is written
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
                steps = math.inf
            return slow(model)

        torch.manual_seed(5)
        random.seed(5)
        train(make(tiny_gpt2, kind), pairs, tokenizer, measure=measure, **settings, checkpoint=tmp_path / "killed",
              resume=True)  # fmt: skip

    for first, last in ((4, 9), (0, 4)):  # killed twice; the first time the checkpoint of step 3 has been written
        process = multiprocessing.get_context("fork").Process(
            target=run, args=(dice.randint(first, last), dice.uniform(0, 0.04))
        )
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    settings["measure"] = slow

    torch.manual_seed(77)  # the random state comes from the checkpoint
    policy = make(tiny_gpt2, kind)
    found = train(policy, pairs, tokenizer, **settings, checkpoint=tmp_path / "killed", resume=True)
    assert same(policy, whole)
    assert str(found) == str(expected)  # as text, where nan equals nan
    assert [place.name for place in checkpoint.complete(tmp_path / "killed")] == ["step-000012", "step-000014"]
    again = make(tiny_gpt2, kind)
    assert str(train(again, pairs, tokenizer, **settings, checkpoint=tmp_path / "killed", resume=True)) == str(expected)
    assert same(again, whole)  # a finished run is read, not trained further


def test_a_checkpoint_loads_as_a_model(tiny_gpt2, tokenizer, pairs, tmp_path):
    policy = tiny_gpt2()
    train(policy, pairs, tokenizer, checkpoint=tmp_path, **QUICK)
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.latest(tmp_path), dtype=torch.float32)
    assert same(policy, loaded)


def test_saved_adapters_are_merged(tiny_gpt2, tokenizer, pairs, tmp_path):
    policy = make(tiny_gpt2, "LoRA")
    train(policy, pairs, tokenizer, **QUICK | {"lr": 1e-2})
    loaded = AutoModelForCausalLM.from_pretrained(saving.save_model(tmp_path / "out", policy, tokenizer))
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded(ids).logits, lora.plain(policy)(ids).logits, atol=1e-5, rtol=1e-5)
    assert not (tmp_path / "out" / "adapter_config.json").exists() and lora.has_adapters(policy)


# ------------------------------------------------------------------------------------------- another run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "ipo"}, "loss 'dpo' there, 'ipo' here"),
        ({"beta": 0.5}, r"loss_arguments \{\} there, \{'beta': 0.5\} here"),
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"rows": 30}, "data '"),
        ({"reference": 1}, "reference '"),
        ({"policy": 1, "reference": 0}, "policy '"),
    ],
    ids=str,
)
def test_another_run_is_refused_by_name(tiny_gpt2, tokenizer, pairs, tmp_path, change, message):
    settings = QUICK | {"steps": 4, "checkpoint": tmp_path}
    train(tiny_gpt2(), pairs, tokenizer, reference=tiny_gpt2(), **settings)
    policy, reference = tiny_gpt2(change.pop("policy", 0)), tiny_gpt2(change.pop("reference", 0))
    before = [p.clone() for p in policy.parameters()]
    rows = pairs[: change.pop("rows", 36)]
    with pytest.raises(ValueError, match=f"belongs to another run: .*{message}"):
        train(policy, rows, tokenizer, reference=reference, resume=True, **settings | change)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_a_folder_with_checkpoints_is_not_overwritten(tiny_gpt2, tokenizer, pairs, tmp_path):
    settings = QUICK | {"steps": 4, "checkpoint": tmp_path}
    train(tiny_gpt2(), pairs, tokenizer, **settings)
    with pytest.raises(ValueError, match=r"has checkpoints of a run\. Pass resume=True"):
        train(tiny_gpt2(), pairs, tokenizer, **settings)


@pytest.mark.parametrize("file", ["training.json", "training.safetensors", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(tiny_gpt2, tokenizer, pairs, tmp_path, file):
    settings = QUICK | {"steps": 4, "checkpoint": tmp_path}
    train(tiny_gpt2(), pairs, tokenizer, **settings)
    path = checkpoint.latest(tmp_path) / file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"step-000004 is damaged .* Delete that folder; the run then goes on"):
        train(tiny_gpt2(), pairs, tokenizer, resume=True, **settings)


# ------------------------------------------------------------------------------------------- disks


def test_a_full_disk_leaves_the_checkpoint_before_it(tiny_gpt2, tokenizer, pairs, tmp_path, monkeypatch):
    whole = tiny_gpt2()
    train(whole, pairs, tokenizer, **QUICK)
    written, real = [], checkpoint.save_file

    def full(tensors, path, **rest):
        if path.name == "training.safetensors":
            written.append(path)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, **rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device.*last whole checkpoint is .*step-000006.*resume=True"):
        train(tiny_gpt2(), pairs, tokenizer, checkpoint=tmp_path, **QUICK)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["reference.safetensors", "step-000003", "step-000006"]  # nothing half-written
    policy = tiny_gpt2()
    train(policy, pairs, tokenizer, checkpoint=tmp_path, resume=True, **QUICK)  # there is room again
    assert same(policy, whole)


@pytest.mark.posix
def test_a_disk_that_is_really_full(tiny_gpt2, tokenizer, pairs, tmp_path):
    """The operating system itself refuses to write more (RLIMIT_FSIZE), in the middle of a checkpoint's files."""
    import resource  # Windows has no such module

    def run(pipe, limit):
        def fill(model):
            if checkpoint.latest(tmp_path) is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return {}

        try:
            train(tiny_gpt2(), pairs, tokenizer, checkpoint=tmp_path, resume=True, measure=fill, every=4, **QUICK)
        except OSError as error:
            pipe.send(str(error))

    sizes = []
    for part in ("model.safetensors", "training.safetensors"):  # each time the disk is full before this file ends
        ours, theirs = multiprocessing.Pipe()
        limit = 2**15 if not sizes else (sizes[0] + sizes[1]) // 2
        process = multiprocessing.get_context("fork").Process(target=run, args=(theirs, limit))
        process.start()
        assert ours.poll(60)
        message = ours.recv()
        process.join(60)
        last = checkpoint.latest(tmp_path)
        assert "cannot be written (" in message and f"The last whole checkpoint is {last}. Make room there" in message
        assert "File too large" in message and message.endswith("then call train again with resume=True.")
        assert not list(tmp_path.glob(".*")) and len(checkpoint.complete(tmp_path)) == 1, part  # nothing half-written
        sizes = [(last / name).stat().st_size for name in ("model.safetensors", "training.safetensors")]
    policy, whole = tiny_gpt2(), tiny_gpt2()
    train(policy, pairs, tokenizer, checkpoint=tmp_path, resume=True, every=4, **QUICK)  # there is room again
    train(whole, pairs, tokenizer, **QUICK)
    assert same(policy, whole)


def test_a_disk_that_turns_read_only_is_named(tiny_gpt2, tokenizer, pairs, tmp_path, monkeypatch):
    """As disks do after an error. The run has had its say by then, and its checkpoints stay."""
    real = Path.mkdir

    def mkdir(path, **rest):
        if path.name == ".step-000006.part":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real(path, **rest)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(OSError, match=r"step-000006: cannot be written \(Read-only file system\).*is .*step-000003\."):
        train(tiny_gpt2(), pairs, tokenizer, checkpoint=tmp_path, **QUICK)
    assert [place.name for place in checkpoint.complete(tmp_path)] == ["step-000003"]


def test_a_folder_that_cannot_be_written_is_refused_first(tiny_gpt2, tokenizer, pairs, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot be written .*is a file.* Choose another folder"):
        train(tiny_gpt2(), pairs, tokenizer, checkpoint=tmp_path / "file" / "run", **QUICK)


def test_the_last_good_checkpoint_survives_a_divergence(tiny_gpt2, tokenizer, pairs, tmp_path):
    def break_it(model):
        if checkpoint.latest(tmp_path) is not None:
            with torch.no_grad():
                model.transformer.wpe.weight.fill_(torch.nan)
        return {}

    settings = QUICK | {"measure": break_it, "every": 3}
    with pytest.raises(FloatingPointError, match=r"step 6: .*The last good checkpoint is .*step-000003\."):
        train(tiny_gpt2(), pairs, tokenizer, checkpoint=tmp_path, **settings)
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.latest(tmp_path))
    assert all(bool(p.isfinite().all()) for p in loaded.parameters())
    with pytest.raises(FloatingPointError) as error:  # nothing was saved, and nothing is promised
        train(tiny_gpt2(), pairs, tokenizer, checkpoint=tmp_path / "none", **settings)
    assert "checkpoint" not in str(error.value)
