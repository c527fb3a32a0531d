"""GRPO with the estimator k3 of the KL as a loss, of the whole response.

    update      E_q[(A + beta (p0/q - 1)) grad log q],   A = (r - E_q r) / sd_q r
    target      q(x) = p0(x) / (1 - A(x)/beta)

k3 = p0/q - 1 - log p0/q has the gradient (1 - p0/q) grad log q if the draws are not differentiated,
in the mean the gradient of KL(p0 || q): the penalty is the forward KL (Vojnovic and Yun 2025,
arXiv 2502.18548). With D = beta sd_q r the target is D p0/(Lambda - r), the target of the
forward-KL penalty at D.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from inference.targets.fixed_points.forward_kl import forward_kl_of
from inference.targets.fixed_points.problem import Problem, root

GRID = 100
"""Number of values of D, in a geometric series, between which the largest root is bracketed."""
SPAN = 1e-12
"""Smallest D of the search, as a share of the largest possible D."""


def grpo_k3(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats: the solution with the largest D, which is the nearest to p0."""

    def column(n: int) -> Tensor:
        log_prior, reward = problem.log_prior[:, [n]], problem.reward[:, [n]]

        def log_guide(width: float) -> Tensor:
            return forward_kl_of(log_prior, reward, torch.full_like(reward, width))[:, 0]

        return at_own_spread(log_guide, reward[:, 0], problem.beta)

    return torch.stack([column(n) for n in range(problem.reward.shape[1])], 1)


def at_own_spread(log_guide: Callable[[float], Tensor], reward: Tensor, beta: float) -> Tensor:
    """log q_D, `[S]`, at the largest D = beta sd(r), the standard deviation under q_D itself.

    Args:
        log_guide: function of D that returns log q_D of all responses, `[S]`.
        reward: `[S]`.
        beta: reward per nat.
    """

    def excess(log_width: float) -> float:
        prob = log_guide(math.exp(log_width)).exp()
        mean = (prob * reward).sum()
        spread = (prob * (reward - mean).square()).sum().sqrt().item()
        return beta * spread - math.exp(log_width)

    reach = (reward.amax() - reward.amin()).item()
    if reach == 0:
        return log_guide(beta)  # all advantages are 0: the prior
    high = math.log(beta * reach / 2)  # no standard deviation is more than half the range
    step = -math.log(SPAN) / GRID
    for _ in range(GRID):
        if excess(high - step) > 0:
            return log_guide(math.exp(root(excess, high - step, high)))
        high -= step
    raise AssertionError("unreachable: for small D the spread falls as the square root of D")
