"""Digests: SHA-256 of every file that is saved into a folder, in `digests.json` beside the files, and checked on loading.

A folder without `digests.json`, such as one that another program wrote, has nothing to be held against and is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor, strided, uint8

from model.common.files import flush, write_atomically

MANIFEST = "digests.json"
SAVING = ".saving-"
"""Start of the name of a folder in which files wait for their places."""


class DamagedFileError(ValueError):
    """A file is not what was saved: it was changed, cut off, replaced or deleted."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text, half of it in hexadecimal; halves of surrogate pairs, which some vocabularies have, included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names, types, shapes and values, half of it in hexadecimal; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        plain = tensor.detach().to_dense() if tensor.layout != strided else tensor.detach()
        digest.update(plain.cpu().contiguous().reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()[:32]


def seal(folder: Path) -> None:
    """Write the digests of all files in a new folder, and make all of it durable."""
    files = _files(folder)
    (folder / MANIFEST).write_text(
        _manifest({name: file_digest(path) for name, path in files.items()})
    )
    for path in (
        *files.values(),
        folder / MANIFEST,
        *{path.parent for path in files.values()} - {folder},
        folder,
    ):
        flush(path)


@contextmanager
def saved_together(folder: str | Path) -> Iterator[Path]:
    """A new folder to write files into. On leaving the context they take their places in `folder`, then their digests do.

    A kill in between leaves files that their digests do not fit, which `check_digests` tells from a whole save. What else is
    in `folder` stays there, with its digest unless `digests.json` is damaged.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=SAVING, dir=folder))
    try:
        yield new
        seal(new)
        files, before = _files(new), {}
        with suppress(DamagedFileError):
            before = _read(folder)
        others = {name: digest for name, digest in before.items() if (folder / name).is_file()}
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / name)
        write_atomically(folder / MANIFEST, _manifest(others | _read(new)))
    finally:
        shutil.rmtree(new, ignore_errors=True)


def delete_unfinished(folder: Path) -> None:
    """Delete what kills in the middle of a save left in a folder and below, which nobody else may be saving into."""
    for path in [*folder.rglob(f"{SAVING}*"), *folder.rglob(".*.partial")]:
        if path.is_symlink():
            continue
        if path.name.startswith(SAVING):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink()


def check_digests(folder: str | Path, *, links: bool = True) -> None:
    """Hold the files of a folder against the digests that they were saved with, if there are any.

    Args:
        folder: what `seal` or `saved_together` wrote; anything else passes.
        links: whether a file may be a link to one elsewhere, whose content is then checked.

    Raises:
        DamagedFileError: with the first file that is not as it was saved.
    """
    folder = Path(folder)
    if not links and (folder / MANIFEST).is_symlink():
        raise DamagedFileError(f"{folder / MANIFEST} is a link, and links are not followed")
    for name, digest in _read(folder).items():
        path = folder / name
        if not links and path.is_symlink():
            raise DamagedFileError(
                f"{path} is a link: expected the file that was saved, and links are not followed"
            )
        if not path.is_file():
            raise DamagedFileError(
                f"{path} is missing: {folder / MANIFEST} says that it was saved there"
            )
        if file_digest(path) != digest:
            raise DamagedFileError(
                f"{path} is not as it was saved: it differs from its digest in {MANIFEST}, damaged or only half written. Save "
                f"it again; or, if it was changed on purpose, delete {MANIFEST}"
            )


def has_digests(folder: Path) -> bool:
    """Whether the files of a folder can be checked."""
    return (folder / MANIFEST).is_file()


def _files(folder: Path) -> dict[str, Path]:
    """All files below a folder but its digests, by their names there, in order."""
    files = {
        str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return {name: path for name, path in files.items() if path.name != MANIFEST}


def _manifest(digests: dict[str, str]) -> str:
    return json.dumps({"sha256": dict(sorted(digests.items()))}, indent=2) + "\n"


def _read(folder: Path) -> dict[str, str]:
    """The digests of a folder by file name, none if it has none."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        digests: Any = json.loads(path.read_bytes())["sha256"]
        texts = all(isinstance(part, str) for pair in digests.items() for part in pair)
    except (ValueError, KeyError, TypeError, AttributeError):
        texts = False
    if not texts or any(Path(name).is_absolute() or ".." in Path(name).parts for name in digests):
        raise DamagedFileError(
            f'{path} is damaged: expected {{"sha256": {{FILE: DIGEST}}}}, files of this folder. Save the folder again'
        )
    return digests
