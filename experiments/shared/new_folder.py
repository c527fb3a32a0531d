"""The run folder of a script, which is not left behind by what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from experiments.shared.command_line import blamed
from experiments.shared.inputs import Input, digests_of
from experiments.shared.run_folder import RunFolder
from inference.svi.checkpoint.folder_lock import locked


class HasOut(Protocol):
    """Arguments that say where run folders are made."""

    @property
    def out(self) -> Path: ...


@contextmanager
def new_folder(args: HasOut, name: str, inputs: Iterable[Input] = ()) -> Iterator[RunFolder]:
    """A new run folder with the arguments in it, and digests of the files that they name. Nobody else works in it.

    If what is inside fails before it has written anything, the folder is taken away again, and the folders made for it.
    """
    parents = [place for place in (args.out, *args.out.parents) if not place.exists()]
    with blamed(f"--out {args.out}"):
        folder = RunFolder.new(args.out, name)
    with locked(folder.path):
        folder.write_arguments(args, digests_of(inputs))
        written = set(folder.path.iterdir())
        try:
            yield folder
        except BaseException:
            if set(folder.path.iterdir()) == written:
                _take_away(written, [folder.path, *parents])
            raise


def _take_away(files: set[Path], folders: list[Path]) -> None:
    """Remove files, and folders from the inside out while they are empty."""
    for file in files:
        file.unlink()
    for folder in folders:
        if any(folder.iterdir()):
            return
        folder.rmdir()
