"""Where the processes for students' code come from: one that has imported the slow libraries, and forks.

with Nursery(stripped, secret, imports) as nursery:
    connection, number = nursery.born(folder, Limits(seconds=30))
"""

import os
import socket as sockets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prefcourse.grading import confine, wire

START = 120.0  # seconds for the slow imports, on a busy machine
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "SYSTEMROOT")  # what a process inherits


@dataclass(frozen=True)
class Limits:
    """What one exercise may take. seconds: of waiting for it. memory: MB beyond Python and its libraries."""

    seconds: float = 30.0
    memory: int = 2048


class Nursery:
    """Makes confined processes. `stripped` is the copy of the package that they get, `secret` what they cannot read."""

    def __init__(self, stripped: Path, secret: list[Path], imports: list[str]):
        self.readable, self._stripped, self._imports = confine.readable(stripped, secret), stripped, imports
        self._start()

    def _start(self) -> None:
        stripped = self._stripped
        ours, theirs = sockets.socketpair()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115, closed with the nursery
        kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "MPLBACKEND": "agg",
                 "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1",
                 "MPLCONFIGDIR": str(stripped / ".matplotlib"), "HOME": str(stripped), "PYTHONUTF8": "1"}  # fmt: skip
        paths = [str(path) for path in (stripped, *confine.libraries())]  # in this order: our copy of the course first
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "prefcourse.grading.child", str(theirs.fileno())],
            cwd=stripped, env=kept | quiet | {"PYTHONPATH": os.pathsep.join(paths)}, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._words,
        )  # fmt: skip
        theirs.close()
        self._control = ours
        try:
            wire.send(ours, {"import": self._imports})
            wire.receive(ours, START)
        except (EOFError, OSError) as error:
            self._process.kill()
            raise OSError(f"the process for students' code does not start: {self._last_words()}") from error

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._words.close()

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it says nothing"

    def born(self, folder: Path, limits: Limits) -> tuple[sockets.socket, int]:
        """A new process that lives in `folder`: the connection to it, and its number.

        Where a student's process can end the nursery, as on an old kernel, the next ones come from a new nursery.
        """
        try:
            return self._born(folder, limits)
        except (OSError, EOFError):
            self.__exit__()
            self._start()
            return self._born(folder, limits)

    def _born(self, folder: Path, limits: Limits) -> tuple[sockets.socket, int]:
        ours, theirs = sockets.socketpair()
        with theirs:
            self._control.settimeout(START)
            sockets.send_fds(self._control, [b"!"], [theirs.fileno()])
            settings = {"readable": self.readable, "memory": limits.memory, "seconds": limits.seconds}
            wire.send(self._control, {"folder": str(folder), **settings})
            return ours, wire.receive(self._control, START)["pid"]
