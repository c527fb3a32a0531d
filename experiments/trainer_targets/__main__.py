"""Targets of trainers: where GRPO, its relatives and DPO stop, predicted and measured.

Claim: each trainer reaches its own predicted target. Where the target and the posterior differ by
more than 0.2 nats, the trainer ends ten times nearer to the target than to the posterior.
Source: targets of `inference.targets.fixed_points`, each with its source.
Printed: KL from the trained guide to the predicted target and to the posterior, with standard
errors over seeds, and KL from the target to the posterior. Drawn: the prior, the posterior and the
targets side by side.

The world has 21 responses. With the extra `bench` the trainers of TRL run on the same world.

    python -m experiments.trainer_targets
    python -m experiments.trainer_targets --only grpo rloo --seeds 5
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

from experiments.shared.argument_types import Count, Only, Seeds, chosen, count
from experiments.shared.claims import FigureArguments, Finding, conclude
from experiments.shared.command_line import run_script
from experiments.shared.figures import save_all
from experiments.shared.tables import Row, cell, summary, table_of
from experiments.trainer_targets.figure import targets_figure
from experiments.trainer_targets.trainers import OURS, Trainer
from experiments.trainer_targets.trl_trainers import TRL
from experiments.trainer_targets.worlds import POSTERIOR, TARGET, World
from inference import Estimate

APART, NEARER, REACHED = 0.2, 10.0, 0.1
"""Distance between two targets, nats; ratio of the distances; largest KL to a target, nats."""


@dataclass(frozen=True)
class TrainerTargets(FigureArguments):
    """Train by each trainer from the prior, and measure the KL to two targets."""

    only: Only = ()
    """Trainers by name. Default: all, those of TRL if the package is installed."""
    steps: Count = 400
    """Number of steps of each trainer."""
    particles: Annotated[int, count(4)] = 64
    """Number of responses in a step, or of pairs in a step of DPO. With 8 or less, the predicted
    target is that of groups of this size."""
    seeds: Seeds = 2
    """Number of runs of each trainer."""


def main(args: TrainerTargets) -> list[Finding]:
    trainers = OURS | (TRL if find_spec("trl") else {})
    trainers = {name: trainers[name] for name in chosen(args.only, trainers)}
    worlds = {
        name: World.of(each.beta, each.target, args.particles) for name, each in trainers.items()
    }
    means = {name: mean(each, worlds[name], args) for name, each in trainers.items()}
    rows: dict[str, Row] = {
        name: {**row, "target to posterior": worlds[name].apart()} for name, row in means.items()
    }
    table = table_of("KL by trainer, nats", rows)
    findings = [f for name, row in means.items() for f in judged(name, row, worlds[name].apart())]
    save_all(args, "trainer-targets", {"targets": targets_figure(trainers, worlds)})
    return conclude(__doc__, [table], findings)


def mean(trainer: Trainer, world: World, args: TrainerTargets) -> dict[str, Estimate]:
    """Mean distances of a trainer over seeds."""
    log_guides = (
        trainer.run(world, args.steps, args.particles, seed) for seed in range(args.seeds)
    )
    return summary([world.distances(log_guide) for log_guide in log_guides])


def judged(name: str, means: Mapping[str, Estimate], apart: float) -> list[Finding]:
    """Findings about one trainer."""
    to_target, to_posterior = means[TARGET], means[POSTERIOR]
    text = f"{name}, KL to its target: {cell(*to_target)} nats (below {REACHED:g})"
    findings = [Finding(text, to_target.value < REACHED)]
    if apart > APART:
        ratio = to_posterior.value / to_target.value
        text = f"{name}, KL to the posterior: {cell(*to_posterior)} nats, {ratio:.2g} times as far"
        findings.append(Finding(f"{text} (above {NEARER:g})", ratio > NEARER))
    return findings


if __name__ == "__main__":
    run_script(main, TrainerTargets)
