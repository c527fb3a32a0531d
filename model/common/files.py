"""Writing files safely, and digests: SHA-256 of every saved file of a folder, checked on loading.

The digests stand in `digests.json`. A folder without it, such as one that another program wrote, is
taken as it is.
"""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor, strided, uint8

from model.common.checks import folder_path
from model.common.sharded_tensors import whole

MANIFEST = "digests.json"
SAVING = ".saving-"  # start of the name of a folder whose files wait for their places


class DamagedFileError(ValueError):
    """A file is not as it was saved: changed, cut off, replaced or deleted."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """First half of the SHA-256 of a text, hexadecimal. Half of a surrogate pair is allowed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """First half of the SHA-256 of names, types, shapes and values; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in ((name, whole(tensor)) for name, tensor in tensors):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        plain = tensor.detach().to_dense() if tensor.layout != strided else tensor.detach()
        digest.update(plain.cpu().contiguous().reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()[:32]


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


def seal(folder: Path) -> None:
    """Write the digests of all files in a new folder, and flush all files to the disk."""
    files = _files(folder)
    digests = {name: file_digest(path) for name, path in files.items()}
    (folder / MANIFEST).write_text(_manifest(digests))
    folders = {path.parent for path in files.values()} - {folder}
    for path in (*files.values(), folder / MANIFEST, *folders, folder):
        flush(path)


@contextmanager
def saved_together(folder: str | Path) -> Iterator[Path]:
    """A new folder for files, which are moved into `folder` when the context is left.

    Their digests follow last: a kill in between leaves files that do not fit their digests, which
    `check_digests` refuses. All other files in `folder` stay there, with their digests.
    """
    folder = folder_path("folder", folder)
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
    """Delete the remains of killed saves in a folder and below. Nobody may be saving there."""
    for path in [*folder.rglob(f"{SAVING}*"), *folder.rglob(".*.partial")]:
        if path.is_symlink():
            continue
        if path.name.startswith(SAVING):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink()


def check_digests(folder: str | Path, *, links: bool = True) -> None:
    """Compare the files of a folder with their digests, if there are any.

    A `DamagedFileError` names the first file that is not as it was saved. With `links` a file may
    be a link, whose target is checked.
    """
    folder = folder_path("folder", folder)
    if not links and (folder / MANIFEST).is_symlink():
        raise DamagedFileError(f"{folder / MANIFEST} is a link, and links are not followed")
    for name, digest in _read(folder).items():
        path = folder / name
        if not links and path.is_symlink():
            raise DamagedFileError(f"{path} is a link, and links are not followed")
        if not path.is_file():
            raise DamagedFileError(f"{path} is missing, expected by {folder / MANIFEST}")
        if file_digest(path) != digest:
            raise DamagedFileError(
                f"{path} is not as it was saved: it differs from its digest in {MANIFEST}. Save it "
                f"again; or, if it was changed on purpose, delete {MANIFEST}"
            )


def read_record(file: Path, kinds: Mapping[str, type]) -> dict[str, Any] | None:
    """A JSON object that has values of these kinds by name; None if the file has no such object."""
    try:
        record = json.loads(file.read_bytes())
        is_whole = all(isinstance(record[name], kind) for name, kind in kinds.items())
    except (ValueError, KeyError, TypeError):
        return None
    return record if is_whole else None


def _files(folder: Path) -> dict[str, Path]:
    """All files below a folder by relative name, in order, without the digests."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(folder)): path for path in paths}


def _manifest(digests: dict[str, str]) -> str:
    return json.dumps({"sha256": dict(sorted(digests.items()))}, indent=2) + "\n"


def _read(folder: Path) -> dict[str, str]:
    """The digests of a folder by file name; none without `digests.json`."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        digests = json.loads(path.read_bytes())["sha256"]
        is_valid = all(isinstance(part, str) for pair in digests.items() for part in pair)
    except (ValueError, KeyError, TypeError, AttributeError):
        is_valid = False
    if not is_valid or any(Path(name).anchor or ".." in Path(name).parts for name in digests):
        raise DamagedFileError(
            f'{path} is damaged: expected {{"sha256": {{FILE: DIGEST}}}}, files of this folder'
        )
    return digests
