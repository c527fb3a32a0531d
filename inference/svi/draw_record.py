"""Draws of the guide in a step, as the objective made them, and all numbers of the step from them.

    ELBO_hat    = sum_k s_k log w_k,    Var = K/(K - 1) sum_k s_k^2 (log w_k - ELBO_hat)^2
    entropy_hat = - sum_k s_k log q(x_k)

s_k is the share of draw k in a mean under q, 1/K on-policy.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from inference.objectives.draws import DrawMatrices, Draws, matrices
from inference.objectives.pyro_objectives import OTHER_BOUNDS, weight_power
from inference.objectives.response_objective import ResponseObjective
from inference.programs import Program
from inference.response_site import SameResponses, is_sample
from inference.svi.response_metrics import (
    Metrics,
    ModelRuns,
    read,
    response_numbers,
    rewarded,
    with_kl,
)
from inference.svi.step_in_nats import StepLimits, step_limits
from model import Prompts


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
    """An objective does not show the draws of the guide, so that a step has no size in nats."""


class DrawRecord:
    """Draws of the guide in the current step of an objective.

    Args:
        objective: the objective of the steps.
        num_prompts: number of prompts of the fit. The ELBO of a step on fewer of them has no known
            variance, because prompts differ.
        has_limits: True if the steps have a size in nats, which numbers of the draws limit.

    Attributes:
        draws: draws of the last step.
        numbers: numbers of the guide from the draws of the last step.
        limits: limits of the last step; None without `has_limits`.
        metrics: `elbo`, `log_likelihood`, `entropy`, and the metrics of the responses.
    """

    def __init__(self, objective: ELBO, num_prompts: int = 1, *, has_limits: bool = False) -> None:
        self.draws: list[Draws] = []
        self.numbers = DrawNumbers()
        self.limits: StepLimits | None = None
        self.metrics: Metrics = {}
        self._same, self._runs = SameResponses(), ModelRuns()
        self._objective = objective
        self._num_prompts, self._has_limits = num_prompts, has_limits
        self._traces: list[tuple[Prompts, Trace, Trace]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the traces from which an objective of Pyro computes the loss."""
        if isinstance(self._objective, ResponseObjective):
            yield
            return
        get_trace = self._objective._get_trace

        def recorded(model: Program, guide: Program, args: tuple, kwargs: dict) -> Any:
            traces = get_trace(model, guide, args, kwargs)
            self._traces.append((args[0], *traces))
            return traces

        vars(self._objective)["_get_trace"] = recorded
        try:
            yield
        finally:
            del vars(self._objective)["_get_trace"]

    @contextmanager
    def of_step(self) -> Iterator[None]:
        """Record one step: its response space, and its runs of the model."""
        with SameResponses() as self._same, ModelRuns() as self._runs:
            yield

    def take(self) -> list[Draws]:
        """Return the draws since the last call; empty if the objective does not show them.

        Raises:
            NoDrawsError: without draws, if the steps have a size in nats.
        """
        if isinstance(self._objective, ResponseObjective):
            draws = [] if self._objective.draws is None else [self._objective.draws]
        else:
            draws = [_draws_of(*each) for each in self._traces]
            self._traces = []
        self.draws = draws
        if not draws and self._has_limits:
            raise NoDrawsError(
                f"{type(self._objective).__name__} does not show the draws of the guide, so that a "
                "step has no size in nats: pass a `learning_rate` to `fit`, or an optimizer"
            )
        return draws

    def reward(self, model: Program) -> Tensor | None:
        """r of the draws by the runs of the model; empty if unknown, None without rewards."""
        if (program := rewarded(model)) is None:
            return None
        reward = self._runs.reward(program, self.draws) if self.draws else None
        return torch.empty(0) if reward is None else reward

    def measure(self, loss: float, num_prompts: int, reward: Tensor | None = None) -> None:
        """Compute numbers, limits and metrics of the draws, by one wait for the device.

        Args:
            loss: loss of the step, summed over prompts.
            num_prompts: number of prompts of the step.
            reward: see `response_numbers`.
        """
        elbo, log_likelihood = self._means(loss, num_prompts)
        draws = matrices(self.draws) if self.draws else None
        share = None if draws is None else draws.share
        numbers = response_numbers(self.draws, share, self._same.space, reward)
        numbers["log_likelihood"] = log_likelihood
        if draws is not None:
            numbers |= zip(DrawNumbers._fields, draw_numbers(draws), strict=True)
        if draws is not None and self._has_limits:
            limits = step_limits(draws, weight_power(self._objective))
            numbers |= zip(StepLimits._fields, limits, strict=True)
        values = read(numbers)
        self.numbers = DrawNumbers(*(values.pop(name, math.nan) for name in DrawNumbers._fields))
        if self.draws and len(self.draws[0].prompts) < self._num_prompts:
            self.numbers = self.numbers._replace(variance=math.nan)
        if self._has_limits:
            self.limits = StepLimits(*map(values.pop, StepLimits._fields))
        self.metrics = with_kl({"elbo": elbo, "entropy": self.numbers.entropy} | values)

    def _means(self, loss: float, num_prompts: int) -> tuple[float, Tensor | float]:
        """ELBO and log likelihood of the step, means over prompts, nats; NaN if unknown."""
        objective = self._objective
        if isinstance(objective, ResponseObjective):
            return objective.metrics["elbo"], objective.metrics["log_likelihood"]
        elbo = math.nan if isinstance(objective, OTHER_BOUNDS) else -loss / num_prompts
        return elbo, self._runs.log_likelihood()


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


def _draws_of(prompts: Prompts, model_trace: Trace, guide_trace: Trace) -> Draws:
    """Values, log q and log weights of a pair of traces."""
    sites = {name: site for name, site in guide_trace.nodes.items() if is_sample(site)}
    infer = [site["infer"] for site in sites.values()]
    return Draws(
        prompts,
        values={name: site["value"].detach() for name, site in sites.items()},
        log_guide={name: site["unscaled_log_prob"].detach() for name, site in sites.items()},
        log_weight=_log_prob(model_trace) - _log_prob(guide_trace),
        every=any("_enumerate_dim" in each and not each.get("num_samples") for each in infer),
    )


def _log_prob(trace: Trace) -> Tensor:
    """Sum of the log probabilities of all sites, in the shape of a batch."""
    sites = [site for site in trace.nodes.values() if is_sample(site)]
    return torch.stack(torch.broadcast_tensors(*(s["log_prob"].detach() for s in sites))).sum(0)
