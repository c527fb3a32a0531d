"""Targets of trainers: where GRPO, its relatives and DPO stop, predicted and measured.

Claim: each trainer reaches its own predicted target. Where the target and the posterior differ by
more than 0.2 nats, the trainer ends ten times nearer to the target than to the posterior. Both hold
beyond noise, by Student's t over seeds.
Source: targets of `inference.targets.fixed_points`, each with its source.
Printed: KL from the trained guide to the predicted target and to the posterior, with standard
errors over seeds, and KL from the target to the posterior. Drawn: the prior, the posterior and the
targets side by side.

The world has 21 responses. With the extra `bench` the trainers of TRL run on the same world.

    python -m experiments.trainer_targets
    python -m experiments.trainer_targets --only grpo rloo --seeds 5
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Annotated

from matplotlib.figure import Figure

from experiments.shared import figures
from experiments.shared.argument_types import Count, Seeds, chosen, count
from experiments.shared.claims import FigureArguments, Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.tables import Row, cell, mean_and_error, summary, table_of
from experiments.trainer_targets.trainers import OURS, Trainer
from experiments.trainer_targets.trl_trainers import TRL
from experiments.trainer_targets.worlds import POSTERIOR, TARGET, World

APART, NEARER, REACHED = 0.2, 10.0, 0.1
"""Distance between two targets, nats; ratio of the distances; largest KL to a target, nats."""
SAME = 1e-3
"""Largest KL from a target that equals the posterior to the posterior, nats."""


@dataclass(frozen=True)
class TrainerTargets(FigureArguments):
    """Train by each trainer from the prior, and measure the KL to two targets."""

    only: tuple[str, ...] = ()
    """Trainers by name. Default: all, those of TRL if the package is installed."""
    steps: Count = 800
    """Number of steps of each trainer."""
    particles: Annotated[int, count(4)] = 64
    """Number of responses in a step, or of pairs in a step of DPO. With 8 or less, the predicted
    target is that of groups of this size."""
    seeds: Seeds = 4
    """Number of runs of each trainer."""


def main(args: TrainerTargets) -> list[Finding]:
    trainers = OURS | (TRL if find_spec("trl") else {})
    trainers = {name: trainers[name] for name in chosen(args.only, trainers)}
    worlds = {
        name: World.of(each.beta, each.target, args.particles) for name, each in trainers.items()
    }
    runs = {name: distances(each, worlds[name], args) for name, each in trainers.items()}
    rows: dict[str, Row] = {
        name: {**summary(each), "target to posterior": worlds[name].apart()}
        for name, each in runs.items()
    }
    table = table_of("KL by trainer, nats", rows)
    findings = [f for name, each in runs.items() for f in judged(name, each, worlds[name].apart())]
    figures.save_all(args, "trainer-targets", {"targets": targets_figure(trainers, worlds)})
    return conclude(__doc__, [table], findings)


def distances(trainer: Trainer, world: World, args: TrainerTargets) -> list[dict[str, float]]:
    """Distances of a trainer, by seed."""
    log_guides = (
        trainer.run(world, args.steps, args.particles, seed) for seed in range(args.seeds)
    )
    return [world.distances(log_guide) for log_guide in log_guides]


def judged(name: str, runs: Sequence[Mapping[str, float]], apart: float) -> list[Finding]:
    """Findings about one trainer, from the distances of each run."""
    to_target, to_posterior = (mean_and_error(runs, key) for key in (TARGET, POSTERIOR))
    clearly = partial(within, num_runs=len(runs))
    findings = [clearly(f"{name}, KL to its target, nats", to_target, below=REACHED)]
    if apart > APART:
        less = [{"margin": run[POSTERIOR] - NEARER * run[TARGET]} for run in runs]
        text = f"{name}, KL to the posterior, {cell(*to_posterior)} nats, less {NEARER:g} times"
        margin = mean_and_error(less, "margin")
        findings.append(clearly(f"{text} that to its target, nats", margin, above=0.0))
    return findings


def targets_figure(trainers: Mapping[str, Trainer], worlds: Mapping[str, World]) -> Figure:
    """A panel for each different target: the target of a trainer, the prior and the posterior.

    Responses are in the order of their reward, the best at the right. All numbers are exact.
    """
    cases: dict[tuple[str, float], str] = {}
    for name, each in trainers.items():
        cases.setdefault((each.target, each.beta), name)
    labels = {"xlabel": "rank by reward, the best last", "ylabel": "probability"}
    figure, grid = figures.new_grid(len(cases), 1.5, **labels)
    for axes, ((_, beta), name) in zip(grid, cases.items(), strict=True):
        world = worlds[name]
        truth = world.truth
        order = world.model.reward(world.prompts, truth.support)[:, 0].argsort()
        places = range(1, len(order) + 1)
        prior = truth.log_prior[order, 0].exp().numpy()
        axes.bar(places, prior, color=figures.PRIOR, alpha=0.5, label="prior")
        columns = {
            "posterior": (truth.log_posterior, figures.POSTERIOR, "o"),
            "target": (world.log_target, figures.GUIDE, "x"),
        }
        for label, (column, color, marker) in columns.items():
            axes.plot(places, column[order, 0].exp().numpy(), marker, color=color, label=label)
        axes.set_title(f"{name}, beta {beta:g}")
    apart = sum(worlds[name].apart() > SAME for name in cases.values())
    figure.suptitle(f"{apart} of {len(cases)} targets of trainers differ from the posterior")
    figures.legend_below(figure, grid[0], 3)
    return figure


if __name__ == "__main__":
    run_script(main, TrainerTargets)
