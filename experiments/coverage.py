"""Coverage of intervals of 95%, and marks on the intervals that miss.

Claim: fewer than a fifth of the intervals of 1.96 standard errors, for the mean reward by a sampler
and for log Z beside a trained guide, miss the exact number without a mark. The marks are
`Posterior.warnings`, `Diagnostics.warnings`, and a standard error that is unknown or 0. Of the ELBO
and the divergences of a trained guide nothing is claimed: no draw shows what SVI starves.
Source: the estimates of `inference.samplers` and `inference.diagnostics`, measured here.
Printed: share of runs whose interval holds the exact number, share of runs with a mark, and share
of runs that miss without a mark, for estimates of the claim and others; with binomial errors.

The world is the grammar under VADER: 820 responses to each of two prompts, all listed. At a small
beta the posterior has rare responses of high reward.

    python -m experiments.coverage
    python -m experiments.coverage --sources annealed-smc --sizes 4352 --runs 400
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

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
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.prior.grammar import PROMPTS

DIAGNOSE = "diagnose"
NOISY = (name for name, e in SAMPLERS.items() if e.target == "posterior" and not e.lists_all)
SOURCES = (*NOISY, DIAGNOSE)
DEFAULT = "importance", "rejection", "twisted-smc", "annealed-smc", DIAGNOSE
OUTCOMES = HOLDS, MARKED, MISSED = "holds", "marked", "misses without a mark"
CLAIMED = REWARD, LOG_Z = "E[r]", "log Z"
"""Estimates of the claim; the others are in the tables alone."""
NUM_ERRORS = 1.96
MOST = 0.2
"""Share of runs that may miss without a mark. Of normal intervals 0.05 miss."""
Run = dict[str, tuple[bool, ...]]
"""Truth of each of `OUTCOMES` in one run, by estimate."""


@dataclass(frozen=True)
class Coverage(ClaimArguments):
    """Count the intervals of 95% that hold the exact number, by sampler and estimate."""

    sources: Annotated[tuple[Literal[SOURCES], ...], DISTINCT] = DEFAULT  # type: ignore[valid-type]
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


def main(args: Coverage) -> list[Finding]:
    """Print the shares of all sources, and return a finding for each share of the claim."""
    prior = grammar_prior(max_new_tokens=3)
    prompts, reward = prior.encode(PROMPTS), TextReward(vader_sentiment, prior, upper_bound=1.0)
    tables, findings = list[str](), list[Finding]()
    for beta in args.betas:
        model, rows = AlignmentModel(prior, reward, beta), dict[str, Row]()
        truth = Enumeration(model, prompts)
        for source in args.sources:
            measure: Callable[[int], Run] = partial(of_sampler, source, model, truth)
            if source == DIAGNOSE:
                guide = train(FineTuned(prior), model, prompts, LeaveOneOut_ELBO(64), args.steps)
                measure = partial(of_guide, guide, model, truth)
            for size in args.sizes:
                for symbol, shares in shares_of(measure, size, args.runs, args.seed).items():
                    name = f"{source}, {symbol}, {size}"
                    rows[name] = shares
                    if symbol in CLAIMED:
                        subject = f"beta {beta:g}, {name}: share that {MISSED}"
                        findings.append(within(subject, shares[MISSED], below=MOST))
        tables.append(table_of(f"beta {beta:g}, {args.runs} runs; source, estimate, size", rows))
    return conclude(__doc__, tables, findings)


def of_sampler(name: str, model: AlignmentModel, truth: Enumeration, size: int) -> Run:
    """Outcome of the mean reward by a sampler. A run without a response counts as marked."""
    exact = expectation(truth.log_posterior.exp(), model.beta * truth.log_likelihood)
    estimate, mark = Estimate(torch.nan, torch.nan), True
    with contextlib.suppress(NoSupportError):
        posterior = SAMPLERS[name](model, truth.prompts, num_samples=size)
        estimate = posterior.estimate(model.reward(truth.prompts, posterior.response).double())
        mark = bool(posterior.warnings)
    return {REWARD: outcome(estimate, exact, mark)}


def of_guide(guide: Guide, model: AlignmentModel, truth: Enumeration, size: int) -> Run:
    """Outcomes of `diagnose`."""
    measured = diagnose(model, guide, truth.prompts, num_samples=size, num_prior_draws=size)
    exact = {
        "log_z": truth.log_z,
        "elbo": truth.elbo(guide),
        "kl_guide_posterior": truth.kl_guide_posterior(guide),
        "kl_posterior_guide": truth.kl_posterior_guide(guide),
    }
    outcomes = {}
    for symbol, name in SUMMARY.items():
        if name in exact:
            mark = bool(measured.warnings_of(name))
            outcomes[symbol] = outcome(getattr(measured, name), exact[name], mark)
    return outcomes


def outcome(estimate: Estimate, exact: Tensor, mark: bool) -> tuple[bool, ...]:
    """Outcomes of an interval: it holds the exact mean over prompts, has a mark, or neither."""
    value, error = estimate
    holds = abs(value - exact.mean().item()) <= NUM_ERRORS * error  # False for NaN
    is_marked = mark or not error > 0
    return holds, is_marked, not holds and not is_marked


def shares_of(
    measure: Callable[[int], Run], size: int, num_runs: int, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Shares of the outcomes over runs with successive seeds, by estimate."""
    runs = []
    for run in range(num_runs):
        with random_state.isolated(seed + run):
            runs.append(measure(size))
    shares = {}
    for symbol in runs[0]:
        each = torch.tensor([run[symbol] for run in runs]).double()  # [runs, outcomes]
        columns = each.split(1, dim=1)
        shares[symbol] = dict(zip(OUTCOMES, map(Estimate.of_share, columns), strict=True))
    return shares


if __name__ == "__main__":
    run_script(main, Coverage)
