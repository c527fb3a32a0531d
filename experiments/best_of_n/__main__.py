"""Best of n against the posteriors, by reward and KL to the prior.

Question: best of n needs no training; how much of the posterior's reward does it reach?
Claim: the best of n prior draws is at most log n - (n-1)/n nats from the prior (exactly as far if
no rewards tie), and beats a draw of the prior in at most n/(n+1) of cases. The best of n lies
below the posteriors of all beta, which no distribution exceeds, but not far below.
Source: Beirami et al. 2024, arXiv 2401.01879; Gui et al. 2024, arXiv 2406.00832.
Printed: for each n, KL and reward, the bound on the KL, the reward of the posterior at the same KL,
and the win rate. Written: both worlds on the plane of reward against KL.

On the grammar, where all responses are listed, everything is exact: order statistics with ties. On
the embedded prior, KL, reward and win rate are measured from groups of n draws, with standard
errors, and compared with order statistics. `distillation` trains guides towards the best of n.

    python -m experiments.best_of_n
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from matplotlib.figure import Figure

from experiments.best_of_n.best import EXACT, Best, exact_best, measured_best
from experiments.shared.argument_types import DISTINCT, count
from experiments.shared.claims import FigureArguments, Finding, conclude, largest, within
from experiments.shared.command_line import run_script
from experiments.shared.figures import PRIOR, legend_below, plane_figure, save_all
from experiments.shared.tables import Row, table_of
from inference import Enumeration, PriorSample, random_state, sample_prior
from inference.estimate import REFUTED
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.prior.named_priors import load_prior

NEAR = 0.8
"""Share of the posterior's gain in reward. Best of n with more is near the frontier."""
Sizes = Annotated[tuple[Annotated[int, count(1, 100_000)], ...], DISTINCT]


@dataclass(frozen=True)
class BestOfN(FigureArguments):
    """Compare best of n with the posteriors, by reward and KL to the prior."""

    sizes: Sizes = (1, 2, 4, 8, 16, 32, 64)
    """Group sizes n."""
    draws: Annotated[int, count(64)] = 4096
    """Number of draws of the embedded prior. One half ranks groups of n of the other half."""


def main(args: BestOfN) -> list[Finding]:
    check(args.sizes, args.draws)
    with random_state.isolated(0):
        grammar = grammar_prior(max_new_tokens=3)
        model = AlignmentModel(grammar, TextReward(vader_sentiment, grammar), 1.0)
        truth = Enumeration(model, grammar.encode(["the film was"]))
        prior = load_prior("film-reviews", max_new_tokens=12, temperature=0.7)
        model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 1.0)
        draws = sample_prior(model, prior.encode(["The film was"]), args.draws, independent=True)
    every = PriorSample.of_enumeration(truth)
    exact = {n: exact_best(every, n) for n in args.sizes}
    measured = {n: measured_best(exact_best(draws, n), draws, n) for n in args.sizes}
    tables = [best_table("The grammar, exact", exact)]
    tables.append(best_table(f"The embedded prior, {args.draws} draws", measured))
    findings = [*findings_of(exact, "on the grammar"), *findings_of(measured, "on text")]
    figures = {
        "grammar": best_figure(every, exact, "the grammar, exact"),
        "text": best_figure(draws, measured, "the embedded prior, measured ± 2 s.e."),
    }
    save_all(args, "best-of-n", figures)
    return conclude(__doc__, tables, [*findings, *measured_findings(measured)])


def check(sizes: tuple[int, ...], draws: int) -> None:
    """Exit if the draws do not suffice for the largest group."""
    most = 7 * (draws // 16)  # what the jackknife leaves of half the draws
    if max(sizes) > most:
        raise SystemExit(f"--sizes has {max(sizes)}, expected at most {most} with --draws {draws}")
    if max(sizes) == 1:
        raise SystemExit("--sizes has only 1, expected an n above 1: the best of 1 is the prior")


def best_table(title: str, best: Mapping[int, Best]) -> str:
    """Table with one line for each n. The columns `exact` are by order statistics, with ties."""
    rows: dict[str, Row] = {
        f"best of {n}": {
            "KL": one.kl,
            "KL, exact": f"{one.kl_exact:.4f}",
            "bound": f"{one.kl_bound:.4f}",
            "E[r]": one.reward,
            "E[r], exact": f"{one.reward_exact:.4f}",
            "posterior's": f"{one.frontier:.4f}",
            "share": one.share,
            "win rate": one.win_rate,
            "bound of the rate": f"{one.win_rate_bound:.4f}",
        }
        for n, one in best.items()
    }
    return table_of(title, rows)


def findings_of(best: Mapping[int, Best], where: str) -> list[Finding]:
    """Findings on both bounds, and on the place of the best of n below the frontier."""
    slack = largest(one.kl_exact - one.kl_bound for one in best.values())
    errors = {n: REFUTED * np.nan_to_num(one.win_rate.standard_error) for n, one in best.items()}
    wins = largest(one.win_rate.value - one.win_rate_bound - errors[n] for n, one in best.items())
    over = largest(one.reward_exact - one.frontier for one in best.values())
    least = min(one.share for one in best.values() if not math.isnan(one.share))
    return [
        Finding(f"no KL {where} is above log n - (n-1)/n", slack <= EXACT),
        Finding(f"no win rate {where} is above n/(n+1) beyond its error", wins <= EXACT),
        Finding(f"no best of n {where} is above the posteriors", over <= EXACT),
        within(f"least share of the posterior's gain {where}", least, above=NEAR),
    ]


def measured_findings(best: Mapping[int, Best]) -> list[Finding]:
    """Findings on the measured KL and reward, against order statistics and the bound."""
    of_groups = [one for n, one in best.items() if n > 1]
    off_kl = largest(abs(one.kl.value - one.kl_exact) / one.kl.standard_error for one in of_groups)
    off_reward = largest(
        abs(one.reward.value - one.reward_exact) / one.reward.standard_error
        for one in best.values()
    )
    is_near = off_reward <= REFUTED
    above = largest(
        one.kl.value - REFUTED * one.kl.standard_error - one.kl_bound for one in of_groups
    )
    statistics = f"from order statistics (at most {REFUTED:g})"
    return [
        Finding(f"measured KL, {off_kl:.1f} standard errors {statistics}", off_kl <= REFUTED),
        Finding(f"measured reward, {off_reward:.1f} standard errors {statistics}", is_near),
        Finding("no measured KL is above log n - (n-1)/n beyond its error", above <= 0),
    ]


def best_figure(sample: PriorSample, best: Mapping[int, Best], world: str) -> Figure:
    """Reward against KL to the prior: the posteriors, and the best of n exactly and by bound."""
    places = {f"best of {n}": (one.kl, one.reward) for n, one in best.items()}
    shares = [one.share for one in best.values() if not math.isnan(one.share)]
    gain = f"{min(shares):.1%} to {max(shares):.1%} of the posterior's gain"
    figure, axes = plane_figure(sample, places, f"Best of n reaches {gain}\n({world})")
    rewards = [one.reward_exact for one in best.values()]
    exact, bounds = zip(*((one.kl_exact, one.kl_bound) for one in best.values()), strict=True)
    axes.plot(exact, rewards, color=PRIOR, label="best of n, exact")
    axes.plot(bounds, rewards, "|", color=PRIOR, label="KL by log n - (n-1)/n")
    furthest = max(*exact, *bounds)
    axes.set(xlim=(-0.05 * furthest, 1.1 * furthest))
    legend_below(figure, axes, 3)
    return figure


if __name__ == "__main__":
    run_script(main, BestOfN)
