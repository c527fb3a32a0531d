"""The folder of a fit's checkpoints: the newest two, each whole or absent.

    FOLDER/step-00000050, FOLDER/step-00000100

A checkpoint is written under another name, with a digest of every file, and renamed once all files
are durable. Older checkpoints are deleted after that. Links are never followed. A lock keeps the
folder for one fit in one process; the kernel releases the lock at process death.
"""

import fcntl
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.common.files import MANIFEST, DamagedFileError, check_digests, flush, seal

_LOCK = ".lock"
_NAME = re.compile(r"step-\d{8,}")
_UNFINISHED = re.compile(r"\.step-\d{8,}\.(partial|old)")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of another fit, or cannot be written."""


class FolderInUseError(ValueError):
    """The folder is locked by another run, or the lock is a link."""


def has_checkpoint(folder: str | Path) -> bool:
    """True if the folder has a checkpoint, whole or damaged."""
    return bool(checkpoints(Path(folder)))


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first; no file or link may have the name of a checkpoint."""
    entries = folder.iterdir() if folder.is_dir() else ()
    paths = [path for path in entries if _NAME.fullmatch(path.name)]
    for path in paths:
        if path.is_symlink() or not path.is_dir():
            raise CheckpointError(
                f"{path} is {'a link' if path.is_symlink() else 'a file'}, expected a checkpoint "
                "that a fit wrote there: links are not followed. Move it away, or put the folder "
                "in its place"
            )
    return sorted(paths, key=_step)


def newest_whole(folder: Path) -> Path:
    """The newest checkpoint whose files match their digests. Warns of damaged checkpoints."""
    faults: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            if not (path / MANIFEST).is_file():
                raise DamagedFileError(f"{path / MANIFEST} is missing")
            check_digests(path, links=False)
        except (DamagedFileError, OSError) as error:
            faults.append(f"the checkpoint {path.name} is damaged: {error}")
            continue
        if faults:
            fallback = f"Going on from {path.name}, the one before"
            warnings.warn(f"{'; '.join(faults)}. {fallback}", stacklevel=2)
        return path
    if faults:
        fix = f"No checkpoint in {folder} is whole: start again in another folder"
        raise CheckpointError(f"{'; '.join(faults)}. {fix}")
    raise CheckpointError(f"no checkpoint in {folder}: expected a folder named step-NUMBER there")


@contextmanager
def new_checkpoint(folder: Path, step: int) -> Iterator[Path]:
    """A new folder for the files of a checkpoint, put in place when the context is left.

    Keeps the checkpoint before, deletes older checkpoints. A `CheckpointError` leaves all of them.
    """
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = [path for path in checkpoints(folder) if _step(path) < step]
        for path in list(folder.iterdir()):  # the remains of a process that was killed
            if _UNFINISHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        partial.mkdir()
        yield partial
        seal(partial)
        if target.exists():
            _delete(target)
        os.rename(partial, target)
        flush(folder)
        for path in checkpoints(folder):
            if path not in (target, *earlier[-1:]):
                _delete(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        earlier = checkpoints(folder)
        last = f"the last whole one is {earlier[-1].name}" if earlier else "none is there yet"
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be written to {folder}: "
            f"{error.strerror or error}; {last}. Is the disk full? Make room, then resume"
        ) from error


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Lock a folder inside the context; None locks nothing. Creates the folder if necessary."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _LOCK).is_symlink():
        fix = "delete it, if no other run works in the folder"
        raise FolderInUseError(f"{folder / _LOCK} is a link, which is not followed: {fix}")
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
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


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _delete(path: Path) -> None:
    """Rename a checkpoint, then delete it: a kill in between leaves no half of a checkpoint."""
    old = path.with_name(f".{path.name}.old")
    os.rename(path, old)
    shutil.rmtree(old)
