"""A reward with a forward-KL penalty: the ratio q/p0 falls with the distance to a ceiling.

    max_q  E_q[r] - beta KL(p0 || q)          q(x) = beta p0(x) / (Lambda - r(x))

Lagrange: r + beta p0/q = Lambda for every x, with Lambda above all rewards such that q sums to 1
(2025, arXiv 2510.20817). The tail is a power of the distance to the ceiling, where the posterior's
is exponential.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.problem import Problem

STEPS = 70
"""Number of bisections; each halves the bracket of log(Lambda - max r)."""


def forward_kl(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats."""
    beta = torch.full_like(problem.reward, problem.beta)
    return forward_kl_of(problem.log_prior, problem.reward, beta)


def forward_kl_of(log_prior: Tensor, reward: Tensor, beta: Tensor) -> Tensor:
    """Fixed points beta p0/(Lambda - r) of N problems side by side.

    With d = Lambda - max r, the sum of q is at most 1 where d is the largest beta, and at least 1
    where d is the share in it of a best response.

    Args:
        log_prior: `[S, N]`, nats; -inf for a response that is no part of a problem.
        reward: `[S, N]`.
        beta: `[S, N]`, positive.

    Returns:
        log q, `[S, N]`, nats.
    """
    is_part = ~log_prior.isneginf()
    best = reward.masked_fill(~is_part, -torch.inf).amax(0)
    gap = (best - reward).clamp(min=0)
    log_mass = log_prior + beta.log()
    low = log_mass.masked_fill(gap > 0, -torch.inf).amax(0)
    high = beta.masked_fill(~is_part, 0.0).amax(0).log()
    for _ in range(STEPS):
        middle = (low + high) / 2
        total = (log_mass - (middle.exp() + gap).log()).logsumexp(0)
        low, high = torch.where(total > 0, middle, low), torch.where(total > 0, high, middle)
    distance = ((low + high) / 2).exp()
    log_guide = log_mass - (distance + gap).log()
    return log_guide.log_softmax(0)
