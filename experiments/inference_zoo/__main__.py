"""Every objective and every sampler on the same posterior, with the same number of responses.

Question: how close does each inference algorithm come to the posterior of RL with a KL penalty?
Claim (Korbak, Perez and Buckley 2022): RL is one inference algorithm among many for the posterior.
Printed: for each world and algorithm both KL, the error of log Z, reward, entropy, distinct-2 and
CPU seconds, as means over seeds with standard errors. Written: `results.jsonl`, a line for each run
as it ends, and for each world two figures of KL by budget: objectives and samplers.

The measurements of samplers and guides differ:

- If responses can be listed, the KL of a guide is exact. The KL of a sampler is that of its
  weighted responses, taken as a distribution, and includes their finite number: M exact draws from
  a posterior over S responses have about S/2M.
- Otherwise the KL of a guide is estimated by `inference.diagnose`. The KL of a sampler is
  log Z - log Z_hat, whose mean bounds the KL of one of its draws. All runs share the prior draws
  behind log Z: the line above a table has the error of log Z, which no error over seeds holds.

The defaults take almost an hour on two cores; `--seeds 1 --fractions 1` takes a fifth of that.

    python -m experiments.inference_zoo
    python -m experiments.inference_zoo --worlds eight-tokens --steps 300 --only leave-one-out
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments.inference_zoo.report import report
from experiments.inference_zoo.runs import FROM_GUIDE, run
from experiments.shared import argument_types as types
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.worlds import WORLDS, WorldName
from experiments.shared.zoo import Job, Result, run_zoo
from inference import OBJECTIVES, SAMPLERS

Fraction = Annotated[float, types.number(above=0, at_most=1)]
WITH_GUIDE = (
    "importance",
    "quasi-rejection",
    "metropolis-hastings",
    "independence-metropolis-hastings",
    "smc",
    "annealed-smc",
)
"""Samplers that also run with a trained guide as their proposal."""


@dataclass(frozen=True)
class InferenceZoo(Arguments):
    """Compare every way to reach the posterior."""

    worlds: Annotated[tuple[WorldName, ...], types.DISTINCT] = ("eight-tokens", "film-reviews")
    """Worlds: `eight-tokens` has 400 responses, all listed; `two-modes` has 31; `film-reviews` is
    the embedded prior with a bounded reward."""
    steps: tuple[types.Count, ...] = (300, 30)
    """Number of SVI steps at the full budget, for each world. A step draws 64 responses. Samplers
    draw as many in all."""
    fractions: Annotated[tuple[Fraction, ...], types.DISTINCT] = (1 / 16, 1 / 4, 1.0)
    """Fractions of the full budget in the figures. The table shows the largest fraction."""
    only: tuple[str, ...] = ()
    """Algorithms by name. Default: all."""
    seeds: types.Seeds = 3
    """Number of independent runs of each algorithm."""
    workers: types.Workers = types.CORES
    """Number of processes, each with one thread."""
    out: types.Out = Path("runs")
    """Folder in which the run folder is made."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.steps) != len(self.worlds):
            raise SystemExit(
                f"--steps has {len(self.steps)} numbers for {len(self.worlds)} worlds, expected "
                "one for each"
            )


def main(args: InferenceZoo) -> list[Result]:
    """Results of all runs."""
    return run_zoo(args, "inference-zoo", run, list_jobs(args), dict.fromkeys(args.worlds, report))


def list_jobs(args: InferenceZoo) -> list[Job]:
    """All runs; within a world the long runs come last."""
    names = [*OBJECTIVES, *SAMPLERS, *(name + FROM_GUIDE for name in WITH_GUIDE)]
    names = types.chosen(args.only, names)
    jobs = []
    for world_name, steps in zip(args.worlds, args.steps, strict=True):
        world = WORLDS[world_name]()
        for num_steps in dict.fromkeys(max(1, round(steps * part)) for part in args.fractions):
            for name in names:
                lists_all = name in SAMPLERS and SAMPLERS[name].lists_all
                if lists_all and world.truth is None:
                    continue
                for seed in range(args.seeds):
                    jobs.append(Job(world_name, name, num_steps, world.particles, seed))
    return jobs


if __name__ == "__main__":
    run_script(main, InferenceZoo)
