"""Targets of trainers that divide advantages by the standard deviation of their rewards.

    target      q = q_D with D = beta sd_q r

q_D is the target without the division, at D for beta. The standard deviation is that of the target
itself, so that D solves an equation. The largest D is the solution nearest to the prior.
"""

import math
from collections.abc import Callable
from functools import partial

from scipy.optimize import brentq
from torch import Tensor

from inference.targets.fixed_points.finite_group import at_own_advantage
from inference.targets.fixed_points.problem import NoFixedPointError

SPAN = 1e-12
"""Smallest D of the search, as a share of the largest possible D."""


def at_own_scale(
    target: Callable[[Tensor, float], Tensor],
    log_prior: Tensor,
    reward: Tensor,
    *,
    beta: float,
    group_size: int | None,
    grid: int = 1000,
) -> Tensor:
    """log q of a trainer that scales advantages, `[S]`, nats.

    Args:
        target: function of the reward `[S]` and of D that returns log q without scaling, `[S]`.
        log_prior: `[S]`, nats.
        reward: `[S]`.
        beta: reward per nat.
        group_size: number K of responses in a group; None for the limit of large groups.
        grid: see `at_own_spread`.
    """
    if group_size is None:
        return at_own_spread(partial(target, reward), reward, beta, grid=grid)

    def at_beta(advantage: Tensor) -> Tensor:
        return target(advantage, beta)

    return at_own_advantage(at_beta, log_prior, reward, group_size)


def at_own_spread(
    log_guide: Callable[[float], Tensor], reward: Tensor, beta: float, *, grid: int = 1000
) -> Tensor:
    """log q_D, `[S]`, nats, at the largest D = beta sd_q r.

    Args:
        log_guide: function of D that returns log q_D of all responses, `[S]`.
        reward: `[S]`.
        beta: reward per nat.
        grid: number of values of D, in a geometric series, between which the root is bracketed.

    Raises:
        NoFixedPointError: if there is none, with the smallest beta that has one.
    """

    def spread(log_width: float) -> float:
        prob = log_guide(math.exp(log_width)).exp()
        mean = (prob * reward).sum()
        return (prob * (reward - mean).square()).sum().sqrt().item()

    def excess(log_width: float) -> float:
        return beta * spread(log_width) - math.exp(log_width)

    reach = (reward.amax() - reward.amin()).item()
    if reach == 0:
        return log_guide(beta)  # all advantages are 0
    high = math.log(beta * reach / 2)  # no standard deviation is more than half the range
    step, least = -math.log(SPAN) / grid, math.inf
    for _ in range(grid):
        if (value := excess(high - step)) >= 0:
            return log_guide(math.exp(brentq(excess, high - step, high, xtol=1e-15)))
        width = math.exp(high - step)
        least = min(least, beta * width / max(value + width, math.ulp(0.0)))
        high -= step
    raise NoFixedPointError(
        f"at beta {beta:g} there is no fixed point between the prior and the best responses, onto "
        f"which the trainer collapses: expected beta of at least {least:.4g}"
    )
