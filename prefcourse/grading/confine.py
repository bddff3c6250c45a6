"""What holds a student's process: limits, no files but those it needs, no network where the system can refuse it.

    held = confine(folder, memory=2048, seconds=30, readable=[...])     # in the new process, once

Time, memory, processes and the size of files are limited by POSIX (`setrlimit`). Files are closed by Landlock on Linux
5.13 and later, also for a user without rights: what can be read is the system, Python with its packages and the
stripped course, and what can be written is the process's own folder. The network is taken away with a namespace of its
own where the system lets a user make one. What the system does not offer is missing from what `confine` returns, and
the report says so. None of this is a container: see the instructors' guide.
"""

import ctypes
import os
import resource
import sys
import sysconfig
from pathlib import Path

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same numbers on every architecture
NO_NEW_PRIVS, PDEATHSIG, DUMPABLE = 38, 1, 4  # of prctl
NEWUSER, NEWNET = 0x10000000, 0x40000000  # of unshare
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a folder
ALL_OF_FIRST = (1 << 13) - 1  # what the first version of Landlock knows, writing and making included
WRITTEN, PROCESSES = 20_000_000, 64  # bytes in one file; processes and threads
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom",
          "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu")  # fmt: skip


class _Rules(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def readable(stripped: Path, secret: list[Path]) -> list[str]:
    """What a student's process may read: the system, Python and its packages, `stripped`; nothing that is `secret`.

    An installed course lies among the packages: a folder that holds something secret is taken apart.
    """
    found = [Path(path) for path in SYSTEM if os.path.exists(path)]
    found += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")] + libraries()
    found += [Path(sys.base_prefix) / "lib", stripped, (stripped / "data").resolve()]
    hidden = [path.resolve() for path in secret]
    return list(dict.fromkeys(part for path in found for part in _without(path, hidden)))


def libraries() -> list[Path]:
    """Where Python's packages lie. No other place of `sys.path`: one is the folder with what was handed in."""
    return [Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def _without(path: Path, hidden: list[Path]) -> list[str]:
    real = path.resolve()
    if any(real.is_relative_to(part) for part in hidden):
        return []
    if not any(part.is_relative_to(real) for part in hidden):
        return [str(path)]
    try:
        return [part for inner in path.iterdir() for part in _without(inner, hidden)]
    except OSError:  # not ours to look into, so not theirs
        return []


def private() -> None:
    """Let no process of the same user read or change this one's memory. On Linux; elsewhere nothing happens."""
    _prctl(DUMPABLE, 0)


def confine(folder: Path, memory: int, seconds: float, readable: list[str]) -> list[str]:
    """Hold this process, for good. memory: MB more than now. Returns what of it the system offered, in words."""
    os.chdir(folder)
    held = ["time", "memory"] if sys.platform == "linux" else ["time"]
    _limit(resource.RLIMIT_CPU, int(seconds) + 2)
    _limit(resource.RLIMIT_FSIZE, WRITTEN)
    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory * 1_000_000)
        alone = _libc().unshare(NEWUSER | NEWNET) == 0
        if alone:  # there our processes are counted by themselves
            _limit(resource.RLIMIT_NPROC, PROCESSES)
        held += ["network"] * (alone or _libc().unshare(NEWNET) == 0 or _no_network())
        _prctl(PDEATHSIG, 9)  # of the nursery; a new namespace forgets it
        held += ["files"] * _close_files(folder, readable)
    return held


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(what: int, value: int) -> None:
    if sys.platform == "linux":
        _libc().prctl(what, ctypes.c_ulong(value), 0, 0, 0)


def _no_network() -> bool:
    """Is this machine, or container, connected to nothing?"""
    try:
        return set(os.listdir("/sys/class/net")) <= {"lo"}
    except OSError:
        return False


def _close_files(folder: Path, readable: list[str]) -> bool:
    """Landlock: read what is `readable`, write in `folder`, and nothing else."""
    libc = _libc()
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    handled = ALL_OF_FIRST | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = _Rules(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)  # TCP; sockets and signals outwards
    size = ctypes.c_size_t(8 if version < 4 else 16 if version < 6 else 24)
    ruleset = libc.syscall(LANDLOCK_CREATE, ctypes.byref(rules), size, ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    for path, allowed in [*((path, READ) for path in readable), (str(folder), handled), ("/dev/null", 1 << 1 | 1 << 2)]:
        _allow(libc, ruleset, path, allowed)
    _prctl(NO_NEW_PRIVS, 1)
    done = libc.syscall(LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0)) == 0
    os.close(ruleset)
    return done


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or not ours to read
        return
    if not os.path.isdir(path):
        allowed &= 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14  # the rest is about folders
    rule = _Beneath(allowed, place)
    libc.syscall(LANDLOCK_ADD, ruleset, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
    os.close(place)
