"""Claims of the literature: findings that a script measures, and the verdict on the claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Finding(NamedTuple):
    """A statement of the claim, and whether the measurement agrees."""

    statement: str
    held: bool


def largest(values: Iterable[float]) -> float:
    """Largest of some numbers; NaN if one is NaN, so that a finding about the largest fails."""
    return float(np.max(list(values)))


def smallest(values: Iterable[float]) -> float:
    """Smallest of some numbers; NaN if one is NaN."""
    return float(np.min(list(values)))


def finished(stops: Sequence[str]) -> list[Finding]:
    """A failed finding for each fit that stopped early, see `training.early_stops`."""
    return [Finding(stop, False) for stop in stops]


def verdict(findings: Sequence[Finding]) -> str:
    """One line: the claim held, or the findings that failed."""
    failed = [finding.statement for finding in findings if not finding.held]
    if failed:
        count = f"{len(failed)} of {len(findings)} findings failed"
        return f"The claim did NOT hold, {count}: {'; '.join(failed)}."
    return f"The claim held: {len(findings)} of {len(findings)} findings."


def report(claim: str, source: str, tables: Sequence[str], findings: Sequence[Finding]) -> str:
    """Text that a script prints: claim, source, tables, findings, verdict."""
    checked = [f"{'yes' if held else 'NO':>3}  {statement}" for statement, held in findings]
    head = [f"Claim: {claim}", f"Source: {source}", "", "\n\n".join(tables), ""]
    return "\n".join([*head, *checked, "", verdict(findings)])
