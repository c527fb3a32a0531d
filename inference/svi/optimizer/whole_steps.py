"""Steps as an objective proposes them, whole or shortened to a size in nats."""

import torch

from inference.svi.optimizer.limited_steps import LimitedSteps

STEP_KL = 0.2
"""Default limit of the first step, nats. Directions from all responses so far have less noise than
those of Adam. Limits of 0.1 and 0.2 left 1.21 and 1.20 nats on film reviews after 40 steps."""


class WholeSteps(LimitedSteps):
    """The steps of an objective whose `.grad` is minus the whole step, shortened to a limit.

        fit(model, guide, prompts, num_steps=40, objective=GaussNewton(num_particles=32))

    There is no rate and no momentum.

    Args:
        step_kl: limit of the first step, nats.
    """

    def __init__(self, step_kl: float = STEP_KL) -> None:
        super().__init__(step_kl, torch.optim.SGD, rate=1.0)
