"""Laplace: N(w_MAP, H^-1), H the Hessian of minus the log joint at the maximum (MacKay 1992); Pyro's AutoLaplaceApproximation.

Exact in the limit of many comparisons, where the posterior becomes Gaussian; with few its tails are those of the prior's
curvature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_sample
from torch import Tensor

from inference import random_state
from inference.reward_posterior.maximum import (
    NotMaximisedError,
    check_counts,
    check_inference,
    maximise,
)
from model.preferences import Comparisons


def laplace(
    model: Callable[[Comparisons], Any],
    comparisons: Comparisons,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Draws from the Gaussian that has the posterior's mode and its curvature there.

    A latent flip probability is part of it, in unconstrained space, and left out of what is returned.

    Args:
        model: a Pyro program over comparisons with a latent site `w`.
        comparisons: with their outcomes.
        num_samples: S.
        seed: of the starting point and of the draws.
        progress: plays no part.

    Returns:
        `[S, P]`.

    Raises:
        NotMaximisedError: if no maximum with curvature in all directions is found.
        ValueError: if no draws are asked for.
    """
    check_counts(num_samples=num_samples)
    check_inference(model, comparisons)
    with random_state.isolated(seed), pyro.get_param_store().scope():
        guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_sample)
        maximise(model, guide, comparisons)
        try:
            gaussian = guide.laplace_approximation(comparisons)
        except (
            RuntimeError,
            ValueError,
        ) as error:  # a Cholesky factor, or a check of one, of a matrix that has none
            raise NotMaximisedError(
                "the log density has no curvature in some direction at its maximum: the Laplace approximation does not exist. "
                "Use nuts, or an ensemble."
            ) from error
        with torch.no_grad():
            return torch.stack([gaussian(comparisons)["w"] for _ in range(num_samples)])
