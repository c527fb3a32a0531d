"""A fine-tuned guide as the scripts that check a claim make theirs: SVI with Adam on a cosine, whatever the objective."""

from __future__ import annotations

from collections.abc import Callable

from pyro.infer import ELBO

from guides import FineTuned
from inference import FusedOptimizer, Metrics, cosine, fit
from model import AlignmentModel, Prompts


def tuned(
    model: AlignmentModel,
    prompts: Prompts,
    objective: ELBO,
    num_steps: int,
    *,
    rate: float,
    seed: int = 0,
    on_step: Callable[[FineTuned, Metrics], None] | None = None,
) -> FineTuned:
    """A guide that started at the model's prior.

    Args:
        model: whose posterior is approached.
        prompts: N prompts.
        objective: what is descended; a new one.
        num_steps: of SVI.
        rate: Adam's at its peak; a warm-up over a twentieth of the steps, then a cosine to 0.
        seed: of the fit.
        on_step: called with the guide and the metrics after each step.
    """
    guide = FineTuned(model.prior)
    optimizer = FusedOptimizer(options={"lr": rate}, schedule=cosine(num_steps, warmup=num_steps // 20))

    def look(metrics: Metrics) -> None:
        if on_step is not None:
            on_step(guide, metrics)

    fit(
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
    return guide
