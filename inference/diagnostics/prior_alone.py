"""Distance of a guide from the posterior, by draws of the prior alone.

    log Z        = log mean likelihood(x)
    KL(q || p*)  = log Z - ELBO
    KL(p* || q)  = mean log w - log Z,  w = p0(x) likelihood(x) / q(x), x accepted by rejection

For comparison with the estimates from draws of prior and guide together, see `MixtureSample`.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from inference.estimate import Estimate, expectation, log_mean
from inference.importance_weights import FEW, WeightQuality
from inference.prior_sample import PriorSample


class PriorAlone(NamedTuple):
    """Estimates from the prior draws alone, nats: Z = E_p0[likelihood], and p* by rejection."""

    log_z: Estimate
    kl_guide_posterior: Estimate
    """NaN if all draws to a prompt are impossible."""
    kl_posterior_guide: Estimate | None
    """None without a bound, or an accepted draw to each prompt."""
    num_accepted: int | None
    """Number of accepted draws, the lowest over prompts; None without a bound."""
    weights: WeightQuality
    """Quality of the likelihoods as weights."""

    @classmethod
    def of(
        cls,
        sample: PriorSample,
        log_weight: Tensor,
        elbo: Estimate,
        bound: float | Tensor | None = None,
    ) -> Self:
        """Estimates from prior draws.

        Args:
            sample: M prior draws to each of N prompts.
            log_weight: `[M, N]`, log p0 + log likelihood - log q of the draws, nats.
            elbo: the ELBO of the guide.
            bound: largest possible log likelihood, nats, a number or `[N]`; None if unknown.
        """
        log_z, log_likelihood = sample.log_z(), sample.log_likelihood.double()
        gap = log_z.minus(elbo) if math.isfinite(log_z.value) else Estimate(math.nan, math.nan)
        if math.isinf(elbo.value):
            gap = Estimate(math.inf, math.nan)
        num_accepted, kl = None, None
        if sample.accepted is not None:
            num_accepted = int(sample.accepted.sum(0).min())
        if sample.accepted is not None and num_accepted:
            accepted = sample.accepted.double()
            mean = expectation(accepted, log_weight) / accepted.sum(0)
            deviation = torch.where(sample.accepted, log_weight - mean, 0.0) / accepted.mean(0)
            log_z_hat = log_mean(log_likelihood)
            influence = deviation - ((log_likelihood - log_z_hat).exp() - 1)
            kl = Estimate.of_influence(mean - log_z_hat, influence)
        is_bounded = reaches(log_likelihood, bound)
        quality = WeightQuality.of(log_likelihood, is_bounded, "the prior")
        return cls(log_z, gap, kl, num_accepted, quality)

    def warnings_of(self, name: str) -> list[str]:
        """Reasons to distrust an estimate, by its name; empty if there is none."""
        if name not in ("log_z", "kl_guide_posterior", "kl_posterior_guide"):
            return []
        warnings, number = self.weights.warnings, self.num_accepted
        if name == "kl_posterior_guide" and number is not None and number < FEW:
            warnings.append(f"{number} accepted draws of the prior, fewer than {FEW}")
        return warnings


def reaches(log_likelihood: Tensor, bound: float | Tensor | None) -> bool:
    """True if draws to each prompt, `[M, N]`, are at most a nat below the bound, if it is known."""
    return bound is not None and bool((log_likelihood.amax(0) >= bound - 1).all())
