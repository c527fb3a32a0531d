"""Metrics of a run on disk: `metrics.jsonl`, a line of JSON for each step."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from experiments.shared.tables import mean_and_error
from inference.estimate import Estimate

WINDOW = 10
"""Number of steps behind a mean over the last steps."""


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Records of all steps, in order.

    A kill and a resume can repeat a step: the later record counts. A line that a full disk or a
    power cut left torn, blank or garbled is left out, with a warning.

    Args:
        path: JSON lines; a missing file has no records.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    records = {number: _record(line) for number, line in enumerate(lines, 1)}
    counts = Counter(frozenset(record) for record in records.values() if record)
    fields = max(counts, key=counts.__getitem__, default=frozenset())
    if bad := [n for n, record in records.items() if not record or record.keys() != fields]:
        warnings.warn(
            f"{path}: {len(bad)} of {len(lines)} lines are no record of a step and were left out, "
            f"the first is line {bad[0]}; the disk may have been full, or the power cut",
            stacklevel=2,
        )
    by_step = {record["step"]: record for n, record in records.items() if n not in bad}
    return [by_step[step] for step in sorted(by_step)]


def recent(metrics: Sequence[Mapping[str, float]], name: str) -> Estimate:
    """Mean of a metric over the last steps, with the standard error of their spread."""
    return mean_and_error(metrics[-WINDOW:], name)


def _record(line: bytes) -> dict[str, float]:
    """Record of a step: numbers by name, with a step of at least 1. Empty for any other line."""
    record = None
    with suppress(ValueError, RecursionError):
        record = json.loads(line)
    if not isinstance(record, dict):
        return {}
    has_numbers = all(type(value) in (int, float) for value in record.values())
    has_step = type(record.get("step")) is int and record["step"] >= 1
    return record if has_numbers and has_step else {}
