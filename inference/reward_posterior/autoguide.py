"""Stochastic variational inference with a full-covariance Gaussian: min KL(q || posterior); Pyro's AutoMultivariateNormal.

Beside Laplace, which has the mode and the curvature there, it has the Gaussian that fits best as a whole, in the direction that
prefers to be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    init_to_sample,
    init_to_value,
)
from torch import Tensor
from tqdm import tqdm

from inference import random_state
from inference.reward_posterior.maximum import check_counts, check_inference, maximise
from inference.svi.optimizer.per_parameter import PerParameterOptimizer
from model.common.checks import positive
from model.preferences import Comparisons


def autoguide(
    model: Callable[[Comparisons], Any],
    comparisons: Comparisons,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
    num_steps: int = 600,
    num_particles: int = 8,
    learning_rate: float = 0.05,
) -> Tensor:
    """Draws from the Gaussian that SVI ends at, from a start at the maximum a posteriori.

    Args:
        model: a Pyro program over comparisons with a latent site `w`, that bears vectorised particles.
        comparisons: with their outcomes.
        num_samples: S.
        seed: of the starting point, the steps and the draws.
        progress: show a bar.
        num_steps: of SVI.
        num_particles: draws of the weights a step.
        learning_rate: Adam's, at the start; it falls to a hundredth, so that the noise of the steps averages out.

    Returns:
        `[S, P]`.

    Raises:
        NotMaximisedError: if the start is not found.
        NonFiniteGradientError, NonFiniteParametersError: if a step is no number.
        ValueError: if a number of draws, steps or particles is less than 1, or the learning rate not positive.
    """
    check_counts(num_samples=num_samples, num_steps=num_steps, num_particles=num_particles)
    check_inference(model, comparisons)
    learning_rate = positive("learning_rate", learning_rate)
    with random_state.isolated(seed), pyro.get_param_store().scope():
        point = AutoLaplaceApproximation(model, init_loc_fn=init_to_sample)
        maximise(model, point, comparisons)
        start = {name: value.detach() for name, value in point(comparisons).items()}
    with random_state.isolated(seed), pyro.get_param_store().scope():
        guide = AutoMultivariateNormal(
            model, init_loc_fn=init_to_value(values=start), init_scale=0.3
        )
        adam = pyro.optim.ClippedAdam({"lr": learning_rate, "lrd": 0.01 ** (1 / num_steps)})
        optimiser = PerParameterOptimizer(adam)
        objective = Trace_ELBO(
            num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1
        )
        svi = SVI(model, guide, optimiser, objective)
        for _ in tqdm(range(num_steps), desc="reward posterior", unit="step", disable=not progress):
            svi.step(comparisons)
        with torch.no_grad():
            return torch.stack([guide(comparisons)["w"] for _ in range(num_samples)])
