"""Files that a later start reads: written under another name, made durable, renamed into place.

A kill or a full disk at any moment leaves a file as it was or as it should be, and nothing in between.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str) -> None:
    """Write a text, UTF-8, in place of what is there. A link of that name is replaced and not followed."""
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
    """Make what was written to a file or a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
