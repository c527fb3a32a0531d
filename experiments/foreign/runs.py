"""One run: a guide fitted with the defaults of `fit`, measured before and after."""

import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.foreign.design import Cell
from experiments.foreign.records import Run
from experiments.foreign.worlds import world_of
from experiments.shared.refusals import one_line
from experiments.shared.worlds import World
from guides import GUIDES, Guide
from inference import OBJECTIVES, Estimate, diagnose, fit, random_state
from inference.diagnostics.diagnose import Diagnostics

NUM_PARTICLES = 32
CHUNK = 256  # number of responses scored at a time
FAMILIES: dict[str, tuple[str, dict[str, str]]] = {"prefix": ("soft-prompt", {"kind": "prefix"})}
"""Family in `GUIDES` and options of a guide whose name is no family."""


class Job(NamedTuple):
    """One run of a cell.

    Attributes:
        steps: number of steps of the fit.
        samples: number of responses of the trained guide behind a measurement; for the untrained
            guide a fourth of them, and as many draws of the prior.
        prior_draws: number of draws of the prior behind measurements of prior and trained guide.
        stories: folder of the prior `stories260k`; None if absent.
    """

    cell: Cell
    seed: int
    steps: int
    samples: int
    prior_draws: int
    stories: Path | None

    @property
    def key(self) -> tuple[Cell, int, int]:
        """Key of the run, see `Run`."""
        return self.cell, self.seed, self.steps


def run(job: Job) -> Run:
    """Fit and measure the guide of a cell. The note of the result holds the reason of a refusal."""
    began = time.process_time()
    cell, seed = job.cell, job.seed
    cell_of_world = cell._replace(guide="", objective="")
    try:
        world = world_of(cell_of_world, job.prior_draws, job.stories)
        prior = prior_numbers(cell_of_world, job.prior_draws, job.stories)
        with random_state.isolated(seed):
            guide = build(cell.guide, world)
            few = max(2, job.samples // 4)
            sizes: dict[str, Any] = {"num_samples": few, "num_prior_draws": few}
            before = numbers(world, diagnose(world.model, guide, world.prompts, **sizes))
            objective = OBJECTIVES[cell.objective](num_particles=NUM_PARTICLES)
            fit_began = time.process_time()
            # an objective with epochs takes several steps on each batch
            num_steps = job.steps * getattr(objective, "epochs", 1)
            options: dict[str, Any] = {"num_steps": num_steps, "seed": seed, "progress": False}
            fitted = fit(world.model, guide, world.prompts, objective=objective, **options)
            fit_seconds = time.process_time() - fit_began
            draws: dict[str, Any] = {"num_samples": job.samples, "prior_sample": world.sample}
            diagnostics = diagnose(world.model, guide, world.prompts, **draws)
    except (ValueError, ArithmeticError, RuntimeError) as error:
        return Run(cell, seed, job.steps, note=one_line(error))
    after, warnings = numbers(world, diagnostics), diagnostics.warnings_of("kl_guide_posterior")
    seconds = fit_seconds, time.process_time() - began
    numbers_of_run = prior, before, after, warnings, seconds, fitted.stopped_early
    return Run(cell, seed, job.steps, *numbers_of_run)


def build(name: str, world: World) -> Guide:
    """Build a guide of the design."""
    family, options = FAMILIES.get(name, (name, {}))
    return GUIDES[family](world.model.prior, world.prompts, **options)


@lru_cache(maxsize=1)
def prior_numbers(cell: Cell, num_prior_draws: int, stories: Path | None) -> dict[str, Estimate]:
    """Measurements of the prior from its draws, the same in all runs of a cell."""
    world = world_of(cell, num_prior_draws, stories)
    sample, prior = world.sample, world.model.prior(world.prompts)
    log_likelihood = Estimate.of_mean(sample.log_likelihood)
    with torch.no_grad():
        log_prior = torch.cat([prior.log_prob(part) for part in sample.response.split(CHUNK)])
    return {
        "elbo": log_likelihood,
        "log_z": sample.log_z(),
        "entropy": Estimate.of_mean(-log_prior),
        "reward": log_likelihood.times(world.model.beta),
    }


def numbers(world: World, diagnostics: Diagnostics) -> dict[str, Estimate]:
    """Measurements of a guide, by the names of `Run`."""
    divergences = "kl_guide_posterior", "kl_posterior_guide", "posterior_log_ratio"
    names = ("elbo", "log_z", "entropy", *divergences)
    estimates = {name: getattr(diagnostics, name) for name in names}
    return estimates | {"reward": diagnostics.log_likelihood.times(world.model.beta)}
