"""A lock on a folder, for one fit in one process. The kernel releases the lock at process death."""

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = ".lock"


class FolderInUseError(ValueError):
    """The folder is locked by another run, or the lock is a link."""


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Lock a folder inside the context; None locks nothing. Creates the folder if necessary."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / FILE).is_symlink():
        fix = "delete it, if no other run works in the folder"
        raise FolderInUseError(f"{folder / FILE} is a link, which is not followed: {fix}")
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"{folder} is in use by another run: wait for its end, or name another folder. Two "
                "runs in one folder would overwrite each other"
            ) from error
        except OSError as error:
            fault = f"{folder} cannot be locked ({error.strerror})"
            warnings.warn(f"{fault}: make sure that no other run works in it", stacklevel=3)
        yield
    finally:
        os.close(descriptor)
