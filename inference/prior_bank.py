"""Responses that stand for the prior: every one of them where they are few, else draws.

What asks for the posterior under evidence that is not known yet, such as one of many betas, weighs these again and again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from inference.enumeration import Enumeration
from inference.estimate import Estimate, check_draws, check_numbers, expectation
from inference.importance_weights import effective_sample_size
from inference.programs import Program, log_likelihood_at, response_distribution
from inference.samplers.posterior import NoSupportError, check_support
from inference.samplers.proposal import draw
from model import Prompts, ResponseDistribution
from model.common.checks import boolean, instance, positive, whole_number
from model.common.thread_lock import one_thread

FEW = 30
"""Effective draws: what fewer stand for is hardly known."""


@dataclass(frozen=True, eq=False)
class PriorBank:
    """M responses to each of N prompts.

    Attributes:
        response: `[M, N, T]`, token ids.
        log_prior: `[M, N]`, nats, float64: log p0 where all are listed, -log M where they are drawn; sums to 1 either way.
        log_likelihood: `[M, N]`, r/beta of the model, nats, float64.
        exact: whether all are listed.

    Raises:
        NotANumberError: if a log-probability or the evidence is NaN or +inf.
        ValueError: if their shapes do not belong together.
    """

    response: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    exact: bool

    def __post_init__(self) -> None:
        instance("response", self.response, Tensor)
        boolean("exact", self.exact)
        for name in ("log_prior", "log_likelihood"):
            self._checked(name, getattr(self, name))

    @classmethod
    def of_every(cls, truth: Enumeration) -> Self:
        """All responses, with their probabilities."""
        return cls(truth.support, truth.log_prior, truth.log_likelihood, exact=True)

    @classmethod
    def of_draws(cls, response: Tensor, log_likelihood: Tensor) -> Self:
        """Independent draws from the prior `[M, N, T]`, and their evidence `[M, N]`."""
        instance("response", response, Tensor)
        log_likelihood = check_draws("log_likelihood", log_likelihood)
        return cls(
            response,
            torch.full_like(log_likelihood, -math.log(len(response))),
            log_likelihood,
            exact=False,
        )

    def mean(self, log_weight: Tensor, values: Tensor) -> Estimate:
        """E_p[f] for p proportional to p0 w, averaged over prompts; its error is 0 where all responses are listed.

        Args:
            log_weight: `[M, N]`, log w, nats; -inf allowed.
            values: `[M, N]`, f; anything where w is 0.

        Raises:
            NotANumberError: if a weight is NaN or +inf, or f is NaN where w is not 0.
            NoSupportError: if all weights of a prompt are 0.
        """
        prob = self._log_prob("log_weight", log_weight).exp()
        mean = expectation(prob, _same_shape("values", values, self.log_prior.shape))
        if self.exact:
            return Estimate.exact(mean)
        return Estimate.of_influence(
            mean, len(prob) * prob * torch.where(prob == 0, 0.0, values - mean)
        )

    def kl(self, log_weight: Tensor, log_base_weight: Tensor | None = None) -> Estimate:
        """KL(p || base), nats, averaged over prompts, for p proportional to p0 w and base to p0 w_b.

        Args:
            log_weight: `[M, N]`, log w, nats; -inf allowed.
            log_base_weight: `[M, N]`, log w_b, nats, above -inf wherever log w is; default 0, of the prior.

        Raises:
            NotANumberError: if a weight is NaN or +inf.
            NoSupportError: if all weights of a prompt are 0.
        """
        base_weight = (
            torch.zeros_like(self.log_prior) if log_base_weight is None else log_base_weight
        )
        log_base, log_prob = (
            self._log_prob("log_base_weight", base_weight),
            self._log_prob("log_weight", log_weight),
        )
        prob = log_prob.exp()
        log_ratio = torch.where(prob == 0, 0.0, log_prob - log_base)
        kl = expectation(prob, log_ratio)
        if self.exact:
            return Estimate.exact(kl)
        return Estimate.of_influence(
            kl, len(prob) * (prob * (log_ratio - kl) - prob + log_base.exp())
        )

    def frontier(self, factors: Iterable[float]) -> list[tuple[float, float]]:
        """KL(p || p0) and E_p[r]/beta, nats, averaged over prompts, of the posteriors at other betas.

        Nothing has more reward at the same distance from the prior.

        Args:
            factors: that the evidence is multiplied by, above 0: that of beta/2 is 2.
        """
        instance("factors", factors, Iterable)  # type: ignore[type-abstract]
        log_weights = (self.log_likelihood * positive("a factor", factor) for factor in factors)
        return [
            (self.kl(weight).value, self.mean(weight, self.log_likelihood).value)
            for weight in log_weights
        ]

    def effective_sample_size(self, log_weight: Tensor) -> float | None:
        """Of the draws as draws of p, proportional to p0 w, the lowest over prompts; None where all responses are listed."""
        return None if self.exact else effective_sample_size(log_weight).min().item()

    def _log_prob(self, name: str, log_weight: Tensor) -> Tensor:
        """log p of the responses, `[M, N]`, for p proportional to p0 w."""
        log_joint = self.log_prior + self._checked(name, log_weight)
        if bool(log_joint.isneginf().all(0).any()):
            raise NoSupportError(
                f"{name} is -inf for all {len(log_joint)} responses to a prompt: nothing is left to weigh"
            )
        return log_joint.log_softmax(0)

    def _checked(self, name: str, values: Tensor) -> Tensor:
        return check_numbers(name, _same_shape(name, values, self.response.shape[:-1]))


def _same_shape(name: str, values: Tensor, shape: torch.Size) -> Tensor:
    if instance(name, values, Tensor).shape != shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected {tuple(shape)}: one for each response"
        )
    return values


@torch.no_grad()
@one_thread
def draw_prior_bank(
    model: Program, prompts: Prompts, num_draws: int, *, chunk: int = 256
) -> PriorBank:
    """List every response if there are no more than `num_draws`; else draw as many from the prior, for each prompt.

    Args:
        model: a Pyro program; its `response` site is the prior.
        prompts: N prompts.
        num_draws: the most responses to each prompt.
        chunk: draws at a time, for each prompt.

    Raises:
        NoSupportError: if the evidence rules out all of them, for a prompt.
    """
    num_draws = whole_number("num_draws", num_draws)
    prior = response_distribution(model, prompts, role="model")
    if isinstance(prior, ResponseDistribution) and prior.space.num_responses <= num_draws:
        return PriorBank.of_every(Enumeration(model, prompts))
    responses = list(draw(model, prompts, num_draws, chunk=chunk, name="num_draws", role="model"))
    log_likelihood = torch.cat([log_likelihood_at(model, prompts, part) for part in responses])
    check_support(log_likelihood, prompts.texts, "draw more, or loosen the constraint")
    return PriorBank.of_draws(torch.cat(responses), log_likelihood)
