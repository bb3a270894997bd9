"""Writes files so that a reader never sees half of one, hashes them, and prints their paths."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

MOST_UNZIPPED = 1 << 30  # bytes: a forged archive may say, or hold, any number
NOT_SHARED = "there is no such file on this worker's machine; put it where all machines see it under the same path"


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name in the same folder, flush it to disk, and rename it in one step.

    Parameters
    ----------
    path : Path
        Its folder is made if it is not there.
    content : bytes, or a function that writes them into an open file
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file's content, hexadecimal."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:  # hashlib.file_digest is of Python 3.11
        while block := file.read(1 << 18):
            digest.update(block)
    return digest.hexdigest()


def check_unzipped(name: str, size: int) -> None:
    """Raise `ValueError` if an archive claims a content larger than any that this project reads."""
    if size > MOST_UNZIPPED:
        raise ValueError(f"{name}: expected at most {MOST_UNZIPPED} bytes, unzipped, got {size}")


def short(path: Path) -> str:
    """The path with `~` for the home folder, because messages end up in tables that are passed on."""
    return str(path).replace(str(Path.home()), "~", 1)


def utf8(path: Path) -> str:
    """The path as text, whatever the locale made of its letters."""
    return os.fsencode(path).decode(errors="replace")
