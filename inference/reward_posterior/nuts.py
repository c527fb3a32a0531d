"""The No-U-Turn sampler: draws from the posterior itself (Hoffman and Gelman 2014); Pyro's MCMC(NUTS).

The reference for the others, at their hundredfold cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import init_to_sample
from torch import Tensor

from inference import random_state
from inference.reward_posterior.maximum import check_counts, check_inference
from model.common.checks import whole_number
from model.preferences import Comparisons


def nuts(
    model: Callable[[Comparisons], Any],
    comparisons: Comparisons,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
    warmup_steps: int | None = None,
    thinning: int = 1,
) -> Tensor:
    """Draws from one chain, correlated unless thinned.

    Args:
        model: a Pyro program over comparisons with a latent site `w`.
        comparisons: with their outcomes.
        num_samples: S.
        seed: of the chain.
        progress: show a bar; Pyro shows none where it finds itself in continuous integration.
        warmup_steps: in which step size and mass matrix are found; default 200, or S if that is more.
        thinning: steps of the chain for each draw.

    Returns:
        `[S, P]`.

    Raises:
        ValueError: if a number of draws or steps is less than 1.
    """
    check_counts(num_samples=num_samples, thinning=thinning)
    warmup_steps = (
        max(200, num_samples)
        if warmup_steps is None
        else whole_number("warmup_steps", warmup_steps)
    )
    check_inference(model, comparisons)
    with random_state.isolated(seed), pyro.get_param_store().scope():
        chain = MCMC(
            NUTS(model, init_strategy=init_to_sample),
            num_samples=num_samples * thinning,
            warmup_steps=warmup_steps,
            disable_progbar=not progress,
        )
        chain.run(comparisons)
        return chain.get_samples()["w"][::thinning].detach()
