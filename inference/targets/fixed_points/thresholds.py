"""Targets by a threshold of the reward: filtering, one probability for all modes."""

import torch
from torch import Tensor

from inference.targets.fixed_points.problem import Problem
from model.common.checks import finite


def filtering(problem: Problem, threshold: float) -> Tensor:
    """Filtering: log q(x) = log p0(x) 1[r(x) >= threshold] / P(r >= threshold), `[S, N]`, nats.

    The prior given "accepted", reached by maximum likelihood on the accepted draws: rejection
    fine-tuning, and its first round in expert iteration. More rounds do not change the target: the
    ratios among accepted responses are the prior's. beta plays no part.
    """
    is_rejected = ~_reaches(problem, threshold)
    return problem.log_prior.masked_fill(is_rejected, -torch.inf).log_softmax(0)


def mode_anchored(problem: Problem, threshold: float) -> Tensor:
    """MARA: log q of rewards that give all responses above a threshold one posterior probability.

        r'(y) = r(z) + beta (log p0(z) - log p0(y))   where r(y) >= threshold,   else r(y)
        q, the posterior of r',  has p0(y) exp(r'(y)/beta) = p0(z) exp(r(z)/beta) up there

    z is the likeliest response above the threshold under p0 (2025, arXiv 2510.20817, from its
    abstract and a summary). The posterior of a reward that is flat above a threshold keeps the
    ratios of p0 there, and so p0's preference for one of many right answers. `[S, N]`, nats.
    """
    is_mode = _reaches(problem, threshold)
    log_prior = problem.log_prior
    anchor = log_prior.masked_fill(~is_mode, -torch.inf).argmax(0, keepdim=True)
    log_joint = log_prior + problem.reward / problem.beta
    return torch.where(is_mode, log_joint.gather(0, anchor), log_joint).log_softmax(0)


def _reaches(problem: Problem, threshold: float) -> Tensor:
    """True for responses with a reward of at least the threshold, `[S, N]`; one to each prompt."""
    reaches = problem.reward >= finite("threshold", threshold)
    if not bool(reaches.any(0).all()):
        raise ValueError(f"no response to some prompt has a reward of at least {threshold:g}")
    return reaches
