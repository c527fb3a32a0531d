"""Claims of the literature: findings that a script measures, and the verdict on the claim."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.shared.argument_types import Out, Threads
from experiments.shared.command_line import Arguments
from inference.svi.early_stops import recorded_early_stops

NOISY = "too noisy to say"
"""End of a finding that failed, of a number nearer to its limit than two standard errors."""


@dataclass(frozen=True)
class ClaimArguments(Arguments):
    """Arguments of every script of a claim."""

    threads: Threads | None = 1
    """Number of CPU threads; None for torch's choice."""


@dataclass(frozen=True)
class FigureArguments(ClaimArguments):
    """Arguments of every script of a claim that draws a figure."""

    out: Out = Path("runs")
    """Parent folder of the run folder."""


class Finding(NamedTuple):
    """A statement of the claim, and whether the measurement agrees."""

    statement: str
    held: bool

    def __str__(self) -> str:
        return f"{'yes' if self.held else 'NO':>3}  {self.statement}"


def within(subject: str, *values: Any, above: float = -inf, below: float = inf) -> Finding:
    """Finding that all numbers, or tensors of one, are strictly between the limits; NaN is not."""
    numbers = " and ".join(f"{value:.2g}" for value in values)
    limits = {"above": above, "below": below}
    text = ", ".join(f"{name} {value:.3g}" for name, value in limits.items() if isfinite(value))
    return Finding(f"{subject}: {numbers} ({text})", all(above < value < below for value in values))


def largest(values: Iterable[float]) -> float:
    """Largest of some numbers; NaN if one is NaN."""
    return float(np.max(list(values)))


def report(script: str | None, tables: Sequence[str], findings: Sequence[Finding]) -> str:
    """Text that a script prints: claim, source, tables, findings, verdict.

    The docstring of the script has the paragraphs `Claim:`, `Source:` and `Printed`.
    """
    text = (script or "").partition("Claim: ")[2].partition("\nPrinted")[0]
    claim, _, source = text.partition("\nSource: ")
    failed = [statement for statement, held in findings if not held]
    verdict = f"The claim held: {len(findings)} of {len(findings)} findings."
    if not findings:
        verdict = "The claim was not tested: the options leave it out."
    elif failed:
        count = f"{len(failed)} of {len(findings)} findings failed"
        verdict = f"The claim did NOT hold, {count}: {'; '.join(failed)}."
    head = [f"Claim: {claim}", f"Source: {source}", "", "\n\n".join(tables), ""]
    return "\n".join([*head, *map(str, findings), "", verdict])


def conclude(
    script: str | None, tables: Sequence[str], findings: Sequence[Finding]
) -> list[Finding]:
    """Print the report of a script by its docstring, and return all findings.

    Each fit by `train` that stopped early under `run_script` is a failed finding.
    """
    every = [*findings, *(Finding(stop, False) for stop in recorded_early_stops())]
    print(report(script, tables, every))
    return every
