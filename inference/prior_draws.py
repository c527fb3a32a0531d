"""Rejection sampling from the prior: exact posterior samples, where the evidence is bounded.

    x ~ p0,   accepted with probability exp((r(x) - r_max)/beta);   P(accept) = Z exp(-r_max/beta)

The draws that were rejected are not wasted: mean exp(r/beta) over all of them is an unbiased estimate of Z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.estimate import Estimate, log_mean_exp
from inference.prior_bank import PriorBank
from inference.programs import Program, log_likelihood_at
from inference.response_site import check_arguments
from inference.samplers.acceptance import accepted_at, check_bound, check_log_bound
from inference.samplers.proposal import draw
from model import Prompts
from model.common.checks import instance
from model.common.thread_lock import one_thread


@dataclass(frozen=True)
class PriorDraws:
    """M independent draws from the prior for each of N prompts, and which of them are accepted.

    Attributes:
        response: `[M, N, T]`, token ids.
        log_likelihood: `[M, N]`, r/beta, nats.
        accepted: `[M, N]`; an accepted response is an exact draw from the posterior. None where no bound is known.

    Raises:
        NotANumberError: if the evidence is NaN or +inf.
        ValueError: if the shapes do not belong together.
    """

    response: Tensor
    log_likelihood: Tensor
    accepted: Tensor | None

    def __post_init__(self) -> None:
        PriorBank.of_draws(self.response, self.log_likelihood)  # which looks at both
        if self.accepted is None:
            return
        if (
            instance("accepted", self.accepted, Tensor).dtype != torch.bool
            or self.accepted.shape != self.log_likelihood.shape
        ):
            raise ValueError(
                f"accepted has shape {tuple(self.accepted.shape)} and type {self.accepted.dtype}, expected booleans "
                f"{tuple(self.log_likelihood.shape)}: one for each draw"
            )

    def log_z(self) -> Estimate:
        """log Z = log E_p0[exp(r/beta)], nats. exp of it is unbiased for Z; itself biased low (Jensen)."""
        return log_mean_exp(self.log_likelihood)

    def posterior_log_likelihood(self) -> Estimate:
        """E_p*[r]/beta, nats, from all draws weighted by exp(r/beta). Self-normalised: consistent, not unbiased."""
        return self.bank.mean(self.log_likelihood, self.log_likelihood)

    def kl_posterior_prior(self) -> Estimate:
        """KL(p* || p0) = E_p*[r]/beta - log Z, nats, from the same draws. Consistent."""
        return self.bank.kl(self.log_likelihood)

    @property
    def bank(self) -> PriorBank:
        """The draws as what stands for the prior, to be weighed for any posterior."""
        return PriorBank.of_draws(self.response, self.log_likelihood)


@torch.no_grad()
@one_thread
def draw_from_prior(
    model: Program,
    prompts: Prompts,
    num_draws: int,
    *,
    log_likelihood_bound: float | Tensor | None = None,
    chunk: int = 256,
) -> PriorDraws:
    """Draw from the prior, score, and accept or reject.

    Args:
        model: a Pyro program; its `response` site is the prior.
        prompts: N prompts.
        num_draws: M, for each prompt.
        log_likelihood_bound: the largest possible r/beta, one or `[N]`, nats; None if it is not known: then nothing is accepted
            or rejected.
        chunk: draws a time, for each prompt.

    Raises:
        LooseBoundError: if a draw exceeds the bound.
    """
    check_arguments(model, prompts, "model")
    if log_likelihood_bound is not None:
        log_likelihood_bound = check_log_bound(log_likelihood_bound, len(prompts))
    responses = list(draw(model, prompts, num_draws, chunk=chunk, name="num_draws", role="model"))
    log_likelihood = torch.cat([log_likelihood_at(model, prompts, part) for part in responses])
    accepted = None
    if log_likelihood_bound is not None:
        check_bound(log_likelihood, log_likelihood_bound, prompts.texts)
        accepted = accepted_at(log_likelihood, log_likelihood_bound)
    return PriorDraws(torch.cat(responses), log_likelihood, accepted)
