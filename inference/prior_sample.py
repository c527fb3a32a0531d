"""A weighted sample of the prior: all responses if enumerable, otherwise independent draws.

    p(x) ∝ p0(x) w(x),   E_p[f] = sum_m W_m f(x_m),   W = softmax(log_prior_weight + log w)

One sample serves every posterior of the same prior, such as the posteriors at many betas. If the
likelihood has a known bound, rejection gives exact posterior samples:

    x ~ p0,   accepted with probability exp(log_likelihood - bound);   P(accept) = Z exp(-bound)

Rejected draws still count towards the estimate of Z.
"""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from inference import random_state
from inference.enumeration import Enumeration
from inference.estimate import Estimate, check_draws, check_numbers, expectation, log_mean_exp
from inference.importance_weights import effective_sample_size
from inference.programs import Program, joint_at, log_likelihood_at, response_distribution
from inference.response_site import check_arguments
from inference.samplers.posterior import NoSupportError, Posterior
from inference.samplers.proposal import counted, draw_chunks
from inference.samplers.rejection import accepted_at, check_bound, check_log_bound
from model import Prompts, ResponseDistribution
from model.common.checks import boolean, finite, instance, positive, whole_number
from model.prior.division import by_all_ranks


class SpentSampleError(ValueError):
    """Something was learned from the draws, which therefore measure nothing."""


@dataclass(frozen=True, eq=False)
class PriorSample:
    """M weighted responses of the prior to each of N prompts.

        sample = sample_prior(model, prompts, num_draws=4096)
        print(sample.log_z())
        for factor in (0.5, 1.0, 2.0):  # the posteriors at 2 beta, beta, beta / 2
            log_weight = factor * sample.log_likelihood
            print(sample.kl(log_weight), sample.mean(log_weight, sample.log_likelihood))

    Attributes:
        response: `[M, N, T]`, token ids.
        log_prior_weight: `[M, N]`, nats, float64: log p0 of all responses, or -log M of M draws.
            The weights sum to 1.
        log_likelihood: `[M, N]`, log likelihood of the model, nats.
        exact: True if all responses are enumerated.
        accepted: `[M, N]`, True for exact posterior samples; None without a bound.
        log_prior: `[M, N]`, log p0, nats; None for draws whose prior has not been scored.
        purposes: uses of the draws for learning, a list that copies by `replace` share.

    Raises:
        NotANumberError: if a log probability or a log likelihood is NaN or +inf.
        ValueError: if the shapes differ.
    """

    response: Tensor
    log_prior_weight: Tensor
    log_likelihood: Tensor
    exact: bool
    accepted: Tensor | None = None
    log_prior: Tensor | None = None
    purposes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        instance("response", self.response, Tensor)
        boolean("exact", self.exact)
        for name in ("log_prior_weight", "log_likelihood"):
            self._check(name, getattr(self, name))
        if self.log_prior is not None:
            self._check("log_prior", self.log_prior)
        if self.accepted is not None:
            self._same_shape("accepted", self.accepted)
            if self.accepted.dtype != torch.bool:
                raise ValueError(f"accepted has type {self.accepted.dtype}, expected torch.bool")

    @classmethod
    def of_enumeration(cls, truth: Enumeration) -> Self:
        """All responses, with their probabilities."""
        instance("truth", truth, Enumeration)
        return cls(truth.support, truth.log_prior, truth.log_likelihood, exact=True)

    @classmethod
    def of_draws(
        cls,
        response: Tensor,
        log_likelihood: Tensor,
        accepted: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Self:
        """Independent draws from the prior `[M, N, T]`, and their log likelihood `[M, N]`."""
        instance("response", response, Tensor)
        log_likelihood = check_draws("log_likelihood", log_likelihood)
        log_weight = torch.full_like(log_likelihood, -math.log(len(response)))
        return cls(response, log_weight, log_likelihood, False, accepted, log_prior)

    def spend(self, purpose: str) -> Self:
        """Record a use of the draws for learning, and return the sample, which measures no more."""
        self.purposes.append(purpose)
        return self

    def check_unspent(self) -> None:
        """Raise `SpentSampleError` if something was learned from draws; all responses may be."""
        if self.purposes and not self.exact:
            purposes = " and ".join(dict.fromkeys(self.purposes))
            raise SpentSampleError(
                f"the {len(self.response)} draws of this prior sample were used for "
                f"{purposes}, and flatter what learned from them: measure with a new `sample_prior`"
            )

    def log_z(self) -> Estimate:
        """log Z, nats. exp of the estimate is unbiased for Z; log Z is biased low (Jensen)."""
        if self.exact:
            return Estimate.exact((self.log_prior_weight + self.log_likelihood).logsumexp(0))
        return log_mean_exp(self.log_likelihood)

    def mean(self, log_weight: Tensor, values: Tensor, applies: Tensor | None = None) -> Estimate:
        """E_p[f] for p ∝ p0 w, averaged over prompts. Consistent; exact on an enumeration.

        `Posterior.estimate` has the standard error, `WeightQuality.of(log_weight).warnings` the
        reasons to distrust it.

        Args:
            log_weight: `[M, N]`, log w, nats; -inf allowed. `log_likelihood` gives the posterior.
            values: `[M, N]`, f; any value where w is 0.
            applies: `[N]`, True for the prompts to average over; by default all. The mean over no
                prompt is NaN.

        Raises:
            NotANumberError: if a weight is NaN or +inf, or f is NaN where w is not 0.
            NoSupportError: if all weights of a prompt are 0.
        """
        log_prob = self._log_prob("log_weight", log_weight)
        values = self._same_shape("values", values)
        if applies is not None:
            values = torch.where(applies, values, 0.0)
        weighted = Posterior(self.response, log_prob, None, exact=self.exact)
        return weighted.estimate(values, applies)

    def kl(self, log_weight: Tensor, log_base_weight: Tensor | None = None) -> Estimate:
        """KL(p || base), nats, averaged over prompts. Consistent; exact on an enumeration.

        Args and errors as in `mean`; `log_base_weight` is log w of the base, above -inf wherever
        `log_weight` is. The default base is the prior.
        """
        prior = torch.zeros_like(self.log_prior_weight)
        log_base = self._log_prob(
            "log_base_weight", prior if log_base_weight is None else log_base_weight
        )
        log_prob = self._log_prob("log_weight", log_weight)
        prob = log_prob.exp()
        log_ratio = torch.where(prob == 0, 0.0, log_prob - log_base)
        kl = expectation(prob, log_ratio)
        if self.exact:
            return Estimate.exact(kl)
        influence = prob * (log_ratio - kl) - prob + log_base.exp()
        return Estimate.of_influence(kl, len(prob) * influence)

    def frontier(self, factors: Iterable[float]) -> list[tuple[float, float]]:
        """KL(p || p0) and E_p[log likelihood], nats, of the posteriors at other betas.

        Averaged over prompts. No distribution has more reward at the same KL to the prior.
        `factors` multiply the log likelihood; the factor of beta / 2 is 2.
        """
        instance("factors", factors, Iterable)  # type: ignore[type-abstract]
        points = []
        for factor in factors:
            log_weight = self.log_likelihood * positive("a factor", factor)
            mean = self.mean(log_weight, self.log_likelihood)
            points.append((self.kl(log_weight).value, mean.value))
        return points

    def frontier_at(self, kl: float) -> float:
        """Largest E_p[log likelihood] of all p with KL(p || p0) = kl, nats, averaged over prompts.

        The optimal p is the posterior at another beta. Beyond the KL of all such posteriors, the
        result is the largest log likelihood.
        """
        kl = finite("kl", kl)

        def is_nearer(factor: float) -> bool:
            return self.kl(self.log_likelihood * factor).value < kl

        low, high = 0.0, 1.0
        while is_nearer(high):
            low, high = high, 2 * high
            if high > 1e9:
                return self.log_likelihood.amax(0).mean().item()
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if is_nearer(middle) else (low, middle)
        return self.frontier([high])[0][1]

    def effective_sample_size(self, log_weight: Tensor) -> float | None:
        """Lowest effective sample size over prompts, for p ∝ p0 w; None on an enumeration."""
        return None if self.exact else effective_sample_size(log_weight).min().item()

    def _log_prob(self, name: str, log_weight: Tensor) -> Tensor:
        """log p of the responses, `[M, N]`, for p ∝ p0 w."""
        log_joint = self.log_prior_weight + self._check(name, log_weight)
        if bool(log_joint.isneginf().all(0).any()):
            where = f"{name} is -inf for all {len(log_joint)} responses to a prompt"
            raise NoSupportError(f"{where}, expected a finite number for one of them")
        return log_joint.log_softmax(0)

    def _check(self, name: str, values: Tensor) -> Tensor:
        return check_numbers(name, self._same_shape(name, values))

    def _same_shape(self, name: str, values: Tensor) -> Tensor:
        shape = self.response.shape[:-1]
        if (got := instance(name, values, Tensor).shape) != shape:
            expected = f"expected {tuple(shape)}: one for each response"
            raise ValueError(f"{name} has shape {tuple(got)}, {expected}")
        return values


@by_all_ranks
def sample_prior(
    model: Program,
    prompts: Prompts,
    num_draws: int,
    *,
    independent: bool = False,
    log_likelihood_bound: float | Tensor | None = None,
    purpose: str | None = None,
    chunk: int = 256,
) -> PriorSample:
    """Enumerate the responses if there are at most `num_draws`; otherwise draw from the prior.

    Draws that measure come from a random stream that no training shares.

    Args:
        model: a Pyro program; its `response` site is the prior.
        prompts: N prompts.
        num_draws: M, the largest number of responses to each prompt.
        independent: True to draw even if the responses can be enumerated.
        log_likelihood_bound: largest possible log likelihood, nats, a number or `[N]`, for
            independent draws that are accepted or rejected.
        purpose: use of the draws for learning, see `PriorSample.spend`; None if they measure.
        chunk: number of draws at a time, for each prompt.

    Raises:
        LooseBoundError: if the log likelihood of a draw exceeds the bound.
    """
    check_arguments(model, prompts, "model")
    num_draws = whole_number("num_draws", num_draws)
    boolean("independent", independent)
    if log_likelihood_bound is not None:
        log_likelihood_bound = check_log_bound(log_likelihood_bound, len(prompts))
    elif not independent:
        prior = response_distribution(model, prompts, role="model")
        if isinstance(prior, ResponseDistribution) and prior.space.num_responses <= num_draws:
            return PriorSample.of_enumeration(Enumeration(model, prompts))
    learns = purpose is not None
    with nullcontext() if learns else random_state.measuring(prompts.ids.device):
        responses = list(draw_chunks(model, None, prompts, num_draws, chunk=chunk))
        log_prior, sizes = None, [len(part) for part in responses]
        parts = counted("scores of the prior's draws", responses, sizes)
        if learns:
            log_likelihoods = [log_likelihood_at(model, prompts, part) for part in parts]
        else:
            joints = [joint_at(model, prompts, part) for part in parts]
            log_likelihoods = [joint.log_likelihood for joint in joints]
            log_prior = torch.cat([joint.log_prior for joint in joints]).double()
        log_likelihood, accepted = torch.cat(log_likelihoods), None
        if log_likelihood_bound is not None:
            check_bound(log_likelihood, log_likelihood_bound, prompts.texts)
            accepted = accepted_at(log_likelihood, log_likelihood_bound)
    sample = PriorSample.of_draws(torch.cat(responses), log_likelihood, accepted, log_prior)
    return sample if purpose is None else sample.spend(purpose)
