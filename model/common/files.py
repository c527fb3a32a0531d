"""Durable files: a kill or a full disk at any moment leaves the old file or the new file."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def is_there(path: Path) -> bool:
    """True for a file, a folder, or a link, also one to nothing; an `OSError` for a bad name.

    `Path.exists` is False for a name that is too long, from Python 3.14 on.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def write_atomically(path: Path, content: str) -> None:
    """Write a text in UTF-8 in place of the file. A link of that name is replaced."""
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        with partial.open("x", encoding="utf-8", newline="") as file:
            file.write(content)
        flush(partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Flush a file or a folder to the disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
