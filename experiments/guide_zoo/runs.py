"""One guide on one world: the optimum of its family, or a fit by SVI, measured against the posterior."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from experiments.guide_zoo.family_optimum import Direction, family_optimum
from experiments.guide_zoo.variants import VARIANTS
from experiments.shared.refusals import one_line
from experiments.shared.worlds import World, eight_tokens, film_reviews, two_modes
from guides import Guide
from inference import (
    OBJECTIVES,
    Enumeration,
    Estimate,
    FusedOptimizer,
    cosine,
    diagnose,
    entropy,
    fit,
    random_state,
)
from inference.svi.step import Metrics

WorldName = Literal["eight-tokens", "two-modes", "film-reviews"]
WORLDS: dict[WorldName, Callable[[], World]] = {
    "eight-tokens": eight_tokens,
    "two-modes": two_modes,
    "film-reviews": film_reviews,
}
OBJECTIVE: dict[Direction, str] = {"reverse": "leave-one-out", "forward": "forward-kl"}
MEASURE: dict[Direction, str] = {"reverse": "kl_guide_posterior", "forward": "kl_posterior_guide"}
KL: dict[Direction, str] = {"reverse": "KL(q || p*)", "forward": "KL(p* || q)"}
DRAWS = 1024
"""Responses of a guide behind an estimate."""
NO_GAP = 1e-5
"""Nats that may be left by a family that has the posterior in it."""


@dataclass(frozen=True)
class Job:
    """One guide on one world: trained by SVI with a seed, or, without one, its family's own optimum.

    Attributes:
        world: which.
        variant: the guide's name.
        direction: which KL it descends; a variant with an objective of its own descends that.
        seed: of the fit.
        steps: of SVI, or of L-BFGS from each start.
        particles: responses drawn a step.
    """

    world: WorldName
    variant: str
    direction: Direction
    seed: int | None
    steps: int
    particles: int


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        job: what was run.
        measured: `kl_guide_posterior`, `kl_posterior_guide`, `kl_guide_prior`, `entropy`, nats; `reward`, E[r]; `parameters`,
            trained; `seconds` of CPU, in all or for each step of a fit; of an optimum, `grad_norm` and `worst_start`, nats.
        error: standard errors of measured things, where they are estimates.
        way: KL(q || p0) and E[r] of each step.
        law: the probability of each response, on `two-modes`.
        note: why a fit ended early, or why nothing was measured.
    """

    job: Job
    measured: Mapping[str, float]
    error: Mapping[str, float] = field(default_factory=dict)
    way: Sequence[Sequence[float]] = ()
    law: Sequence[float] = ()
    note: str = ""


def run(job: Job) -> Result:
    """One run."""
    world = WORLDS[job.world]()
    world.truth, world.prior_sample  # noqa: B018 - made before the clock starts
    if job.seed is None:
        return optimum(job, world)
    try:
        return tuned(job, world, job.seed)
    except (ValueError, ArithmeticError) as error:
        return Result(job, {}, note=f"no result: {one_line(error)}")


def optimum(job: Job, world: World) -> Result:
    """The best guide of the family.

    Raises:
        RuntimeError: if the family has the posterior in it and the descent does not find it.
    """
    truth, variant, prior = (
        world.truth,
        VARIANTS[job.variant],
        copy.deepcopy(world.model.prior).double(),
    )
    assert truth is not None
    began = time.process_time()
    with random_state.isolated(0):
        found = family_optimum(
            truth,
            lambda: variant(prior, world.prompts),
            job.direction,
            num_starts=variant.num_starts,
            max_iter=job.steps,
        )
    if job.variant == "tabular" and not found.kl < NO_GAP:
        raise RuntimeError(
            f"{KL[job.direction]} of the best table is {found.kl:.3g} nats, expected 0: the posterior is a table. Either "
            f"{job.steps} steps of L-BFGS are too few, or the exact KL is wrong."
        )
    measured = exactly(truth, found.guide, world.model.beta) | {
        "seconds": time.process_time() - began,
        "grad_norm": found.grad_norm,
        "worst_start": max(found.kl_of_starts),
    }
    law = truth.log_guide(found.guide)[:, 0].exp().tolist() if job.world == "two-modes" else []
    return Result(job, measured, law=law)


def tuned(job: Job, world: World, seed: int) -> Result:
    """A fit as any user would run it."""
    variant, beta, steps = VARIANTS[job.variant], world.model.beta, job.steps
    rate = variant.text_rate if world.truth is None else variant.listed_rate
    objective = OBJECTIVES[variant.objective or OBJECTIVE[job.direction]](
        num_particles=job.particles
    )
    optimizer = FusedOptimizer(
        options={"lr": rate}, clip_norm=world.clip_norm, schedule=cosine(steps)
    )
    with random_state.isolated(seed):
        guide = variant(world.model.prior, world.prompts)
    began = time.process_time()
    fitted = fit(
        world.model,
        guide,
        world.prompts,
        num_steps=steps,
        objective=objective,
        optimizer=optimizer,
        seed=seed,
        progress=False,
    )
    seconds = (time.process_time() - began) / max(1, len(fitted.metrics))
    with random_state.isolated(seed):
        measured, error = measure(world, guide)
    way = (
        [step_on_plane(metrics, beta) for metrics in fitted.metrics] if world.truth is None else []
    )
    note = "" if fitted.stopped_early is None else f"stopped early at {fitted.stopped_early}"
    return Result(job, measured | {"seconds": seconds}, error, way, note=note)


def step_on_plane(metrics: Metrics, beta: float) -> tuple[float, float]:
    """KL(q || p0) = E_q[r]/beta - ELBO, nats, and E[r]."""
    return metrics["log_likelihood"] - metrics["elbo"], metrics["log_likelihood"] * beta


def measure(world: World, guide: Guide) -> tuple[dict[str, float], dict[str, float]]:
    """A guide against the posterior, and the standard errors where it is estimated."""
    if world.truth is not None:
        return exactly(world.truth, guide, world.model.beta), {}
    found = diagnose(
        world.model, guide, world.prompts, num_samples=DRAWS, prior_sample=world.prior_sample
    )
    estimates = {
        "kl_guide_posterior": found.kl_guide_posterior,
        "kl_posterior_guide": found.kl_posterior_guide or Estimate(math.nan, math.nan),
        "kl_guide_prior": found.kl_guide_prior,
        "entropy": found.entropy,
        "reward": found.log_likelihood.times(world.model.beta),
    }
    measured = {name: estimate.value for name, estimate in estimates.items()}
    return measured | {"parameters": guide.num_trained_parameters()}, {
        n: e.standard_error for n, e in estimates.items()
    }


def exactly(truth: Enumeration, guide: Guide, beta: float) -> dict[str, float]:
    """The same, summed over every response."""
    return {
        "kl_guide_posterior": truth.kl_guide_posterior(guide).mean().item(),
        "kl_posterior_guide": truth.kl_posterior_guide(guide).mean().item(),
        "kl_guide_prior": truth.kl_guide_prior(guide).mean().item(),
        "entropy": entropy(truth.log_guide(guide)).mean().item(),
        "reward": truth.expected_log_likelihood(guide).mean().item() * beta,
        "parameters": guide.num_trained_parameters(),
    }
