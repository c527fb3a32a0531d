"""Coverage of intervals of 95%, and marks on the intervals that miss.

Claim: an interval of 1.96 standard errors without a mark misses the exact number in few runs. The
marks are `Posterior.fault` of a sampler, `Diagnostics.unreliable` of a trained guide, and a
standard error that is unknown or 0.
Source: the estimates of `inference.samplers` and `inference.diagnostics`, measured here.
Printed: share of runs whose interval holds the exact number, share of runs with a mark, and share
of runs that miss without a mark; each with its binomial error. The number of a sampler is the mean
reward under the posterior. The estimates of `diagnose` are of a guide after SVI.

The world is the grammar under VADER: 820 responses to each of two prompts, all listed. At a small
beta the posterior has rare responses of high reward.

    python -m experiments.coverage
    python -m experiments.coverage --sources annealed-smc --sizes 4352 --runs 400
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch

from experiments.shared.argument_types import DISTINCT, Count, Positive, Seed, count
from experiments.shared.claims import ClaimArguments, Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.tables import Row, table_of
from experiments.shared.training import train
from guides import FineTuned, Guide
from inference import SAMPLERS, Enumeration, Estimate, LeaveOneOut_ELBO, diagnose, random_state
from inference.diagnostics.diagnose import SUMMARY
from inference.estimate import expectation
from inference.samplers.posterior import NoSupportError
from model import AlignmentModel, Prompts, TextReward, grammar_prior, vader_sentiment
from model.prior.grammar import PROMPTS

DIAGNOSE = "diagnose"
NOISY = (name for name, e in SAMPLERS.items() if e.target == "posterior" and not e.lists_all)
SOURCES = (*NOISY, DIAGNOSE)
HOLDS, MARKED, MISSED = "holds", "marked", "misses without a mark"
REWARD, SYMBOLS = "E[r]", {name: symbol for symbol, name in SUMMARY.items()}
NUM_ERRORS = 1.96
MOST = 0.1
"""Share of runs without a mark that may miss."""


@dataclass(frozen=True)
class Coverage(ClaimArguments):
    """Count the intervals of 95% that hold the exact number, by sampler and estimate."""

    sources: Annotated[tuple[Literal[SOURCES], ...], DISTINCT] = (  # type: ignore[valid-type]
        "importance",
        "rejection",
        "twisted-smc",
        "annealed-smc",
        DIAGNOSE,
    )
    """Samplers by name, and `diagnose`, which measures a guide."""
    betas: Annotated[tuple[Positive, ...], DISTINCT] = (0.3, 0.05)
    """Rewards per nat."""
    sizes: Annotated[tuple[Annotated[int, count(2)], ...], DISTINCT] = (32, 256)
    """Numbers of responses that a sampler draws for each prompt in all, and that `diagnose` draws
    of the guide and of the prior each."""
    runs: Annotated[int, count(2, 10_000)] = 100
    """Number of runs behind each share."""
    steps: Count = 200
    """Number of SVI steps of the guide."""
    seed: Seed = 0
    """Random seed of the first run."""


class Interval(NamedTuple):
    """An estimate, the exact number, and whether the estimate has a mark."""

    estimate: Estimate
    truth: float
    mark: bool

    def outcome(self) -> dict[str, bool]:
        """Outcomes by name: the interval holds the exact number, has a mark, or neither."""
        value, error = self.estimate
        holds = abs(value - self.truth) <= NUM_ERRORS * error  # False for NaN
        is_marked = self.mark or not error > 0
        return {HOLDS: holds, MARKED: is_marked, MISSED: not holds and not is_marked}


def main(args: Coverage) -> list[Finding]:
    """Print the shares of all sources, and return a finding for each source and estimate."""
    tables, missed = [], dict[str, list[Estimate]]()
    for beta in args.betas:
        rows: dict[str, Row] = {}
        for source, measure in measures(args, beta):
            for size in args.sizes:
                shares = shares_of(repeated(partial(measure, size), args.runs, args.seed))
                for symbol, row in shares.items():
                    rows[f"{source}, {symbol}, {size}"] = row
                    missed.setdefault(f"{source}, {symbol}", []).append(row[MISSED])
        tables.append(table_of(f"beta {beta:g}, {args.runs} runs; source, estimate, size", rows))
    subject = f"largest share that {MISSED}"
    findings = [
        within(f"{name}: {subject}", max(each), below=MOST) for name, each in missed.items()
    ]
    return conclude(__doc__, tables, findings)


def measures(
    args: Coverage, beta: float
) -> Iterator[tuple[str, Callable[[int], dict[str, Interval]]]]:
    """Functions of the number of responses that return the intervals of one run, by source."""
    prior = grammar_prior(max_new_tokens=3)
    prompts = prior.encode(PROMPTS)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta)
    truth = Enumeration(model, prompts)
    reward = expectation(truth.log_posterior.exp(), beta * truth.log_likelihood)
    for source in args.sources:
        if source != DIAGNOSE:
            yield source, partial(of_sampler, source, model, prompts, reward.mean().item())
            continue
        guide = train(FineTuned(prior), model, prompts, LeaveOneOut_ELBO(64), args.steps)
        exact = {
            "log_z": truth.log_z,
            "elbo": truth.elbo(guide),
            "kl_guide_posterior": truth.kl_guide_posterior(guide),
            "kl_posterior_guide": truth.kl_posterior_guide(guide),
        }
        numbers = {name: each.mean().item() for name, each in exact.items()}
        yield source, partial(of_guide, guide, model, prompts, numbers)


def of_sampler(
    name: str, model: AlignmentModel, prompts: Prompts, exact: float, size: int
) -> dict[str, Interval]:
    """Interval of the mean reward by a sampler. A run without a response counts as marked."""
    try:
        posterior = SAMPLERS[name](model, prompts, num_samples=size)
    except NoSupportError:
        return {REWARD: Interval(Estimate(torch.nan, torch.nan), exact, True)}
    estimate = posterior.estimate(model.reward(prompts, posterior.response).double())
    return {REWARD: Interval(estimate, exact, bool(posterior.fault()))}


def of_guide(
    guide: Guide, model: AlignmentModel, prompts: Prompts, exact: Mapping[str, float], size: int
) -> dict[str, Interval]:
    """Intervals of `diagnose`, by symbol."""
    measured = diagnose(model, guide, prompts, num_samples=size, num_prior_draws=size)
    return {
        SYMBOLS[name]: Interval(getattr(measured, name), number, name in measured.unreliable)
        for name, number in exact.items()
    }


def repeated(
    measure: Callable[[], dict[str, Interval]], num_runs: int, seed: int
) -> Iterator[dict[str, Interval]]:
    """Intervals of runs with successive seeds."""
    for run in range(num_runs):
        with random_state.isolated(seed + run):
            yield measure()


def shares_of(runs: Iterable[dict[str, Interval]]) -> dict[str, dict[str, Estimate]]:
    """Shares of the outcomes over runs, by symbol."""
    every = list(runs)
    shares = {}
    for symbol in every[0]:
        outcomes = [run[symbol].outcome() for run in every]
        shares[symbol] = {
            name: Estimate.of_share(torch.tensor([[float(each[name])] for each in outcomes]))
            for name in (HOLDS, MARKED, MISSED)
        }
    return shares


if __name__ == "__main__":
    run_script(main, Coverage)
