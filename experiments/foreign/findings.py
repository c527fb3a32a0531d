"""Findings over all runs, and the runs that they are about."""

import math
from collections.abc import Sequence
from statistics import median

from experiments.foreign.records import Run
from experiments.shared.claims import Finding
from inference import Estimate

REVERSE = ("leave-one-out", "reward-to-go", "trajectory-balance")
"""Objectives that descend KL(q || p*)."""
SMALLEST, LARGEST = 1.0, 6.0
"""Range of KL(p0 || p*), nats, over which the median share is taken."""
MOST_LEFT = 0.35


def findings(runs: Sequence[Run]) -> list[Finding]:
    """Statements about all runs: none is refused, none rises, and the median share is small."""
    refused = [f"{run.name}: {run.note}" for run in runs if run.note]
    reverse = [run for run in runs if run.cell.objective in REVERSE and not run.note]
    risen = [run for run in reverse if is_above(run.rise)]
    risen.sort(key=lambda run: _unknown_as_infinite(run.rise), reverse=True)
    ends = (
        f"{len(risen)} of {len(reverse)} runs of objectives of KL(q || p*) end above KL(p0 || p*)"
    )
    if risen:
        own = sum(is_above(run.own_rise) for run in risen)
        ends += f", {own} of them above the untrained guide: by up to {risen[0].rise} nats, "
        ends += risen[0].name
    return [
        Finding("; ".join([f"{len(refused)} runs without a result", *refused]), not refused),
        Finding(ends, not risen),
        _median_is_small(runs),
    ]


def _median_is_small(runs: Sequence[Run]) -> Finding:
    shares, limits = shares_left(runs, LARGEST), f"between {SMALLEST:g} and {LARGEST:g} nats"
    if not shares:
        return Finding(f"median share left: no run starts {limits}", False)
    share, worst = median(shares), by_share(runs)[0]
    subject = f"median share left of {len(shares)} runs that start {limits}"
    most = f"the worst of all over {SMALLEST:g} nat is {worst.share_left.value:.0%}, {worst.name}"
    return Finding(f"{subject}: {share:.0%} (at most {MOST_LEFT:.0%}); {most}", share <= MOST_LEFT)


def is_above(rise: Estimate) -> bool:
    """True for a rise above 0 by more than noise, and for one of unknown size or noise."""
    is_unknown = math.isnan(rise.value + rise.standard_error) and rise.value != -math.inf
    return is_unknown or rise.is_above(0.0)


def shares_left(runs: Sequence[Run], largest: float = math.inf) -> list[float]:
    """Shares of runs that start between `SMALLEST` and `largest` nats, infinite if unknown."""
    started = [run for run in by_share(runs) if run.start.value <= largest]
    return [_unknown_as_infinite(run.share_left) for run in started]


def by_share(runs: Sequence[Run]) -> list[Run]:
    """Runs that start over `SMALLEST`, the largest share left first."""
    known = [run for run in runs if run.start.value >= SMALLEST]
    return sorted(known, key=lambda run: _unknown_as_infinite(run.share_left), reverse=True)


def _unknown_as_infinite(estimate: Estimate) -> float:
    """The value; infinity for NaN, which has no place in an order."""
    return math.inf if math.isnan(estimate.value) else estimate.value
