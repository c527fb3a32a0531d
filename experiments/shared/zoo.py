"""Zoos: many algorithms or guides on one world, and their distances from its posterior."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.shared.figures import save
from experiments.shared.measure import Measurements, measure
from experiments.shared.refusals import resume_hint
from experiments.shared.run_folder import new_folder
from experiments.shared.workers import run_all
from experiments.shared.worlds import WORLDS, World, reference
from guides import Guide

NUM_SAMPLES = 1024  # guide responses behind an estimate
Direction = Literal["reverse", "forward"]  # KL(q || p*) or KL(p* || q)


@dataclass(frozen=True)
class Job:
    """One run of a zoo, of an algorithm or of a guide.

    Attributes:
        num_steps: number of steps of SVI, or of the search for the optimum of a family.
        num_particles: number of responses for each step. A sampler draws as many in all.
        seed: random seed; None for the optimum of a family.
        direction: KL that the guide of a family minimises.
    """

    world: str
    name: str
    num_steps: int
    num_particles: int
    seed: int | None
    direction: Direction = "reverse"

    @property
    def budget(self) -> int:
        """Number of responses drawn."""
        return self.num_steps * self.num_particles


@dataclass(frozen=True)
class Result:
    """Measurements of one run.

    Attributes:
        measured: by name; without quantities that are undefined or unknown, and empty if the
            algorithm refuses the world: `kl_guide_posterior`, `kl_posterior_guide`,
            `kl_guide_prior`, `log_z_error` and `entropy`, nats; `reward`, E[r]; `distinct_2`, share
            of different pairs of neighbouring tokens among 512 responses; `parameters`, number of
            trained parameters; `seconds`, CPU seconds, of a run or of each step of a guide's fit;
            `grad_norm` and `worst_start`, KL in nats, of an optimum.
        error: standard errors of estimates in `measured`.
        note: why there is no result, or why a fit stopped early; empty otherwise.
        trajectory: KL(q || p0) and E[r] after each step.
        probabilities: probability of each response.
    """

    job: Job
    measured: Mapping[str, float] = field(default_factory=dict)
    error: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    trajectory: Sequence[Sequence[float]] = ()
    probabilities: Sequence[float] = ()


def run_zoo(
    args: Any,
    name: str,
    run: Callable[[Job], Result],
    jobs: Sequence[Job],
    reports: Mapping[str, Callable[[Sequence[Result]], Mapping[str, Figure]]],
) -> list[Result]:
    """Run all jobs into a new run folder, then print the tables and save the figures of each world.

    Args:
        args: arguments of the script, with `worlds`, `workers` and `out`.
        run: function of a job. Each result becomes a line of JSON when the run ends.
        reports: by world, a function that prints the table of results, and returns figures by name.
    """
    results: list[Result] = []
    if not jobs:
        raise SystemExit("--only and --worlds leave nothing to run: no name is on those worlds")
    with new_folder(args, name) as folder:
        path, size = folder.path / "results.jsonl", min(args.workers, len(jobs))
        print(f"{len(jobs)} runs, {size} at a time; each is written to {path} as it ends")
        hint = resume_hint(lambda: f"The {len(results)} of {len(jobs)} ended runs are in {path}.")
        with path.open("w") as file, hint, closing(run_all(run, jobs, args.workers)) as finished:
            for result in tqdm(finished, total=len(jobs), desc="zoo", unit="run"):
                results.append(result)
                print(json.dumps(asdict(result)), file=file, flush=True)
        for world in args.worlds:
            print(f"\n{world}: {reference(WORLDS[world]())}")
            of_world = [result for result in results if result.job.world == world]
            if not of_world:
                print("nothing was run")
                continue
            for figure_name, figure in reports[world](of_world).items():
                print(save(figure, folder.path / f"{figure_name}.svg"))
        return results


def by_name(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of each algorithm or guide."""
    names = dict.fromkeys(result.job.name for result in results)
    return {name: [result for result in results if result.job.name == name] for name in names}


def measure_guide(world: World, guide: Guide) -> Measurements:
    """Measure a guide against the posterior, by the names of `Result.measured`."""
    known: Any = {"truth": world.truth, "prior_sample": world.sample}
    return measure(world.model, guide, world.prompts, num_samples=NUM_SAMPLES, **known)
