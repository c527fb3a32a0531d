"""Numbers of a step, from the draws of the guide as the objective made them.

    ELBO_hat    = sum_k s_k log w_k,    Var = K/(K - 1) sum_k s_k^2 (log w_k - ELBO_hat)^2
    entropy_hat = - sum_k s_k log q(x_k)

s_k is the share of draw k in a mean under q, 1/K on-policy.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inference.objectives.draws import DrawMatrices, matrices
from inference.svi.fit_objective import FitObjective, elbo_of
from inference.svi.response_metrics import Metrics, read, response_numbers, with_kl
from inference.svi.step_in_nats import StepLimits, step_limits
from model import ResponseSpace

ELBO = "elbo of the objective"
"""Name of the objective's own estimate, beside that from the draws."""


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


class StepNumbers(NamedTuple):
    """All numbers of a step.

    Attributes:
        loss: the loss, summed over prompts.
        of_draws: numbers of the guide.
        limits: limits of the step; None if the step has no size in nats.
        metrics: `elbo`, `log_likelihood`, `entropy`, and the metrics of the responses.
    """

    loss: float
    of_draws: DrawNumbers
    limits: StepLimits | None
    metrics: Metrics


def step_numbers(
    objective: FitObjective,
    loss: float | Tensor,
    num_prompts: int,
    *,
    space: ResponseSpace | None = None,
    reward: Tensor | None = None,
    has_limits: bool = False,
) -> StepNumbers:
    """Numbers of the last step of an objective, by one wait for the device.

    Args:
        objective: the objective.
        loss: the loss of the step.
        num_prompts: number of prompts of the fit. The ELBO of a step on fewer of them has no known
            variance, because prompts differ.
        space, reward: see `response_numbers`.
        has_limits: True if the step has a size in nats, which numbers of the draws limit.

    Raises:
        NoDrawsError: without draws, if the step has a size in nats and the loss is finite.
    """
    draws = objective.draws or []
    all_draws = matrices(draws) if draws else None
    share = None if all_draws is None else all_draws.share
    numbers = response_numbers(draws, share, space, reward)
    numbers["log_likelihood"] = objective.metrics["log_likelihood"]
    numbers |= {"loss": loss, ELBO: objective.metrics["elbo"]}
    if all_draws is not None:
        numbers |= zip(DrawNumbers._fields, draw_numbers(all_draws), strict=True)
    if all_draws is not None and has_limits:
        limits = step_limits(all_draws, objective.weight_power)
        numbers |= zip(StepLimits._fields, limits, strict=True)
    values = read(numbers)
    of_draws = DrawNumbers(*(values.pop(name, math.nan) for name in DrawNumbers._fields))
    if draws and len(draws[0].prompts) < num_prompts:
        of_draws = of_draws._replace(variance=math.nan)
    of_step = StepLimits(*map(values.pop, StepLimits._fields)) if has_limits and draws else None
    loss = values.pop("loss")
    if has_limits and not draws and math.isfinite(loss):
        name = type(elbo_of(objective)).__name__
        raise NoDrawsError(
            f"{name} does not show the draws of the guide, so that a step has no size in nats: "
            "pass a `learning_rate` to `fit`, or an optimizer"
        )
    means = {"elbo": values.pop(ELBO), "entropy": of_draws.entropy}
    return StepNumbers(loss, of_draws, of_step, with_kl(means | values))


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
