"""Numbers from the draws of a step that limit the step of a trust region.

    distance    = 1/2 Var_k[log w_k]                               near KL(q || p*)
    share       = (sum_k s_k w_k^a)^2 / (K sum_k (s_k w_k^a)^2)    effective draws over K
    slope error = 2 sqrt(N distance / (K share))                   by noise of the draws alone

s_k is the share of draw k in a mean under q, 1/K on-policy. The objective weighs its draws by the
power a of their weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from inference.svi.draw_matrices import DrawMatrices


class StepLimits(NamedTuple):
    """Numbers from the draws of one step that limit the step, see `TrustRegion`.

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
