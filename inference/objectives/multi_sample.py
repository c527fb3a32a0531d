"""The importance-weighted bound for discrete guides (VIMCO), for each prompt.

    L_K           = E[log 1/K sum_k w_k] <= log Z
    grad L_K_hat  = sum_k (credit_k - W_k + 1/K) grad log q(x_k),   W = softmax(log w)
    credit_k      = log 1/K sum_j w_j - log 1/(K-1) sum_{j != k} w_j

Burda et al. 2016, arXiv 1509.00519. credit_k is the contribution of x_k to the bound (Mnih and
Rezende 2016, arXiv 1602.06725, here with the arithmetic mean of the others as the baseline). -W_k
is the dependence of the bound on q through the weights. 1/K has mean 0 and makes the gradient
vanish on every sample at q = p*. As K grows the bound tightens for every q, so that the guide
learns to cover the posterior rather than to match the posterior.
"""

import math

import torch

from inference.estimate import log_mean
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts


class MultiSample_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The bound L_K on log Z. Unbiased for L_K, value and gradient.

    Refuses hard constraints: with some probability all K responses are impossible and L_K is -inf.
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
        others = log_weight[:, None].masked_fill(itself, -torch.inf).logsumexp(0)  # [K, N]
        credit = bound - (others - math.log(num - 1))
        surrogate = -((credit - log_weight.softmax(0) + 1 / num) * log_guide).sum()
        draws = (response, log_guide, log_weight, joint.log_likelihood)
        return Losses(-bound.sum(), surrogate, *draws)
