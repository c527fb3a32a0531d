"""SVI with a full-covariance Gaussian: min KL(q || posterior); Pyro's AutoMultivariateNormal.

The Gaussian that fits best as a whole. This direction of the KL prefers one that is too narrow.
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_value
from torch import Tensor
from tqdm import tqdm

from inference import random_state
from inference.reward_posterior.maximum import check_inference, point_mass
from inference.svi.optimizer.per_parameter import PerParameterOptimizer
from model.common.checks import positive
from model.preferences import Observations


def autoguide(
    model: Callable[[Any], Any],
    comparisons: Observations,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
    num_steps: int = 600,
    num_particles: int = 8,
    learning_rate: float = 0.05,
) -> Tensor:
    """Draw `[S, P]` from the Gaussian fitted by SVI, starting at the maximum a posteriori.

    Args:
        model, comparisons, num_samples, seed, progress: See `RewardInference`. Particles are
            vectorised.
        num_steps: Number of SVI steps.
        num_particles: Number of draws of the weights in a step.
        learning_rate: Adam's rate at the start; falls to a hundredth, so that noise averages out.

    Raises:
        NotMaximisedError: If the start is not at a maximum.
        NonFiniteGradientError, NonFiniteParametersError: If a step is not finite.
    """
    counts = {"num_steps": num_steps, "num_particles": num_particles}
    check_inference(model, comparisons, progress, num_samples=num_samples, **counts)
    learning_rate = positive("learning_rate", learning_rate)
    with random_state.isolated(seed, comparisons.like.device), pyro.get_param_store().scope():
        point = point_mass(model, comparisons)
        start = {name: value.detach() for name, value in point(comparisons).items()}
    with random_state.isolated(seed, comparisons.like.device), pyro.get_param_store().scope():
        init = init_to_value(values=start)
        guide = AutoMultivariateNormal(model, init_loc_fn=init, init_scale=0.3)
        adam = pyro.optim.ClippedAdam({"lr": learning_rate, "lrd": 0.01 ** (1 / num_steps)})
        objective = Trace_ELBO(
            num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1
        )
        svi = SVI(model, guide, PerParameterOptimizer(adam), objective)
        for _ in tqdm(range(num_steps), desc="reward posterior", unit="step", disable=not progress):
            svi.step(comparisons)
        with torch.no_grad():
            return torch.stack([guide(comparisons)["w"] for _ in range(num_samples)])
