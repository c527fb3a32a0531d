"""GDPO's target: each reward scaled by its own deviation, the sum by that of all prompts.

    A = 1/s sum_j w_j (r_j - E_q r_j)/sd_q r_j,   s^2 = mean over prompts of the variance of the sum
    q = the target `token-forward-kl` of the reward A

Both deviations are those of the target itself (derived here). With a single reward A is that of
GRPO, and the target is `grpo-token-k3`. With several, a reward that few responses of q meet, or
that nearly all meet, has the larger weight, and there may be several fixed points: this is the one
that an iteration from the prior reaches. Neither beta nor s is of one prompt alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inference.targets.fixed_points.problem import Problem
from inference.targets.fixed_points.scaled_advantages import from_prior
from inference.targets.fixed_points.token_kl import token_forward_kl

ROUNDING = 1e-12  # share of the largest reward below which a deviation is 0


def gdpo(problem: Problem, weights: Sequence[float] | None = None) -> Tensor:
    """log q for large groups and weights of the rewards, all 1 by default, `[S, N]`, nats.

    Raises:
        NoFixedPointError: if the iteration does not converge, as where beta is small.
    """
    parts = problem.reward[None] if problem.parts is None else problem.parts
    shares = torch.ones(len(parts)) if weights is None else torch.tensor(weights)
    shares = shares.to(parts)[:, None, None]

    def scaled(values: Tensor, prob: Tensor) -> Tensor:
        """Values `[J, S, N]` less their means, over their deviations under q."""
        centred = values - (prob * values).sum(1, keepdim=True)
        deviation = (prob * centred.square()).sum(1, keepdim=True).sqrt()
        is_constant = deviation <= ROUNDING * values.abs().amax()
        return (centred / deviation).masked_fill(is_constant, 0.0)

    def step(log_guide: Tensor) -> Tensor:
        prob = log_guide.exp()
        total = (shares * scaled(parts, prob)).sum(0)
        spread = (prob * total.square()).sum(0).mean().sqrt()
        advantage = total / spread if spread > 0 else total
        return token_forward_kl(replace(problem, reward=advantage, parts=None))

    return from_prior(step, problem.log_prior)
