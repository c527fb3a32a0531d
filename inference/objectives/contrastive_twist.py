"""Contrastive twist learning: fit the twist of a guide to the likelihood to come.

    loss = sum_t KL(p*(x_<=t) || pi_t),   pi_t proportional to p0(x_<=t) exp(psi(x_<=t))
    grad = sum_t E_pi_t[grad psi(x_<=t)] - E_p*[grad psi(x_<=t)]

Zhao et al. 2024, arXiv 2404.17546, section 4. Both means are over the same responses, drawn from
the guide, under self-normalised weights. At the optimum psi is log E_p0[likelihood(x) | x_<=t] up
to a constant for each t, and the guide is the posterior. A response that has ended keeps the twist
of its end.
"""

from typing import Any

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program, autoregressive
from model import Prompts


class ContrastiveTwist(ResponseObjective):
    """Sum of KL(p* || pi_t) over prefixes. The gradient is consistent in K, with bias O(1/K).

    Supports hard constraints. A prompt whose K responses are all impossible is left out of the
    step. The loss lacks the entropy of p*(x_<=t), which does not depend on the guide. In a step, a
    guide without a twist raises `TypeError`.
    """

    supports_hard_constraints = True
    min_particles, why_particles = 2, "of one, both means are the same, and the gradient is 0"

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        q = autoregressive(distribution)
        log_twist: Any = getattr(q.decoder, "log_twist", None)
        if log_twist is None:
            fix = "a guide such as `Twisted`. `WakePhi` descends the forward KL of any guide."
            raise TypeError(f"{type(q.decoder).__name__} has no twist, expected {fix}")
        log_psi = _repeat_last(log_twist(prompts, response), q.space.is_token(response))
        prior, log_likelihood = self.read_model(model, prompts, response)
        with torch.no_grad():
            log_prior = autoregressive(prior).log_prob_per_token(response).double()
            log_guide = q.log_prob_per_token(response)
            log_ratio = log_prior - log_guide
        log_weight = log_likelihood + log_ratio.sum(-1)  # [K, N]
        informed = ~log_mean(log_weight).isneginf()  # also if NaN, so that the loss is NaN
        weight = log_weight.softmax(0).where(informed, 0.0)
        log_z = log_mean(log_ratio.cumsum(-1) + log_psi)  # [N, T], log normaliser of each pi_t
        loss = log_z.where(informed[:, None], 0.0).sum() - (weight[..., None] * log_psi).sum()
        draws = (response, log_guide.sum(-1), log_weight, log_likelihood)
        return Losses(loss.detach(), loss, *draws)


def _repeat_last(log_psi: Tensor, is_token: Tensor) -> Tensor:
    """psi at each position, `[K, N, T]`; at padding, psi of the last token."""
    last = is_token.sum(-1, keepdim=True) - 1
    position = torch.arange(log_psi.shape[-1], device=log_psi.device)
    return log_psi.gather(-1, torch.minimum(position.expand_as(log_psi), last))
