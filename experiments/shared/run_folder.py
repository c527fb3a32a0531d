"""The folder that a run leaves behind: arguments, versions, metrics, checkpoints, guide, figures, report."""

from __future__ import annotations

import json
import os
import platform
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from experiments.shared.refusals import blamed
from inference.svi.checkpoint.folder_lock import locked
from model.common.digests import text_digest
from model.common.files import write_atomically

PACKAGES = ("torch", "pyro-ppl", "transformers", "numpy", "elbo-rl")

PARTS = {"arguments", "inputs", "versions"}
DIGEST = "sha256"
"""Name of the digest of these parts, in the same file: both are written in one rename."""


class RunFolder:
    """Paths of a run, and how they are written.

    Args:
        path: a folder that is there; `new` makes one.
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
        """Make a folder that did not exist before: `PARENT/NAME-DATE-TIME`, with a number after it if that is taken."""
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
        """The dataclass of arguments, digests of the files that they name, and the versions that the run was made with."""
        record = {
            "arguments": asdict(arguments),
            "inputs": dict(inputs or {}),
            "versions": {name: version(name) for name in PACKAGES}
            | {"python": platform.python_version()},
        }
        record = json.loads(json.dumps(record, default=str))
        write_atomically(
            self.arguments, json.dumps({DIGEST: _digest(record)} | record, indent=2) + "\n"
        )

    def read_record(self) -> dict[str, Any]:
        """`arguments`, `inputs` and `versions` as they were written; exits if they cannot be read."""
        where = f"--resume {self.path}: {self.arguments.name}"
        if not self.arguments.is_file():
            raise SystemExit(f"{where} is missing: expected the folder of an earlier run")
        try:
            record = json.loads(self.arguments.read_bytes())
            digest = record.pop(DIGEST, None)
            whole = record.keys() == PARTS and all(
                isinstance(part, dict) for part in record.values()
            )
        except (ValueError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise SystemExit(
                f"{where} is damaged: expected the arguments of a run as JSON. Start the run again"
            )
        if digest not in (None, _digest(record)):
            raise SystemExit(
                f"{where} is not as it was written: its content differs from its {DIGEST!r}, damaged or changed by "
                f"hand. Put the old content back, or delete the line {DIGEST!r} if the change is meant"
            )
        return record

    def read_arguments(self) -> dict[str, Any]:
        """The arguments as they were written."""
        return self.read_record()["arguments"]

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """One more line of metrics, on a line of its own also after one that was cut off."""
        with self.metrics.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """All lines of metrics, by step; of a step that was run twice, around a kill and a resume, the later one.

        A line that a full disk or a power cut left torn, blank or garbled is left out, with a warning.
        """
        lines = self.metrics.read_bytes().splitlines() if self.metrics.is_file() else []
        records = {number: _record(line) for number, line in enumerate(lines, 1)}
        counts = Counter(frozenset(record) for record in records.values() if record)
        fields = max(counts, key=counts.__getitem__, default=frozenset())
        bad = [
            number for number, record in records.items() if not record or record.keys() != fields
        ]
        if bad:
            warnings.warn(
                f"{self.metrics}: {len(bad)} of {len(lines)} lines are no record of a step and were left out, the first is "
                f"line {bad[0]}; the disk may have been full, or the power cut",
                stacklevel=2,
            )
        by_step = {
            record["step"]: record
            for record in records.values()
            if record and record.keys() == fields
        }
        return [by_step[step] for step in sorted(by_step)]


def _digest(record: dict[str, Any]) -> str:
    """Digest of what JSON holds, whatever the order and the white space."""
    return text_digest(json.dumps(record, sort_keys=True))


def _record(line: bytes) -> dict[str, float]:
    """A line as the record of a step: numbers by name, the step a whole one from 1 on. Empty if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    numbers = isinstance(record, dict) and all(
        type(value) in (int, float) for value in record.values()
    )
    if not numbers or not (type(record.get("step")) is int and record["step"] >= 1):
        return {}
    return record


class HasOut(Protocol):
    """Arguments that say where run folders are made."""

    @property
    def out(self) -> Path: ...


@contextmanager
def new_folder(
    args: HasOut, name: str, digests: Mapping[str, Any] | None = None
) -> Iterator[RunFolder]:
    """A new run folder with the arguments in it, and digests of the files that they name. Nobody else works in it.

    If what is inside fails before it has written anything, the folder is taken away again, and the folders made for it.
    """
    parents = [place for place in (args.out, *args.out.parents) if not place.exists()]
    with blamed(f"--out {args.out}"):
        folder = RunFolder.new(args.out, name)
    with locked(folder.path):
        folder.write_arguments(args, digests)
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
