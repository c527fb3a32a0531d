"""Distillation of best of n: a guide learns the best of n, so that one draw does for n.

Claim: a guide can learn the distribution of the best of n. No guide, by SVI or by distillation, has
more reward than the posterior at the same KL to the prior.
Source: Amini et al. 2024, arXiv 2407.06057; Gui et al. 2024, arXiv 2406.00832.
Printed: for guides by SVI and by distillation, KL to the prior, reward, the reward of the posterior
at the same KL, and KL and reward of the guide's target, with standard errors over seeds, or of the
measurement with one seed; where all responses are listed also KL(q || target). Written: the guides
on the plane of reward against KL.

On the grammar all responses are listed, so that both targets are exact: the posterior of SVI, and
the best of n by order statistics. On the embedded prior, which writes English, they are known from
draws, and few steps leave both guides below their targets. `best_of_n` is about the targets alone.

    python -m experiments.distillation
    python -m experiments.distillation --world film-reviews --sizes 16 --betas 0.1 --steps 30 \
        --particles 32 --seeds 1
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor

from experiments.shared.argument_types import DISTINCT, Count, Positive, Seeds, Used, count
from experiments.shared.claims import FigureArguments, Finding, conclude, largest, within
from experiments.shared.command_line import run_script
from experiments.shared.figures import legend_below, plane_figure, save_all
from experiments.shared.tables import over_seeds, table_of
from experiments.shared.training import train
from experiments.shared.worlds import World
from experiments.shared.zoo import measure_guide
from guides import FineTuned
from inference import BestOfN_ELBO, Estimate, LeaveOneOut_ELBO, PriorSample
from inference.enumeration import kl
from inference.estimate import REFUTED
from inference.order_statistics import best_of_n_log_ratio, level_cdf
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from model.prior.named_priors import load_prior

EXACT = 1e-10
LEARNED = 0.2
"""Share of KL(p0 || best of n). A guide with less KL to the best of n has learned it."""
TO_TARGET = "KL(q||target)"
Row = Mapping[str, Estimate]
ON_TEXT = Used(lambda args: args.world == "film-reviews", "on the grammar, which is listed")


@dataclass(frozen=True)
class Distillation(FigureArguments):
    """Train guides towards the best of n and towards posteriors."""

    world: Literal["grammar", "film-reviews"] = "grammar"
    """Prior of sentences about films: the grammar, or the embedded prior with at most 12 tokens at
    temperature 0.7. The reward is VADER's sentiment."""
    sizes: Annotated[tuple[Annotated[int, count(2, 100_000)], ...], DISTINCT] = (4, 16)
    """Group sizes n of the distilled guides."""
    betas: Annotated[tuple[Positive, ...], DISTINCT] = (0.6, 0.3)
    """Rewards per nat of the guides by SVI."""
    steps: Count = 120
    """Number of SVI steps."""
    particles: Annotated[int, count(4)] = 64
    """Number of responses in each step."""
    seeds: Seeds = 6
    """Number of guides of each kind."""
    draws: Annotated[int, count(64), ON_TEXT] = 4096
    """Number of prior draws behind the posteriors of the embedded prior."""


class Kind(NamedTuple):
    """A kind of guide, and its target.

    Attributes:
        model, objective: model and objective of the training.
        log_ratio: `[M, 1]`, log target/p0 of all responses or draws, up to a constant, nats.
        n: number of draws of a target that is the best of n; None for a posterior.
    """

    model: AlignmentModel
    objective: Callable[[int], ELBO]
    log_ratio: Tensor
    n: int | None = None


def main(args: Distillation) -> list[Finding]:
    world = new_world(args.world, args.draws)
    sample = world.sample
    rows, over, findings = {}, [], []
    for name, kind in new_kinds(world, args.betas, args.sizes).items():
        runs = []
        for seed in range(args.seeds):
            guide, objective = FineTuned(world.model.prior), kind.objective(args.particles)
            train(guide, kind.model, world.prompts, objective, args.steps, seed=seed)
            runs.append(place(world, guide, kind.log_ratio))
            over.append(excess(sample, runs[-1]))
        reward = sample.mean(kind.log_ratio, sample.log_likelihood)
        target = {"target's KL": sample.kl(kind.log_ratio), "target's E[r]": reward}
        rows[name] = over_seeds(runs) | target
        if kind.n is not None and world.truth is not None:
            findings.append(learned(kind.n, sample, kind.log_ratio, rows[name], args.seeds))
    text = f"no guide is above the posteriors, the highest by {largest(over):.1g}"
    findings.insert(0, Finding(text, largest(over) <= EXACT))
    heading = "Guides end below the posteriors, which none exceeds"
    heading += f"\n({args.world}; {args.seeds} seeds ± 2 s.e.)"
    places = {name: (row["KL(q||p0)"], row["E[r]"]) for name, row in rows.items()}
    figure, axes = plane_figure(sample, places, heading)
    legend_below(figure, axes)
    save_all(args, "distillation", {args.world: figure})
    title = f"Guides on the {args.world} after {args.steps} steps, {args.seeds} seeds"
    return conclude(__doc__, [table_of(title, rows)], findings)


def new_world(name: str, num_draws: int) -> World:
    """The world at beta 1, at which the log likelihood is the reward."""
    if name == "grammar":
        prior, text, num_draws = grammar_prior(max_new_tokens=3), "the film was", 0
    else:
        prior, text = load_prior(name, max_new_tokens=12, temperature=0.7), "The film was"
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 1.0)
    return World(model, prior.encode([text]), num_draws)


def new_kinds(world: World, betas: Sequence[float], sizes: Sequence[int]) -> dict[str, Kind]:
    """Guides by SVI towards the posteriors of betas, and guides towards the best of n, by name."""
    kinds, sample = {}, world.sample
    for beta in betas:
        model = AlignmentModel(world.model.prior, world.model.rewards, beta)
        kinds[f"SVI, beta {beta:g}"] = Kind(model, LeaveOneOut_ELBO, sample.log_likelihood / beta)
    levels = level_cdf(sample.log_likelihood, sample.log_prior_weight.softmax(0))
    for n in sizes:
        objective, log_ratio = partial(BestOfN_ELBO, n=n), best_of_n_log_ratio(*levels, n)
        kinds[f"distilled, n = {n}"] = Kind(world.model, objective, log_ratio, n)
    return kinds


def place(world: World, guide: FineTuned, log_ratio: Tensor) -> Row:
    """Place of a guide, the posterior's reward there, and KL(q || target) if all is listed."""
    measured = measure_guide(world, guide)
    nats, reward = measured["kl_guide_prior"], measured["reward"]
    frontier = Estimate(world.sample.frontier_at(nats.value), math.nan)
    row = {"KL(q||p0)": nats, "E[r]": reward, "posterior's E[r]": frontier}
    if world.truth is None:
        return row
    log_target = (world.truth.log_prior + log_ratio).log_softmax(0)
    return row | {TO_TARGET: Estimate.exact(kl(world.truth.log_guide(guide), log_target))}


def excess(sample: PriorSample, row: Row) -> float:
    """Reward above the posterior's at the same KL, unless the errors of both explain the excess."""
    nats, reward = row["KL(q||p0)"], row["E[r]"]
    highest = sample.frontier_at(nats.value + REFUTED * nats.standard_error)
    return reward.value - REFUTED * reward.standard_error - highest


def learned(n: int, sample: PriorSample, log_ratio: Tensor, row: Row, num_runs: int) -> Finding:
    """Finding on the distance of a guide from the best of n."""
    start = sample.kl(torch.zeros_like(log_ratio), log_ratio).value
    left = row[TO_TARGET].times(1 / start)
    subject = f"share of KL(p0 || best of {n}) that distillation leaves"
    return within(subject, left, below=LEARNED, num_runs=num_runs)


if __name__ == "__main__":
    run_script(main, Distillation)
