"""A step in nats: the size of the step, and the limits that the draws of the step set to it.

    size        = 1/2 mean_x (log q_new(x) - log q_old(x))^2       one pass of the new guide
    distance    = 1/2 Var_k[log w_k]                               near KL(q || p*)
    share       = (sum_k s_k w_k^a)^2 / (K sum_k (s_k w_k^a)^2)    effective draws over K
    slope error = 2 sqrt(N distance / (K share))                   by noise of the draws alone

s_k is the share of draw k in a mean under q, 1/K on-policy. The objective weighs its draws by the
power a of their weights. log q_old is known from the step's loss.
"""

from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.objectives.draws import DrawMatrices, Draws, total
from inference.programs import Program

MOST = 32
"""Largest number of responses behind a size, whose standard error is then a quarter of the size."""


class StepLimits(NamedTuple):
    """Numbers from the draws of one step that limit the step, see `LimitedSteps`.

    Attributes:
        distance: mean of `distances_left` over prompts, nats.
        share: `effective_share`.
        slope_error: `slope_error`, nats.
    """

    distance: float
    share: float
    slope_error: float


def distances_left(draws: DrawMatrices) -> Tensor:
    """Half the variance of the log-weights, KL(q || p*) up to third order, `[N]`, nats.

    Infinite for a prompt with fewer than two possible draws.
    """
    log_weight = draws.log_weight
    weight = draws.log_guide.exp() if draws.every else torch.ones_like(log_weight)
    weight = weight.masked_fill(log_weight.isneginf(), 0.0)
    few = (weight > 0).sum(0) < 2
    weight = weight / weight.sum(0)
    log_weight = log_weight.masked_fill(weight == 0, 0.0)
    mean = (weight * log_weight).sum(0)
    half = 0.5 * (weight * (log_weight - mean).square()).sum(0)
    return half.masked_fill(few, torch.inf)


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
        weight = old.exp() if batch.every else torch.ones_like(old)
        # an impossible value stays impossible, and infinity minus infinity is no number
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
