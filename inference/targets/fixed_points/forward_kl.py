"""A reward with a forward-KL penalty: the ratio q/p0 falls with the distance to a ceiling.

    max_q  E_q[r] - beta KL(p0 || q)          q(x) = beta p0(x) / (Lambda - r(x))

Lagrange: r + beta p0/q = Lambda for every x, with Lambda above all rewards such that q sums to 1
(2025, arXiv 2510.20817). The tail is a power of the distance to the ceiling, where the posterior's
is exponential.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.problem import Problem

STEPS = 200
"""Number of bisections; each halves the bracket of log(Lambda - max r)."""


def forward_kl(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats."""
    beta = problem.reward.new_full(problem.reward.shape[1:], problem.beta)
    return forward_kl_of(problem.log_prior, problem.reward, beta)[0]


def forward_kl_of(log_prior: Tensor, reward: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed points of many problems side by side.

    With d = Lambda - max r, the sum of q is at most 1 at d = beta, and at least 1 at d = beta times
    the prior's probability of the best responses.

    Args:
        log_prior: `[S, N]`, nats; -inf for a response that is no part of a problem.
        reward: `[S, N]`.
        beta: `[N]`.

    Returns:
        log q, `[S, N]`, nats, and Lambda, `[N]`, in units of reward.
    """
    is_part = ~log_prior.isneginf()
    best = reward.masked_fill(~is_part, -torch.inf).amax(0)
    gap = (best - reward).clamp(min=0)
    log_best = log_prior.masked_fill(gap > 0, -torch.inf).logsumexp(0)
    low, high = beta.log() + log_best, beta.log()
    for _ in range(STEPS):
        middle = (low + high) / 2
        total = (log_prior + beta.log() - (middle.exp() + gap).log()).logsumexp(0)
        low, high = torch.where(total > 0, middle, low), torch.where(total > 0, high, middle)
    distance = ((low + high) / 2).exp()
    log_guide = log_prior + beta.log() - (distance + gap).log()
    return log_guide.log_softmax(0), best + distance
