"""QRPO: the posterior of the reward's quantile under the prior.

    R(x) = P(r(y) <= r(x)),   y ~ p0          q(x) = p0(x) exp(R(x)/beta) / Z

(2025, arXiv 2507.08068.) Without ties R is uniform under p0, so that Z = beta (exp(1/beta) - 1) is
known, and a squared residual needs no estimate of log Z. With ties, as on any finite set, Z is
larger by the jumps of R, and the residual with the formula cannot be 0 everywhere. The target here
has its own Z.
"""

from torch import Tensor

from inference.order_statistics import level_cdf
from inference.targets.fixed_points.problem import Problem


def quantile(problem: Problem) -> Tensor:
    """log q, `[S, N]`, nats."""
    cdf, _ = level_cdf(problem.reward, problem.log_prior.exp())
    return problem.tilted(cdf / problem.beta)
