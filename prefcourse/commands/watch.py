"""A training run as it can be watched: lines in a terminal or a log, history.jsonl, and TensorBoard's files."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from prefcourse.terminal import TIED, Bar, watched
from prefcourse.training import optional

SHOWN = {  # column → how a line shows it
    "loss": "loss {:.3f}", "rewards/margins": "margin {:+.2f}", "rewards/accuracies": "ranked right {:.0%}",
    "kl": "KL {:.2f}", "eval_accuracy": "held out {:.0%}", "grad_norm": "gradient {:.2f}",
}  # fmt: skip


class Watch:
    """What `train(on_step=...)` is told, written where it can be followed while the run goes on.

    every: a line, through `say`, each so many steps, and where nobody watches after `Bar.seconds` without one, too.
    folder: gets history.jsonl, a line of JSON a row. A run that goes on from a checkpoint goes on in that file, at the
    row with which it begins anew. log_dir: gets TensorBoard's event files. Raises ImportError without tensorboard.
    """

    def __init__(
        self, every: int, folder: str | Path, log_dir: str | Path | None = None, say: Callable[[str], None] = print
    ):
        self.every, self.say = every, say
        self.path, self.log_dir, self.board = Path(folder) / "history.jsonl", log_dir, None
        self.first: int | None = None
        if log_dir:
            _writer()  # an import error now, not after the reference pass

    def __call__(self, row: dict[str, float], steps: int) -> None:
        """Write down the row of a step of a run of so many steps."""
        step = int(row["step"])
        if self.first is None:
            self._begin(step)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
        for name, value in row.items():
            if self.board and name != "step" and value == value:
                self.board.add_scalar(name, value, step)
        if "loss" in row and (step % self.every == 0 or step + 1 == steps or self._long_silent()):
            self.say(self._told(step, row, steps))
            self.said = time.monotonic()

    def close(self) -> None:
        """Flush what TensorBoard's writer still holds."""
        if self.board:
            self.board.close()

    def _begin(self, step: int) -> None:
        self.first, self.began, self.said = step, time.monotonic(), time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(map(_line, _rows_before(self.path, step))), encoding="utf-8")
        if self.log_dir:
            self.board = _writer()(str(self.log_dir), purge_step=step)

    def _long_silent(self) -> bool:
        """Is nothing else to be seen, and nothing said for `Bar.seconds`?"""
        return Bar.seconds is not None and not watched() and time.monotonic() - self.said >= Bar.seconds

    def _told(self, step: int, row: dict[str, float], steps: int) -> str:
        known = {name: value for name, value in row.items() if value == value}  # no nan
        if abs(known.get("rewards/margins", 1.0)) < TIED:
            known.pop("rewards/accuracies", None)
        shown = [form.format(known[name]) for name, form in SHOWN.items() if name in known]
        done = step - self.first
        if done and step + 1 < steps:
            left = (time.monotonic() - self.began) / done * (steps - step)
            shown.append(f"{left:,.0f} s left")
        return f"step {step}/{steps}: {', '.join(shown)}"


def _line(row: dict[str, float]) -> str:
    return json.dumps({name: value if abs(value) < float("inf") else None for name, value in row.items()}) + "\n"


def _rows_before(path: Path, step: int) -> list[dict[str, float]]:
    """The rows that are there of the steps before `step`; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() and step else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] < step:
            rows.append({name: float("nan") if value is None else value for name, value in row.items()})
    return rows


def _writer() -> type:
    optional.require("tensorboard", "--log-dir")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter
