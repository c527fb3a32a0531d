"""Table, findings and figure of the best of n."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from experiments.best_of_n.best import Best
from experiments.shared.claims import Finding, largest
from experiments.shared.figures import PRIOR, plane_figure
from experiments.shared.tables import cell, text_table
from inference import Estimate, PriorSample

EXACT = 1e-10
NEAR = 0.8
"""Share of the posterior's gain in reward. Best of n with more is near the frontier."""
COLUMNS = ["KL", "exact", "bound", "E[r]", "exact", "posterior's", "share", "win rate", "bound"]


def table_of(best: Mapping[int, Best]) -> str:
    """Table with one line for each n. The columns `exact` are by order statistics, with ties."""

    def text(value: Estimate | float) -> str:
        if isinstance(value, Estimate):
            return cell(*value)
        return "-" if math.isnan(value) else f"{value:.4f}"

    rows = {f"best of {n}": [text(value) for value in one] for n, one in best.items()}
    return text_table(COLUMNS, rows)


def findings_of(best: Mapping[int, Best], where: str) -> list[Finding]:
    """Findings on both bounds, and on the place of the best of n below the frontier."""
    slack = largest(one.kl_exact - one.kl_bound for one in best.values())
    wins = largest(
        one.win_rate.value - one.win_rate_bound - 3 * _error(one.win_rate) for one in best.values()
    )
    over = largest(one.reward_exact - one.frontier for one in best.values())
    least = min(one.share for one in best.values() if not math.isnan(one.share))
    return [
        Finding(f"no KL {where} is above log n - (n-1)/n", slack <= EXACT),
        Finding(f"no win rate {where} is above n/(n+1), by 3 errors if measured", wins <= EXACT),
        Finding(f"no best of n {where} is above the posteriors", over <= EXACT),
        Finding.of_limits(f"least share of the posterior's gain {where}", [least], above=NEAR),
    ]


def measured_findings(best: Mapping[int, Best]) -> list[Finding]:
    """Findings on the measured KL and reward, against order statistics and the bound."""
    of_groups = [one for n, one in best.items() if n > 1]
    kl = [abs(one.kl.value - one.kl_exact) / one.kl.standard_error for one in of_groups]
    reward = [
        abs(one.reward.value - one.reward_exact) / one.reward.standard_error
        for one in best.values()
    ]
    above = [one.kl.value - 3 * one.kl.standard_error - one.kl_bound for one in of_groups]
    off_kl, off_reward = largest(kl), largest(reward)
    statistics = "from order statistics (at most 3)"
    return [
        Finding(f"measured KL, {off_kl:.1f} standard errors {statistics}", off_kl <= 3),
        Finding(f"measured reward, {off_reward:.1f} standard errors {statistics}", off_reward <= 3),
        Finding("no measured KL is above log n - (n-1)/n by 3 errors", largest(above) <= 0),
    ]


def best_figure(sample: PriorSample, best: Mapping[int, Best], title: str) -> Figure:
    """Reward against KL to the prior: the posteriors, and the best of n exactly and by bound."""
    figure, axes = plane_figure(
        sample, {f"best of {n}": (one.kl, one.reward) for n, one in best.items()}, title
    )
    rewards = [one.reward_exact for one in best.values()]
    exact, bounds = zip(*((one.kl_exact, one.kl_bound) for one in best.values()), strict=True)
    axes.plot(exact, rewards, color=PRIOR, label="best of n, exact")
    axes.plot(bounds, rewards, "|", color=PRIOR, label="KL by log n - (n-1)/n")
    furthest = max(*exact, *bounds)
    axes.set(xlim=(-0.05 * furthest, 1.1 * furthest))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _error(estimate: Estimate) -> float:
    """Standard error, 0 for an exact value."""
    return 0.0 if math.isnan(estimate.standard_error) else estimate.standard_error
