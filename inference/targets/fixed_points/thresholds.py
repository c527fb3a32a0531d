"""Targets by a threshold of the reward: filtering, one probability for all modes, pass@k."""

import torch
from torch import Tensor

from inference.roots import root
from inference.targets.fixed_points.problem import Problem, by_prompt
from model.common.checks import finite, whole_number


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


def pass_at_k_target(problem: Problem, k: int, threshold: float) -> Tensor:
    """Training for pass@k: log q, `[S, N]`, nats; a reward of at least the threshold is a success.

        objective   1 - (1 - p)^k - beta KL(q || p0),     p = q(r >= threshold)
        target      q(x) prop. to p0(x) exp(s 1[r(x) >= threshold] / beta),   s = k (1 - p)^(k - 1)

    The gradient of pass@k is s times the gradient of p (Walder and Karkhanis 2025, arXiv
    2505.15201, estimate it without bias from n draws). The target is therefore the posterior of the
    0/1 reward at beta/s, with s the slope at the target itself: the ratios among successes, and
    among failures, are the prior's for every k (derived here, and enumerated in the tests). For k
    above 1 a prompt that succeeds often has a small s, a prompt that rarely succeeds one up to k.
    """
    k, threshold = whole_number("k", k), finite("threshold", threshold)

    def target(log_prior: Tensor, reward: Tensor) -> Tensor:
        success = (reward >= threshold).double()

        def log_guide(slope: float) -> Tensor:
            return (log_prior + slope / problem.beta * success).log_softmax(0)

        def excess(slope: float) -> float:
            failure = ((1 - success) @ log_guide(slope).exp()).item()
            return k * min(1.0, failure) ** (k - 1) - slope  # a sum may exceed 1 by rounding

        return log_guide(root(excess, 0.0, float(k)))

    return by_prompt(target, problem.log_prior, problem.reward)


def _reaches(problem: Problem, threshold: float) -> Tensor:
    """True for responses with a reward of at least the threshold, `[S, N]`; one to each prompt."""
    reaches = problem.reward >= finite("threshold", threshold)
    if not bool(reaches.any(0).all()):
        raise ValueError(f"no response to some prompt has a reward of at least {threshold:g}")
    return reaches
