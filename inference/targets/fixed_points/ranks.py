"""Targets by the rank of the reward under the prior: best of n, soft best of n, the quantile."""

from functools import partial

import numpy as np
import torch
from scipy.integrate import quad_vec
from scipy.special import logsumexp
from torch import Tensor

from inference.order_statistics import best_of_n_log_ratio, level_cdf
from inference.targets.fixed_points.problem import Problem, by_prompt
from model.common.checks import whole_number

BEFORE, BEHIND = 40.0, 8.0
"""Distance to -log w, in log t, at which the integrand of `soft_best_of_n` is 0."""
TOLERANCE = 1e-6  # largest distance of a sum of probabilities to 1


def best_of_n_target(problem: Problem, n: int = 16) -> Tensor:
    """Best of n: log p0(x) (F^n - F-^n)/(F - F-), `[S, N]`, nats, see `order_statistics`.

    F = P(r <= r(x)) and F- = P(r < r(x)). n responses are drawn from p0, and the one with the
    highest reward is kept; beta plays no part.
    """
    cdf, cdf_left = level_cdf(problem.reward, problem.log_prior.exp())
    return problem.tilted(best_of_n_log_ratio(cdf, cdf_left, n))


def soft_best_of_n(problem: Problem, n: int = 16) -> Tensor:
    """Soft best of n: one of n draws is kept with probability in proportion to w = exp(r/beta).

        q(x) = n p0(x) w(x) int_0^inf e^(-t w(x)) phi(t)^(n-1) dt,   phi(t) = E_p0[e^(-t w)]

    Verdun et al. 2025, arXiv 2505.03156. The integral is the mean of w(x)/(w(x) + sum of n - 1
    other weights), by 1/s = int e^(-ts) dt. As n grows, q goes to the posterior: KL(p* || q) <=
    log(1 + CV^2/n), for CV the coefficient of variation of w under p0. `[S, N]`, nats.
    """
    n = whole_number("n", n)
    target = partial(_soft, beta=problem.beta, n=n)
    return by_prompt(target, problem.log_prior, problem.reward)


def _soft(log_prior: Tensor, reward: Tensor, beta: float, n: int) -> Tensor:
    log_mass = log_prior.numpy()
    log_weight = (reward / beta).numpy()
    log_weight = log_weight - logsumexp(log_mass + log_weight)  # E_p0[w] = 1

    def integrand(log_t: float) -> np.ndarray:
        """Integrand of d log t: its scale may differ by hundreds of nats between responses."""
        hazard = np.exp(np.minimum(log_t + log_weight, 700.0))  # t w
        log_phi = logsumexp(log_mass - hazard)
        return np.exp(log_t + log_weight - hazard + (n - 1) * log_phi)

    value = np.zeros_like(log_mass)
    for low, high in _pieces(-log_weight[np.isfinite(log_mass)]):
        value += quad_vec(integrand, low, high, epsabs=1e-13, epsrel=1e-11, limit=20_000)[0]
    total = n * (np.exp(log_mass) @ value)
    if not abs(total - 1) <= TOLERANCE:
        raise RuntimeError(
            f"the probabilities of soft best of {n} sum to {total:.6g}, expected 1: the integral "
            "did not converge. Scale the reward, or take a larger beta"
        )
    with np.errstate(divide="ignore"):
        log_guide = log_mass + np.log(n * value)
    return torch.from_numpy(log_guide).log_softmax(0)


def _pieces(places: np.ndarray) -> list[tuple[float, float]]:
    """Intervals of log t that hold the integrand, which is 0 far from each place -log w."""
    places = np.unique(places)
    ends = np.append(np.flatnonzero(np.diff(places) > BEFORE + BEHIND), len(places) - 1)
    starts = np.append(0, ends[:-1] + 1)
    return [*zip(places[starts] - BEFORE, places[ends] + BEHIND, strict=True)]


def quantile(problem: Problem) -> Tensor:
    """QRPO: log q of the posterior of the reward's quantile, `[S, N]`, nats.

        R(x) = P(r(y) <= r(x)),   y ~ p0          q(x) = p0(x) exp(R(x)/beta) / Z

    (2025, arXiv 2507.08068.) Without ties R is uniform under p0, so that Z = beta (exp(1/beta) - 1)
    is known, and a squared residual needs no estimate of log Z. With ties, as on any finite set, Z
    is larger by the jumps of R, and the residual with the formula cannot be 0 everywhere. The
    target has its own Z.
    """
    cdf, _ = level_cdf(problem.reward, problem.log_prior.exp())
    return problem.tilted(cdf / problem.beta)
