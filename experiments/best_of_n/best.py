"""Distribution of the best of n: exact by order statistics, and measured from groups of n."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inference import Estimate, PriorSample
from inference import order_statistics as order

EXACT = 1e-10
HALF = 8
"""Number of blocks in half the draws, for the jackknife."""


class Best(NamedTuple):
    """The best of n, for one prompt.

    Attributes:
        kl: KL to the prior, nats. Exact values have a standard error of NaN.
        kl_exact, reward_exact: by order statistics, with ties.
        kl_bound: log n - (n-1)/n, nats.
        reward: expected reward.
        frontier: reward of the posterior with the exact KL.
        share: reward gained over the prior, as a share of the posterior's gain; NaN for the prior.
        win_rate: probability to beat a prior draw, ties counting half.
        win_rate_bound: n/(n+1).
    """

    kl: Estimate
    kl_exact: float
    kl_bound: float
    reward: Estimate
    reward_exact: float
    frontier: float
    share: float
    win_rate: Estimate
    win_rate_bound: float


def exact_best(sample: PriorSample, n: int) -> Best:
    """The best of n by order statistics. The sample's log likelihood is the reward."""
    prob, rewards = sample.log_prior_weight.softmax(0), sample.log_likelihood.double()
    cdf, cdf_left = order.level_cdf(rewards, prob)
    kl = order.best_of_n_kl(prob, cdf, cdf_left, n).item()
    reward = (prob * order.best_of_n_log_ratio(cdf, cdf_left, n).exp() * rewards).sum().item()
    start, frontier = (prob * rewards).sum().item(), sample.frontier_at(kl)
    return Best(
        kl=Estimate(kl, math.nan),
        kl_exact=kl,
        kl_bound=order.best_of_n_kl_bound(n),
        reward=Estimate(reward, math.nan),
        reward_exact=reward,
        frontier=frontier,
        share=(reward - start) / (frontier - start) if kl > EXACT else math.nan,
        win_rate=Estimate(order.best_of_n_win_rate(prob, cdf, cdf_left, n).item(), math.nan),
        win_rate_bound=order.best_of_n_win_rate_bound(n),
    )


def measured_best(exact: Best, sample: PriorSample, n: int) -> Best:
    """The best of n from groups of one half of the draws, ranked by the other half, both ways.

    Standard errors are by a jackknife over sixteenths of the draws, for what the halves share.
    `exact` is by order statistics, from all draws. The sample's log likelihood is the reward.
    """
    blocks = sample.log_likelihood[:, 0].double().chunk(2 * HALF)
    values = _both_ways(blocks[:HALF], blocks[HALF:], n)
    left_out = []
    for i in range(2 * HALF):
        left = [block for j, block in enumerate(blocks) if j != i]
        middle = HALF - (i < HALF)
        left_out.append(_both_ways(left[:middle], left[middle:], n))
    spread = torch.stack(left_out)
    error = ((len(spread) - 1) / len(spread) * (spread - spread.mean(0)).square().sum(0)).sqrt()
    kl, reward, win_rate = map(Estimate, values.tolist(), error.tolist())
    return exact._replace(kl=kl, reward=reward, win_rate=win_rate)


def _both_ways(first: Sequence[Tensor], second: Sequence[Tensor], n: int) -> Tensor:
    """KL, reward and win rate of the best of n, `[3]`, averaged over the two ranking halves."""
    means = []
    for known, others in ((first, second), (second, first)):
        ordered, rest = torch.cat(list(known)).sort().values, torch.cat(list(others))
        top = rest[: len(rest) // n * n].view(-1, n).amax(1)  # [G]
        below, upto = (torch.searchsorted(ordered, top, right=right) for right in (False, True))
        total = len(ordered) + 1  # the response counts among the draws
        cdf, cdf_left = (upto + 1) / total, below / total
        values = order.best_of_n_log_ratio(cdf, cdf_left, n), top, (cdf + cdf_left) / 2
        means.append(torch.stack([value.double().mean() for value in values]))
    return (means[0] + means[1]) / 2
