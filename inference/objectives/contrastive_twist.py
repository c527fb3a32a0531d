"""Contrastive twist learning: fits the twist of a guide to the future evidence (Zhao et al. 2024, arXiv 2404.17546, section 4).

    loss = sum_t KL(p*(x_<=t) || pi_t),   pi_t proportional to p0(x_<=t) exp(psi(x_<=t))
    grad = sum_t E_pi_t[grad psi(x_<=t)] - E_p*[grad psi(x_<=t)]

Both means are over the same responses, drawn from the guide, under self-normalised weights. At the optimum of every pi_t psi is
log E_p0[exp(r/beta) | x_<=t] up to a constant for each t, and the guide is the posterior. A response that has ended keeps the
twist that it ended with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.objectives.response_objective import Losses, ResponseObjective
from inference.programs import Program, autoregressive
from model import Prompts, ResponseDistribution
from model.prior.response_distribution import RevealsTwist


class ContrastiveTwist(ResponseObjective):
    """For a guide that reveals its twist, such as `Twisted`. The gradient is consistent in K, its bias O(1/K).

    Bears evidence of -inf, and a prompt all of whose responses are impossible tells nothing in that step. The loss leaves out
    the entropy of p*(x_<=t), which does not depend on the guide.

    Args:
        num_particles: K, at least 2.

    Raises:
        TypeError: if the guide has no twist.
    """

    supports_hard_constraints = True
    min_particles, why_particles = 2, "of one, both means are the same, and the gradient is 0"

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        q = autoregressive(distribution)
        log_psi = _kept_after_the_end(
            _twist_of(q).log_twist(prompts, response), q.space.is_token(response)
        )
        prior, log_likelihood = self.read_model(model, prompts, response)
        with torch.no_grad():
            log_ratio = autoregressive(prior).log_prob_per_token(
                response
            ).double() - q.log_prob_per_token(response)
        log_weight = log_likelihood + log_ratio.sum(-1)  # [K, N]
        informed = ~log_mean(log_weight).isneginf()  # NaN among them, which the loss then is
        weight = log_weight.softmax(0).where(informed, 0.0)
        log_z = log_mean(log_ratio.cumsum(-1) + log_psi)  # [N, T], that of each pi_t
        loss = log_z.where(informed[:, None], 0.0).sum() - (weight[..., None] * log_psi).sum()
        return Losses(loss.detach(), loss, log_weight.mean(), log_likelihood.mean())


def _twist_of(distribution: ResponseDistribution) -> RevealsTwist:
    if not isinstance(distribution.decoder, RevealsTwist):
        raise TypeError(
            f"{type(distribution.decoder).__name__} has no twist, which contrastive twist learning trains: expected a guide "
            "such as `Twisted`. `WakePhi` descends the forward KL of any guide."
        )
    return distribution.decoder


def _kept_after_the_end(log_psi: Tensor, is_token: Tensor) -> Tensor:
    """psi at each position, `[K, N, T]`, after the end that of the end."""
    last = is_token.sum(-1, keepdim=True) - 1
    position = torch.arange(log_psi.shape[-1], device=log_psi.device)
    return log_psi.gather(-1, torch.minimum(position.expand_as(log_psi), last))
