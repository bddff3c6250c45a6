"""One process at a time: a lock on a file, the same on Linux, macOS and Windows.

    with Lock("runs/dpo/.lock"):                      # BlockingIOError if another process has it
        ...
    with Lock("progress.json.lock", wait=10):         # or wait for it, here at most 10 seconds
        ...

The system holds the lock for the open file, not for its name: a symlink, a hard link or another spelling leads to the
same lock, and it vanishes with the process, however that ends. The file itself stays, it is never deleted here. This
module imports nothing heavy.
"""

import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

PAUSE = 0.01  # seconds between two tries while we wait
FAR_BYTE = 2**30  # Windows locks bytes and lets nobody read them: one far behind the end of any file does no harm


class Lock:
    """A lock that is held from its making to `release`, or to the end of a `with`.

    `file` is the locked file, unbuffered, for reading and appending: what must have one writer only may be written
    through it.
    """

    def __init__(self, path: str | Path, refusal: str = "", wait: float = 0.0):
        """Lock the file `path`, making it and its folder where needed.

        wait: for how many seconds to try again. Raises BlockingIOError with the words of `refusal` if another process,
        or another part of this one, has it by then, and OSError where we may not write or the disk knows no locks.
        """
        self.path = Path(os.path.realpath(path))  # the same file after the working folder has changed
        self.path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + wait
        while True:
            self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (it stays open as long as we are)
            try:
                if _take(self.file) and self.held:
                    return
            except BaseException:
                self.file.close()
                raise
            self.file.close()
            if time.monotonic() >= until:
                raise BlockingIOError(refusal or f"{path} is in use by another process. Wait for it, or stop it.")
            time.sleep(PAUSE)

    @property
    def held(self) -> bool:
        """Whether it still keeps others out. It does not once somebody has deleted or replaced the file."""
        try:
            return not self.file.closed and os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        except OSError:
            return False

    def release(self) -> None:
        """Let others in, and close the file. Doing so twice does no harm."""
        if not self.file.closed:
            try:
                _give_back(self.file)
            finally:
                self.file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error) -> None:
        self.release()


def _take(file) -> bool:
    """Lock an open file at once; False if somebody else has it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(FAR_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # the second is what Windows says
        return False
    except OSError as error:
        said = f"{error.strerror}: a file there cannot be locked. Choose a folder on another disk"
        raise OSError(error.errno, said, file.name) from None
    return True


def _give_back(file) -> None:
    """Unlock it. Closing is not enough where a child of ours has inherited the open file."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        file.seek(FAR_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
