"""A reward with a penalty other than KL(q || p0): forward KL, or KL and chi-squared.

    max_q  E_q[r] - beta KL(p0 || q)                                     `forward_kl`
    max_q  E_q[r] - beta (KL(q || p0) + 1/2 sum_x p0 (q/p0 - 1)^2)       `chi_squared`

Forward KL: by Lagrange r + beta p0/q = Lambda for every x, q(x) = beta p0(x) / (Lambda - r(x)),
with Lambda above all rewards such that q sums to 1 (2025, arXiv 2510.20817). The ratio q/p0 falls
with the distance to a ceiling. The tail is a power of that distance, where the posterior's is
exponential.

chi-PO: the penalty bounds the ratio z = q/p0. The derivative of z log z + (z - 1)^2 / 2 is z +
log z, so that beta (z + log z) = r - lambda (Huang et al. 2024, arXiv 2407.13399), which Wright's
function solves: z = omega((r - lambda)/beta), with lambda such that q sums to 1. For large rewards
z grows as r/beta, where the posterior's ratio grows as exp(r/beta).
"""

import numpy as np
import torch
from scipy.special import logsumexp, wrightomega
from torch import Tensor

from inference.roots import bisect, root
from inference.targets.fixed_points.problem import Problem, by_prompt

HALVINGS = 70  # number of bisections; each halves the bracket of log(Lambda - max r)


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

    def is_below(log_distance: Tensor) -> Tensor:
        return (log_mass - (log_distance.exp() + gap).log()).logsumexp(0) > 0

    low, high = bisect(is_below, low, high, HALVINGS)
    distance = ((low + high) / 2).exp()
    log_guide = log_mass - (distance + gap).log()
    return log_guide.log_softmax(0)


def chi_squared(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats."""
    return by_prompt(_of_wright, problem.log_prior, problem.reward / problem.beta)


def _of_wright(log_prior: Tensor, scaled_reward: Tensor) -> Tensor:
    log_mass, scaled = log_prior.numpy(), scaled_reward.numpy()

    def log_guide(shift: float) -> np.ndarray:
        # log z = x - z for z = omega(x), without the cancellation of log(z) at small z
        return log_mass + (scaled - shift) - wrightomega(scaled - shift)

    # at the ends all z are at least, or at most, omega(1) = 1
    low, high = scaled.min() - 1, scaled.max() - 1
    shift = root(lambda shift: logsumexp(log_guide(shift)), low, high)
    return torch.from_numpy(log_guide(shift)).log_softmax(0)
