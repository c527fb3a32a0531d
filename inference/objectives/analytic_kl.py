"""Analytic KL: the divergence from the prior summed over the vocabulary at each position.

    KL(q || p0) = E_q[sum_t KL_t],   KL_t = sum_v q(v | x_<t) log q(v | x_<t) / p0(v | x_<t)
    ELBO_hat    = 1/K sum_k l(x_k) - sum_t KL_kt,   l = log likelihood

    grad ELBO_hat = 1/K sum_k sum_t A_kt grad log q(x_kt | x_k<t) - grad KL_kt
    A_kt          = l(x_k) - sum_{s > t} KL_ks - b_t

The gradient of KL_kt alone would be wrong, as a token also decides which prefixes come after the
token. The estimate of the KL has no more variance than the sampled estimate, and is never negative
(Amini et al. 2025, arXiv 2504.10637). Use analytic KL far from the posterior or for long responses;
close to the posterior, use `LeaveOneOut_ELBO`, whose sampled terms cancel against the reward.
The objective holds logits of guide and prior for every token, `[K, N, T, V]`; in micro-batches, for
the tokens of one.
"""

from functools import partial

import torch
from torch import Tensor

from inference.objectives.leave_one_out import BASELINE, leave_one_out
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program, autoregressive
from model import Prompts, ResponseDistribution


class AnalyticKL_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO with a closed-form KL. Unbiased, value and gradient. Refuses hard constraints."""

    ascends_elbo = True
    min_particles, why_particles = 2, BASELINE

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        q = autoregressive(distribution)
        prior, log_likelihood = self.read_model(model, prompts, response)
        terms = partial(_terms, autoregressive(prior))
        kl, log_guide, log_prior = q.in_chunks(terms, response)  # [K, N, T]
        kl_ahead = (kl.flip(-1).cumsum(-1).flip(-1) - kl).detach().double()  # sum over s > t
        advantage = leave_one_out(log_likelihood[..., None] - kl_ahead)
        surrogate = (kl - advantage * log_guide).sum(-1).mean(0).sum()
        elbo = log_likelihood - kl.detach().double().sum(-1)  # [K, N]
        log_guide = log_guide.sum(-1).detach()
        log_weight = log_likelihood + log_prior.double().sum(-1) - log_guide
        draws = (response, log_guide, log_weight, log_likelihood)
        return Losses(-elbo.mean(0).sum(), surrogate, *draws, elbo=elbo.mean())


def _terms(
    prior: ResponseDistribution, q: ResponseDistribution, response: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL_t, log q and log p0 of the tokens of B responses, `[B, T]` each, 0 at padding."""
    with torch.no_grad():  # [B, T, V]
        log_p = prior.alongside(q).next_token_logits(response).log_softmax(-1)
    log_q = q.next_token_logits(response).log_softmax(-1)
    prob = log_q.exp()  # where 0, q log q/p is 0, and not 0 times infinity
    kl = (prob * (log_q - log_p).masked_fill(prob == 0, 0.0)).sum(-1)  # 0 at padding, as logits are
    padding = ~q.space.is_token(response)
    log_guide, log_prior = (
        logits.gather(-1, response[..., None]).squeeze(-1).masked_fill(padding, 0.0)
        for logits in (log_q, log_p)
    )
    return kl, log_guide, log_prior
