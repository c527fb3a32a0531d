"""Training without noise: the exact gradient over all responses."""

from collections.abc import Callable
from typing import TypeVar

import torch

from guides import Guide
from inference.enumeration import Enumeration
from inference.programs import log_guide_at
from inference.svi.response_metrics import Metrics

G = TypeVar("G", bound=Guide)


def ascend(
    guide: G,
    truth: Enumeration,
    num_steps: int,
    *,
    learning_rate: float,
    kl_penalty: bool,
    on_step: Callable[[Metrics], None] | None = None,
) -> G:
    """Train a guide by the exact gradient, with Adam at a constant rate, and return the guide.

    The gradient is of the ELBO with `kl_penalty`, else of E_q[log likelihood]. `on_step` is called
    with the number of the step after each step.
    """
    optimiser = torch.optim.Adam(guide.parameters(), lr=learning_rate)
    for step in range(1, num_steps + 1):
        log_guide = log_guide_at(guide, truth.prompts, truth.support)
        value = truth.log_joint - log_guide if kl_penalty else truth.log_likelihood
        optimiser.zero_grad()
        (-(log_guide.exp() * value).sum()).backward()
        optimiser.step()
        if on_step is not None:
            on_step({"step": step})
    return guide
