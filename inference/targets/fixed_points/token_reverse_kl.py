"""A reward with an unbiased gradient of the KL of each token, the tokens before it held fixed.

    update      E_q[sum_t (r - E_q r) grad log q_t - beta grad KL(q_t || p0_t)]
    target      q(v | h) prop. to p0(v | h) exp(Q(h, v)/beta),   Q(h, v) = E_q[r | h, v]

k3 times a differentiable importance ratio has this mean gradient (DeepSeek-V3.2, arXiv 2512.02556),
and k2 as a loss. The posterior has log E_p0[exp(r/beta) | h, v] in place of Q/beta: a token here is
credited with the rewards behind it, and not charged with the KL that they cost. With scaled
advantages beta is multiplied by the standard deviation of the reward under the target itself.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.finite_group import of_group
from inference.targets.fixed_points.own_spread import at_own_scale
from inference.targets.fixed_points.problem import Problem, by_prompt
from inference.targets.fixed_points.token_tree import TokenTree


def token_reverse_kl(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for advantages r - E_q r, `[S, N]`, nats; see `of_group` for `group_size`."""
    return _target(problem, group_size, scaled=False)


def grpo_token_kl(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q for advantages divided by sd_q r, `[S, N]`, nats.

    `group_size` is the number of responses in a group; None for large groups.

    Raises:
        NoFixedPointError: if beta is below the smallest that has a solution, which is named.
    """
    return _target(problem, group_size, scaled=True)


def _target(problem: Problem, group_size: int | None, *, scaled: bool) -> Tensor:
    response, _ = problem.tokens("grpo-token-kl" if scaled else "token-reverse-kl")

    def target(response: Tensor, log_prior: Tensor, reward: Tensor) -> Tensor:
        tree = TokenTree(response)

        def log_guide(reward: Tensor, width: float) -> Tensor:
            return tree.log_guide(_step, log_prior, reward, torch.full_like(reward, width))

        if not scaled:
            return log_guide(reward, of_group(problem.beta, group_size))
        return at_own_scale(log_guide, log_prior, reward, beta=problem.beta, group_size=group_size)

    return by_prompt(target, response, problem.log_prior, problem.reward)


def _step(log_prior: Tensor, value: Tensor, penalty: Tensor) -> Tensor:
    """log q of one token, `[C, M]`."""
    return (log_prior + value / penalty).log_softmax(0)
