"""GRPO with advantages divided by their standard deviation, and an exact KL penalty.

    update      E_q[A grad log q] - beta grad KL(q || p0),   A = (r - E_q r) / sd_q r
    target      q(x) prop. to p0(x) exp(r(x) / (beta sd_q r))

The update vanishes where A - beta log q/p0 is constant: at the posterior of beta times the standard
deviation of the reward under q itself (Mroueh 2025, arXiv 2503.06639, for binary rewards: logit p =
logit p0 + 1/(beta sqrt(p (1 - p)))). The standard deviation is at most half the range of r, so that
a range of 1 makes the effective beta at most half of beta. From p0 a trainer reaches the solution
nearest to p0. Where beta is too small, there is none: the trainer goes on to the best responses.
"""

from functools import partial

from torch import Tensor

from inference.targets.fixed_points.own_spread import at_own_scale
from inference.targets.fixed_points.problem import Problem, by_prompt


def grpo(problem: Problem, group_size: int | None = None) -> Tensor:
    """log q, `[S, N]`, nats, for groups of a size; None for large groups.

    Raises:
        NoFixedPointError: if beta is below the smallest that has a solution, which is named.
    """
    target = partial(_target, beta=problem.beta, group_size=group_size)
    return by_prompt(target, problem.log_prior, problem.reward)


def _target(log_prior: Tensor, reward: Tensor, beta: float, group_size: int | None) -> Tensor:
    def log_guide(reward: Tensor, width: float) -> Tensor:
        return (log_prior + reward / width).log_softmax(0)

    return at_own_scale(log_guide, log_prior, reward, beta=beta, group_size=group_size)
