"""Quality of importance weights, which may be 0, but not NaN or infinite."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.estimate import check_draws, log_mean

MIN_WEIGHTS = 25  # fewest weights with a tail of five, which is a fifth of the weights
FEW = 30  # number of effective draws below which an estimate is unreliable
LARGE = 10  # ratio of a weight to the mean weight above which the shape of the tail matters
NUM_TAIL = 5  # smallest number of weights of a tail, and of a level in the tail
APART = 1e-9, 0.1, 0.3  # nats between neighbours of two levels: of ties, then of near ties
WIDEST = 300.0  # nats from the least to the largest weight of a tail whose weights do not underflow


class WeightQuality(NamedTuple):
    """Quality of weighted draws, the worst over prompts."""

    num_draws: int
    """Number of draws to each prompt, weights of 0 included."""
    effective_sample_size: float
    pareto_k: float
    """Shape of the tail of the weights above 0; NaN for fewer than 25."""
    largest: float
    """Largest weight over the mean weight."""
    num_largest: int = 0
    """Number of draws whose weight is the largest or at most one nat below."""
    has_known_top: bool = True
    """False if the weights are on more than two levels, and none is known to be the highest."""
    num_prompts: int = 1
    origin: str = ""
    """Name of the distribution of the draws, for `warnings`; empty if unknown."""

    @classmethod
    def of(cls, log_weight: Tensor, reaches_bound: bool = False, origin: str = "") -> WeightQuality:
        """Quality of log weights `[M, N]`, nats.

        Args:
            log_weight: the weights.
            reaches_bound: True if draws to each prompt have the largest possible log likelihood.
            origin: name of the distribution of the draws; empty if unknown.
        """
        columns = [column[~column.isneginf()] for column in log_weight.cpu().T]
        known_tops = [reaches_bound or num_levels(column) <= 2 for column in columns]
        shapes = [_pareto_k_of_prompt(*each) for each in zip(columns, known_tops, strict=True)]
        size = effective_sample_size(log_weight).min().item()
        shape = max(shapes, key=lambda k: (math.isnan(k), k))
        largest = (log_weight - log_mean(log_weight)).amax(0).exp().max().item()
        num_largest = int((log_weight >= log_weight.amax(0) - 1).sum(0).min())
        num_draws, num_prompts = log_weight.shape
        top = largest, num_largest, all(known_tops)
        return cls(num_draws, size, shape, *top, num_prompts, origin)

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust estimates from these weights; empty if there is none.

        The largest reliable k-hat is min(1 - 1/log10(M), 0.7) for M draws (Vehtari et al. 2024,
        arXiv 1507.02646, section 3.2.4). Weights that are all below `LARGE` times their mean have
        no tail to fear, whatever k-hat is of a few discrete values. So have weights whose largest
        value is that of `FEW` draws, as with a reward of 0 or 1: of a tail with k = 0.7, four draws
        lie within a nat of the largest weight on average, and `FEW` in one sample of a thousand.
        On more than two levels neither excuse holds unless the highest possible level was drawn.
        """
        place = f"{self.num_draws} draws" + (f" of {self.origin}" if self.origin else "")
        if (number := num_effective(self.effective_sample_size)) < FEW:
            return [f"{number} of {place} effective, fewer than {FEW}"]
        limit = min(1 - 1 / math.log10(self.num_draws), 0.7)
        is_bounded = self.largest <= LARGE or self.num_largest >= FEW
        if self.pareto_k > limit and not (is_bounded and self.has_known_top):
            return [f"k-hat {self.pareto_k:.2f} of the weights of {place}, above {limit:.2f}"]
        return []


def num_effective(size: float) -> int:
    """An effective sample size in whole draws, not fewer by rounding alone; 0 for NaN."""
    return 0 if math.isnan(size) else math.floor(size + 1e-6)


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2, `[M, N]` -> `[N]`, a number of samples. NaN if all weights are 0."""
    log_weight = check_draws("log_weight", log_weight)
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()


def pareto_k(log_weight: Tensor) -> Tensor:
    """Shape of the generalised Pareto tail of the weights, `[M, N]` -> `[N]`; 0.7 and above is bad.

    Vehtari et al. 2015, arXiv 1507.02646. Weights on few levels, as of a reward that counts, are
    spread over the gaps between their levels first (see `spread_levels`). -inf if the tail has no
    spread, as at q = p*, or if `FEW` draws share the higher of two levels, which then is a bound.
    Of several levels a higher one may be missing, however many draws share the highest. NaN for
    fewer than 25 weights, or if a weight is 0.
    """
    columns = check_draws("log_weight", log_weight).cpu().T
    return torch.tensor([_pareto_k_of_prompt(each, num_levels(each) <= 2) for each in columns])


def _pareto_k_of_prompt(log_weight: Tensor, has_known_top: bool) -> float:
    if len(log_weight) < MIN_WEIGHTS or not bool(log_weight.isfinite().all()):
        return math.nan
    log_weight = log_weight.double().sort().values
    tail = log_weight[-max(NUM_TAIL, len(log_weight) // 5) :]
    if (tail[-1] - tail[0]).item() < 1e-9:
        return -math.inf
    most_at_top = FEW if has_known_top else len(log_weight)
    for apart in APART:
        spread = spread_levels(log_weight, apart, most_at_top)
        if spread is None:
            return -math.inf
        log_weight = spread
    try:
        with np.errstate(all="ignore"):  # psislw divides by the spread of the tail, 0 for ties
            # psislw takes log likelihoods, which weigh inversely
            from arviz_stats.base import array_stats  # takes a second to import

            # the shape of so wide a tail is proportional to its width
            scale = max(1.0, (log_weight[-1] - log_weight[-len(tail)]).item() / WIDEST)
            return scale * float(array_stats.psislw(-log_weight.numpy() / scale)[1])
    except ValueError:  # the shorter tail that psislw takes has no spread
        return -math.inf


def num_levels(log_weight: Tensor) -> int:
    """Number of levels of `[M]` log weights: runs of `NUM_TAIL` or more, over a nat from others.

    Of the sentiment of sentences at beta 0.01, 479 of 3,146 draws had the largest weight, and log Z
    was 17 nats too low without a word: one sentence in a thousand has more.
    """
    cuts = (log_weight.sort().values.diff() > 1).nonzero().flatten() + 1
    sizes = torch.tensor([0, *cuts.tolist(), len(log_weight)]).diff()
    return int((sizes >= NUM_TAIL).sum())


def spread_levels(log_weight: Tensor, apart: float, most_at_top: int = FEW) -> Tensor | None:
    """Spread draws of one level up to the next level, such that log survival is linear between.

    A generalised Pareto distribution does not fit ties: k-hat of a reward that counts was 0.03, or
    above 2 with a little noise, whatever the tail. Survival that falls by a constant factor from
    level to level becomes that of a Pareto distribution with k = gap / log(factor). A level is a
    run of neighbouring log weights that is narrower than the gap to the next run. Other draws stay
    where they are. Above the highest level the slope is that below.

    Args:
        log_weight: `[M]`, nats, in rising order.
        apart: smallest difference of neighbours that are of two runs, nats.
        most_at_top: number of draws that make a bound of the highest level.

    Returns:
        `[M]`, nats; None if `most_at_top` draws or more share the highest level.
    """
    cuts = (log_weight.diff() > apart).nonzero().flatten() + 1
    starts = [0, *cuts.tolist()]
    spread, number = log_weight.clone(), len(log_weight)
    for place, (start, end) in enumerate(zip(starts, [*starts[1:], number], strict=True)):
        if end - start in (1, number):  # one draw, which stays, or one run
            continue
        is_highest = end == number
        below, above = (starts[place - 1], start) if is_highest else (start, end)
        rise = log_weight[above] - log_weight[below]
        slope = rise / math.log((number - below) / (number - above))  # nats per nat of survival
        low, high = log_weight[start], log_weight[end - 1]
        gap = low - log_weight[start - 1] if is_highest else log_weight[end] - high
        if high - low >= gap:
            continue
        if is_highest and end - start >= most_at_top:
            return None
        rank = torch.arange(number - start, number - end, -1).to(spread)
        spread[start:end] = low + slope * ((number - start) / rank).log()
    return spread
