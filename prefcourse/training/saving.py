"""Folders that are written whole or not at all, a trained model among them.

What is written stands under another name until it has been flushed to the disk: a kill or a full disk at any moment
leaves what was there before.
"""

import copy
import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from prefcourse.boundary import disk_full, reason
from prefcourse.locks import Lock
from prefcourse.training import lora
from prefcourse.training.devices import Devices
from prefcourse.worlds.models import ADAPTERS

LOCK = ".lock"  # in a folder that a run writes
NO_LOCKS = {
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
}  # say some disks of a network, and a mounted Drive


def save_model(
    folder: str | Path, policy: nn.Module, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype | None = None,
    merge: bool = True,
) -> Path:  # fmt: skip
    """Write policy and tokenizer to `folder` as `from_pretrained` reads them, config.json last.

    So a folder with a config.json holds a whole model. merge: adapters become a part of the weights, and the result
    needs no peft; else they are written alone, adapter_config.json last. dtype: what the weights are cast to, in place,
    after that. Raises OSError if it cannot be written.
    """
    folder, alone = Path(folder), not merge and lora.has_adapters(policy)
    last = ADAPTERS if alone else "config.json"

    def write(part: Path) -> None:
        whole = copy.deepcopy(policy).merge_and_unload() if lora.has_adapters(policy) and not alone else policy
        more = {"save_embedding_layers": False} if alone else {}
        (whole if dtype is None else whole.to(dtype)).save_pretrained(part, **more)
        tokenizer.save_pretrained(part)

    into_place(folder / ".model", write, "What was there has not changed", "save again, or choose another folder")
    for file in sorted((folder / ".model").iterdir(), key=lambda file: file.name == last):
        file.replace(folder / file.name)
    for other in {ADAPTERS, "config.json"} - {last}:  # of a model that was there before
        (folder / other).unlink(missing_ok=True)
    (folder / ".model").rmdir()
    return folder


def into_place(place: Path, write: Callable[[Path], None], kept: str, then: str) -> None:
    """Let `write` fill a folder under another name, flush it to the disk, and give it the name `place`.

    If anything fails, what was written so far is removed, and an OSError says why, what is `kept`, and what to do: to
    make room if the disk is full, `then` the rest.
    """
    part = place.with_name(f".{place.name.lstrip('.')}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        for path in [*part.rglob("*"), part]:
            _flush(path)
        shutil.rmtree(place, ignore_errors=True)
        part.replace(place)
        _flush(place.parent)
    except Exception as error:  # tokenizers raises no other
        shutil.rmtree(part, ignore_errors=True)
        todo = "Make room there" if disk_full(error) else "See to it"
        raise OSError(f"{place}: cannot be written ({reason(error)}). {kept}. {todo}, then {then}.") from error


@contextmanager
def alone(folder: str | Path | None, devices: Devices | None = None) -> Iterator[None]:
    """Within, no other run writes to `folder`: BlockingIOError if one does now. With `devices` all processes call it.

    A folder that was made for the lock, and got nothing else, goes again.
    """
    held: list[Lock] = []
    there = bool(folder) and Path(folder).exists()

    def hold() -> None:
        require_writable(folder)
        refusal = f"{folder}: another run writes there now. Wait for its end, or choose another folder."
        try:
            held.append(Lock(Path(folder) / LOCK, refusal))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warnings.warn(
                f"{folder}: files there cannot be locked. Start no second run that writes there.", stacklevel=2
            )

    if folder:
        devices.from_main(hold) if devices else hold()
    try:
        yield
    finally:
        for lock in held:
            with suppress(OSError):  # Windows deletes no file that is open
                if not there and os.listdir(folder) == [LOCK]:
                    lock.path.unlink()
                    Path(folder).rmdir()
            lock.release()


def require_writable(folder: str | Path) -> None:
    """Raise OSError if `folder` could not be made or written, without making it."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OSError(f"{folder}: cannot be written ({place} is {'read-only' if place.is_dir() else 'a file'}). Choose "
                      "another folder.")  # fmt: skip


def _flush(path: Path) -> None:
    """Have the operating system write `path` to the disk now."""
    if path.is_dir() and os.name != "posix":
        return  # Windows cannot flush a folder
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
