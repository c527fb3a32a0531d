"""Adam in a trust region: the size of a step is a distance between guides, in nats.

    size     = 1/2 mean_x (log q_new(x) - log q_old(x))^2,   x ~ q_old     near KL(q_old || q_new)
    distance = 1/2 Var_x[log p*(x)/q_old(x)]                               near KL(q_old || p*)
    share    = (sum_k w_k^a)^2 / (K sum_k w_k^(2a))                        effective draws over K
    limit    = step_kl min(1, distance / NEAR) share (1 - progress)

A rate in units of parameters suits one network and one guide; a size in nats suits all. The limit
follows the distance left, because the noise of a step of fixed size would keep the guide at about
that distance from the posterior. A step above the limit is shortened to the limit, since the KL
grows as the square of a step. An objective that weighs draw k by w_k^a, such as forward KL with
a = 1, learns from a share of the draws, and smaller steps keep the noise of few draws out of the
guide. Draws of probability 0 add minus the log of the share of the others to the distance.

A step above the limit lowers the rate of Adam; a step below half the limit raises the rate, up to
`RISE` times the first rate that came near the limit. Momentum of 0.9 carries the guide about nine
steps further, past the posterior where the steps agree in direction, as in a table. The momentum is
dropped where the gradients of fresh draws, which the momentum does not know yet, point against it
by more than noise (restart by the gradient: O'Donoghue and Candes 2015, arXiv 1204.3982). One
gradient shows a slope of many standard errors, several gradients a slope of two (cumulative sums:
Page 1954, Biometrika 41):

    uphill = max(0, uphill + slope / slope_error - DRIFT),   dropped above UPHILL
"""

import math
import sys
from abc import ABC
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inference.svi.optimizer.backup import norm_of
from inference.svi.optimizer.checked import CheckedOptimizer
from inference.svi.step_numbers import StepLimits
from model.common.checks import positive
from model.common.sharded_tensors import batches, inner_product

STEP_KL = 0.05
"""Default limit of a step, nats. Larger steps keep more noise. Steps of 0.01 leave more than 0.05
where the steps are few: 40 such steps move the guide by less."""
START = 1e-4  # learning rate of the first step before the step is measured
GROWTH = 4.0  # largest factor of the rate after a step
DECAY = 0.5  # smallest factor of the rate after a step
UPHILL, DRIFT = 3.0, 1.0
"""Limit and drift of the sum of slopes in standard errors: by noise alone the momentum is dropped
once in 2,000 steps. A limit of 4 for a single slope left 20 of 60 fits of a table too far, this sum
one."""
RISE = 10.0
"""Largest multiple of the first rate whose step came near the limit. Parameters before a
normalisation only turn the guide: a longer step makes them longer, the next step turns them less,
and the rate would rise without end."""
NEAR = 0.5  # distance left, nats, below which the limit falls in proportion to the distance
FAR = 4.0
"""Multiple of the limit above which the square no longer holds: a shortened step is measured again.
log q of a likely response falls along a step as a square at first, and then no further."""
MOST_SHORTENINGS = 8  # largest number of times that a step is shortened
WHOLE_STEP_KL = 0.2
"""Default limit of the first step, nats. Directions from all responses so far have less noise than
those of Adam."""


class LimitedSteps(CheckedOptimizer, ABC):
    """An optimiser whose steps move the guide by at most `limit` nats.

    Args:
        step_kl: limit of the first step, nats.
        constructor: class of the torch optimiser that proposes the steps.
        rate: learning rate of the first step.

    Attributes:
        step_size: size of the last step after shortening, nats.
    """

    def __init__(
        self, step_kl: float, constructor: type[torch.optim.Optimizer], rate: float
    ) -> None:
        super().__init__(constructor, {"lr": rate})
        self.step_kl = positive("step_kl", step_kl, why="nats")
        self.measure: Callable[[], Tensor] | None = None
        self.distance, self.share, self.slope_error = math.inf, 1.0, math.inf

    def expect(self, limits: StepLimits, measure: Callable[[], Tensor]) -> None:
        """Take the limits of the next step, and the function that measures its size, nats."""
        self.distance, self.share, self.slope_error = limits
        self.measure = measure

    @property
    def limit(self) -> float:
        """Largest size of the next step, nats."""
        near = min(1.0, self.distance / NEAR)
        return self.step_kl * near * self.share * (1 - self.progress)

    def _advance(self, trained: list[Tensor], norm: Tensor) -> bool:
        if self.measure is None:
            name, expected = type(self).__name__, "expected `inference.fit`, which measures steps"
            raise TypeError(f"{name} steps without a measure of the step's size: {expected}")
        super()._advance(trained, norm)
        with torch.no_grad():
            measured, is_finite = self._measured(self.measure)
            self.step_size = measured
            for _ in range(MOST_SHORTENINGS):
                if self.step_size <= self.limit:
                    break
                is_far = not self.step_size <= FAR * self.limit  # also if NaN
                share = allowed_share(self.step_size, self.limit)
                self._backup.shorten(share)
                if is_far:
                    self.step_size, is_finite = self._measured(self.measure)
                else:
                    self.step_size, is_finite = self.step_size * share**2, False
        self._adapt(measured)
        return is_finite

    def _measured(self, measure: Callable[[], Tensor]) -> tuple[float, bool]:
        """Size of the step, nats; True if all numbers are finite. One wait for the device."""
        size, norm = measure().double(), norm_of(self._all_numbers()).double()
        number, norm_of_all = torch.stack([size, norm.to(size.device)]).tolist()
        return number, math.isfinite(norm_of_all)

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


class TrustRegion(LimitedSteps):
    """Adam whose steps move the guide by at most `step_kl` nats, and less near the posterior.

        fit(model, guide, prompts, num_steps=100, optimizer=TrustRegion(step_kl=0.02))

    Args:
        step_kl: limit of the first step, nats. A larger limit learns faster at first, and leaves
            more noise.
    """

    def __init__(self, step_kl: float = STEP_KL) -> None:
        super().__init__(step_kl, torch.optim.Adam, rate=START)

    @property
    def learning_rate(self) -> float:
        """Learning rate in the next step, before the step is shortened."""
        if self._optimizer is not None:
            return super().learning_rate
        resumed = (plain["group"] for _, plain in self._state_waiting_to_be_consumed.values())
        return next((group.get("lr", START) for group in resumed), START)

    def _advance(self, trained: list[Tensor], norm: Tensor) -> bool:
        self._drop_uphill_momentum()
        return super()._advance(trained, norm)

    def _adapt(self, measured: float) -> None:
        """Lower the rate after a step above the limit, raise the rate after a small step."""
        limit = self.limit
        factor = math.sqrt(limit / measured) if measured > 0 else GROWTH
        if not measured <= limit:  # also if NaN
            factor = max(allowed_share(measured, limit), DECAY)
        elif measured >= limit / 2:
            factor = 1.0
        assert self._optimizer is not None
        for group in self._optimizer.param_groups:
            group["rate_of_one_nat"] = group["lr"] / math.sqrt(measured) if measured > 0 else 0.0
            rate = group["lr"] * min(factor, GROWTH)
            if 2 * measured >= limit:
                group.setdefault("ceiling", RISE * rate)
            group["lr"] = min(rate, group.get("ceiling", math.inf))

    def _drop_uphill_momentum(self) -> None:
        """Multiply the momentum by 0 if the loss has risen along it by more than noise."""
        assert self._optimizer is not None
        groups = self._optimizer.param_groups
        # an exact gradient has no error
        slope = self.slope / max(self.slope_error, sys.float_info.min)
        uphill = max(0.0, groups[0].get("uphill", 0.0) + slope - DRIFT)
        if uphill > UPHILL:
            uphill = 0.0
            for moments in self._optimizer.state.values():
                moments["exp_avg"].zero_()
        for group in groups:
            group["uphill"] = uphill

    @torch.no_grad()
    def _slope(self, norm: Tensor) -> Tensor:
        """Slope of the loss along the last step, scaled to one nat; 0 before the second step."""
        return inner_product(self._last_step())

    def _last_step(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Change of each parameter in the last step, scaled to one nat, and the gradient now."""
        assert self._optimizer is not None
        for group in self._optimizer.param_groups:
            rate, (decay_1, decay_2) = group.get("rate_of_one_nat", 0.0), group["betas"]
            if not 0 < rate < math.inf:
                continue
            first = 1 - decay_1**self.step_count
            second = math.sqrt(1 - decay_2**self.step_count)
            moments = {p: self._optimizer.state.get(p, {}) for p in group["params"]}
            trained = [p for p in group["params"] if moments[p] and p.grad is not None]
            for some in batches(trained, lambda parameter: parameter):
                deviations = list(torch._foreach_sqrt([moments[p]["exp_avg_sq"] for p in some]))
                torch._foreach_div_(deviations, second)
                torch._foreach_add_(deviations, group["eps"])
                directions = torch._foreach_div([moments[p]["exp_avg"] for p in some], deviations)
                torch._foreach_mul_(list(directions), -rate / first)
                yield from zip(directions, [p.grad for p in some], strict=True)


def allowed_share(size: float, limit: float) -> float:
    """Share of a step above the limit that the limit allows, as the size grows as a square."""
    return math.sqrt(limit / size) if math.isfinite(size) else 0.01
