"""The importance-weighted bound for discrete guides (VIMCO), each prompt on its own.

    L_K = E[log 1/K sum_k w_k] <= log Z,   w = p0(x) exp(r(x)/beta) / q(x)          (Burda et al. 2016, arXiv 1509.00519)

    grad L_K_hat = sum_k (log 1/K sum_j w_j - log 1/(K-1) sum_{j != k} w_j - W_k + 1/K) grad log q(x_k),   W = softmax(log w)

The first difference credits x_k with what it adds to the bound (Mnih and Rezende 2016, arXiv 1602.06725, here with the others'
arithmetic mean as the baseline). -W_k is how the bound depends on q through the weights themselves, and the 1/K, whose mean is
0, makes the whole vanish on every sample where q = p*.

At K = 1 the bound is the ELBO; as K grows it tightens whatever q is, so that q is asked for less: to cover, not to match.
"""

from __future__ import annotations

import math

import torch

from inference.estimate import log_mean
from inference.objectives.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts


class MultiSample_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The importance-weighted bound on log Z. Unbiased, value and gradient, for the bound of K particles.

    Refuses evidence of -inf: with some probability all K responses are impossible, and the bound is -inf.

    Args:
        num_particles: K, at least 2.
    """

    min_particles, why_particles = 2, "with 1 the bound is the ELBO"

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        log_weight = joint.log_joint - log_guide.detach()  # [K, N]
        num = len(log_weight)
        bound = log_mean(log_weight)  # [N]
        itself = torch.eye(num, dtype=torch.bool, device=log_weight.device)[..., None]
        others = log_weight[:, None].masked_fill(itself, -torch.inf).logsumexp(0) - math.log(
            num - 1
        )  # [K, N]
        credit = (bound - others) - log_weight.softmax(0) + 1 / num
        return Losses(
            -bound.sum(),
            -(credit * log_guide).sum(),
            log_weight.mean(),
            joint.log_likelihood.mean(),
        )
