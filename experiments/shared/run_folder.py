"""Run folder: arguments, versions, metrics, checkpoints, guide, figures and report of a run."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from experiments.shared.refusals import blamed
from inference.svi.checkpoint.folder_lock import locked
from model.common.digests import text_digest
from model.common.files import write_atomically

PACKAGES = ("torch", "pyro-ppl", "transformers", "numpy", "elbo-rl")
DIGEST = "sha256"
"""Key of the digest of a record. Record and digest are in one file, written in one rename."""


class RunFolder:
    """Paths of a run.

    Args:
        path: an existing folder; `new` makes a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.guide = path / "guide"
        self.arguments = path / "arguments.json"
        self.metrics = path / "metrics.jsonl"
        self.report = path / "report.html"

    @classmethod
    def new(cls, parent: Path, name: str) -> RunFolder:
        """Make the folder `PARENT/NAME-DATE-TIME`, with a number at the end if the name exists."""
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        parent.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = parent / (f"{stem}-{number}" if number else stem)
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return cls(path)
        raise AssertionError("unreachable: the numbers do not end")

    def write_arguments(self, arguments: Any, inputs: Mapping[str, Any] | None = None) -> None:
        """Write the arguments, a dataclass, and the versions of packages.

        Args:
            arguments: arguments of the run.
            inputs: digests of the files that the arguments name.
        """
        versions = {name: version(name) for name in PACKAGES}
        record = {
            "arguments": asdict(arguments),
            "inputs": dict(inputs or {}),
            "versions": versions | {"python": platform.python_version()},
        }
        record = json.loads(json.dumps(record, default=str))
        record = {DIGEST: digest_of(record)} | record
        write_atomically(self.arguments, json.dumps(record, indent=2) + "\n")

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """Append a line of metrics, after a line break if the last line was cut off."""
        with self.metrics.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")


def digest_of(record: dict[str, Any]) -> str:
    """Digest of a record, independent of order and white space."""
    return text_digest(json.dumps(record, sort_keys=True))


@contextmanager
def new_folder(
    args: Any, name: str, inputs: Mapping[str, Any] | None = None
) -> Iterator[RunFolder]:
    """Make and lock a run folder with the arguments in it.

    The folder is removed, with the parents made for it, if the code inside fails before it has
    written a file.

    Args:
        args: arguments of the run; their `out` is the parent of the run folder.
        name: first part of the folder's name.
        inputs: digests of the files that the arguments name.
    """
    parents = [place for place in (args.out, *args.out.parents) if not place.exists()]
    with blamed(f"--out {args.out}"):
        folder = RunFolder.new(args.out, name)
    with locked(folder.path):
        folder.write_arguments(args, inputs)
        written = set(folder.path.iterdir())
        try:
            yield folder
        except BaseException:
            if set(folder.path.iterdir()) == written:
                for file in written:
                    file.unlink()
                _remove_empty([folder.path, *parents])
            raise


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, from the inside out, up to the first that holds something."""
    for folder in folders:
        if any(folder.iterdir()):
            return
        folder.rmdir()
