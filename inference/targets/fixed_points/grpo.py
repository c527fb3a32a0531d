"""GRPO with advantages divided by their standard deviation, and a KL penalty of whole responses.

    exact KL    update E_q[A grad log q] - beta grad KL(q || p0),     A = (r - E_q r) / sd_q r
                target q(x) prop. to p0(x) exp(r(x)/D),               D = beta sd_q r
    k3          update E_q[(A + beta (p0/q - 1)) grad log q]
                target q(x) = p0(x) / (1 - A(x)/beta) = D p0(x) / (Lambda - r(x))

With the exact KL the update vanishes where A - beta log q/p0 is constant: at the
posterior of D, beta times the standard deviation of the reward under q itself (Mroueh 2025, arXiv
2503.06639, for binary rewards: logit p = logit p0 + 1/(beta sqrt(p (1 - p)))). The standard
deviation is at most half the range of r, so that a range of 1 makes the effective beta at most half
of beta. The estimator k3 = p0/q - 1 - log p0/q as a loss has the gradient (1 - p0/q) grad log q if
the draws are not differentiated, in the mean the gradient of KL(p0 || q): the penalty is the
forward KL (Vojnovic and Yun 2025, arXiv 2502.18548), and the target that of the forward-KL penalty
at D. From p0 a trainer reaches the solution nearest to p0, of the largest D. Where beta is too
small, there is none: the trainer goes on to the best responses.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from inference.targets.fixed_points.penalties import forward_kl_of
from inference.targets.fixed_points.problem import Problem, by_prompt
from inference.targets.fixed_points.scaled_advantages import at_own_scale


def grpo(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q with the exact KL, `[S, N]`, nats, for groups of a size; None for large groups.

    Raises:
        NoFixedPointError: if beta is below the smallest that has a solution, which is named.
    """
    return _target(problem, group_size, _of_kl)


def grpo_k3(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q with k3 as a loss, `[S, N]`, nats; see `grpo`."""
    return _target(problem, group_size, _of_k3)


def _target(
    problem: Problem, group_size: int | None, log_guide: Callable[[Tensor, Tensor, float], Tensor]
) -> Tensor:
    def target(log_prior: Tensor, reward: Tensor) -> Tensor:
        at_width = partial(log_guide, log_prior)
        return at_own_scale(at_width, log_prior, reward, beta=problem.beta, group_size=group_size)

    return by_prompt(target, problem.log_prior, problem.reward)


def _of_kl(log_prior: Tensor, reward: Tensor, width: float) -> Tensor:
    return (log_prior + reward / width).log_softmax(0)


def _of_k3(log_prior: Tensor, reward: Tensor, width: float) -> Tensor:
    one = reward[:, None]
    return forward_kl_of(log_prior[:, None], one, torch.full_like(one, width))[:, 0]
