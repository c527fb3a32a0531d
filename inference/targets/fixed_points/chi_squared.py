"""chi-PO: a penalty of KL and chi-squared, which bounds the ratio to the prior.

    max_q  E_q[r] - beta (KL(q || p0) + 1/2 sum_x p0 (q/p0 - 1)^2)
    target      beta (z + log z) = r - lambda,   z = q/p0

Lagrange: the derivative of z log z + (z - 1)^2 / 2 is z + log z (Huang et al. 2024, arXiv
2407.13399). z = omega((r - lambda)/beta), Wright's function, and lambda such that q sums to 1. For
large rewards z grows as r/beta, where the posterior's ratio grows as exp(r/beta).
"""

from functools import partial

import numpy as np
import torch
from scipy.special import logsumexp, wrightomega
from torch import Tensor

from inference.targets.fixed_points.problem import Problem, by_prompt, root


def chi_squared(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats."""
    target = partial(_target, beta=problem.beta)
    return by_prompt(target, problem.log_prior, problem.reward)


def _target(log_prior: Tensor, reward: Tensor, beta: float) -> Tensor:
    log_mass, scaled = log_prior.numpy(), reward.numpy() / beta

    def log_guide(shift: float) -> np.ndarray:
        # log z = x - z for z = omega(x), without the cancellation of log(z) at small z
        return log_mass + (scaled - shift) - wrightomega(scaled - shift)

    # at the ends all z are at least, or at most, omega(1) = 1
    low, high = scaled.min() - 1, scaled.max() - 1
    shift = root(lambda shift: logsumexp(log_guide(shift)), low, high) if high > low else low
    return torch.from_numpy(log_guide(shift)).log_softmax(0)
