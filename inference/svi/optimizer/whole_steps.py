"""Steps as an objective proposes them, whole or shortened to a size in nats."""

from typing import ClassVar

import torch
from torch import Tensor

from inference.svi.optimizer.trust_region import TrustRegion

STEP_KL = 0.2
"""Default limit of the first step, nats. Directions from all responses so far have less noise than
those of Adam. Limits of 0.1 and 0.2 left 1.21 and 1.20 nats on film reviews after 40 steps."""


class WholeSteps(TrustRegion):
    """A trust region around the steps of an objective whose `.grad` is minus the whole step.

        fit(model, guide, prompts, num_steps=40, objective=GaussNewton(num_particles=32))

    A step below the limit of `TrustRegion` is taken as it is; there is no rate and no momentum.

    Args:
        step_kl: limit of the first step, nats.
    """

    _method: ClassVar[tuple[type[torch.optim.Optimizer], float]] = (torch.optim.SGD, 1.0)

    def __init__(self, step_kl: float = STEP_KL) -> None:
        super().__init__(step_kl)

    def _advance(self, trained: list[Tensor], norm: Tensor) -> None:
        self._advance_to_limit(trained, norm)
