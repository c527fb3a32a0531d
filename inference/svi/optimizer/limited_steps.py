"""Steps with a size in nats, shortened to a limit that follows the distance left.

    size     = 1/2 mean_x (log q_new(x) - log q_old(x))^2,   x ~ q_old     near KL(q_old || q_new)
    distance = 1/2 Var_x[log p*(x)/q_old(x)]                               near KL(q_old || p*)
    share    = (sum_k w_k^a)^2 / (K sum_k w_k^(2a))                        effective draws over K
    limit    = step_kl min(1, distance / NEAR) share (1 - progress)

A rate in units of parameters suits one network and one guide; a size in nats suits all. The limit
follows the distance left, because the noise of a step of fixed size would keep the guide at about
that distance from the posterior. A step above the limit is shortened to the limit, since the KL
grows as the square of a step. A step far above the limit is measured again when shortened.

An objective that weighs draw k by w_k^a, such as forward KL with a = 1, learns from a share of the
draws, the effective sample size over K. The other draws have next to no weight, and fewer draws
give noise that smaller steps keep out of the guide.
"""

import math
from abc import ABC
from collections.abc import Callable

import torch
from torch import Tensor

from inference.svi.optimizer.backup import norm_of
from inference.svi.optimizer.fused import FusedOptimizer
from inference.svi.step_in_nats import StepLimits
from model.common.checks import positive

NEAR = 0.5
"""Distance left, nats, below which the limit falls in proportion to the distance."""
FAR = 4.0
"""Multiple of the limit above which the square no longer holds: a shortened step is measured again.
log q of a likely response falls along a step as a square at first, and then no further."""
MOST_SHORTENINGS = 8
"""Largest number of times that a step is shortened."""
WHOLE_STEP_KL = 0.2
"""Default limit of the first step, nats. Directions from all responses so far have less noise than
those of Adam. Limits of 0.1 and 0.2 left 1.21 and 1.20 nats on film reviews after 40 steps."""


class LimitedSteps(FusedOptimizer, ABC):
    """An optimiser whose steps move the guide by at most `limit` nats.

    Args:
        step_kl: limit of the first step, nats.
        constructor: class of the torch optimiser that proposes the steps.
        rate: learning rate of the first step.

    Attributes:
        step_size: size of the last step after shortening, nats.
    """

    has_limits = True

    def __init__(
        self, step_kl: float, constructor: type[torch.optim.Optimizer], rate: float
    ) -> None:
        super().__init__(constructor, {"lr": rate})
        self.step_kl = positive("step_kl", step_kl, why="nats")
        self.measure: Callable[[], Tensor] | None = None
        self.distance, self.share, self.slope_error = math.inf, 1.0, math.inf

    def expect(self, limits: StepLimits, measure: Callable[[], Tensor]) -> None:
        self.distance, self.share, self.slope_error = limits
        self.measure = measure

    @property
    def limit(self) -> float:
        """Largest size of the next step, nats."""
        near = min(1.0, self.distance / NEAR)
        return self.step_kl * near * self.share * (1 - self.progress)

    def _advance(self, trained: list[Tensor], norm: Tensor) -> None:
        if self.measure is None:
            name, expected = type(self).__name__, "expected `inference.fit`, which measures steps"
            raise TypeError(f"{name} steps without a measure of the step's size: {expected}")
        super()._advance(trained, norm)
        with torch.no_grad():
            measured = self.step_size = self._measured(self.measure)
            for _ in range(MOST_SHORTENINGS):
                if self.step_size <= self.limit:
                    break
                is_far = not self.step_size <= FAR * self.limit  # also if NaN
                share = allowed_share(self.step_size, self.limit)
                self._backup.shorten(share)
                self._is_finite = False  # before the next check
                if is_far:
                    self.step_size = self._measured(self.measure)
                else:
                    self.step_size *= share**2
        self._adapt(measured)

    def _measured(self, measure: Callable[[], Tensor]) -> float:
        """Size of the step, nats, by the wait for the device that checks all numbers too."""
        size, norm = measure().double(), norm_of(self._all_numbers()).double()
        number, norm_of_all = torch.stack([size, norm.to(size.device)]).tolist()
        self._is_finite = math.isfinite(norm_of_all)
        return number

    def _adapt(self, measured: float) -> None:
        """Adapt the next step to the size of this step before shortening; here nothing."""


class WholeSteps(LimitedSteps):
    """The steps of an objective whose `.grad` is minus the whole step, shortened to a limit.

        fit(model, guide, prompts, num_steps=40, objective=GaussNewton(num_particles=32))

    There is no rate and no momentum.

    Args:
        step_kl: limit of the first step, nats.
    """

    def __init__(self, step_kl: float = WHOLE_STEP_KL) -> None:
        super().__init__(step_kl, torch.optim.SGD, rate=1.0)


def allowed_share(size: float, limit: float) -> float:
    """Share of a step above the limit that the limit allows, as the size grows as a square."""
    return math.sqrt(limit / size) if math.isfinite(size) else 0.01
