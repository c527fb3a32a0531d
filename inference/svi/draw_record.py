"""Draws of the guide in a step, as the objective made them, and all numbers of the step from them.

    ELBO_hat    = sum_k s_k log w_k,    Var = K/(K - 1) sum_k s_k^2 (log w_k - ELBO_hat)^2
    entropy_hat = - sum_k s_k log q(x_k)

s_k is the share of draw k in a mean under q, 1/K on-policy.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from inference.objectives.draws import DrawMatrices, Draws, matrices
from inference.programs import Program
from inference.response_site import SameResponses
from inference.svi.fit_objective import FitObjective, elbo_of
from inference.svi.response_metrics import (
    Metrics,
    ModelRuns,
    read,
    response_numbers,
    rewarded,
    with_kl,
)
from inference.svi.step_in_nats import StepLimits, step_limits


class DrawNumbers(NamedTuple):
    """Numbers of the guide from the draws of one step, means over prompts, nats.

    Attributes:
        elbo: estimate of the ELBO; with an objective of another target, of that target.
        variance: variance of the estimate, given the prompts; NaN for a single draw.
        entropy: estimate of the entropy of q.
    """

    elbo: float = math.nan
    variance: float = math.nan
    entropy: float = math.nan


class NoDrawsError(ValueError):
    """The objective does not show the draws of the guide, so that a step has no size in nats."""


class DrawRecord:
    """Draws of the guide in the current step of an objective.

    Args:
        objective: the objective of the steps.
        num_prompts: number of prompts of the fit. The ELBO of a step on fewer of them has no known
            variance, because prompts differ.
        has_limits: True if the steps have a size in nats, which numbers of the draws limit.

    Attributes:
        numbers: numbers of the guide from the draws of the last step.
        limits: limits of the last step; None without `has_limits`.
        metrics: `elbo`, `log_likelihood`, `entropy`, and the metrics of the responses.
    """

    def __init__(
        self, objective: FitObjective, num_prompts: int = 1, *, has_limits: bool = False
    ) -> None:
        self.numbers = DrawNumbers()
        self.limits: StepLimits | None = None
        self.metrics: Metrics = {}
        self._same, self._runs = SameResponses(), ModelRuns()
        self._objective = objective
        self._num_prompts, self._has_limits = num_prompts, has_limits

    @contextmanager
    def of_step(self) -> Iterator[None]:
        """Record one step: its response space, and its runs of the model."""
        with SameResponses() as self._same, ModelRuns() as self._runs:
            yield

    @property
    def draws(self) -> list[Draws]:
        """Draws of the last step."""
        return self._objective.draws or []

    def reward(self, model: Program) -> Tensor | None:
        """r of the draws by the runs of the model; empty if unknown, None without rewards."""
        if (program := rewarded(model)) is None:
            return None
        reward = self._runs.reward(program, self.draws) if self.draws else None
        return torch.empty(0) if reward is None else reward

    def measure(self, reward: Tensor | None = None) -> None:
        """Compute numbers, limits and metrics of the draws, by one wait for the device.

        Args:
            reward: see `response_numbers`.

        Raises:
            NoDrawsError: without draws, if the steps have a size in nats.
        """
        objective, draws = self._objective, self.draws
        if self._has_limits and not draws:
            name = type(elbo_of(objective)).__name__
            raise NoDrawsError(
                f"{name} does not show the draws of the guide, so that a step has no size in nats: "
                "pass a `learning_rate` to `fit`, or an optimizer"
            )
        all_draws = matrices(draws) if draws else None
        share = None if all_draws is None else all_draws.share
        numbers = response_numbers(draws, share, self._same.space, reward)
        numbers["log_likelihood"] = objective.metrics["log_likelihood"]
        if all_draws is not None:
            numbers |= zip(DrawNumbers._fields, draw_numbers(all_draws), strict=True)
        if all_draws is not None and self._has_limits:
            limits = step_limits(all_draws, objective.weight_power)
            numbers |= zip(StepLimits._fields, limits, strict=True)
        values = read(numbers)
        self.numbers = DrawNumbers(*(values.pop(name, math.nan) for name in DrawNumbers._fields))
        if draws and len(draws[0].prompts) < self._num_prompts:
            self.numbers = self.numbers._replace(variance=math.nan)
        if self._has_limits:
            self.limits = StepLimits(*map(values.pop, StepLimits._fields))
        means = {"elbo": objective.metrics["elbo"], "entropy": self.numbers.entropy}
        self.metrics = with_kl(means | values)


def draw_numbers(draws: DrawMatrices) -> tuple[Tensor, ...]:
    """Numbers of the guide that made the draws, in the order of `DrawNumbers`."""
    log_weight, log_guide, share, every = draws
    num_draws, num_prompts = log_weight.shape
    elbo = _mean(share, log_weight)
    variance = (share * torch.where(share == 0, 0.0, log_weight - elbo)).square().sum(0)
    if every:
        variance = torch.zeros_like(variance)
    else:
        variance = variance * num_draws / (num_draws - 1) if num_draws > 1 else variance * math.nan
    return elbo.mean(), variance.sum() / num_prompts**2, -_mean(share, log_guide).mean()


def _mean(share: Tensor, values: Tensor) -> Tensor:
    return torch.where(share == 0, 0.0, share * values).sum(0)
