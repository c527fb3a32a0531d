"""Is a reward right about preferences that it was not trained on, and as often as it says?

p = mean_s P(chosen beats rejected | w_s),   confidence = max(p, 1 - p),   correct if p > 1/2
ECE = sum over bins of share * |accuracy - confidence|     (Guo et al. 2017, arXiv 1706.04599)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.estimate import Estimate
from model.common.checks import boolean, instance, whole_number
from model.preferences import FIRST, TIE, BradleyTerry, Comparisons, log_outcome
from model.preferences.comparisons import check_outcome

ROUNDING = 1e-6  # a mean of probabilities computed in float32 may be off by this much


@dataclass(frozen=True)
class Calibration:
    """How a predictor of preferences did, over C comparisons that were no ties.

    Attributes:
        accuracy: the share predicted right; a probability of exactly 1/2 is half right.
        log_loss: mean of -log p(what was preferred), nats.
        ece: expected calibration error. Biased upward: also a calibrated predictor has `ece_by_chance`.
        ece_by_chance: about what it would be if every confidence were right, from as many comparisons.
        confidence: `[B]`, the mean of each bin that is not empty.
        correct: `[B]`, the share that was right there.
        count: `[B]`, comparisons in it.
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
    model: BradleyTerry, comparisons: Comparisons, samples: Tensor, *, slips: bool = False
) -> Tensor:
    """P(first is preferred to second, given that there is no tie), averaged over weights.

    Args:
        model: the program.
        comparisons: C of them; their outcomes are not looked at.
        samples: `[S, P]`, weights.
        slips: count in a known probability that the label is turned around; one that is latent cannot be.

    Returns:
        `[C]`, float64.

    Raises:
        ValueError: if weights are no rows of finite numbers, or slips are latent.
    """
    if slips and isinstance(model.flip, tuple):
        raise ValueError(
            "slips=True needs a known flip probability, got a latent one: its draws are not kept"
        )
    flip = model.flip if slips and not isinstance(model.flip, tuple) else 0.0
    instance("model", model, BradleyTerry)
    instance("comparisons", comparisons, Comparisons)
    boolean("slips", slips)
    if (
        instance("samples", samples, Tensor).dim() != 2
        or not len(samples)
        or not bool(samples.isfinite().all())
    ):
        raise ValueError(
            f"samples have shape {tuple(samples.shape)}, expected [S, P], finite weights in rows"
        )
    difference = model.head(comparisons.first, samples) - model.head(
        comparisons.second, samples
    )  # [S, C]
    return log_outcome(difference, flip)[..., FIRST].double().exp().mean(0)


def calibrate(probability: Tensor, outcome: Tensor, num_bins: int = 10) -> Calibration:
    """Compare predictions with what was preferred; ties are left out. It does not matter which response is called the first.

    Args:
        probability: `[C]`, that the first is preferred.
        outcome: `[C]`, `FIRST`, `SECOND` or `TIE`.
        num_bins: of confidence, of equal width from 1/2 to 1.

    Raises:
        ValueError: if probabilities or outcomes cannot be that, do not pair up, or are all of ties; if there are no bins.
    """
    num_bins = whole_number("num_bins", num_bins)
    instance("outcome", outcome, Tensor)
    if instance("probability", probability, Tensor).dim() != 1 or not len(probability):
        raise ValueError(
            f"probability has shape {tuple(probability.shape)}, expected [C]: one for each of C > 0 comparisons"
        )
    check_outcome(outcome, len(probability))
    odd = ~((probability >= -ROUNDING) & (probability <= 1 + ROUNDING))  # so that NaN is odd too
    if bool(odd.any()):
        row = int(odd.nonzero()[0])
        raise ValueError(
            f"probability is {probability[row].item():.6g} in comparison {row}, expected from 0 to 1"
        )
    probability = probability.double().clamp(0, 1)
    kept = outcome != TIE
    if not bool(kept.any()):
        raise ValueError(f"all {len(outcome)} comparisons are ties: there is nothing to predict")
    p = torch.where(outcome == FIRST, probability, 1 - probability)[kept]  # of what was preferred
    right = (p > 0.5).double() + 0.5 * (p == 0.5)
    confidence = torch.maximum(p, 1 - p)
    index = ((confidence - 0.5) * 2 * num_bins).long().clamp(max=num_bins - 1)
    count = torch.bincount(index, minlength=num_bins).double()
    seen = count > 0

    def total(values: Tensor) -> Tensor:
        return torch.zeros(num_bins, dtype=torch.float64).index_add_(0, index, values)[seen]

    mean_confidence, mean_right = total(confidence) / count[seen], total(right) / count[seen]
    variance = (
        total(confidence * (1 - confidence)) / count[seen].square()
    )  # of the share right, if calibrated
    share = count[seen] / count.sum()
    return Calibration(
        Estimate.of_mean(right[:, None]),
        Estimate.of_mean(-p.clamp(min=torch.finfo(torch.float64).tiny).log()[:, None]),
        (share * (mean_right - mean_confidence).abs()).sum().item(),
        (share * (variance * 2 / math.pi).sqrt()).sum().item(),
        mean_confidence,
        mean_right,
        count[seen],
    )
