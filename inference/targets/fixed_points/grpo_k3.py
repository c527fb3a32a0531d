"""GRPO with the estimator k3 of the KL as a loss, of the whole response.

    update      E_q[(A + beta (p0/q - 1)) grad log q],   A = (r - E_q r) / sd_q r
    target      q(x) = p0(x) / (1 - A(x)/beta)

k3 = p0/q - 1 - log p0/q has the gradient (1 - p0/q) grad log q if the draws are not differentiated,
in the mean the gradient of KL(p0 || q): the penalty is the forward KL (Vojnovic and Yun 2025,
arXiv 2502.18548). With D = beta sd_q r the target is D p0/(Lambda - r), the target of the
forward-KL penalty at D.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.forward_kl import forward_kl_of
from inference.targets.fixed_points.own_spread import at_own_spread
from inference.targets.fixed_points.problem import Problem


def grpo_k3(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats: the solution with the largest D, which is the nearest to p0."""

    def column(n: int) -> Tensor:
        log_prior, reward = problem.log_prior[:, [n]], problem.reward[:, [n]]

        def log_guide(width: float) -> Tensor:
            return forward_kl_of(log_prior, reward, torch.full_like(reward, width))[:, 0]

        return at_own_spread(log_guide, reward[:, 0], problem.beta)

    return torch.stack([column(n) for n in range(problem.reward.shape[1])], 1)
