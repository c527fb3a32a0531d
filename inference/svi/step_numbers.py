"""Numbers of a step, from the draws of the guide as the objective made them, and its size in nats.

    ELBO_hat    = sum_k s_k log w_k,    Var = K/(K - 1) sum_k s_k^2 (log w_k - ELBO_hat)^2
    entropy_hat = - sum_k s_k log q(x_k)
    distance    = 1/2 Var_k[log w_k, w_k > 0] - log share of w_k > 0    near KL(q || p*)
    share       = (sum_k s_k w_k^a)^2 / (K sum_k (s_k w_k^a)^2)    effective draws over K
    slope error = 2 sqrt(N distance / (K share))                   by noise of the draws alone
    size        = 1/2 mean_x (log q_new(x) - log q_old(x))^2       one pass of the new guide

s_k is the share of draw k in a mean under q, 1/K on-policy. The objective weighs its draws by the
power a of their weights. log q_old is known from the step's loss.
"""

import math
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.estimate import expectation
from inference.objectives.parts.draws import DrawMatrices, Draws, matrices, total
from inference.objectives.parts.states import with_prefix
from inference.objectives.parts.surrogate_loss import read
from inference.programs import Program
from inference.svi.fit_objective import FitObjective, elbo_of
from inference.svi.response_metrics import Metrics, response_numbers, with_kl
from model import ResponseSpace

OF_OBJECTIVE = "of the objective: "  # before names of the objective's own numbers
MOST = 32
"""Largest number of responses behind a size, whose standard error is then a quarter of the size."""


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
    """Numbers from the draws of one step that limit the step, see `LimitedSteps`.

    They are the mean of `distances_left`, `effective_share` and `slope_error`.
    """

    distance: float
    share: float
    slope_error: float


class NoDrawsError(ValueError):
    """The objective does not show the draws of the guide, so that a step has no size in nats."""


class StepNumbers(NamedTuple):
    """All numbers of a step."""

    loss: float  # the loss, summed over prompts
    of_draws: DrawNumbers  # numbers of the guide
    limits: StepLimits | None  # limits of the step; None if the step has no size in nats
    metrics: Metrics  # `elbo`, `log_likelihood`, `entropy`, and the metrics of the responses


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
    numbers = response_numbers(draws, all_draws.share if all_draws else None, space, reward)
    numbers |= {"loss": loss} | with_prefix(OF_OBJECTIVE, objective.metrics)
    if all_draws is not None:
        numbers |= zip(DrawNumbers._fields, draw_numbers(all_draws), strict=True)
        if has_limits:
            limits = step_limits(all_draws, objective.weight_power)
            numbers |= zip(StepLimits._fields, limits, strict=True)
    values = read(numbers)
    own = objective.metrics = {name: values.pop(OF_OBJECTIVE + name) for name in objective.metrics}
    loss = values.pop("loss")
    if has_limits and not draws and math.isfinite(loss):
        name = type(elbo_of(objective)).__name__
        raise NoDrawsError(
            f"{name} does not show the draws of the guide, so that a step has no size in nats: "
            "pass a `learning_rate` to `fit`, or an optimizer"
        )
    of_draws = DrawNumbers(*(values.pop(name, math.nan) for name in DrawNumbers._fields))
    if draws and len(draws[0].prompts) < num_prompts:
        of_draws = of_draws._replace(variance=math.nan)
    of_step = StepLimits(*map(values.pop, StepLimits._fields)) if has_limits and draws else None
    means = {"elbo": own["elbo"], "entropy": of_draws.entropy} | values
    means["log_likelihood"] = own["log_likelihood"]
    return StepNumbers(loss, of_draws, of_step, with_kl(means))


def draw_numbers(draws: DrawMatrices) -> tuple[Tensor, ...]:
    """Numbers of the guide that made the draws, in the order of `DrawNumbers`."""
    log_weight, log_guide, share, every = draws
    num_draws, num_prompts = log_weight.shape
    elbo = expectation(share, log_weight)
    variance = (share * torch.where(share == 0, 0.0, log_weight - elbo)).square().sum(0)
    if every:
        variance = torch.zeros_like(variance)
    else:
        variance = variance * num_draws / (num_draws - 1) if num_draws > 1 else variance * math.nan
    return elbo.mean(), variance.sum() / num_prompts**2, -expectation(share, log_guide).mean()


def distances_left(draws: DrawMatrices) -> Tensor:
    """Half the variance of the log-weights of possible draws - log of their share, `[N]`, nats.

    KL(q || p*) up to third order if all draws are possible, else KL(p* || q). Infinite for a prompt
    with fewer than two possible draws.
    """
    log_weight = draws.log_weight
    all_draws = draws.share if draws.every else (draws.share != 0).to(log_weight)
    weight = all_draws.masked_fill(log_weight.isneginf(), 0.0)
    few = (weight > 0).sum(0) < 2
    share = weight.sum(0) / all_draws.sum(0)
    weight = weight / weight.sum(0)
    log_weight = log_weight.masked_fill(weight == 0, 0.0)
    mean = (weight * log_weight).sum(0)
    half = 0.5 * (weight * (log_weight - mean).square()).sum(0)
    return (half - share.log()).masked_fill(few, torch.inf)


def effective_share(draws: DrawMatrices, power: float) -> Tensor:
    """Share of the draws that carry the gradient: the effective sample size of w^power over K.

    Averaged over prompts; a prompt without a possible draw has 1, and so have all with power 0.
    """
    if power == 0 or draws.every:
        return torch.ones_like(draws.share[0, 0])
    log_weight = draws.share.log() + power * draws.log_weight.masked_fill(draws.share == 0, 0.0)
    log_size = 2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)
    return (log_size.exp() / len(log_weight)).nan_to_num(nan=1.0).mean()


def slope_error(draws: DrawMatrices, distances: Tensor, share: Tensor) -> Tensor:
    """Standard error of the ELBO's slope along a step of one nat that does not know the draws.

    The slope, summed over N prompts, is a covariance over draws. One factor is the log-weights, of
    variance at most twice the distance left. The other is the change of log q, whose mean square is
    2 nats on average, and which is taken to differ between prompts as the distance does.
    """
    if draws.every:
        return torch.zeros_like(share)
    num_draws, num_prompts = draws.log_weight.shape
    distance = distances.square().mean() / distances.mean()
    return 2 * (distance * num_prompts / (num_draws * share)).sqrt()


def step_limits(draws: DrawMatrices, power: float) -> tuple[Tensor, ...]:
    """Limits of a step, in the order of `StepLimits`."""
    distances, share = distances_left(draws), effective_share(draws, power)
    return distances.mean(), share, slope_error(draws, distances, share)


@torch.no_grad()
def step_size(guide: Program, draws: list[Draws]) -> Tensor:
    """Size of the step from the guide that made the draws to the guide as it is now, nats.

    The mean over draws and prompts. NaN if the guide has no numbers any more.
    """
    squares, weights = [], []
    for batch in map(_first, draws):
        values = _Values(batch.values)
        with pyro.validation_enabled(False), poutine.block(), values:
            guide(batch.prompts)
        old = total(batch.log_guide)
        change = total(values.log_guide) - old
        # an impossible value stays impossible, and infinity minus infinity is no number
        weight = old.exp() if batch.every else (old != -torch.inf).to(old)
        change = torch.where(weight == 0, 0.0, change)
        squares.append((weight * change.square()).sum())
        weights.append(weight.sum())
    return 0.5 * (torch.stack(squares).sum() / torch.stack(weights).sum())


def _first(draws: Draws) -> Draws:
    """The first draws, at most `MOST` responses, if one site has `[K, N]` draws."""
    [(name, value), *others] = draws.values.items()
    log_guide = draws.log_guide[name]
    if others or draws.every or log_guide.dim() != 2:
        return draws
    number = max(1, MOST // log_guide.shape[1])
    return draws._replace(values={name: value[:number]}, log_guide={name: log_guide[:number]})


class _Values(Messenger):
    """Handler that gives the sites of a guide their values, and keeps log q of each."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_guide: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict) -> None:
        if (value := self.values.get(msg["name"])) is not None:
            self.log_guide[msg["name"]] = msg["fn"].log_prob(value)
            msg["value"], msg["done"] = value, True
