"""Adam in a trust region: the size of a step is a distance between guides, in nats.

    size     = 1/2 mean_x (log q_new(x) - log q_old(x))^2,   x ~ q_old     near KL(q_old || q_new)
    distance = 1/2 Var_x[log p*(x)/q_old(x)]                               near KL(q_old || p*)
    share    = (sum_k w_k^a)^2 / (K sum_k w_k^(2a))                        effective draws over K
    limit    = step_kl min(1, distance / NEAR) share (1 - progress)

A rate in units of parameters suits one network and one guide; a size in nats suits all. A step
above the limit is shortened to the limit, since the KL grows as the square of a step, and lowers
the rate; a step below half the limit raises the rate, up to `RISE` times the first rate that came
near the limit. The limit follows the distance left, because
the noise of a step of fixed size would keep the guide at about that distance from the posterior.

An objective that weighs draw k by w_k^a, such as forward KL with a = 1, learns from a share of the
draws, the effective sample size over K. The other draws have next to no weight, and fewer draws
give noise that smaller steps keep out of the guide.

Momentum of 0.9 carries the guide about nine steps further, past the posterior where the steps agree
in direction, as in a table. The momentum is dropped where the gradient of fresh draws, which the
momentum does not know yet, points against it by more than noise (restart by the gradient:
O'Donoghue and Candes 2015, arXiv 1204.3982).
"""

import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from inference.svi.optimizer.fused import FusedOptimizer
from model.common.checks import positive
from model.common.sharded_tensors import inner_product, local

STEP_KL = 0.05
"""Default limit of a step, nats. Steps of 0.05, 0.1 and 0.2 at the start left 1.60, 1.72 and 1.96
nats on film reviews after 40 steps of 32 responses: larger steps keep more noise. Steps of 0.01
leave more than 0.05 where the steps are few: 40 such steps move the guide by less."""
NEAR = 0.5
"""Distance left, nats, below which the limit falls in proportion to the distance."""
START = 1e-4  # learning rate of the first step before the step is measured
GROWTH = 4.0  # largest factor of the rate after a step
DECAY = 0.5  # smallest factor of the rate after a step
UPHILL = 4.0
"""Slope of the loss along the last step, in standard errors, above which the momentum is dropped:
one step in thirty thousand by noise alone."""
RISE = 10.0
"""Largest multiple of the first rate whose step came near the limit. Parameters before a
normalisation only turn the guide: a longer step makes them longer, the next step turns them less,
and the rate would rise without end."""


class TrustRegion(FusedOptimizer):
    """Adam whose steps move the guide by at most `step_kl` nats, and less near the posterior.

        fit(model, guide, prompts, num_steps=100, optimizer=TrustRegion(step_kl=0.02))

    Args:
        step_kl: limit of the first step, nats. A larger limit learns faster at first, and leaves
            more noise.

    Attributes:
        progress: share of the fit that is done, which `fit` sets before each step.
        measure: function of no argument, the size of the step just taken, nats; set by `fit`.
        distance: distance left before the step, nats; set by `fit`.
        share: share of the draws that carry the gradient; set by `fit`.
        slope_error: standard error of the loss's slope along a step of one nat; set by `fit`.
        step_size: size of the last step after shortening, nats.
    """

    _method: ClassVar[tuple[type[torch.optim.Optimizer], float]] = (torch.optim.Adam, START)

    def __init__(self, step_kl: float = STEP_KL) -> None:
        constructor, rate = self._method
        super().__init__(constructor, {"lr": rate})
        self.step_kl = positive("step_kl", step_kl, why="nats")
        self.progress = 0.0
        self.measure: Callable[[], float] | None = None
        self.distance = math.inf
        self.share = 1.0
        self.slope_error = math.inf
        self.step_size = math.nan

    @property
    def learning_rate(self) -> float:
        """Learning rate in the next step, before the step is shortened."""
        waiting, (_, start) = self._state_waiting_to_be_consumed.values(), self._method
        resumed = next((plain["group"].get("lr", start) for _, plain in waiting), start)
        return resumed if self._optimizer is None else super().learning_rate

    def _advance(self, trained: list[Tensor], norm: Tensor) -> None:
        self._drop_uphill_momentum()
        measured, limit = self._advance_to_limit(trained, norm)
        factor = math.sqrt(limit / measured) if measured > 0 else GROWTH
        if not measured <= limit:  # also if NaN
            factor = max(_shortened(measured, limit), DECAY)
        elif measured >= limit / 2:
            factor = 1.0
        assert self._optimizer is not None
        for group in self._optimizer.param_groups:
            group["rate_of_one_nat"] = group["lr"] / math.sqrt(measured) if measured > 0 else 0.0
            rate = group["lr"] * min(factor, GROWTH)
            if 2 * measured >= limit:
                group.setdefault("ceiling", RISE * rate)
            group["lr"] = min(rate, group.get("ceiling", math.inf))

    def _advance_to_limit(self, trained: list[Tensor], norm: Tensor) -> tuple[float, float]:
        """Step, and shorten the step to the limit; return size before shortening and limit."""
        if self.measure is None:
            expected = "expected `inference.fit`, which measures the steps"
            raise TypeError(f"TrustRegion steps without a measure of the step's size: {expected}")
        super()._advance(trained, norm)
        with torch.no_grad():
            measured = self.step_size = self.measure()
        near = min(1.0, self.distance / NEAR)
        limit = self.step_kl * near * self.share * (1 - self.progress)
        if not measured <= limit:  # also if NaN
            share = _shortened(measured, limit)
            self._backup.shorten(share)
            self.step_size *= share**2
        return measured, limit

    @torch.no_grad()
    def _drop_uphill_momentum(self) -> None:
        """Multiply the momentum by 0 or 1, which needs no wait for the device."""
        assert self._optimizer is not None
        stays = ~(self._slope() > UPHILL * self.slope_error)
        for moments in self._optimizer.state.values():
            momentum = local(moments["exp_avg"])
            momentum.mul_(stays.to(momentum.device))

    def _slope(self) -> Tensor:
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
            for parameter in group["params"]:
                moments = self._optimizer.state.get(parameter)
                if moments and parameter.grad is not None:
                    deviation = (moments["exp_avg_sq"].sqrt() / second).add_(group["eps"])
                    direction = moments["exp_avg"] / deviation
                    yield direction.mul_(-rate / first), parameter.grad


def _shortened(size: float, limit: float) -> float:
    """Share of a step above the limit that the limit allows, as the size grows as a square."""
    return math.sqrt(limit / size) if math.isfinite(size) else 0.01
