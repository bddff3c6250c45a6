"""Packages that a part of the course needs and the rest does not: why one cannot be used, told as it is.

A package that is not there, and one that is there and cannot be imported, such as a peft that is too old for this
transformers, ask for different remedies. To be told "not installed" of a package that pip lists helps nobody.
"""

import importlib.metadata
from importlib import import_module

LOWEST = {"accelerate": "1.10", "peft": "0.18"}  # with which the tests are run (tests/lowest.txt)


def trouble(package: str) -> str | None:
    """None if `package` can be imported; else a sentence with the reason and the remedy."""
    wanted = f'"{package}>={LOWEST[package]}"' if package in LOWEST else package
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            return f"{package} is not installed: pip install {package}"
        return f"{package} {version(package)} needs {error.name}, which is not installed: pip install {error.name}"
    except Exception as error:  # a library that meets a version it does not know may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return (
            f"{package} {version(package)} is installed but does not work here ({reason}). It may be too old for the "
            f"other packages: pip install --upgrade {wanted}"
        )
    return None


def require(package: str, what: str) -> None:
    """Raise ImportError, saying that `what` needs `package`, unless it can be imported."""
    if reason := trouble(package):
        raise ImportError(f"{what} needs {package}. {reason}")


def version(package: str) -> str:
    """Its version, or "of an unknown version"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"
