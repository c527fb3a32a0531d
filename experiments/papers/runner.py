"""Runs of scripts as processes of their own: the findings that a script prints, and its CPU time.

`docs/papers.json` keeps the findings of each command, so that one entry can be measured again.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from experiments.papers.paper import Paper
from experiments.shared.claims import Finding
from model.common.files import write_atomically

LINE = re.compile(r"^(yes| NO)  (.+)$", re.MULTILINE)
"""Line of a finding, as `claims.report` prints findings."""
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Measurement:
    """Findings of a command.

    Attributes:
        findings: statements of the script, and whether each held.
        seconds: CPU time of the process.
        versions: versions of torch and Pyro.
    """

    findings: list[Finding]
    seconds: float
    versions: str


def measure(paper: Paper) -> Measurement:
    """Run the command of a paper, in a temporary folder, where run folders vanish with it.

    Raises:
        RuntimeError: if the script ends without findings, with the end of its stderr.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", f"experiments.{paper.script}", *paper.words[1:]]
    variables = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            words, capture_output=True, text=True, env=variables, cwd=folder, check=False
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    findings = findings_of(done.stdout)
    if done.returncode not in (0, 1) or not findings:
        fault = f"{paper.command} ended with code {done.returncode} and {len(findings)} findings"
        raise RuntimeError(f"{fault}, expected 0 or 1, and findings: {done.stderr[-1000:]}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyro-ppl"))
    return Measurement(findings, round(seconds, 1), versions)


def findings_of(text: str) -> list[Finding]:
    """Findings in the output of a script."""
    return [Finding(statement, mark == "yes") for mark, statement in LINE.findall(text)]


def read(path: Path) -> dict[str, Measurement]:
    """Measurements by command; none if there is no file."""
    if not path.exists():
        return {}
    records = json.loads(path.read_text(encoding="utf-8"))
    return {
        command: Measurement(findings_of("\n".join(lines)), seconds, versions)
        for command, (seconds, versions, *lines) in records.items()
    }


def write(path: Path, measurements: Mapping[str, Measurement]) -> None:
    """Write measurements by command: seconds, versions, and the lines of the findings."""
    records = {
        command: [each.seconds, each.versions, *map(str, each.findings)]
        for command, each in sorted(measurements.items())
    }
    write_atomically(path, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
