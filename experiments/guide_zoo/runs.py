"""One run of the guide zoo: a guide by name, its optimum or a fit by SVI, measured."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from experiments.guide_zoo.family_optimum import family_optimum
from experiments.shared.refusals import one_line
from experiments.shared.worlds import WORLDS, World
from experiments.shared.zoo import Direction, Job, Result, measure_guide
from guides import GUIDES, Guide
from inference import OBJECTIVES, fit, random_state
from model import LanguageModel, Prompts


@dataclass(frozen=True)
class Variant:
    """A guide by name.

    Attributes:
        family: a name in `GUIDES`.
        options: options of the family.
        on_tokens: True if the guide is compared on `eight-tokens`.
        on_text: True if the guide is compared on `film-reviews`.
        objective: a name in `OBJECTIVES`, in place of the objectives of the two KL.
        num_starts: number of starts of the search for the optimum of the family.
        contains_posterior: True if the posterior is in the family.
    """

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    on_tokens: bool = True
    on_text: bool = False
    objective: str | None = None
    num_starts: int = 1
    contains_posterior: bool = False

    def __call__(self, prior: LanguageModel, prompts: Prompts) -> Guide:
        return GUIDES[self.family](prior, prompts, **self.options)


def _mean_fields(num_components: int, num_starts: int) -> Variant:
    options = {"component": "mean-field", "num_components": num_components, "noise": 0.5}
    return Variant("mixture", options, num_starts=num_starts)


_on_text = partial(Variant, on_text=True)
_only_on_text = partial(Variant, on_tokens=False, on_text=True)

VARIANTS: dict[str, Variant] = {
    "tabular": Variant("tabular", contains_posterior=True),
    "fine-tuned": _on_text("fine-tuned"),
    "last-layers": _on_text("fine-tuned", {"subset": "last-layers"}),
    "norms-and-biases": _on_text("fine-tuned", {"subset": "norms-and-biases"}),
    "lora-1": _on_text("lora", {"rank": 1}),
    "lora-8": _on_text("lora", {"rank": 8}),
    "prompt": _on_text("soft-prompt", {"kind": "prompt"}),
    "prefix": _on_text("soft-prompt", {"kind": "prefix"}),
    "twisted": _on_text("twisted"),
    "contrastive-twist": _only_on_text("twisted", objective="contrastive-twist"),
    "gauss-newton": _only_on_text("twisted", objective="gauss-newton"),
    "fine-tuned-2": _only_on_text("mixture", {"component": "fine-tuned"}),
    "recurrent": Variant("recurrent"),
    "2-gram": Variant("n-gram", {"n": 2}),
    "mean-fields-4": _mean_fields(4, num_starts=3),
    "mean-fields-2": _mean_fields(2, num_starts=6),
    "mean-field": Variant("mean-field", num_starts=6),
    "1-gram": Variant("n-gram", {"n": 1}),
}
"""Guides by name. A number in a name is the rank, the number of components, or n."""


OTHER: dict[Direction, Direction] = {"reverse": "forward", "forward": "reverse"}
OBJECTIVE: dict[Direction, str] = {"reverse": "leave-one-out", "forward": "forward-kl"}
"""Objective of SVI for each KL."""
MEASURE: dict[Direction, str] = {"reverse": "kl_guide_posterior", "forward": "kl_posterior_guide"}
KL: dict[Direction, str] = {"reverse": "KL(q || p*)", "forward": "KL(p* || q)"}
NO_GAP = 1e-5
"""Largest KL at the optimum of a family that contains the posterior, nats."""
FEW = 64
"""Largest number of responses whose probabilities are part of a result."""


def run(job: Job) -> Result:
    """Run one job. The note of the result holds the reason of a fit without result."""
    world = WORLDS[job.world]()
    world.sample  # noqa: B018 - computed before the clock starts
    if job.seed is None:
        return optimum(job, world)
    try:
        return tune(job, world, job.seed)
    except (ValueError, ArithmeticError) as error:
        return Result(job, note=f"no result: {one_line(error)}")


def optimum(job: Job, world: World) -> Result:
    """Find the best guide of a family.

    Raises:
        RuntimeError: if the family contains the posterior and the search ends elsewhere.
    """
    truth, variant = world.truth, VARIANTS[job.name]
    prior = copy.deepcopy(world.model.prior).double()
    assert truth is not None
    build = partial(variant, prior, world.prompts)
    limits = {"num_starts": variant.num_starts, "max_iter": job.num_steps}
    began = time.process_time()
    with random_state.isolated(0):
        best = family_optimum(truth, build, job.direction, **limits)
    if variant.contains_posterior and not best.kl < NO_GAP:
        raise RuntimeError(
            f"{KL[job.direction]} of the best guide {job.name} is {best.kl:.3g} nats, expected 0: "
            f"the posterior is in this family. Either {job.num_steps} steps of L-BFGS are too few, "
            "or the exact KL is wrong."
        )
    measured = {name: estimate.value for name, estimate in measure_guide(world, best.guide).items()}
    measured |= {
        "parameters": best.guide.num_trained_parameters(),
        "seconds": time.process_time() - began,
        "grad_norm": best.grad_norm,
        "worst_start": max(best.kl_of_starts),
    }
    probabilities = truth.log_guide(best.guide)[:, 0].exp().tolist()
    return Result(job, measured, probabilities=probabilities if len(probabilities) <= FEW else ())


def tune(job: Job, world: World, seed: int) -> Result:
    """Fit a guide by SVI, and measure the guide."""
    variant, beta = VARIANTS[job.name], world.model.beta
    name = variant.objective or OBJECTIVE[job.direction]
    objective = OBJECTIVES[name](num_particles=job.num_particles)
    with random_state.isolated(seed):
        guide = variant(world.model.prior, world.prompts)
    began = time.process_time()
    how: dict[str, Any] = {"objective": objective, "seed": seed, "progress": False}
    fitted = fit(world.model, guide, world.prompts, num_steps=job.num_steps, **how)
    seconds = (time.process_time() - began) / max(1, len(fitted.metrics))
    with random_state.isolated(seed):
        estimates = measure_guide(world, guide)
    measured = {name: estimate.value for name, estimate in estimates.items()}
    measured |= {"parameters": guide.num_trained_parameters(), "seconds": seconds}
    error = {name: estimate.standard_error for name, estimate in estimates.items()}
    trajectory = [  # KL(q || p0) = E_q[r]/beta - ELBO
        (metrics["log_likelihood"] - metrics["elbo"], metrics["log_likelihood"] * beta)
        for metrics in (fitted.metrics if world.truth is None else ())
    ]
    stop = fitted.stopped_early and f"stopped early at {fitted.stopped_early}"
    warnings = [f"measured by unreliable weights: {each}" for each in estimates.warnings]
    return Result(job, measured, error, "; ".join(filter(None, (stop, *warnings))), trajectory)


def notes(results: Sequence[Result]) -> str:
    """Remarks on some runs of one guide, to follow its name; empty if there are none."""
    return "".join(f", seed {result.job.seed} {result.note}" for result in results if result.note)
