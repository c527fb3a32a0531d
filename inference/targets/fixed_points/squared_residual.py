"""Squared residuals with a constant in place of log Z, on draws of a fixed sampler.

    minimise  E_a[(log p0 + r/beta - log q - c)^2]
    target      u + lambda e^u = t,   u = log q/a,   t = log p0/a + r/beta - c

lambda is such that q sums to 1 (derived here, by Lagrange). With c = log Z, lambda is 0 and q the
posterior, for every sampler a. A smaller c has lambda > 0 and a target nearer to a, as u = t -
omega(t + log lambda) for Wright's function. A larger c has lambda < 0, and u = t - W(lambda e^t)
for Lambert's: a local minimum, as all residuals are above -1. If c is too large, minima remain
that put the mass that is missing on one response; they have no closed form here. On-policy, a = q,
c does not matter.
"""

import math
from functools import partial

import numpy as np
import torch
from scipy.special import lambertw, logsumexp, wrightomega
from torch import Tensor

from inference.roots import root
from inference.targets.fixed_points.problem import NoFixedPointError, Problem, by_prompt
from model.common.checks import whole_number

END = math.exp(-1) - 1e-15
"""Largest size of an argument below 0 of Lambert's function, rounded towards 0."""


def squared_residual(
    problem: Problem, log_z: float | Tensor, log_proposal: Tensor | None = None
) -> Tensor:
    """log q, `[S, N]`, nats.

    Args:
        log_z: c, nats, a number or `[N]`.
        log_proposal: log a of all responses, `[S, N]`, nats; None for the prior.
    """
    log_proposal = problem.log_prior if log_proposal is None else log_proposal
    excess = problem.log_prior - log_proposal + problem.reward / problem.beta - log_z
    return by_prompt(at_constant, log_proposal, excess)


def at_constant(log_proposal: Tensor, excess: Tensor) -> Tensor:
    """log q of all responses, `[S]`, from log a and t.

    Raises:
        NoFixedPointError: if c is so large that no minimum has all residuals above -1.
    """
    # a response that is never drawn has no residual, and no part in the sum of q
    excess = excess.masked_fill(log_proposal.isneginf(), -torch.inf)
    log_mass, t = log_proposal.numpy(), excess.numpy()
    log_total = logsumexp(log_mass + t)  # log Z - c
    if abs(log_total) < 1e-14:
        return (log_proposal + excess).log_softmax(0)

    def log_guide(log_size: float) -> np.ndarray:
        """log q for the size of lambda."""
        if log_total > 0:
            return log_mass + t - wrightomega(t + log_size)
        return log_mass + t - lambertw(-np.minimum(np.exp(t + log_size), END)).real

    def log_sum(log_size: float) -> float:
        return float(logsumexp(log_guide(log_size)))

    low, high = -1.0, 1.0
    if log_total < 0:
        high = -1 - t.max()  # at the largest t, -1/e is the end of Lambert's function
        low = high - 1
        if log_sum(high) < 0:
            raise NoFixedPointError(
                f"the constant exceeds log Z by {-log_total:.3g} nats: all minima put the missing "
                "mass on one response, expected a smaller constant"
            )
    # the sum is log_total at lambda = 0, and goes through 0
    while log_sum(low) * log_total < 0 and low > math.log(np.finfo(float).tiny):
        low *= 2
    while log_total > 0 and log_sum(high) > 0:
        high *= 2
    log_size = root(log_sum, low, high)
    return torch.from_numpy(log_guide(log_size)).log_softmax(0)


def mean_mirror_descent(problem: Problem, num_steps: int = 1) -> Tensor:
    """Mirror descent with the mean reward for log Z: log q after steps from p0, `[S, N]`, nats.

        minimise  E_{q_k}[(r - r_bar - tau log q/q_k)^2],   r_bar = E_{q_k} r,   tau = steps beta
        step      s + c e^s = (r - r_bar)/tau,   s = log q/q_k,   c = KL(q_k || q)

    With tau log Z for r_bar the residual is 0 at the exact step, q_k exp(r/tau)/Z. With the mean,
    as in the report on Kimi k1.5 (arXiv 2501.12599), no normalised q has the residual 0. The
    minimum over normalised q is the step above (2026, arXiv 2602.05933), the target
    `squared_residual` with the constant r_bar/tau and draws of q_k.
    """
    num_steps = whole_number("num_steps", num_steps)
    log_guide = problem.log_prior
    for _ in range(num_steps):
        step = partial(_step, tau=num_steps * problem.beta)
        log_guide = by_prompt(step, log_guide, problem.reward)
    return log_guide


def _step(log_guide: Tensor, reward: Tensor, tau: float) -> Tensor:
    centred = reward - (log_guide.exp() * reward).sum(0)
    return at_constant(log_guide, centred / tau)


def length_normalised(problem: Problem) -> Tensor:
    """Log-probabilities divided by the length, with one log Z: log q, `[S, N]`, nats.

        residual    log Z + (log q - log p0)/length - r/beta
        target      q(x) = p0(x) exp(length(x) (r(x)/beta - c))

    FlowRL (2025, arXiv 2509.15207) divides log q and log p0 by the number of tokens, against
    exploding gradients, and neither log Z nor the reward. The residual is 0 where log q/p0 is
    length times (r/beta - c), and c = log Z is what makes q sum to 1: a tilt by length, which
    prefers long responses where r/beta > c, and short ones elsewhere.
    """
    _, length = problem.tokens("length-normalised")
    scaled = problem.reward / problem.beta
    return by_prompt(_tilted_by_length, problem.log_prior, scaled, length.double())


def _tilted_by_length(log_prior: Tensor, scaled: Tensor, length: Tensor) -> Tensor:
    def log_guide(shift: float) -> Tensor:
        return log_prior + length * (scaled - shift)

    low, high = scaled.amin().item(), scaled.amax().item()
    shift = root(lambda shift: log_guide(shift).logsumexp(0).item(), low, high)
    return log_guide(shift).log_softmax(0)
