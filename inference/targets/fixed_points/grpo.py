"""GRPO with advantages divided by their standard deviation, and an exact KL penalty.

    update      E_q[A grad log q] - beta grad KL(q || p0),   A = (r - E_q r) / sd_q r
    target      q(x) prop. to p0(x) exp(r(x) / (beta sd_q r))

The update vanishes where A - beta log q/p0 is constant: at the posterior of beta times the standard
deviation of the reward under q itself (Mroueh 2025, arXiv 2503.06639, for binary rewards: logit p =
logit p0 + 1/(beta sqrt(p (1 - p)))). The standard deviation is at most half the range of r, so that
a range of 1 makes the effective beta at most half of beta. From p0 a trainer reaches the solution
nearest to p0. Where beta is too small, there is none: the trainer goes on to the best responses.
"""

import numpy as np
import torch
from torch import Tensor

from inference.targets.fixed_points.problem import NoFixedPointError, Problem, root

GRID = 4000
"""Number of points, in a geometric series, at which the first crossing is looked for."""


def grpo(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats.

    Raises:
        NoFixedPointError: if beta is below the smallest that has a solution, which is named.
    """
    columns = zip(problem.log_prior.T, problem.reward.T, strict=True)
    scale = [_scale(*column, problem.beta) for column in columns]
    return problem.tilted(problem.reward * problem.reward.new_tensor(scale))


def _scale(log_prior: Tensor, reward: Tensor, beta: float) -> float:
    """The smallest s with s sd_s(r) = 1/beta, for q_s prop. to p0 exp(s r)."""
    levels = reward.unique()
    if len(levels) == 1:
        return 0.0  # all advantages are 0
    at_level = reward == levels[:, None]  # [L, S]
    log_mass = log_prior.expand_as(at_level).masked_fill(~at_level, -torch.inf).logsumexp(1)

    def excess(scale: Tensor) -> Tensor:
        prob = (log_mass[:, None] + scale * levels[:, None]).softmax(0)
        mean = (prob * levels[:, None]).sum(0)
        spread = (prob * (levels[:, None] - mean).square()).sum(0).sqrt()
        return scale * spread - 1 / beta

    reach = (levels[-1] - levels[0]).item()
    gap = levels.diff().min().item()
    odds = (log_mass.logsumexp(0) - log_mass[-1]).item()
    start = min(1e-3, 2 / beta) / reach  # s sd <= s reach/2 <= 1/beta
    end = (60 + 2 * odds) / gap  # all on the best level
    grid = torch.from_numpy(np.geomspace(start, end, GRID))
    values = excess(grid)
    if not bool((crossed := values >= 0).any()):
        least = 1 / (values.max().item() + 1 / beta)
        raise NoFixedPointError(
            f"at beta {beta:g} GRPO has no fixed point between the prior and the best responses, "
            f"onto which it collapses: expected beta of at least {least:.4g}"
        )
    first = int(crossed.int().argmax())
    if first == 0:
        return start

    def at(scale: float) -> float:
        return excess(grid.new_tensor([scale])).item()

    return root(at, grid[first - 1].item(), grid[first].item())
