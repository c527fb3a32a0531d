"""What a step of each objective costs, as a multiple of a step of Pyro's Trace_ELBO.

Question: token-level gradients, replay, value functions and divergences do more work on the same responses; how much more?
Claim: reward-to-go costs at most 1.3 times `trace`, since both draw, score under guide and prior, and go back once.
Printed: CPU seconds a step, the mean over rounds, and its ratio to that of `trace`. A round is a step of each, so that what
else the machine does falls on all alike; means, since one step of `proximal` in four costs more than the others.

    python -m experiments.step_cost
    python -m experiments.step_cost --world eight-tokens --rounds 100
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated

import pyro
import torch
from pyro.infer import SVI
from pyro.params.param_store import StateDict

from experiments.benchmark import take_turns
from experiments.shared.argument_types import Count, Only, Threads, check_only, count
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.worlds import WORLDS, World, WorldName, guide_for
from inference import OBJECTIVES, FusedOptimizer


@dataclass(frozen=True)
class StepCost(Arguments):
    """Time a step of every objective."""

    world: WorldName = "film-reviews"
    """What they step on, 64 responses at a time."""
    only: Only = ()
    """Objectives by name; default all. `trace` is always there."""
    rounds: Count = 20
    """Steps timed of each; a multiple of 4 for `proximal`."""
    warm_up: Annotated[int, count(0)] = 4
    """Steps of each before those; `proximal` draws once in 4."""
    threads: Threads = 1
    """CPU threads."""


class Stepper:
    """Steps of one objective, in a scope of Pyro's store of its own. The rate is so low that the job stays the same."""

    def __init__(self, world: World, name: str) -> None:
        guide = guide_for(name, world.model.prior)
        objective = OBJECTIVES[name](num_particles=world.particles)
        self.svi = SVI(world.model, guide, FusedOptimizer(options={"lr": 1e-9}), objective)
        self.prompts = world.prompts
        self.scope: StateDict = {"params": {}, "constraints": {}}

    def __call__(self) -> None:
        with pyro.get_param_store().scope(self.scope):
            self.svi.step(self.prompts)


def main(args: StepCost) -> dict[str, float]:
    """Returns the ratios to `trace`."""
    check_only(args.only, OBJECTIVES)
    torch.set_num_threads(args.threads)
    world = WORLDS[args.world]()
    names = [
        "trace",
        *(name for name in OBJECTIVES if name != "trace" and (not args.only or name in args.only)),
    ]
    steps = {name: Stepper(world, name) for name in names}
    take_turns(steps, args.warm_up)
    times = take_turns(steps, args.rounds)
    mean = {name: statistics.fmean(cpu for cpu, _ in times[name]) for name in names}
    print(
        f"{args.world}, {world.particles} responses a step, {args.threads} thread\n{'':24}{'CPU s':>8}{'ratio':>8}"
    )
    for name in names:
        print(f"{name:24}{mean[name]:8.3f}{mean[name] / mean['trace']:8.2f}")
    return {name: mean[name] / mean["trace"] for name in names}


if __name__ == "__main__":
    run_script(main, StepCost)
