"""A reward with the estimator k3 of the KL as a loss, token by token, as trainers compute it.

    update      E_q[sum_t (r - E_q r + beta (p0_t/q_t - 1)) grad log q_t],   p0_t = p0(x_t | x_<t)
    target      q(v | h) = beta p0(v | h) / (Lambda(h) - Q(h, v)),   Q(h, v) = E_q[r | h, v]

At each prefix the forward-KL penalty of one token (derived here; see `token_tree`). Dr. GRPO with a
KL penalty has this target, if no importance ratio multiplies the penalty.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.finite_group import of_group
from inference.targets.fixed_points.forward_kl import forward_kl_of
from inference.targets.fixed_points.problem import Problem, by_prompt
from inference.targets.fixed_points.token_tree import TokenTree


def token_forward_kl(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q, `[S, N]`, nats; see `of_group` for `group_size`."""
    response, _ = problem.tokens("token-forward-kl")
    beta = of_group(problem.beta, group_size)

    def target(response: Tensor, log_prior: Tensor, reward: Tensor) -> Tensor:
        penalty = torch.full_like(reward, beta)
        return TokenTree(response).log_guide(forward_kl_step, log_prior, reward, penalty)

    return by_prompt(target, response, problem.log_prior, problem.reward)


def forward_kl_step(log_prior: Tensor, value: Tensor, penalty: Tensor) -> Tensor:
    """log q of one token, `[C, M]`: q (Q - w) + w p0 = c q for each child, w its penalty."""
    return forward_kl_of(log_prior, value - penalty, penalty)
