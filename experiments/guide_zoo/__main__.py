"""Approximation gap, optimisation gap and cost of each variational family.

    KL left by a trained guide = approximation gap, KL of the family's best guide + optimisation gap

Claim (after Cremer et al. 2018, arXiv 1801.03558, whose second gap is that of amortisation): the
two gaps can be told apart, and the smaller gap differs between families. Within a family too small,
KL(q || p*) seeks a mode and KL(p* || q) covers mass (Minka 2005).
Printed, for each world:

- `eight-tokens`, with every response listed. For each KL and guide: the approximation gap, by
  descent on the exact KL; the optimisation gap of SVI by leave-one-out or forward-kl at one budget;
  at the optimum the other KL, the entropy and E[r].
- `two-modes`: the optima of mean field and of a mixture under both KL, and their modes.
- `film-reviews`, the embedded prior, for the guides that scale: trained parameters, CPU seconds a
  step, both KL, E[r] and KL(q || p0) after the same few steps. With one seed the standard errors
  are those of the measurement, without the variation between runs; with several seeds they are
  without the error of log Z, which all runs share, and which the line above the table has.

Written: `results.jsonl`, a line for each run as it ends, and the figures. If the exact KL has local
minima, or its descent ends early, the approximation gap is an upper bound.

The defaults take half an hour on two cores; `--seeds 1 --max-iter 150` takes half of that.

    python -m experiments.guide_zoo
    python -m experiments.guide_zoo --worlds eight-tokens --only lora-1 lora-8 --seeds 5
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments.guide_zoo import costs, gaps, modes
from experiments.guide_zoo.runs import VARIANTS, run
from experiments.shared import argument_types as types
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.worlds import WORLDS, WorldName
from experiments.shared.zoo import Job, Result, run_zoo

REPORTS = {world.WORLD: world.report for world in (gaps, modes, costs)}
"""Functions that print the table of a world and draw its figures."""
ON_TOKENS = types.Used(lambda args: gaps.WORLD in args.worlds, "without the world eight-tokens")
ON_TEXT = types.Used(lambda args: costs.WORLD in args.worlds, "without the world film-reviews")
TRAINED = types.Used(
    lambda args: set(args.worlds) != {modes.WORLD}, "where nothing is trained, on two-modes"
)
LISTED = types.Used(
    lambda args: set(args.worlds) != {costs.WORLD}, "where there is no exact KL, on film-reviews"
)


@dataclass(frozen=True)
class GuideZoo(Arguments):
    """Compare variational families: approximation gaps, optimisation gaps and costs."""

    worlds: Annotated[tuple[WorldName, ...], types.DISTINCT] = tuple(WORLDS)
    """Worlds on which guides are compared."""
    only: tuple[str, ...] = ()
    """Guides by name. Default: all."""
    seeds: Annotated[types.Seeds, ON_TOKENS] = 3
    """Number of independent fits of each guide on `eight-tokens`."""
    text_seeds: Annotated[types.Seeds, ON_TEXT] = 1
    """Number of independent fits of each guide on `film-reviews`."""
    steps: Annotated[types.Count, ON_TOKENS] = 300
    """Number of SVI steps on `eight-tokens`."""
    text_steps: Annotated[types.Count, ON_TEXT] = 40
    """Number of SVI steps on `film-reviews`."""
    particles: Annotated[int, types.count(2), TRAINED] = 64
    """Number of responses for each step."""
    max_iter: Annotated[types.Count, LISTED] = 300
    """Number of L-BFGS iterations on the exact KL from each start."""
    workers: types.Workers = types.CORES
    """Number of processes, each with one thread."""
    out: types.Out = Path("runs")
    """Folder in which the run folder is made."""


def main(args: GuideZoo) -> list[Result]:
    """Results of all runs."""
    return run_zoo(args, "guide-zoo", run, list_jobs(args), REPORTS)


def list_jobs(args: GuideZoo) -> list[Job]:
    """All runs."""
    names = types.chosen(args.only, VARIANTS)
    jobs = {
        gaps.WORLD: gaps.list_jobs(names, args.seeds, args.steps, args.particles, args.max_iter),
        modes.WORLD: modes.list_jobs(names, args.max_iter),
        costs.WORLD: costs.list_jobs(names, args.text_seeds, args.text_steps, args.particles),
    }
    return [job for world in args.worlds for job in jobs[world]]


if __name__ == "__main__":
    run_script(main, GuideZoo)
