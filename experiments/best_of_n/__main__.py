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

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments.best_of_n.best import exact_best, measured_best
from experiments.best_of_n.report import best_figure, findings_of, measured_findings, table_of
from experiments.shared.argument_types import DISTINCT, Out, Threads, count
from experiments.shared.claims import Finding, conclude
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.figures import save_all
from experiments.shared.workers import set_threads
from inference import Enumeration, PriorSample, random_state, sample_prior
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.prior.named_priors import load_prior

Sizes = Annotated[tuple[Annotated[int, count(1, 100_000)], ...], DISTINCT]


@dataclass(frozen=True)
class BestOfN(Arguments):
    """Compare best of n with the posteriors, by reward and KL to the prior."""

    sizes: Sizes = (1, 2, 4, 8, 16, 32, 64)
    """Group sizes n."""
    draws: Annotated[int, count(64)] = 4096
    """Number of draws of the embedded prior. One half ranks groups of n of the other half."""
    threads: Threads | None = 1
    """Number of CPU threads; None for torch's choice."""
    out: Out = Path("runs")
    """Parent folder of the run folder."""


def main(args: BestOfN) -> list[Finding]:
    check(args.sizes, args.draws)
    set_threads(args.threads)
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
    tables = [
        f"The grammar, exact\n{table_of(exact)}",
        f"The embedded prior, {args.draws} draws\n{table_of(measured)}",
    ]
    findings = [
        *findings_of(exact, "on the grammar"),
        *findings_of(measured, "on text"),
        *measured_findings(measured),
    ]
    figures = {
        "grammar": best_figure(every, exact, "The grammar, exact"),
        "text": best_figure(draws, measured, "The embedded prior, measured (± 2 s.e.)"),
    }
    save_all(args, "best-of-n", figures)
    return conclude(__doc__, tables, findings)


def check(sizes: tuple[int, ...], num_draws: int) -> None:
    """Exit if the draws do not suffice for the largest group."""
    most = 7 * (num_draws // 16)  # what the jackknife leaves of half the draws
    if max(sizes) > most:
        raise SystemExit(
            f"--sizes has {max(sizes)}, expected at most {most} with --draws {num_draws}"
        )
    if max(sizes) == 1:
        raise SystemExit("--sizes has only 1, expected an n above 1: the best of 1 is the prior")


if __name__ == "__main__":
    run_script(main, BestOfN)
