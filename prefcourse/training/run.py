"""A run under way: the parts that `train` put together, its state, and the small jobs around a step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefcourse.finite import counted
from prefcourse.layout import send
from prefcourse.logprobs import sequence_logps
from prefcourse.preferences import Row
from prefcourse.terminal import Bar, watched
from prefcourse.training import guards, lora
from prefcourse.training.batches import Examples, Feed
from prefcourse.training.checkpoint import Checkpoints
from prefcourse.training.devices import precision_name
from prefcourse.training.history import History, append, batch_metrics, reward_metrics
from prefcourse.training.looking import Looking
from prefcourse.training.objective import Objective
from prefcourse.training.reference import ReferenceLogps, find_reference, fingerprint, run_logps, weights_digest
from prefcourse.training.scoring import Scoring
from prefcourse.training.stepping import Stepper


@dataclass
class Run:
    """What the loop works with. `history` and `rewards` change on the way; a checkpoint keeps them."""

    objective: Objective
    feed: Feed  # which examples each step sees
    scoring: Scoring  # examples → log-probs, with the policy
    reference: ReferenceLogps | None  # log π_ref of all examples, or None if the loss needs none
    from_reference: bool  # does the policy start as the reference?
    stepper: Stepper
    looking: Looking
    checkpoints: Checkpoints
    micro_batch: int
    progress: bool
    on_step: Callable[[dict[str, float], int], None] | None = None
    start: int = 0
    done: bool = False
    history: History = field(default_factory=dict)
    rewards: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sum and number of all so far, for BCO's δ

    @classmethod
    def begin(
        cls, data: Sequence[Row], objective: Objective, feed: Feed, looking: Looking, reference: Any,
        rates: Sequence[float], settings: dict[str, Any], *, folder: str | Path | None, save_every: int, resume: bool,
        progress: bool, on_step: Callable[[dict[str, float], int], None] | None = None,
    ) -> "Run":  # fmt: skip
        """The run with its reference's log-probs, at step 0 or where a checkpoint in `folder` left it.

        reference: as `train` takes it. settings: what tells this run from others, beside data, reference and policy.
        """
        scoring, micro_batch = looking.scoring, settings["micro_batch"]
        devices, origin = scoring.devices, weights_digest(scoring.policy)
        marks, logps, found = fingerprint(data, feed, scoring.dtype), None, None
        if objective.has_reference or looking.prompts:
            found = find_reference(reference, scoring, keep=bool(looking.prompts))
            marks["reference"] = found.digest
            guards.check_reference(reference, looking.tokenizer, found.forward is not None, looking.max_kl)
        which = settings | {"policy": origin, "adapters": lora.settings(scoring.policy), **marks}
        checkpoints = Checkpoints(folder, save_every, which, resume, devices)
        if objective.has_reference:
            where = {"kept": checkpoints.reference, "every": save_every}
            logps = run_logps(found, feed, marks, scoring, **where, micro_batch=micro_batch, progress=progress)
        if found and devices.rank == 0:  # needed again for samples, which the first process looks at
            looking.by_reference = found.forward
        saved = checkpoints.load(scoring.policy)
        if not (saved and saved.done):
            scoring.wrap()
        stepper = Stepper(scoring, rates, settings["lr"], settings["max_grad_norm"])
        itself = marks.get("reference") == origin
        run = cls(
            objective, feed, scoring, logps, itself, stepper, looking, checkpoints, micro_batch, progress, on_step
        )
        if saved:
            run.start, run.done, run.history, run.rewards = saved.step, saved.done, saved.history, saved.carry
            if not run.done:  # else nothing is left to step, and what FSDP would load into has not been split
                stepper.load(saved.optimizer, saved.scaler)
        return run

    def announce(self, say: Callable[[str], None] | None) -> None:
        """Tell `say`, in the first process, what runs where; by default print it where somebody watches."""
        size, end = len(self.feed.batches[0]), len(self.feed.batches)
        say = say or (print if self.progress and watched() else lambda line: None)
        if self.scoring.devices.rank == 0:
            where = f"{self.scoring.devices}, {precision_name(self.scoring.dtype)}"
            say(f"{where}: {self.examples}; steps {self.start} to {end}, {counted(size, 'example')} each")

    @property
    def examples(self) -> Examples:
        """The encoded data."""
        return self.feed.examples

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left, with a bar in the first process; in a log `on_step` does without."""
        left, shown = range(self.start, len(self.feed.batches)), self.progress and self.scoring.devices.rank == 0
        for step in (bar := Bar(left, "train", shown, logged=self.on_step is None)):
            yield step
            bar.note = f"loss {self.history['loss'][-1]:.3f}"

    def shared_inputs(self, step: int) -> dict[str, Any]:
        """Inputs of the loss that belong to a whole batch: log-probs of KTO's mismatched pairs, (B,), and BCO's δ."""
        found, device = {}, self.scoring.devices.device
        if self.objective.mismatched:
            policy = self.scoring.devices.map(self.feed.mixed(step), self.scoring.frozen_logps, self.micro_batch)
            places = zip(self.feed.epochs[step], self.feed.batches[step], strict=True)
            frozen = torch.stack([self.reference.mismatched[epoch, i] for epoch, i in places])
            found = {"kl_policy": policy[:, 0].to(device), "kl_reference": frozen.to(device)}
        if "delta" in self.objective.needs:
            found["delta"] = self.rewards[0] / max(self.rewards[1], 1)
        return found

    def reference_logps(self, numbers: Sequence[int]) -> Tensor | None:
        """log π_ref of the examples `numbers`, (b, k), on the device."""
        return send(self.reference.logps[numbers], self.scoring.devices.device) if self.reference else None

    def require_finite(self, step: int, table: Tensor, norm: Tensor) -> None:
        """Raise FloatingPointError, naming the rows, if a log-prob in `table`, as of `record`, is not finite.

        Or if the norm of the gradient is not. All of it once a step, when nothing is left to compute: on a GPU each
        look at a number makes the CPU wait. The weights have not been changed yet.
        """
        numbers, k = self.feed.batches[step], table.shape[1] // 2
        fine = table[:, 1 : 1 + k].isfinite().all(1).tolist()
        if not all(fine):
            self._diverged(step, [i for i, good in zip(numbers, fine, strict=True) if not good], "log-probabilities")
        if self.stepper.broken(norm):
            self._diverged(step, numbers, "gradients")

    def _diverged(self, step: int, numbers: Sequence[int], what: str) -> None:
        rows = [self.examples.rows[i] for i in numbers]
        raise FloatingPointError(guards.diverged(step, rows, self.stepper.lr, what, self.checkpoints.last()))

    def save(self, step: int, rng: dict[str, Any], done: bool = False) -> None:
        """Keep all of the run as it is before `step`, with the random states `rng` of that moment."""
        state = {"step": step, "done": done, "history": self.history, "carry": self.rewards, "rng": rng}
        state |= self.stepper.state()
        self.scoring.devices.gather(self.scoring.model, self.scoring.scorer)
        self.checkpoints.save(self.scoring.policy, self.looking.tokenizer, **state)

    def finish(self, step: int) -> None:
        """Keep the end of the run, before `step`, and give the policy the weights that were trained."""
        if self.checkpoints.folder:
            self.save(step, self.checkpoints.rng(), done=True)
        self.scoring.devices.gather(self.scoring.model, self.scoring.scorer)

    def record(self, step: int, table: Tensor, norm: Tensor, shared: dict[str, Any], seen: dict[str, float]) -> None:
        """Write down a step. table: loss, log-probs and lengths of the batch's examples, (B, 1 + 2k), on the CPU."""
        k, numbers = table.shape[1] // 2, self.feed.batches[step]
        loss, logps, lengths = table[:, 0], table[:, 1 : 1 + k], table[:, 1 + k :]  # (B,), (B, k), (B, k)
        frozen = self.reference.logps[numbers] if self.reference else None
        if step == 0 and self.reference and self.from_reference:
            guards.check_zero_rewards(logps, frozen, [self.examples.rows[i] for i in numbers], self.scoring.dtype)
        now = {"step": step, "lr": self.stepper.rates[step], "loss": loss.mean().item(), "grad_norm": float(norm)}
        if self.objective.mismatched:
            now["z0"] = (shared["kl_policy"] - shared["kl_reference"]).mean().clamp(min=0).item()
        if "delta" in shared:
            now["delta"] = shared["delta"]
            total = self.objective.beta * (logps - frozen).sum().item()
            self.rewards = [self.rewards[0] + total, self.rewards[1] + logps.numel()]
        if self.scoring.score is sequence_logps:
            desirable = [self.examples.desirable[i] for i in numbers] if self.examples.desirable else []
            now |= batch_metrics(logps, frozen, lengths, desirable, self.objective.beta, self.objective.name)
        elif k == 2:
            now |= reward_metrics(*logps.unbind(1))
        self.note(now | seen)

    def note(self, row: dict[str, float]) -> None:
        """Add a row to the history, and tell it to whoever watches the first process."""
        append(self.history, row)
        if self.on_step and self.scoring.devices.rank == 0:
            self.on_step(row, len(self.feed.batches))
