"""Probability of a ranking (Plackett 1975, Luce 1959); Bradley and Terry is the case of two.

    P(ranking) = prod_k exp(r_k) / sum_{j >= k} exp(r_j),   k = 1 the best response

Responses of one score have an order that was not recorded: P is the sum over all orders that agree
with the scores. Such a group at the end says nothing of its members, so that a ranking of the best
m responses is P of the first m factors. A tie that means "equally good" has probability 0 here.
"""

from math import inf, log, sqrt
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

MOST_SUMMED = 6
"""Largest number of responses of one score, better than others, whose orders are summed."""


class RankingDistribution(TorchDistribution):
    """Distribution of the order of R responses, as scores; a draw has the scores 0, -1, ...

    Args:
        reward: `[..., R]`, nats; -inf at the places of a list with fewer responses.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, reward: Tensor) -> None:
        self.reward = reward
        super().__init__(reward.shape[:-1], reward.shape[-1:], validate_args=False)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw scores `[*sample_shape, ..., R]`: the order of rewards with Gumbel noise."""
        reward = self.reward.detach().expand(*sample_shape, *self.reward.shape)
        noisy = reward - torch.empty_like(reward).exponential_().log()
        score = -noisy.argsort(-1, descending=True).argsort(-1).to(reward)
        return score.masked_fill(reward == -inf, -inf)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P of the order of scores, `[...]`, nats."""
        return log_ranking(self.reward, value)


def log_ranking(reward: Tensor, score: Tensor) -> Tensor:
    """log P of the order of scores `[..., R]` for rewards `[..., R]`, `[...]`, nats.

    A score of -inf is of no response: a list may have fewer than R.
    """
    shape = torch.broadcast_shapes(reward.shape, score.shape)
    score = score.expand(shape[-score.dim() :]).reshape(-1, shape[-1])  # [B, R]
    reward = reward.expand(shape).reshape(-1, *score.shape)  # [K, B, R], the scores for each of K
    score, order = score.sort(-1, descending=True)
    reward = reward.gather(-1, order.expand(reward.shape))
    group = (score.diff(dim=-1, prepend=score[:, :1]) < 0).cumsum(-1)
    group = group.masked_fill(score == -inf, -1)
    patterns, number = group.unique(dim=0, return_inverse=True)
    rows = [(number == each).nonzero().squeeze(-1) for each in range(len(patterns))]
    log_prob = [
        _of_groups(reward[:, own], pattern[pattern >= 0].bincount().tolist())
        for own, pattern in zip(rows, patterns, strict=True)
    ]
    return torch.cat(log_prob, -1)[:, torch.cat(rows).argsort()].view(shape[:-1])


def _of_groups(reward: Tensor, sizes: list[int]) -> Tensor:
    """log P, `[...]`, that groups of some sizes follow each other, for rewards `[..., R]`."""
    log_prob = reward[..., :0].sum(-1)  # 0 with a gradient: all may be tied
    start, end = 0, sum(sizes)
    for size in sizes[:-1]:
        rest = reward[..., start + size : end].logsumexp(-1)
        log_prob = log_prob + _log_before(reward[..., start : start + size], rest)
        start += size
    return log_prob


def _log_before(group: Tensor, rest: Tensor) -> Tensor:
    """log P that a group, `[..., G]`, comes before others of log total weight `rest`, `[...]`."""
    small = group.shape[-1] <= MOST_SUMMED
    return _sum_over_orders(group, rest) if small else _integral_over_times(group, rest)


def _sum_over_orders(group: Tensor, rest: Tensor) -> Tensor:
    """The exact sum, of 2^G sets. With W the weight of the others, a set S comes before them with

    P(S) = sum over i in S of w_i P(S without i) / (w(S) + W).
    """
    size = group.shape[-1]
    log_prob = [torch.zeros_like(rest)]  # of the sets by number, a bit for each member
    for number in range(1, 2**size):
        members = [i for i in range(size) if number >> i & 1]
        total = torch.cat([group[..., members], rest[..., None]], -1).logsumexp(-1)
        first = [group[..., i] + log_prob[number ^ 1 << i] for i in members]
        log_prob.append(torch.stack(first).logsumexp(0) - total)
    return log_prob[-1]


def _integral_over_times(group: Tensor, rest: Tensor) -> Tensor:
    """The same for groups of any size: responses arrive at exponential times of rates w, and

        P = integral over t > 0 of exp(-t) prod_i (1 - exp(-t w_i/W)).

    The trapezoid rule in log t has an error that falls exponentially in 1/step. What is left out at
    both ends is below exp(-39) of P.
    """
    size = group.shape[-1]
    step = 0.4 / sqrt(size + 1)
    log_t = torch.arange(-40.0, log(60 + 3 * size), step, dtype=torch.float64).to(group)  # [S]
    log_time = (group - rest[..., None])[..., None, :] + log_t[:, None]  # [..., S, G]
    # below -37, 1 - exp(-x) is x; above 5, it is 1 and has no gradient
    log_arrived = (-torch.expm1(-log_time.clamp(-37, 5).exp())).log()
    log_arrived = torch.where(log_time < -37, log_time, log_arrived)
    return (log_t - log_t.exp() + log_arrived.sum(-1)).logsumexp(-1) + log(step)
