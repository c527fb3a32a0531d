"""The No-U-Turn sampler: draws from the posterior itself (Hoffman and Gelman 2014).

The reference for the other inferences, at a hundred times their cost. Pyro's MCMC(NUTS).
"""

from collections.abc import Callable
from typing import Any

import pyro
from pyro.infer import MCMC, NUTS
from torch import Tensor

from inference import random_state
from inference.reward_posterior.maximum import check_inference, start
from model.preferences import Observations


def nuts(
    model: Callable[[Any], Any],
    comparisons: Observations,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
    warmup_steps: int | None = None,
    thinning: int = 1,
) -> Tensor:
    """Draw `[S, P]` from one chain; draws are correlated unless thinned.

    The chain begins at the `start` of maximum.py: a prior draw, or with a latent flip probability
    near a maximum, so that the chain does not stay at the reversed reward.

    Args:
        model, comparisons, num_samples, seed, progress: See `RewardInference`. Pyro hides the
            progress bar in continuous integration.
        warmup_steps: Number of steps that adapt step size and mass matrix; default, 200 or S if
            that is more.
        thinning: Number of steps of the chain for each draw.

    Raises:
        NotMaximisedError: If the start with a latent flip probability does not converge.
    """
    counts = {"num_samples": num_samples, "thinning": thinning}
    if warmup_steps is not None:
        counts["warmup_steps"] = warmup_steps
    check_inference(model, comparisons, progress, **counts)
    with random_state.isolated(seed, comparisons.like.device), pyro.get_param_store().scope():
        chain = MCMC(
            NUTS(model, init_strategy=start(model, comparisons)),
            num_samples=num_samples * thinning,
            warmup_steps=max(200, num_samples) if warmup_steps is None else warmup_steps,
            disable_progbar=not progress,
        )
        chain.run(comparisons)
        return chain.get_samples()["w"][::thinning].detach()
