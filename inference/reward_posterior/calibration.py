"""Calibration of a reward on held-out preferences.

p   = mean_s P(chosen beats rejected | w_s),   confidence = max(p, 1 - p),   right if p > 1/2
ECE = sum over bins of share * |accuracy - confidence|     (Guo et al. 2017, arXiv 1706.04599)
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.estimate import Estimate
from model.common.checks import boolean, first_index, instance, whole_number
from model.preferences import FIRST, TIE, BradleyTerry, Comparisons, log_outcome
from model.preferences.comparisons import check_outcome

ROUNDING = 1e-6  # a mean of probabilities computed in float32 may leave [0, 1] by this much


@dataclass(frozen=True)
class Calibration:
    """Accuracy and calibration of predictions of C comparisons that were no ties.

    Attributes:
        accuracy: Share of right predictions; a probability of exactly 1/2 is half right.
        log_loss: Mean of -log p(the preferred response), nats; infinite if one p is 0.
        ece: Expected calibration error, biased upward: a calibrated predictor has `ece_by_chance`.
        ece_by_chance: Approximate `ece` of a calibrated predictor on as many comparisons.
        confidence: `[B]`, mean confidence in each bin that is not empty.
        correct: `[B]`, share of right predictions in the bin.
        count: `[B]`, number of comparisons in the bin.
    """

    accuracy: Estimate
    log_loss: Estimate
    ece: float
    ece_by_chance: float
    confidence: Tensor
    correct: Tensor
    count: Tensor


@torch.no_grad()
def predict(
    model: BradleyTerry, comparisons: Comparisons, samples: Tensor, *, label_noise: bool = False
) -> Tensor:
    """Predict P(first is preferred to second | no tie), averaged over weights: `[C]`, float64.

    Args:
        comparisons: C comparisons; outcomes are not used.
        samples: `[S, P]`, weights.
        label_noise: True to include a known flip probability; a latent one is refused.
    """
    instance("model", model, BradleyTerry)
    instance("comparisons", comparisons, Comparisons)
    flip = model.flip if boolean("label_noise", label_noise) else 0.0
    if isinstance(flip, tuple):
        raise ValueError("label_noise=True needs a known flip probability, got a latent one")
    is_rows = instance("samples", samples, Tensor).dim() == 2 and len(samples) > 0
    if not is_rows or not bool(samples.isfinite().all()):
        raise ValueError(
            f"samples have shape {tuple(samples.shape)}, expected [S, P], finite weights in rows"
        )
    first, second = (model.head(f, samples) for f in (comparisons.first, comparisons.second))
    return log_outcome(first - second, flip)[..., FIRST].double().exp().mean(0)  # [S, C] -> [C]


def calibrate(
    probability: Tensor,
    outcome: Tensor,
    num_bins: int = 10,
    *,
    pair: Sequence[Hashable] | None = None,
) -> Calibration:
    """Compare predictions with outcomes, without ties and in either order of the two responses.

    Args:
        probability: `[C]`, probabilities that the first response is preferred.
        outcome: `[C]`, `FIRST`, `SECOND` or `TIE`, not all of them `TIE`.
        num_bins: Number of bins of confidence, of equal width from 1/2 to 1.
        pair: C pairs of responses, such as `Preference.pair`. Labels of one pair by several judges
            depend on each other: the standard errors are over pairs. Default: all pairs differ.
    """
    num_bins = whole_number("num_bins", num_bins)
    is_decided = _check(probability, outcome, pair)
    probability = probability.double().clamp(0, 1)
    p = torch.where(outcome == FIRST, probability, 1 - probability)[is_decided]
    right = (p > 0.5).double() + 0.5 * (p == 0.5)
    confidence = torch.maximum(p, 1 - p)
    bins = ((confidence - 0.5) * 2 * num_bins).long().clamp(max=num_bins - 1)
    bins = bins.unique(return_inverse=True)[1]  # those that are not empty
    count = torch.bincount(bins).double()
    mean_confidence, mean_right = _means(bins, confidence), _means(bins, right)
    # variance of the share of right predictions, if calibrated
    variance = _means(bins, confidence * (1 - confidence)) / count
    share = count / count.sum()
    group = _groups(range(len(outcome)) if pair is None else pair, is_decided)
    accuracy = Estimate.of_share(right[:, None])
    if pair is not None:
        error = max(_over(group, right).standard_error, accuracy.standard_error)  # NaN of one pair
        accuracy = Estimate(accuracy.value, error)
    return Calibration(
        accuracy=accuracy,
        log_loss=_over(group, -p.log()),
        ece=(share * (mean_right - mean_confidence).abs()).sum().item(),
        ece_by_chance=(share * (variance * 2 / math.pi).sqrt()).sum().item(),
        confidence=mean_confidence,
        correct=mean_right,
        count=count,
    )


def _check(probability: Tensor, outcome: Tensor, pair: Sequence[Hashable] | None) -> Tensor:
    """Check the arguments of `calibrate`. Returns True for comparisons that are no ties, `[C]`."""
    instance("outcome", outcome, Tensor)
    if instance("probability", probability, Tensor).dim() != 1 or not len(probability):
        expected = "[C]: one for each of C > 0 comparisons"
        raise ValueError(f"probability has shape {tuple(probability.shape)}, expected {expected}")
    check_outcome(outcome, len(probability))
    is_valid = (probability >= -ROUNDING) & (probability <= 1 + ROUNDING)
    if (where := first_index(~is_valid)) is not None:  # NaN is not valid either
        number = f"{probability[where].item():.6g} in comparison {where[0]}"
        raise ValueError(f"probability is {number}, expected from 0 to 1")
    if pair is not None and len(instance("pair", pair, Sequence)) != len(outcome):  # type: ignore[type-abstract]
        raise ValueError(f"pair has {len(pair)} entries, expected {len(outcome)}")
    is_decided = outcome != TIE
    if not bool(is_decided.any()):
        raise ValueError(f"all {len(outcome)} comparisons are ties: there is nothing to predict")
    return is_decided


def _groups(keys: Sequence[Hashable], is_decided: Tensor) -> Tensor:
    """Numbers from 0 without a gap, equal for equal keys, of the comparisons that are no ties."""
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    every = torch.tensor([number[key] for key in keys])
    return every[is_decided.cpu()].unique(return_inverse=True)[1]


def _means(group: Tensor, values: Tensor) -> Tensor:
    """Mean of the values `[C]` of each group, `[G]`, given the numbers of their groups, `[C]`."""
    return values.new_zeros(int(group.max()) + 1).scatter_reduce(
        0, group, values, "mean", include_self=False
    )


def _over(group: Tensor, values: Tensor) -> Estimate:
    """Mean of values `[C]`, with the standard error over independent groups, of numbers `[C]`."""
    mean, num_groups = values.mean(), int(group.max()) + 1
    sums = values.new_zeros(num_groups).index_add(0, group, values - mean)
    return Estimate.of_influence(mean[None], sums[:, None] * num_groups / len(values))
