"""Quality of importance weights, which may be 0, but not NaN or infinite."""

import math

import numpy as np
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from inference.estimate import check_draws

MIN_WEIGHTS = 25  # fewest weights with a tail of five, which is a fifth of the weights


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2, `[M, N]` -> `[N]`, a number of samples. NaN if all weights are 0."""
    log_weight = check_draws("log_weight", log_weight)
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()


def pareto_k(log_weight: Tensor) -> Tensor:
    """Shape of the generalised Pareto tail of the weights, `[M, N]` -> `[N]`; 0.7 and above is bad.

    Vehtari et al. 2015, arXiv 1507.02646. -inf if the tail has no spread, as at q = p*. NaN for
    fewer than 25 weights, or if a weight is 0.
    """
    log_weight = check_draws("log_weight", log_weight)
    return torch.tensor([_pareto_k_of_prompt(column) for column in log_weight.cpu().T])


def _pareto_k_of_prompt(log_weight: Tensor) -> float:
    if len(log_weight) < MIN_WEIGHTS or not bool(log_weight.isfinite().all()):
        return math.nan
    tail = log_weight.sort().values[-max(5, len(log_weight) // 5) :]
    if (tail[-1] - tail[0]).item() < 1e-9:
        return -math.inf
    try:
        with np.errstate(all="ignore"):  # psislw divides by the spread of the tail, 0 for ties
            # psislw takes log likelihoods, which weigh inversely
            return float(array_stats.psislw(-log_weight.numpy())[1])
    except ValueError:  # the shorter tail that psislw takes has no spread
        return -math.inf
