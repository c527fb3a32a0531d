"""Laplace: N(w_MAP, H^-1), H the Hessian of minus the log joint at the maximum (MacKay 1992).

Exact in the limit of many comparisons, where the posterior is Gaussian. Pyro's
AutoLaplaceApproximation.
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from inference import random_state
from inference.reward_posterior.maximum import NotMaximisedError, check_inference, point_mass
from model.preferences import Comparisons


def laplace(
    model: Callable[[Comparisons], Any],
    comparisons: Comparisons,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Draw `[S, P]` from the Gaussian with the posterior's mode and its curvature there.

    A latent flip probability is part of the Gaussian, in unconstrained space, and not returned.

    Args:
        model, comparisons, num_samples, seed: See `RewardInference`.
        progress: Not used.

    Raises:
        NotMaximisedError: If there is no maximum with curvature in all directions.
    """
    check_inference(model, comparisons, num_samples=num_samples)
    with random_state.isolated(seed), pyro.get_param_store().scope():
        guide = point_mass(model, comparisons)
        try:
            gaussian = guide.laplace_approximation(comparisons)
        except (RuntimeError, ValueError) as error:  # the Hessian has no Cholesky factor
            fault = "the log density has no curvature in some direction at its maximum"
            raise NotMaximisedError(f"{fault}: use nuts, or an ensemble") from error
        with torch.no_grad():
            return torch.stack([gaussian(comparisons)["w"] for _ in range(num_samples)])
