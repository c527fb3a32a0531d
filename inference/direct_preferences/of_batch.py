"""Likelihoods of all pairs of a step together: Dr. DPO and AOT.

    Dr. DPO   b log mean of exp(log sigmoid(beta h)/b),   h = r(chosen)/beta - r(rejected)/beta
    AOT       mean of log sigmoid(beta (c - d)),   c and d chosen and rejected r/beta, sorted

Dr. DPO (Wu et al. 2024, arXiv 2407.07880) gives less weight to pairs that the guide contradicts.
AOT (Melnyk et al. 2024, arXiv 2406.05882, for unpaired data) compares quantiles: the chosen
responses as a whole are to be better than the rejected ones. On minibatches both are biased.

On pairs of a judge of Bradley and Terry without end (derived here, and enumerated in the tests):

- Dr. DPO has the target p0 exp(r b/((b - 1) beta)), the posterior at a smaller beta. For b of at
  most 1, the usual choice, it has none: with b = 1 it maximises the mean of sigmoid(beta h), by
  certainty about every pair.
- AOT has no target. In order of r the chosen quantiles are nowhere below the rejected ones, so that
  no pair of quantiles speaks against a larger distance: the loss falls along p0 exp(t r) for all t,
  towards the best response. A lower limit may lie elsewhere: with r = (0, 1, 1.2) and p0 = (0.1,
  0.8, 0.1) certainty in the order of r costs 0.616 nats, and with the second response on top 0.594.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from inference.direct_preferences.labels import pair
from model.common.checks import positive
from model.preferences import FIRST, TIE

ROBUSTNESS = 2.0
"""Default b of `robust_mean`."""


@dataclass(frozen=True)
class OfBatch:
    """A likelihood of all pairs of a step, whose share is the same for each.

    Attributes:
        mean: function of the rewards over beta of M chosen and M rejected responses, `[M]` each, of
            their weights `[M]`, which sum to 1, and of beta: a mean log-likelihood, a scalar.
    """

    mean: Callable[[Tensor, Tensor, Tensor, float], Tensor]

    def __call__(
        self, rewards: Tensor, outcome: Tensor, beta: float, weight: Tensor | None = None
    ) -> Tensor:
        """Log-likelihoods of C pairs, `[C]`, for weights `[C]`; a tie is half a pair each way."""
        first = torch.where(outcome == TIE, 0.5, (outcome == FIRST).to(rewards))
        share = torch.cat([first, 1 - first]) * (1.0 if weight is None else weight.repeat(2))
        share = torch.where(share.sum() > 0, share, 1.0)  # without weights any mean will do
        one, other = pair(rewards)
        chosen, rejected = torch.cat([one, other]), torch.cat([other, one])
        return self.mean(chosen, rejected, share / share.sum(), beta).expand_as(one)


def robust_mean(robustness: float = ROBUSTNESS) -> OfBatch:
    """Dr. DPO, with b for `robustness`; without limit, DPO."""
    size = positive("robustness", robustness)

    def mean(chosen: Tensor, rejected: Tensor, weight: Tensor, beta: float) -> Tensor:
        log_prob = logsigmoid(beta * (chosen - rejected))
        return size * (weight.log() + log_prob / size).logsumexp(0)

    return OfBatch(mean)


def quantiles(chosen: Tensor, rejected: Tensor, weight: Tensor, beta: float) -> Tensor:
    """AOT's mean over the quantiles of both sides, which are steps of the weights."""
    ends, sides = [], []
    for side in (chosen, rejected):
        ordered, order = side.sort()
        sides.append(ordered)
        ends.append(weight[order].cumsum(0))
    end = torch.cat(ends).sort().values
    width = end.diff(prepend=end.new_zeros(1))
    middle = end - width / 2
    places = [torch.searchsorted(each, middle).clamp(max=len(weight) - 1) for each in ends]
    above, below = (side[place] for side, place in zip(sides, places, strict=True))
    return width @ logsigmoid(beta * (above - below))
