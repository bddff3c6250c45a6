"""Output that every terminal and every file takes, whatever its encoding.

    tolerate()         # from here on print("β ✓") ends in "? ?" where it would have ended the program

A file or a pipe on Windows has the system's old encoding as a rule, cp1252 in much of Europe, and Python refuses what
that cannot say. A run must not die of it after the training: a question mark in place of a letter does less harm.
"""

import contextlib
import sys

REFUSE = ("strict", "surrogateescape")  # how a stream treats what it cannot encode, where that is an error


def tolerate() -> None:
    """Let the three standard streams replace what they cannot encode or decode. Doing it twice changes nothing."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in REFUSE and hasattr(stream, "reconfigure"):  # not what a notebook has
            with contextlib.suppress(ValueError):  # it is closed, or has been read from: nothing can be changed then
                stream.reconfigure(errors="replace")
