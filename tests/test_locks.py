"""A lock keeps everybody else out, by whatever name they come, and goes with the process that held it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefcourse import locks
from prefcourse.locks import Lock

ROOT = Path(locks.__file__).resolve().parents[1]
HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from prefcourse.locks import Lock
lock = Lock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def holder(path):
    """Another process that holds the lock."""
    child = subprocess.Popen([sys.executable, "-S", "-c", HOLDER, str(path), str(ROOT)], stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"held"
    return child


def test_a_killed_process_leaves_no_lock(tmp_path):
    path = tmp_path / "new" / "folder" / ".lock"
    with holder(path) as child:
        with pytest.raises(BlockingIOError, match=r"\.lock is in use by another process\. Wait for it, or stop it"):
            Lock(path)
        child.send_signal(signal.SIGKILL)
        child.wait()
    with Lock(path) as lock:
        assert lock.held
    assert not lock.held and path.exists()
    lock.release()  # twice does no harm


def test_the_refusal_is_in_the_callers_words(tmp_path):
    with Lock(tmp_path / "a"), pytest.raises(BlockingIOError, match=r"^runs/dpo is being written$"):
        Lock(tmp_path / "a", "runs/dpo is being written")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_another_name_leads_to_the_same_lock(tmp_path, link):
    with Lock(tmp_path / "a"):
        link(tmp_path / "a", tmp_path / "b")
        with pytest.raises(BlockingIOError):
            Lock(tmp_path / "b")


def test_a_waiting_one_gets_in_or_gives_up(tmp_path):
    with holder(tmp_path / "a") as child:
        began = time.monotonic()
        with pytest.raises(BlockingIOError):
            Lock(tmp_path / "a", wait=0.1)
        assert time.monotonic() - began >= 0.1
        child.kill()
        Lock(tmp_path / "a", wait=20).release()


def test_a_lock_notices_that_its_file_is_gone(tmp_path, monkeypatch):
    path = tmp_path / "a"
    with Lock(path) as lock:
        path.unlink()
        assert not lock.held
        path.touch()
        assert not lock.held  # another file of that name
    monkeypatch.chdir(tmp_path)
    with Lock("a") as lock:
        monkeypatch.chdir("/")
        assert lock.held


def test_a_child_that_lives_on_does_not_keep_the_lock(tmp_path):
    with Lock(tmp_path / "a") as lock, subprocess.Popen(["sleep", "60"], pass_fds=[lock.file.fileno()]) as child:
        lock.release()
        Lock(tmp_path / "a").release()
        child.kill()


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"No locks available: a file there cannot be locked. Choose .*'.*/a'"):
        Lock(tmp_path / "a")


def test_the_windows_way(tmp_path, monkeypatch):
    """With a stand-in for msvcrt: one byte far behind the end is locked and unlocked, and what is taken is refused."""

    class Msvcrt:
        LK_NBLCK, LK_UNLCK, taken = 2, 0, False

        def locking(self, number, mode, size):
            assert os.lseek(number, 0, os.SEEK_CUR) == locks.FAR_BYTE and size == 1
            if mode == self.LK_NBLCK and self.taken:
                raise PermissionError(13, "Permission denied")
            self.taken = mode == self.LK_NBLCK

    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", Msvcrt(), raising=False)
    for _ in range(2):
        with Lock(tmp_path / "a") as lock:
            lock.file.write(b"x")
            with pytest.raises(BlockingIOError):
                Lock(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"xx"
