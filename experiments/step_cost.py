"""Cost of a step of each objective, as a multiple of a step of Pyro's Trace_ELBO.

Question: token-level gradients, replay, value functions and divergences do more work on the same
responses; how much more?
Claim: reward-to-go costs at most 1.3 times `trace`, since both draw, score under guide and prior,
and go back once.
Source: measured here.
Printed: CPU seconds of a step, the mean over rounds, and the ratio to `trace` with its standard
error over rounds. A round is a step of each, so that other load on the machine falls on all alike.
The mean is used since one step of `proximal` in four costs more than the others.

    python -m experiments.step_cost
    python -m experiments.step_cost --world eight-tokens --rounds 100
"""

import statistics
from dataclasses import dataclass
from typing import Annotated

from experiments.shared.argument_types import Count, chosen, count
from experiments.shared.claims import ClaimArguments, Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.cost import SVIStep, ratio_of_means, take_turns
from experiments.shared.tables import cell, text_table
from experiments.shared.worlds import WORLDS, WorldName
from guides import GUIDES
from inference import OBJECTIVES

CHEAP, MOST = "reward-to-go", 1.3
"""Objective of the claim, and its largest cost as a multiple of `trace`, as claimed."""


@dataclass(frozen=True)
class StepCost(ClaimArguments):
    """Time a step of every objective."""

    world: WorldName = "film-reviews"
    """World of the steps. A step draws 64 responses."""
    only: tuple[str, ...] = ()
    """Objectives by name, in addition to `trace`. Default: all."""
    rounds: Count = 20
    """Number of timed steps of each objective; a multiple of 4 for `proximal`."""
    warm_up: Annotated[int, count(0)] = 4
    """Number of steps before the timed steps; `proximal` draws once in 4."""


def main(args: StepCost) -> list[Finding]:
    """Print the ratios to `trace`, and return the finding on `reward-to-go`."""
    names = chosen(args.only, OBJECTIVES)
    world = WORLDS[args.world]()
    steps = {}
    for name in dict.fromkeys(["trace", *names]):
        guide = GUIDES[OBJECTIVES[name].guide].make(world.model.prior)
        objective = OBJECTIVES[name](num_particles=world.particles)
        steps[name] = SVIStep(world.model, guide, objective, world.prompts)
    take_turns(steps, args.warm_up)
    turns = take_turns(steps, args.rounds)
    times = {name: [cpu for cpu, _ in seconds] for name, seconds in turns.items()}
    ratios = {name: ratio_of_means(seconds, times["trace"]) for name, seconds in times.items()}
    rows = {name: [f"{statistics.fmean(times[name]):.3g}", cell(*ratios[name])] for name in times}
    title = f"{args.world}, {world.particles} responses a step, threads: {args.threads}"
    cost = [ratios[name] for name in ratios if name == CHEAP]
    findings = []
    if cost:
        subject = f"cost of {CHEAP}, by trace"
        findings = [within(subject, *cost, below=MOST, num_runs=args.rounds)]
    return conclude(__doc__, [f"{title}\n{text_table(['CPU s', 'ratio'], rows)}"], findings)


if __name__ == "__main__":
    run_script(main, StepCost)
