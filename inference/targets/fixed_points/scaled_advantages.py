"""Targets of trainers that divide advantages by the standard deviation of their rewards.

    large groups    q = q_D with D = beta sd_q r
    groups of K     q = q[A],   A(x) = E[(r_x - mean r) / (sd r + epsilon)],  x and K - 1 draws of q

q_D is the target of the same trainer without the division, at D for beta. The standard deviation is
that of the target itself, so that D solves an equation. The largest D is the solution nearest to
the prior. q[A] is the target without the division for the reward A, a sum over all groups. The mean
update of x, over the groups that have x, is A(x) times the gradient of log q(x): the group has K
responses with a share of 1/K each (derived here). As K grows, A goes to (r_x - E_q r)/sd_q r. A has
finite limits at a point mass, (K - 1)/sqrt(K) at most in size, so that a finite group has a target
at every beta.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from inference.roots import root
from inference.targets.fixed_points.problem import NoFixedPointError
from model.common.checks import whole_number

EPSILON = 1e-4  # added by trainers to the standard deviation of a group's rewards
MAX_TERMS, MAX_STEPS, TOLERANCE = 30_000_000, 2_000, 1e-13
"""Largest number of terms of A and of iterations; largest last change of a probability."""
SPAN = 1e-12  # smallest D of the search, as a share of the largest possible D


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
        grid: number of values of D, in a geometric series, between which the root is bracketed.

    Raises:
        NoFixedPointError: if there is none, with the smallest beta that has one.
    """
    if group_size is None:
        return at_own_spread(partial(target, reward), reward, beta, grid)
    return at_own_advantage(lambda gain: target(gain, beta), log_prior, reward, group_size)


class Groups:
    """All groups of K responses, for S rewards."""

    def __init__(self, reward: Tensor, size: int) -> None:
        size = whole_number("group_size", size, at_least=2, why="one response has no deviation")
        levels, self._level = reward.unique(return_inverse=True)
        num, others = len(levels), size - 1
        terms = num * math.comb(num + others - 1, others)
        if terms > MAX_TERMS:
            raise ValueError(
                f"groups of {size} with {num} different rewards have {terms} terms, expected at "
                f"most {MAX_TERMS}: group_size=None is the limit of large groups"
            )
        draws, device = [*combinations_with_replacement(range(num), others)], reward.device
        self._draws = torch.tensor(draws, device=device)  # [M, K-1]
        number = torch.arange(1.0, size + 1, dtype=torch.float64, device=device)
        log_factorial = number.lgamma()
        self._log_ways = log_factorial[others].expand(len(self._draws))
        for level in range(num):
            self._log_ways = self._log_ways - log_factorial[(self._draws == level).sum(-1)]
        self._num = num
        centred = levels - levels.mean()
        total = centred[:, None] + centred[self._draws].sum(-1)  # [L, M]
        squares = centred[:, None].square() + centred.square()[self._draws].sum(-1)
        deviation = (squares - total.square() / size).clamp(min=0).div(size - 1).sqrt()
        deviation = deviation.masked_fill(deviation < 1e-7 * centred.abs().max(), 0.0)
        self._advantage = (centred[:, None] - total / size) / (deviation + EPSILON)

    def advantage(self, log_guide: Tensor) -> Tensor:
        """A of each response, `[S]`, for draws of q, log q `[S]` in nats."""
        mass = torch.zeros(self._num, dtype=torch.float64, device=log_guide.device)
        log_mass = mass.index_add(0, self._level, log_guide.exp()).clamp(min=1e-300).log()
        prob = (self._log_ways + log_mass[self._draws].sum(-1)).exp()
        return (self._advantage @ prob)[self._level]


def of_group(beta: float, group_size: int | None) -> float:
    """beta of a trainer whose baseline is the mean of a group of K with the response itself.

    The mean advantage is (K - 1)/K (r - E_q r), so that beta counts K/(K - 1) times. None for large
    groups.
    """
    return beta if group_size is None else beta * group_size / (group_size - 1)


def at_own_advantage(
    target: Callable[[Tensor], Tensor], log_prior: Tensor, reward: Tensor, size: int
) -> Tensor:
    """log q = target(A), `[S]`, nats; see `from_prior`."""
    groups = Groups(reward, size)
    return from_prior(lambda log_guide: target(groups.advantage(log_guide)), log_prior)


def from_prior(step: Callable[[Tensor], Tensor], log_prior: Tensor) -> Tensor:
    """log q = step(log q), `[S, ...]`, nats, by iteration from the prior.

    Raises:
        NoFixedPointError: if the iteration does not converge.
    """
    log_guide = log_prior
    for _ in range(MAX_STEPS):
        new = ((log_guide + step(log_guide)) / 2).log_softmax(0)
        change = (new.exp() - log_guide.exp()).abs().max().item()
        log_guide = new
        if change < TOLERANCE:
            return log_guide
    raise NoFixedPointError(f"the iteration moves by {change:.1e} after {MAX_STEPS} steps")


def at_own_spread(
    log_guide: Callable[[float], Tensor], reward: Tensor, beta: float, grid: int
) -> Tensor:
    """log q_D, `[S]`, nats, at the largest D = beta sd_q r; `log_guide` is a function of D."""

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
            return log_guide(math.exp(root(excess, high - step, high)))
        width = math.exp(high - step)
        least = min(least, beta * width / max(value + width, math.ulp(0.0)))
        high -= step
    raise NoFixedPointError(
        f"at beta {beta:g} there is no fixed point between the prior and the best responses, onto "
        f"which the trainer collapses: expected beta of at least {least:.4g}"
    )
