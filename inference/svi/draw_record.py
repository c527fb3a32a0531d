"""Draws of the guide in a step, as the objective made them, and numbers of the guide from them.

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
from inference.objectives.pyro_objectives import weight_power
from inference.objectives.response_objective import ResponseObjective
from inference.programs import Program
from inference.response_site import is_sample
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
        matrices: the draws of the last step as matrices; None without draws.
        numbers: numbers of the guide from the draws of the last step.
        limits: limits of the last step; None without draws, and without `has_limits`.
    """

    def __init__(self, objective: ELBO, num_prompts: int = 1, *, has_limits: bool = False) -> None:
        self.draws: list[Draws] = []
        self.matrices: DrawMatrices | None = None
        self.numbers = DrawNumbers()
        self.limits: StepLimits | None = None
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
        self.draws, self.matrices = draws, matrices(draws) if draws else None
        self.numbers, self.limits = DrawNumbers(), None
        if self.matrices is not None:
            self._measure(self.matrices)
        elif self._has_limits:
            raise NoDrawsError(
                f"{type(self._objective).__name__} does not show the draws of the guide, so that a "
                "step has no size in nats: pass a `learning_rate` to `fit`, or an optimizer"
            )
        return draws

    def _measure(self, draws: DrawMatrices) -> None:
        """Compute numbers and limits, by one wait for the device."""
        tensors = draw_numbers(draws)
        if self._has_limits:
            tensors += step_limits(draws, weight_power(self._objective))
        elbo, variance, entropy, *limits = torch.stack(tensors).tolist()
        self.numbers = DrawNumbers(elbo, variance, entropy)
        if limits:
            self.limits = StepLimits(*limits)
        if len(self.draws[0].prompts) < self._num_prompts:
            self.numbers = self.numbers._replace(variance=math.nan)


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
