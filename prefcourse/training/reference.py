"""Log-probs of the reference: computed once, kept with a fingerprint of what they belong to, refused elsewhere.

    cache = reference_logps(world.sft, world.pairs["train"], world.tokenizer, path="runs/reference.safetensors")
    train(policy, world.pairs["train"], world.tokenizer, reference=cache)      # or reference=that path

The reference never changes, so one pass over the data is enough: then it can leave memory, and ten runs with ten values
of β share the pass. The price is a new way to go wrong, another reference's numbers, hence the fingerprint.
"""

import copy
import hashlib
import json
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from prefcourse.boundary import disk_full, reason, told
from prefcourse.logprobs import sequence_logps
from prefcourse.losses import LOSSES
from prefcourse.preferences import Batch, Row
from prefcourse.terminal import Bar
from prefcourse.training import guards, lora
from prefcourse.training.batches import Feed, encode_rows, mismatch, visits
from prefcourse.training.devices import Devices, precision_name
from prefcourse.training.scoring import Forward, Scoring
from prefcourse.worlds.models import context

MEANING = {
    "data": "the rows are others",
    "tokens": "the token ids are others (another tokenizer, max_length or too_long)",
    "reference": "the reference's weights are others",
    "precision": "the precision is another",
    "mismatched": "KTO's mismatched pairs are others (another seed)",
}


@dataclass(frozen=True)
class ReferenceLogps:
    """log π_ref of every example's k sequences, in nats, and what they belong to.

    logps: (N, k); nan where the run that made them did not come by. mismatched: (E, N) of KTO's mismatched pairs, one
    row an epoch; (0, N) for all other losses. fingerprint: short hashes of data, token ids, reference weights, and the
    precision.
    """

    logps: Tensor
    mismatched: Tensor
    fingerprint: dict[str, str]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        path = Path(path)
        part = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            marks = self.fingerprint | {"sha256": self._digest()}
            save_file({"logps": self.logps, "mismatched": self.mismatched}, part, metadata=marks)
            part.replace(path)
        except Exception as error:
            part.unlink(missing_ok=True)
            todo = "Make room there." if disk_full(error) else "See to it, or name another file."
            raise OSError(f"{path}: the reference log-probs cannot be written ({reason(error)}). {todo}") from error

    @classmethod
    def load(cls, path: str | Path) -> "ReferenceLogps":
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError if the file is something else."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file. Make it with reference_logps(..., path=...).")
        again = "Move it away and make it anew with reference_logps, or name another file."
        with told(f"{path}: not a file of reference log-probs", again):
            with safe_open(path, "pt") as file:
                marks = dict(file.metadata())
                found = cls(file.get_tensor("logps"), file.get_tensor("mismatched"), marks)
            if marks.pop("sha256") != found._digest():
                raise ValueError("its numbers are not those that were written")
        return found

    def _digest(self) -> str:
        """The SHA-256 of the numbers and of what they belong to."""
        whole = hashlib.sha256(json.dumps(sorted(self.fingerprint.items())).encode())
        for tensor in (self.logps, self.mismatched):
            whole.update(tensor.contiguous().numpy().tobytes())
        return whole.hexdigest()

    def require(self, expected: dict[str, str], where: str = "the cached reference log-probs") -> None:
        """Raise ValueError, saying what differs, unless the fingerprint has all of `expected`."""
        different = [name for name, value in expected.items() if self.fingerprint.get(name) != value]
        if "data" in different:  # then the token ids differ too, which explains nothing
            different = [name for name in different if name != "tokens"]
        if different:
            raise ValueError(
                f"{where} belong to another run: {'; '.join(MEANING[name] for name in different)}. Delete "
                "them, or give the reference model."
            )

    def cover(self, feed: Feed) -> None:
        """Raise ValueError unless there is a number for every example and mismatched pair that `feed` asks for."""
        met = sorted({i for rows in feed.batches for i in rows})
        missing = int(self.logps[met].isnan().any(1).sum())
        if missing or len(self.mismatched) < len(feed.partners):
            lack = (
                f"{missing} of {len(met)} examples" if missing else f"epoch {len(self.mismatched) + 1} of KTO's pairs"
            )
            raise ValueError(
                f"the cached reference log-probs lack {lack} that this run meets: they come from a shorter run. Make "
                "them anew with reference_logps, which goes through all rows (epochs=… for KTO)."
            )


def reference_logps(
    reference: nn.Module, data: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, path: str | Path | None = None,
    loss: str = "dpo", epochs: int = 1, precision: str | None = None, batch_size: int = 32, seed: int = 0,
    max_length: int | None = None, too_long: str = "error", progress: bool = True,
) -> ReferenceLogps:  # fmt: skip
    """The log-probs that `train(..., reference=...)` takes for this data; with `path`, kept in that file for next time.

    epochs and seed matter for loss="kto" alone, whose mismatched pairs are drawn anew each epoch. The other arguments
    are those of `train`, and must be the same there.
    Raises ValueError if the file at `path` belongs to other data, another reference, tokenizer or precision.
    """
    needs, longest = LOSSES[loss].inputs(), context(reference, max_length)
    examples = encode_rows(data, tokenizer, needs=needs, longest=longest, too_long=too_long)
    guards.check_head(reference.eval(), "reference")
    scoring = Scoring(reference, sequence_logps, Devices(reference.device), precision, tokenizer.pad_token_id)
    partners = mismatch(examples, epochs, seed, longest) if "kl_policy" in needs else []
    order = sorted(range(len(examples)), key=lambda i: examples.lengths[i])
    batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)] * max(len(partners), 1)
    feed = Feed(examples, batches, visits(batches), partners)
    marks = fingerprint(data, feed, scoring.dtype) | {"reference": weights_digest(reference)}
    if path and Path(path).exists():
        cache = ReferenceLogps.load(path)
        cache.require(marks, f"the log-probs in {path}")
        if cache.fingerprint.get("plan") != plan_digest(feed):  # else whole, or from a pass that was killed
            cache.cover(feed)
            return cache
    return score_feed(scoring.frozen_logps, feed, marks, scoring.devices, batch_size, progress, kept=path)


def score_feed(
    logps: Callable[[list], Tensor], feed: Feed, marks: dict[str, str], devices: Devices, micro_batch: int,
    progress: bool, *, kept: str | Path | None = None, every: int = 50,
) -> ReferenceLogps:  # fmt: skip
    """The log-probs that `feed` will ask for, each once. logps: b groups of k sequences → (b, k).

    We score the very batches of the run, so that policy and reference round alike and the first margins are exactly 0.
    kept: a file in which they are saved every `every` batches and at the end. If it is there already, from a pass over
    the same batches that was killed, we go on from it: with the same numbers, bit for bit, as if it had not been.
    """
    examples, marks = feed.examples, marks | {"plan": plan_digest(feed)}
    found = _begun(kept, marks) or ReferenceLogps(
        torch.full((len(examples), len(examples.sequences[0])), math.nan),
        torch.full((len(feed.partners), len(examples)), math.nan),
        marks,
    )
    stored, mismatched, unsaved = found.logps, found.mismatched, 0
    for step, rows in enumerate(Bar(feed.batches, "reference", progress)):
        epochs = feed.epochs[step]
        new, new_pairs = stored[rows].isnan().any(), bool(feed.partners) and mismatched[epochs, rows].isnan().any()
        if new:
            stored[rows] = devices.map(feed.groups(step), logps, micro_batch).float()
        if new_pairs:
            mismatched[epochs, rows] = devices.map(feed.mixed(step), logps, micro_batch).float()[:, 0]
        fine = stored[rows].isfinite().all(1) & (mismatched[epochs, rows].isfinite() if feed.partners else True)
        if not bool(fine.all()):
            bad = sorted({examples.rows[i] for i, good in zip(rows, fine.tolist(), strict=True) if not good})
            raise ValueError(f"the reference gives rows {bad[:8]} of the data log-probs that are not finite")
        unsaved += bool(new or new_pairs)
        if kept and unsaved and (unsaved == every or step + 1 == len(feed.batches)):
            devices.from_main(partial(found.save, kept))
            unsaved = 0
    return found


def _begun(kept: str | Path | None, marks: dict[str, str]) -> ReferenceLogps | None:
    """What a pass with these marks has kept so far."""
    there = ReferenceLogps.load(kept) if kept and Path(kept).exists() else None
    return there if there and there.fingerprint == marks else None


def plan_digest(feed: Feed) -> str:
    """A short hash of the batches, in their order."""
    return hashlib.sha256(json.dumps(feed.batches).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FoundReference:
    """What `train(reference=...)` names: the hash of its weights, and how to score with it or its cached log-probs."""

    digest: str
    forward: Forward | None = None
    cache: ReferenceLogps | None = None


def find_reference(
    reference: nn.Module | ReferenceLogps | str | Path | None, scoring: Scoring, keep: bool
) -> FoundReference:
    """The reference of a run whose policy `scoring` scores with, as `train` takes it.

    keep: will the reference be needed when the policy has changed, to score samples? Then a policy that is its own
    reference is copied, also where its log-probs of the data are cached.
    Raises ValueError or FileNotFoundError for a reference that is none.
    """
    policy, forward = scoring.policy, scoring.by_policy  # which scores with the policy as it is at the time of the call
    if isinstance(reference, (str, Path)) and reference != "base":
        reference = ReferenceLogps.load(reference)
    if isinstance(reference, ReferenceLogps):
        digest = reference.fingerprint["reference"]
        if keep and digest == weights_digest(policy):  # the log-probs of the policy as it is now: the model is at hand
            return replace(find_reference(None, scoring, keep), cache=reference)
        return FoundReference(digest, cache=reference)
    if reference is policy or reference is None:
        reference = "base" if lora.fresh(policy) else None  # the same thing, without a copy
    if isinstance(reference, str):
        if not lora.has_adapters(policy):
            raise ValueError("reference='base' is the policy with its adapters off, but this policy has no adapters")

        def without_adapters(batch: Batch) -> Tensor:
            with lora.adapters_off(policy):
                return forward(batch)

        return FoundReference(weights_digest(policy, adapters=False), without_adapters)
    digest = weights_digest(policy if reference is None else reference)
    if reference is None and not keep:
        return FoundReference(digest, forward)
    frozen = lora.plain(copy.deepcopy(policy).requires_grad_(False) if reference is None else reference).eval()
    return FoundReference(digest, lambda batch: scoring.score(frozen, batch.to(frozen.device)))


def run_logps(
    found: FoundReference, feed: Feed, marks: dict[str, str], scoring: Scoring, *, kept: Path | None, every: int,
    micro_batch: int, progress: bool,
) -> ReferenceLogps:  # fmt: skip
    """The reference's log-probs of all that a run meets: those it was given, or kept when it began, or computed now.

    kept: the file in which a run with checkpoints keeps them, every so many batches. Raises ValueError if those that it
    was given belong to another run.
    """
    logps = found.cache
    if logps is None:
        score = partial(scoring.frozen_logps, by=found.forward)
        logps = score_feed(score, feed, marks, scoring.devices, micro_batch, progress, kept=kept, every=every)
    logps.require(marks)
    logps.cover(feed)
    return logps


def fingerprint(data: Sequence[Row], feed: Feed, dtype: torch.dtype) -> dict[str, str]:
    """Short hashes of the rows' texts, of their token ids, of KTO's pairing, and the precision."""
    columns = ["prompt", "chosen", "rejected", "completion", "label"]
    columns += ["margin"] if feed.examples.margins else []
    texts, tokens = hashlib.sha256(b"["), hashlib.sha256()
    for i, row in enumerate(data):  # the JSON of a list of all rows, which as a whole would fill the memory
        texts.update((", " * (i > 0) + json.dumps([row.get(c) for c in columns])).encode())
    texts.update(b"]")
    for i in range(len(feed.examples)):
        tokens.update(feed.examples.sequences.record(i))
    marks = {"data": texts.hexdigest()[:16], "tokens": tokens.hexdigest()[:16], "precision": precision_name(dtype)}
    if feed.partners:
        marks["mismatched"] = hashlib.sha256(array("q", feed.partners[0]).tobytes()).hexdigest()[:16]
    return marks


@torch.no_grad()
def weights_digest(model: nn.Module, adapters: bool = True) -> str:
    """A short hash of a model's weights. Adapters that change nothing, or with adapters=False any, do not count."""
    found = hashlib.sha256()
    skip = not adapters or lora.fresh(model)
    for name, weight in lora.plain(model).named_parameters():
        if not (skip and "lora_" in name):
            found.update(name.replace(".base_layer", "").encode())
            found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]
