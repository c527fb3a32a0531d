"""What the weights of importance sampling say of it: how many draws they are worth, and whether to trust them at all."""

from __future__ import annotations

import math

import numpy as np
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from inference.estimate import check_draws


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2, `[M, N]` -> `[N]`: how many posterior samples M weighted ones are worth, roughly.

    NaN where all weights are 0, which are worth nothing that could be told.

    Raises:
        NotANumberError: if a weight is NaN or infinite.
    """
    log_weight = check_draws("log_weight", log_weight)
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()


def pareto_k(log_weight: Tensor) -> Tensor:
    """Shape of the generalised Pareto tail of the weights, `[M, N]` -> `[N]`; 0.7 and above is bad.

    -inf where the tail has no spread, as at q = p*; NaN where fewer than 25 weights, or weights of 0, cannot tell.

    Raises:
        NotANumberError: if a weight is NaN or infinite.
    """
    log_weight = check_draws("log_weight", log_weight)
    return torch.tensor([_pareto_k_of_one(column) for column in log_weight.cpu().T])


def _pareto_k_of_one(log_weight: Tensor) -> float:
    if len(log_weight) < 25 or not bool(
        log_weight.isfinite().all()
    ):  # a fifth of them are the tail, at least five
        return math.nan
    tail = log_weight.sort().values[-max(5, len(log_weight) // 5) :]
    if (tail[-1] - tail[0]).item() < 1e-9:
        return -math.inf
    try:
        with np.errstate(all="ignore"):  # ties in the tail make it divide by their spread
            return float(
                array_stats.psislw(-log_weight.numpy())[1]
            )  # it takes log-likelihoods, which weigh inversely
    except ValueError:
        return -math.inf  # its own, shorter, tail has no spread
