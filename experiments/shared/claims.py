"""A claim of the literature beside what was measured of it, and one line that says whether it held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Finding(NamedTuple):
    """One thing that the claim says, and whether it was found."""

    statement: str
    held: bool


def largest(values: Iterable[float]) -> float:
    """The largest of some numbers; NaN if one is, so that a finding about the largest fails: Python's own may leave NaN out."""
    return float(np.max(list(values)))


def smallest(values: Iterable[float]) -> float:
    """The smallest of some numbers; NaN if one is."""
    return float(np.min(list(values)))


def finished(stops: Sequence[str]) -> list[Finding]:
    """A further condition of every claim: each step of each guide was taken. No finding where no fit stopped early."""
    return [Finding(stop, False) for stop in stops]


def verdict(findings: Sequence[Finding]) -> str:
    """One line: that the claim held, or which of its findings did not."""
    failed = [finding.statement for finding in findings if not finding.held]
    if failed:
        return f"The claim did NOT hold, {len(failed)} of {len(findings)} findings failed: {'; '.join(failed)}."
    return f"The claim held: {len(findings)} of {len(findings)} findings."


def report(claim: str, source: str, tables: Sequence[str], findings: Sequence[Finding]) -> str:
    """What a script prints: the claim, where it comes from, the measured tables, each finding, the verdict."""
    checked = "\n".join(
        f"{'yes' if finding.held else 'NO':>3}  {finding.statement}" for finding in findings
    )
    return "\n".join(
        [
            f"Claim: {claim}",
            f"Source: {source}",
            "",
            "\n\n".join(tables),
            "",
            checked,
            "",
            verdict(findings),
        ]
    )
