"""A guide as the scripts that check a claim tune theirs: SVI with Adam on a cosine, whatever the objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pyro.infer import ELBO

from experiments.shared.early_stops import gather
from guides import Guide
from inference import FusedOptimizer, cosine, fit
from inference.svi.step import Metrics
from model import AlignmentModel, Prompts

G = TypeVar("G", bound=Guide)


def tuned(
    guide: G,
    model: AlignmentModel,
    prompts: Prompts,
    objective: ELBO,
    num_steps: int,
    *,
    rate: float,
    seed: int = 0,
    on_step: Callable[[G, Metrics], None] | None = None,
) -> G:
    """The guide, trained in place.

    Args:
        guide: at its start.
        model: whose posterior is approached.
        prompts: N prompts.
        objective: what is descended; a new one.
        num_steps: of SVI.
        rate: Adam's at its peak; a warm-up over a twentieth of the steps, then a cosine to 0.
        seed: of the fit.
        on_step: called with the guide and the metrics after each step.
    """
    optimizer = FusedOptimizer(
        options={"lr": rate}, schedule=cosine(num_steps, warmup=num_steps // 20)
    )

    def look(metrics: Metrics) -> None:
        if on_step is not None:
            on_step(guide, metrics)

    result = fit(
        model,
        guide,
        prompts,
        num_steps=num_steps,
        objective=objective,
        optimizer=optimizer,
        seed=seed,
        on_step=look,
        progress=False,
    )
    gather(result, f"{type(guide).__name__} by {type(objective).__name__}, seed {seed}")
    return guide
