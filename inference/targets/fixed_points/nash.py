"""Nash learning: the equilibrium of two guides whose responses a judge compares.

    max_q min_q'  P(q beats q') - beta KL(q || p0) + beta KL(q' || p0)
    P(x beats q)  = E_q(y)[P(x beats y)]
    target          q(x) prop. to p0(x) exp(P(x beats q)/beta)

Both players are the same at the equilibrium, the one there is, and each is the posterior whose
reward is the rate of wins against the other (Munos et al. 2023, arXiv 2312.00886). The judge need
not be consistent: where x beats y, y beats z and z beats x, no reward explains its preferences, and
the equilibrium is defined. By default it is Bradley and Terry's, P(x beats y) = sigmoid(r(x) -
r(y)). `ipo` has the prior in place of q inside the rate of wins.
"""

import math

from torch import Tensor

from inference.targets.fixed_points.problem import Problem, by_prompt
from model.common.checks import instance

TOLERANCE = 1e-13
"""Largest change of log q in the last iteration, as a share of its size, or in nats below 1."""


def nash(problem: Problem, preference: Tensor | None = None) -> Tensor:
    """log q, `[S, N]`, nats.

    Args:
        problem: its reward is the score of the judge, and plays no other part.
        preference: `[S, S, N]`, the probability that the first response beats the second; None for
            Bradley and Terry's.
    """
    score = problem.reward
    if preference is None:
        preference = (score[:, None] - score).sigmoid()
    shape = (len(score), *score.shape)
    if instance("preference", preference, Tensor).shape != shape:
        got = tuple(preference.shape)
        raise ValueError(f"preference has shape {got}, expected [S, S, N], here {shape}")
    both = preference + preference.transpose(0, 1)
    if not bool(((preference >= 0) & ((both - 1).abs() < 1e-6)).all()):
        raise ValueError(
            "preference is not a judge's: expected probabilities, of which those of x beats y and "
            "y beats x sum to 1, and 1/2 on the diagonal"
        )
    beta = problem.beta

    def equilibrium(log_prior: Tensor, wins: Tensor) -> Tensor:
        return _equilibrium(log_prior, wins.double() - 0.5, beta)

    return by_prompt(equilibrium, problem.log_prior, preference.movedim(-1, 1))


def _equilibrium(log_prior: Tensor, payoff: Tensor, beta: float) -> Tensor:
    """log q, `[S]`, from P(x beats y) - 1/2, `[S, S]`, by proximal steps with a look ahead.

    A step of size 1/L is stable for payoffs of at most L, and divides the KL to the equilibrium by
    1 + beta/L (mirror-prox: Nemirovski 2004, doi 10.1137/S1052623403425629).
    """
    size = payoff.abs().max().item()  # L

    def step(log_q: Tensor, log_opponent: Tensor) -> Tensor:
        gain = size * log_q + beta * log_prior + payoff @ log_opponent.exp()
        return (gain / (size + beta)).log_softmax(0)

    if size == 0:
        return log_prior  # no response is better than another
    log_q = log_prior
    for _ in range(math.ceil(200 * (1 + size / beta))):
        after = step(log_q, step(log_q, log_q))
        change = (after - log_q).abs() / after.abs().clamp(min=1)
        log_q = after
        if change[log_prior > -math.inf].max() < TOLERANCE:
            return log_q
    raise RuntimeError(f"the equilibrium at beta {beta:g} was not found: expected a larger beta")
