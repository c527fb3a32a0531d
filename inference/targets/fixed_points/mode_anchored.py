"""MARA: rewards that give all responses above a threshold one posterior probability.

    r'(y) = r(z) + beta (log p0(z) - log p0(y))   where r(y) >= threshold,   else r(y)
    target      the posterior of r',   p0(y) exp(r'(y)/beta) = p0(z) exp(r(z)/beta) up there

z is the likeliest response above the threshold under p0 (2025, arXiv 2510.20817, from its abstract
and a summary). The posterior of a reward that is flat above a threshold keeps the ratios of p0
there, and so p0's preference for one of many right answers.
"""

import torch
from torch import Tensor

from inference.targets.fixed_points.problem import Problem
from model.common.checks import finite


def mode_anchored(problem: Problem, threshold: float) -> Tensor:
    """log q, `[S, N]`, nats."""
    threshold = finite("threshold", threshold)
    is_mode = problem.reward >= threshold
    if not bool(is_mode.any(0).all()):
        raise ValueError(f"no response to some prompt has a reward of at least {threshold:g}")
    log_prior = problem.log_prior
    anchor = log_prior.masked_fill(~is_mode, -torch.inf).argmax(0, keepdim=True)
    log_joint = log_prior + problem.reward / problem.beta
    return torch.where(is_mode, log_joint.gather(0, anchor), log_joint).log_softmax(0)
