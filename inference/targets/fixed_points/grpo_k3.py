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
from inference.targets.fixed_points.own_spread import at_own_scale
from inference.targets.fixed_points.problem import Problem, by_prompt


def grpo_k3(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q, `[S, N]`, nats: the solution with the largest D, which is the nearest to p0.

    `group_size` is the number of responses in a group; None for large groups.
    """

    def target(log_prior: Tensor, reward: Tensor) -> Tensor:
        def log_guide(reward: Tensor, width: float) -> Tensor:
            one = (log_prior[:, None], reward[:, None])
            return forward_kl_of(*one, torch.full_like(one[1], width))[:, 0]

        return at_own_scale(log_guide, log_prior, reward, beta=problem.beta, group_size=group_size)

    return by_prompt(target, problem.log_prior, problem.reward)
