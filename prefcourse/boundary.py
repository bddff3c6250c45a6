"""Where the outside begins: what a library raises over a file becomes one sentence, what, where, what to do.

    with told(f"{path}: cannot be read as parquet", "Write it again."):
        rows = Dataset.from_parquet(path)

Libraries raise whatever they like over a damaged file, from RuntimeError to a bare Exception, and few name the file.
"""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}


@contextmanager
def told(what: str, advice: str = "", kind: type[Exception] = ValueError) -> Iterator[None]:
    """Turn any exception within into `kind`: "what (reason). advice". An OSError stays one; a lack of memory passes."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        kind = OSError if isinstance(error, OSError) and not issubclass(kind, OSError) else kind
        raise kind(f"{what} ({reason(error)}). {advice}".rstrip()) from error


def reason(error: BaseException) -> str:
    """The first line of what `error` says, or its kind if it says nothing; if it has a cause, of what that says."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
    return (line if len(line) <= 200 else line[:197] + "...").rstrip(".")


def disk_full(error: BaseException | None) -> bool:
    """Does `error`, or what caused it, say that there is no room left? tokenizers says it in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if "No space left on device" in str(error) or any(f"os error {number})" in str(error) for number in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def half_of_one(text: str) -> str | None:
    """Where `text` has half of a character (a lone surrogate), which no tokenizer and no UTF-8 takes, or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start + 1} is half of one (\\u{ord(text[error.start]):04x}). Write the text anew."
    return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
