"""Filtering: keep the prior's draws with a reward above a threshold, and fine-tune on them.

    target      q(x) = p0(x) 1[r(x) >= threshold] / P(r >= threshold)

The prior given "accepted", reached by maximum likelihood on the accepted draws: rejection
fine-tuning, and its first round in expert iteration. More rounds do not change the target: the
ratios among accepted responses are the prior's.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.problem import Problem
from model.common.checks import finite


def filtering(problem: Problem, threshold: float) -> Tensor:
    """log q, `[S, N]`, nats; -inf for a rejected response. beta plays no part."""
    is_rejected = problem.reward < finite("threshold", threshold)
    if bool(is_rejected.all(0).any()):
        raise ValueError(f"no response to some prompt has a reward of at least {threshold:g}")
    return problem.log_prior.masked_fill(is_rejected, -torch.inf).log_softmax(0)
