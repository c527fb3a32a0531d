"""Draws of the guide in a step, as the objective made them, and numbers of the guide from them.

    ELBO_hat    = sum_k s_k log w_k,    Var = K/(K - 1) sum_k s_k^2 (log w_k - ELBO_hat)^2
    entropy_hat = - sum_k s_k log q(x_k)
    distance    = 1/2 Var_k[log w_k]                       near KL(q || p*)
    share       = (sum_k s_k w_k^a)^2 / (K sum_k (s_k w_k^a)^2)

s_k is the share of draw k in a mean under q, 1/K on-policy. The objective weighs its draws by the
power a of their weights.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from inference.objectives.pyro_objectives import weight_power
from inference.objectives.response_objective import Draws, ResponseObjective
from inference.programs import Program
from inference.response_site import is_sample
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


class StepLimits(NamedTuple):
    """Numbers from the draws of one step that limit the step, see `TrustRegion`.

    Attributes:
        distance: `distance_left`, nats.
        share: `effective_share`.
        slope_error: `slope_error`, nats.
    """

    distance: float
    share: float
    slope_error: float


class DrawMatrices(NamedTuple):
    """All draws of one step, `[K, N]`, float64.

    Attributes:
        log_weight: log-weight of each draw, nats.
        log_guide: log q of each draw, nats.
        share: share of each draw in a mean under q.
        every: True if the draws are all values, which Pyro enumerated.
    """

    log_weight: Tensor
    log_guide: Tensor
    share: Tensor
    every: bool


class NoDrawsError(ValueError):
    """An objective does not show the draws of the guide, so that a step has no size in nats."""


class DrawRecord:
    """Draws of the guide in the current step of an objective.

    Args:
        objective: the objective of the steps.
        num_prompts: number of prompts of the fit. The ELBO of a step on fewer of them has no known
            variance, because prompts differ.

    Attributes:
        draws: draws of the last step.
        matrices: the draws of the last step as matrices; None without draws.
        numbers: numbers of the guide from the draws of the last step.
        limits: limits of the last step; None without draws.
    """

    def __init__(self, objective: ELBO, num_prompts: int = 1) -> None:
        self.draws: list[Draws] = []
        self.matrices: DrawMatrices | None = None
        self.numbers = DrawNumbers()
        self.limits: StepLimits | None = None
        self._objective = objective
        self._num_prompts = num_prompts
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
        """Return the draws since the last call; empty if the objective does not show them."""
        if isinstance(self._objective, ResponseObjective):
            draws = [] if self._objective.draws is None else [self._objective.draws]
        else:
            draws = [_draws_of(*each) for each in self._traces]
            self._traces = []
        self.draws, self.matrices = draws, matrices(draws) if draws else None
        self.numbers, self.limits = DrawNumbers(), None
        if self.matrices is not None:
            numbers = draw_numbers(self.matrices)
            limits = step_limits(self.matrices, weight_power(self._objective))
            scalars = torch.stack([*numbers, *limits]).tolist()  # one wait for the device
            self.numbers = DrawNumbers(*scalars[: len(numbers)])
            self.limits = StepLimits(*scalars[len(numbers) :])
        if draws and len(draws[0].prompts) < self._num_prompts:
            self.numbers = self.numbers._replace(variance=math.nan)
        return draws

    def require_limits(self) -> StepLimits:
        """Limits of the last step; a `NoDrawsError` without draws."""
        if self.limits is None:
            raise NoDrawsError(
                f"{type(self._objective).__name__} does not show the draws of the guide, so that a "
                "step has no size in nats: pass a `learning_rate` to `fit`, or an optimizer"
            )
        return self.limits


def draw_numbers(draws: DrawMatrices) -> tuple[Tensor, Tensor, Tensor]:
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


def distance_left(draws: DrawMatrices) -> Tensor:
    """Half the variance of the log-weights, which is KL(q || p*) up to third order, nats.

    Averaged over prompts. Infinite if a prompt has fewer than two possible draws.
    """
    return distances_left(draws).mean()


def effective_share(draws: DrawMatrices, power: float) -> Tensor:
    """Share of the draws that carry the gradient: the effective sample size of w^power over K.

    Averaged over prompts; a prompt without a possible draw has 1, and so have all with power 0.
    """
    if power == 0 or draws.every:
        return torch.ones_like(draws.share[0, 0])
    log_weight = draws.share.log() + power * draws.log_weight
    log_size = 2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)
    return (log_size.exp() / len(log_weight)).nan_to_num(nan=1.0).mean()


def slope_error(draws: DrawMatrices, distances: Tensor, share: Tensor) -> Tensor:
    """Standard error of the ELBO's slope along a step of one nat that does not know the draws.

    The slope, summed over N prompts, is a covariance over draws. One factor is the log-weights, of
    variance twice the distance left. The other is the change of log q, whose mean square is 2 nats
    on average, and which is taken to differ between prompts as the distance does.

    Args:
        distances: `distances_left` of the draws.
        share: `effective_share` of the draws.
    """
    if draws.every:
        return torch.zeros_like(share)
    num_draws, num_prompts = draws.log_weight.shape
    distance = distances.square().mean() / distances.mean()
    return 2 * (distance * num_prompts / (num_draws * share)).sqrt()


def step_limits(draws: DrawMatrices, power: float) -> tuple[Tensor, Tensor, Tensor]:
    """Limits of a step, in the order of `StepLimits`."""
    distances, share = distances_left(draws), effective_share(draws, power)
    return distances.mean(), share, slope_error(draws, distances, share)


def distances_left(draws: DrawMatrices) -> Tensor:
    """`distance_left` of each prompt, `[N]`."""
    log_weight = draws.log_weight
    weight = draws.log_guide.exp() if draws.every else torch.ones_like(log_weight)
    weight = weight.masked_fill(log_weight.isneginf(), 0.0)
    few = (weight > 0).sum(0) < 2
    weight = weight / weight.sum(0)
    log_weight = log_weight.masked_fill(weight == 0, 0.0)
    mean = (weight * log_weight).sum(0)
    half = 0.5 * (weight * (log_weight - mean).square()).sum(0)
    return half.masked_fill(few, torch.inf)


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


def matrices(draws: list[Draws]) -> DrawMatrices:
    """All draws of one step as matrices."""
    log_weights, log_guides = [], []
    for batch in draws:
        log_weight = batch.log_weight.double()
        log_guide = total(batch.log_guide).broadcast_to(log_weight.shape)
        log_weights.append(torch.atleast_2d(log_weight).flatten(1))
        log_guides.append(torch.atleast_2d(log_guide).flatten(1))
    log_weight, log_guide, share = torch.cat(log_weights), torch.cat(log_guides), draws[0].share
    if draws[0].every:
        share = log_guide.exp()
    elif share is None:
        share = torch.full_like(log_weight, 1 / len(log_weight))
    return DrawMatrices(log_weight, log_guide, share.double(), draws[0].every)


def total(log_guide: dict[str, Tensor]) -> Tensor:
    """Sum over sites, in the shape of a batch, float64."""
    return torch.stack(torch.broadcast_tensors(*log_guide.values())).double().sum(0)
