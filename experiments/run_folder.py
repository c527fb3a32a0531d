"""The folder that a run leaves behind: arguments, versions, metrics, checkpoints, guide, figures, report."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pyro-ppl", "transformers", "numpy", "elbo-rl")


class RunFolder:
    """Paths of a run, and how they are written.

    Args:
        path: the folder; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.guide = path / "guide"
        self.arguments = path / "arguments.json"
        self.metrics = path / "metrics.jsonl"
        self.report = path / "report.html"
        path.mkdir(parents=True, exist_ok=True)

    @classmethod
    def new(cls, parent: Path, name: str) -> RunFolder:
        """A folder that did not exist before: `PARENT/NAME-DATE-TIME`, with a number after it if that is taken."""
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        taken = sum(1 for _ in parent.glob(f"{stem}*")) if parent.is_dir() else 0
        return cls(parent / (f"{stem}-{taken}" if taken else stem))

    def write_arguments(self, arguments: Any) -> None:
        """The dataclass of arguments, and the versions that the run was made with."""
        record = {
            "arguments": asdict(arguments),
            "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        }
        self.arguments.write_text(json.dumps(record, indent=2, default=str) + "\n")

    def read_arguments(self) -> dict[str, Any]:
        """The arguments as they were written."""
        if not self.arguments.is_file():
            raise SystemExit(f"{self.arguments} is missing: expected the folder of an earlier run")
        return json.loads(self.arguments.read_text())["arguments"]

    def append_metrics(self, record: dict[str, float]) -> None:
        """One more line of metrics."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """All lines of metrics; of a step that was run twice, around a kill and a resume, the later one."""
        lines = [json.loads(line) for line in self.metrics.read_text().splitlines()] if self.metrics.is_file() else []
        return list({line["step"]: line for line in lines}.values())
