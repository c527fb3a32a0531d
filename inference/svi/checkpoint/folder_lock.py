"""A lock on a folder: one process, and one fit in it, at a time. The kernel releases the lock of a process that dies."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = ".lock"


class FolderInUseError(ValueError):
    """Another run works in the folder."""


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Have a folder to oneself inside the context; without a folder, nothing is locked. The folder is made if it is not there.

    Raises:
        FolderInUseError: if another process, or this one in another place, has it, or the lock is a link.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / FILE).is_symlink():
        raise FolderInUseError(
            f"{folder / FILE} is a link, which is not followed: delete it, if no other run works in the folder"
        )
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderInUseError(
            f"{folder} is in use by another run: wait for its end, or name another folder. Two in one folder would write over "
            "each other"
        ) from error
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): make sure yourself that no other run works in it",
            stacklevel=4,
        )
