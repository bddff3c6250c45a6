"""Checkpoints: whole or not there, refused by another run, and a run that was killed ends as one that was not."""

import errno
import math
import multiprocessing
import os
import random
import shutil
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


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_none_that_looks_whole(
    tiny_gpt2, tokenizer, pairs, tmp_path, monkeypatch
):
    settings = QUICK | {"loss": "dpo", "progress": False}

    rmtree = shutil.rmtree

    def stopped(folder, **settings):
        if not Path(folder).name.endswith(checkpoint.GOING):
            return rmtree(folder, **settings)
        (Path(folder) / checkpoint.MANIFEST).unlink(missing_ok=True)  # the first file goes, then the kill comes
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_gpt2(), pairs, tokenizer, **settings, checkpoint=tmp_path)
    assert [place.name for place in tmp_path.glob(f"*{checkpoint.GOING}")] == ["step-000003.going"]
    train(tiny_gpt2(), pairs, tokenizer, **settings, checkpoint=tmp_path, resume=True)
    assert sorted(place.name for place in tmp_path.glob("step-*")) == ["step-000012", "step-000014"]


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
    with pytest.raises(ValueError, match=r"has checkpoints of a run\. Go on with resume=True \(--resume\)"):
        train(tiny_gpt2(), pairs, tokenizer, **settings)


def changes(data: bytes) -> dict[str, bytes | None]:
    """What may become of a file: by name, its bytes, None if it is gone."""
    found = {"gone": None, "empty": b"", "cut": data[: len(data) // 2], "longer": data + b"\n"}
    for share in (0.01, 0.3, 0.6, 0.99):
        at = min(int(share * len(data)), len(data) - 1)
        found[f"flipped at {share}"] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    return found


def test_no_file_of_a_checkpoint_is_believed_unread(tiny_gpt2, tokenizer, pairs, tmp_path):
    """A changed byte that is not noticed trains on to other weights."""
    settings = QUICK | {"steps": 4, "checkpoint": tmp_path}
    train(tiny_gpt2(), pairs, tokenizer, **settings)
    place, tried = checkpoint.latest(tmp_path), 0
    for file in sorted(place.iterdir()):
        data = file.read_bytes()
        for name, changed in changes(data).items():
            if (file.name, name) == (checkpoint.MANIFEST, "longer"):
                continue  # JSON with one more line break is the same JSON
            file.unlink() if changed is None else file.write_bytes(changed)
            with pytest.raises(
                ValueError, match=r"step-000004 is damaged \(.*\)\. Move that folder away; the run then"
            ):
                train(tiny_gpt2(), pairs, tokenizer, resume=True, **settings)
            tried += 1
            file.write_bytes(data)
        if file.suffix == ".json":
            for changed in ("[]", "{}", "null", '{"files": {}}'):
                file.write_text(changed, encoding="utf-8")
                with pytest.raises(ValueError, match="step-000004 is damaged"):
                    train(tiny_gpt2(), pairs, tokenizer, resume=True, **settings)
                tried += 1
            file.write_bytes(data)
    assert tried >= 60
    train(tiny_gpt2(), pairs, tokenizer, resume=True, **settings)  # as it was


def test_a_changed_file_of_reference_log_probs_is_named(tiny_gpt2, tokenizer, pairs, tmp_path):
    settings = QUICK | {"steps": 8, "checkpoint": tmp_path, "reference": tiny_gpt2(1)}
    train(tiny_gpt2(), pairs, tokenizer, **settings | {"steps": 4})
    shutil.rmtree(checkpoint.latest(tmp_path))
    file = tmp_path / "reference.safetensors"
    data = file.read_bytes()
    for name, changed in changes(data).items():
        if changed is None:
            continue
        file.write_bytes(changed)
        try:
            ReferenceLogps.load(file)
            raise AssertionError(f"{name} is believed")
        except ValueError as error:
            assert "not a file of reference log-probs (" in str(error) and "Move it away" in str(error)


@pytest.mark.parametrize(("before", "after", "message"), [
    (4, None, r"adapters \{.*'rank': 4.*\} there, None here"), (4, 8, "'rank': 4.* there.*'rank': 8.* here"),
    (None, 4, "adapters None there"),
])  # fmt: skip
def test_other_adapters_are_another_run(tiny_gpt2, tokenizer, pairs, tmp_path, before, after, message):
    def policy(rank):
        return tiny_gpt2() if rank is None else lora.add_lora(tiny_gpt2(), rank=rank)

    settings = QUICK | {"steps": 4, "checkpoint": tmp_path}
    train(policy(before), pairs, tokenizer, **settings)
    with pytest.raises(ValueError, match=f"belongs to another run: .*{message}"):
        train(policy(after), pairs, tokenizer, resume=True, **settings)


def test_a_disk_without_locks_is_warned_of(tiny_gpt2, tokenizer, pairs, tmp_path, monkeypatch):
    """A mounted Google Drive, say, on which a run on Colab keeps its checkpoints."""

    def none(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("prefcourse.locks._take", none)
    with pytest.warns(UserWarning, match=r"files there cannot be locked\. Start no second run"):
        train(tiny_gpt2(), pairs, tokenizer, **QUICK | {"steps": 4, "checkpoint": tmp_path})
    assert checkpoint.latest(tmp_path).name == "step-000004"


def test_folders_with_other_names_are_neither_read_nor_deleted(tiny_gpt2, tokenizer, pairs, tmp_path):
    settings = QUICK | {"steps": 14, "checkpoint": tmp_path}
    others = [tmp_path / name for name in ("step-final", "step-000002-keep", "step-12", "my-step-000099")]
    for other in others:
        other.mkdir()
    train(tiny_gpt2(), pairs, tokenizer, **settings)
    train(tiny_gpt2(), pairs, tokenizer, resume=True, **settings)
    assert all(other.is_dir() for other in others)
    assert [place.name for place in checkpoint.complete(tmp_path)] == ["step-000012", "step-000014"]
    shutil.copytree(tmp_path / "step-000012", tmp_path / "step-000099")  # a name alone does not make a step
    with pytest.raises(ValueError, match=r"step-000099 is damaged \(it is the checkpoint of step 12\)"):
        train(tiny_gpt2(), pairs, tokenizer, resume=True, **settings)


def test_another_number_of_threads_goes_on_with_a_warning(tiny_gpt2, tokenizer, pairs, tmp_path, monkeypatch):
    settings = QUICK | {"steps": 4, "checkpoint": tmp_path}
    train(tiny_gpt2(), pairs, tokenizer, **settings)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with pytest.warns(UserWarning, match=r"was written elsewhere: threads \d+ there, 77 here\. The run goes on"):
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
    assert names == [".lock", "reference.safetensors", "step-000003", "step-000006"]  # nothing half-written
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
        assert "File too large" in message and message.endswith("then go on with resume=True (--resume).")
        assert not list(tmp_path.glob(".*.part")) and len(checkpoint.complete(tmp_path)) == 1, (
            part
        )  # nothing half-written
        sizes = [(last / name).stat().st_size for name in ("model.safetensors", "training.safetensors")]
    policy, whole = tiny_gpt2(), tiny_gpt2()
    train(policy, pairs, tokenizer, checkpoint=tmp_path, resume=True, every=4, **QUICK)  # there is room again
    train(whole, pairs, tokenizer, **QUICK)
    assert same(policy, whole)


def test_a_bare_exception_of_a_library_is_told_and_cleaned_up_after(tiny_gpt2, tokenizer, pairs, tmp_path, monkeypatch):
    """As tokenizers raises it on a full disk."""

    def full(*_, **__):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on .* no earlier .*\. Make room there, then"):
        train(tiny_gpt2(), pairs, tokenizer, checkpoint=tmp_path, **QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "reference.safetensors"}


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
