"""Claims of the literature: findings that a script measures, and the verdict on the claim."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.shared.argument_types import Out, Threads
from experiments.shared.command_line import Arguments
from experiments.shared.early_stops import recorded_early_stops
from experiments.shared.tables import cell
from inference import Estimate

NOISY = "too noisy to say"
"""End of a finding that failed, of a number that is not clear of its limit."""


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


def within(
    subject: str, *values: Any, above: float = -inf, below: float = inf, num_runs: float = inf
) -> Finding:
    """Finding that numbers, tensors of one, or estimates are strictly between the limits.

    NaN is not. An estimate is clear of the limits besides, by `Estimate.is_clear_of`.
    """
    every = [each if isinstance(each, Estimate) else Estimate(each, 0.0) for each in values]
    numbers = " and ".join(cell(*each) if each[1] else f"{each.value:.2g}" for each in every)
    limits = {"above": above, "below": below}
    text = ", ".join(f"{name} {value:.3g}" for name, value in limits.items() if isfinite(value))
    is_clear = all(each.is_clear_of(above, below, num_runs=num_runs) for each in every)
    held = is_clear and all(above < each.value < below for each in every)
    return Finding(f"{subject}: {numbers} ({text})" + f", {NOISY}" * (not is_clear), held)


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
