"""Checkpoints that are whole or not there, and from which a run goes on bit for bit.

A checkpoint is a folder `step-000040` with
    model.safetensors, config.json, tokenizer …   the policy, as `AutoModelForCausalLM.from_pretrained` reads it
    training.safetensors                          the optimiser's moments, random states, the history
    training.json                                 the step and which run this is: loss, arguments, data, reference
    manifest.json                                 the SHA-256 of each of these files, compared before any is believed
With LoRA the first are adapter_model.safetensors and adapter_config.json, which `from_pretrained` reads too, with peft.
It is written under another name, flushed to the disk, and renamed at the end. So a kill or a full disk at any moment
leaves the checkpoint before it untouched, and no half-written one. Nothing in it is unpickled.

Which rows come next needs no file: the plan of a run is a function of its data and its seed. Nor does the schedule.
"""

import json
import random
import re
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefcourse.boundary import sha256, told
from prefcourse.training import lora
from prefcourse.training.devices import Devices
from prefcourse.training.history import History
from prefcourse.training.saving import into_place, require_writable

KEEP = 2  # the newest, and the one before it in case the newest is damaged
VERSION = 2
MANIFEST = "manifest.json"
GOING = ".going"  # ends the name of a checkpoint that is being deleted
NAME = re.compile(r"step-\d{6,}")
ASIDE = "Move that folder away; the run then goes on from the checkpoint before it."


@dataclass(frozen=True)
class State:
    """What a run needs beside the policy: all of it before `step`."""

    step: int
    done: bool  # nothing is left to do
    run: dict[str, Any]  # which run this is; JSON values
    machine: dict[str, Any]  # on what it runs: another machine may go on, but rounds otherwise
    history: History
    optimizer: dict[str, Any]  # state_dict of the optimiser
    scaler: dict[str, Any]  # state_dict of fp16's loss scaling
    carry: list[float]  # sums that a loss keeps from step to step
    rng: dict[str, Any]  # `rng_state()`


def save(folder: str | Path, state: State, policy: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write checkpoint `folder/step-…`, then delete all but the newest two.

    Raises OSError, with what to do, if the disk is full or may not be written; earlier checkpoints stay.
    """
    place = Path(folder) / f"step-{state.step:06d}"

    def write(part: Path) -> None:
        with_adapters = {"save_embedding_layers": False} if lora.has_adapters(policy) else {}
        policy.save_pretrained(part, **with_adapters)
        tokenizer.save_pretrained(part)
        tensors = {
            f"history/{name}": torch.tensor(column, dtype=torch.float64) for name, column in state.history.items()
        }
        tensors |= {f"rng/{name}": value for name, value in state.rng.items() if isinstance(value, Tensor)}
        for i, moments in state.optimizer["state"].items():
            tensors |= {f"optimizer/{i}/{name}": value.clone() for name, value in moments.items()}
        save_file(tensors, part / "training.safetensors")
        record = {
            "version": VERSION, "step": state.step, "done": state.done, "run": state.run, "machine": state.machine,
            "scaler": state.scaler, "carry": state.carry, "columns": list(state.history),
            "groups": state.optimizer["param_groups"],
            "rng": {name: value for name, value in state.rng.items() if not isinstance(value, Tensor)},
        }  # fmt: skip
        (part / "training.json").write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
        (part / MANIFEST).write_text(json.dumps(_sums(part), indent=1), encoding="utf-8")

    last = latest(folder)
    if last == place:
        return place  # a run that goes on from here has come by once more
    there = f"The last whole checkpoint is {last}" if last else "There is no earlier checkpoint"
    into_place(place, write, there, "go on with resume=True (--resume)")
    for old in complete(folder)[:-KEEP]:
        if (old / MANIFEST).is_file():  # else it is not one of ours
            with suppress(OSError):
                old.rename(old.with_name(old.name + GOING))  # so that a kill on the way leaves none that looks whole
    for going in Path(folder).glob(f"step-*{GOING}"):
        if NAME.fullmatch(going.name.removesuffix(GOING)):
            shutil.rmtree(going, ignore_errors=True)
    return place


def find(folder: str | Path, run: dict[str, Any], machine: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint in `folder` from which the run `run` goes on, None if it begins.

    Raises OSError if `folder` cannot be written. Raises ValueError if there are checkpoints and we may not resume, if
    they belong to another run (naming each difference), or if the newest is damaged. Warns if it was written on
    another `machine`: then the run goes on, but not bit for bit.
    """
    require_writable(folder)
    place = latest(folder)
    if place is None:
        return None
    if not resume:
        raise ValueError(
            f"{folder} has checkpoints of a run. Go on with resume=True (--resume), or name another folder."
        )
    record = _verified(place)
    if other := _differences(record["run"], run):
        raise ValueError(
            f"{place} belongs to another run: {other}. Call train as that run did, or name another folder."
        )
    if other := _differences(record["machine"], machine):
        warnings.warn(
            f"{place} was written elsewhere: {other}. The run goes on, but rounds otherwise from here on: it will not "
            "end bit for bit as it would have there.",
            stacklevel=2,
        )
    return place


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What is not the same, in words; empty if all is."""
    here = json.loads(json.dumps(here))  # tuples become lists there too
    names = [name for name in sorted({*here, *there}) if there.get(name) != here.get(name)]
    return "; ".join(f"{name} {there.get(name)!r} there, {here.get(name)!r} here" for name in names)


def _sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a checkpoint but the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def _verified(place: Path) -> dict[str, Any]:
    """What training.json of a checkpoint says, once every file has been found to be as it was written.

    Raises ValueError, naming the files, if one is not, and for a checkpoint of another version.
    """
    with told(f"{place} is damaged", ASIDE):
        if not (place / MANIFEST).is_file():
            raise ValueError(f"no {MANIFEST}: it is gone, or an earlier version of this package wrote the rest")
        sums, found = json.loads((place / MANIFEST).read_text(encoding="utf-8")), _sums(place)
        changed = sorted(name for name in {*sums, *found} if sums.get(name) != found.get(name))
        if changed:
            raise ValueError(f"{', '.join(changed)}: missing, or not as written")
        record = json.loads((place / "training.json").read_text(encoding="utf-8"))
        if place.name != f"step-{record['step']:06d}":
            raise ValueError(f"it is the checkpoint of step {record['step']}")
    if record["version"] != VERSION:
        raise ValueError(f"{place} has version {record['version']}, and this package reads version {VERSION}.")
    return record


def load(place: Path, policy: nn.Module) -> State:
    """Put the checkpoint's weights into `policy` and return the rest of it. Raises ValueError if a file is damaged."""
    record = _verified(place)
    with told(f"{place} does not fit this policy", "Call train with the policy of that run."):
        tensors = load_file(place / "training.safetensors")
        load_policy(place, policy)
    history = {name: tensors[f"history/{name}"].tolist() for name in record["columns"]}
    if "step" in history:
        history["step"] = [int(step) for step in history["step"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, i, kind = name.split("/")
            moments.setdefault(int(i), {})[kind] = value
    return State(
        record["step"], record["done"], record["run"], record["machine"], history,
        {"state": moments, "param_groups": record["groups"]}, record["scaler"], record["carry"],
        record["rng"] | {name[4:]: value for name, value in tensors.items() if name.startswith("rng/")},
    )  # fmt: skip


def load_policy(place: Path, policy: nn.Module) -> None:
    """Copy the weights of a saved policy, or its adapters, into `policy`."""
    if lora.has_adapters(policy):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(policy, load_file(place / "adapter_model.safetensors"))
    elif isinstance(policy, PreTrainedModel):
        policy.load_state_dict(type(policy).from_pretrained(place, dtype=policy.dtype).state_dict())
    else:  # a reward model, say
        load_model(policy, place / "model.safetensors")


def complete(folder: str | Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first. A folder with another name, such as a copy, is none."""
    found = (path for path in Path(folder).glob("step-*") if path.is_dir() and NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.name[5:]))


def latest(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in `folder`, if there is one."""
    return next(reversed(complete(folder)), None)


def rng_state() -> dict[str, Any]:
    """The global random states of Python, NumPy and torch: callbacks may use them, the loop does not."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"] = {"key": numpy["state"]["key"].tolist(), "pos": numpy["state"]["pos"]}
    cuda = (
        {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
        if torch.cuda.is_available()
        else {}
    )
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state(), **cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned, or what JSON made of it."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy = state["numpy"]
    np.random.set_state(numpy | {"state": {**numpy["state"], "key": np.array(numpy["state"]["key"], dtype=np.uint32)}})
    torch.set_rng_state(state["torch"])
    for name, value in state.items():
        if name.startswith("cuda") and torch.cuda.is_available():
            torch.cuda.set_rng_state(value, int(name[4:]))


class Checkpoints:
    """The folder in which a run keeps itself every `every` steps; without a folder nothing is kept.

    run: what the run is, JSON values. resume: may it go on from what is there? Raises what `find` raises. The methods
    that read or write must be called by all processes together.
    """

    def __init__(self, folder: str | Path | None, every: int, run: dict[str, Any], resume: bool, devices: Devices):
        self.folder, self.every, self.run, self.devices = folder, every, run, devices
        self.machine = devices.described()
        self.place = devices.from_main(partial(find, folder, run, self.machine, resume)) if folder else None

    @property
    def reference(self) -> Path | None:
        """The file for the reference's log-probs."""
        return Path(self.folder) / "reference.safetensors" if self.folder else None

    def load(self, policy: nn.Module) -> State | None:
        """Put the newest checkpoint into `policy` and the random states, and return the rest; None for a new run."""
        saved = load(self.place, policy) if self.place else None
        if saved:
            set_rng_state(saved.rng)
        return saved

    def rng(self) -> dict[str, Any]:
        """The random states as they are, if anything is kept."""
        return rng_state() if self.folder else {}

    def due(self, step: int, start: int) -> bool:
        """Is it time to save before `step`, in a run that started at `start`?"""
        return bool(self.folder) and step > start and step % self.every == 0

    def save(self, policy: nn.Module, tokenizer: PreTrainedTokenizerBase, **state: Any) -> None:
        """Save `policy` and the fields of `State` but `run`."""
        whole = State(run=self.run, machine=self.machine, **state)
        self.devices.from_main(partial(save, self.folder, whole, policy, tokenizer))

    def last(self) -> Path | None:
        """The newest whole checkpoint."""
        return latest(self.folder) if self.folder else None
