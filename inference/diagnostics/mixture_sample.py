"""Draws of prior and guide together, weighted by their mixture: log Z and means of the posterior.

    x_i ~ p0 for M draws, x_i ~ q for K draws,   n = M + K
    m(x) = a p0(x) + (1 - a) q(x),   a = argmax_a sum_i log m(x_i)
    w(x) = p0(x) likelihood(x) / m(x) <= likelihood(x) / a,   Z_hat = 1/n sum_i w(x_i)

The weights are bounded where the likelihood is: a defensive mixture (Hesterberg 1995; Owen and Zhou
2000), with the balance heuristic (Veach and Guibas 1995) at a = M/n. The a of maximum likelihood
gives p0 and q, of known total mass 1, an estimated mass of 1 (Kong et al. 2003; Tan 2004). Its
variance is, to first order, that of the best control variate p0/m, and therefore at most that of
the M draws of the prior alone, and at most that of the K draws of the guide alone. A collapsed
guide costs its own draws and no more. With M = K, the variance is at most twice the variance of the
better of the two with all n draws. Draws that do not tell p0 and q apart leave a at an end of its
range; the estimate is then that of a fixed mixture, without a control variate.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inference.estimate import Estimate, expectation, log_mean
from inference.roots import bisect

HALVINGS = 40  # number of bisections of the share a
INSIDE = 1e-9  # smallest distance of a share a inside its range from the ends
ROUNDING = 1e-4
"""Spread of p0/m below which prior and guide differ by rounding, which predicts nothing."""


@dataclass(frozen=True, eq=False)
class MixtureSample:
    """M draws of the prior, then K draws of the guide, to each of N prompts.

        mixture = MixtureSample(log_prior, log_likelihood, log_guide, num_prior_draws=1024)
        print(mixture.log_z(), mixture.mean(log_likelihood))

    Estimates are consistent with bias O(1/n). Standard errors are by the delta method, within the
    draws of prior and guide.
    """

    log_prior: Tensor  # `[M + K, N]`, nats, float64; -inf if only the guide draws the response
    log_likelihood: Tensor  # `[M + K, N]`, nats; -inf for an impossible response
    log_guide: Tensor  # `[M + K, N]`, nats; -inf if only the prior draws the response
    num_prior_draws: int  # M

    @property
    def log_joint(self) -> Tensor:
        """log p0(x) + log likelihood(x), `[M + K, N]`, nats."""
        return self.log_prior + self.log_likelihood

    @cached_property
    def share(self) -> Tensor:
        """a, `[N]`, within a factor of two of M/n, as is 1 - a."""
        log_ratio = self.log_prior - self.log_guide
        low, high = (torch.full_like(log_ratio[0], end) for end in self._share_ends)

        def is_below(share: Tensor) -> Tensor:
            of_prior = (log_ratio + share.logit()).sigmoid()  # a p0/m
            return (of_prior / share - (1 - of_prior) / (1 - share)).sum(0) > 0

        low, high = bisect(is_below, low, high, HALVINGS)
        return (low + high) / 2

    @property
    def _share_ends(self) -> tuple[float, float]:
        """Smallest and largest a."""
        least = self.num_prior_draws / len(self.log_prior) / 2
        return least, least + 0.5

    @cached_property
    def log_weight(self) -> Tensor:
        """log w, `[M + K, N]`, nats."""
        return self.log_joint - self._log_mixture

    def log_z(self) -> Estimate:
        """log Z, nats; biased low (Jensen). -inf if all weights of a prompt are 0."""
        return Estimate.of_influence(log_mean(self.log_weight), *self.influence())

    def mean(self, values: Tensor, *, minus_log_z: bool = False) -> Estimate:
        """E_p*[f], or E_p*[f] - log Z, averaged over prompts; NaN if all weights of one are 0.

        `values` are f, `[M + K, N]`; any number where the weight is 0.
        """
        log_z = log_mean(self.log_weight)
        if bool(log_z.isneginf().any()):
            return Estimate(math.nan, math.nan)
        mean = expectation(self._relative_weight, values) / len(values)
        deviation = torch.where(self._relative_weight == 0, 0.0, values - mean)
        if minus_log_z:
            mean, deviation = mean - log_z, deviation - 1
        return Estimate.of_influence(mean, *self.influence(deviation))

    def kl_posterior_guide(self) -> Estimate:
        """KL(p* || q), nats."""
        return self.mean(self.log_joint - self.log_guide, minus_log_z=True)

    def kl_posterior_prior(self) -> Estimate:
        """KL(p* || p0), nats."""
        return self.mean(self.log_likelihood, minus_log_z=True)

    def kl_guide_posterior(self) -> Estimate:
        """KL(q || p*) = log Z - ELBO, nats; log Z and ELBO share the draws of the guide.

        Infinite if one of these draws is impossible.
        """
        _, log_weight = self._split(self.log_joint - self.log_guide)  # [K, N]
        elbo = log_weight.mean(0)
        if bool(elbo.isneginf().any()):
            return Estimate(math.inf, math.nan)
        prior, guide = self.influence()
        gap = log_mean(self.log_weight) - elbo
        return Estimate.of_influence(gap, prior, guide - (log_weight - elbo))

    def influence(self, values: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Influence of each draw on 1/(n Z) sum_i w(x_i) f(x_i), `[M, N]` and `[K, N]`, mean zero.

        The part of w f that p0/m predicts is left out, because the choice of a removes that part.
        Where prior and guide are so near that a is at an end of its range, the part remains.
        """
        control = self._deviation((self.log_prior - self._log_mixture).exp())
        influence = self._deviation(self._relative_weight * values)
        square = control.square().mean(0)
        slope = (control * influence).mean(0) / square
        (low, high), share = self._share_ends, self.share
        is_inside = (share > low + INSIDE) & (share < high - INSIDE)
        slope = torch.where(is_inside & (square > ROUNDING**2), slope, 0.0)
        prior, guide = self._split(influence - slope * control)
        return prior * (len(prior) / len(control)), guide * (len(guide) / len(control))

    @cached_property
    def _log_mixture(self) -> Tensor:
        log_share, log_rest = self.share.log(), (-self.share).log1p()
        return torch.logaddexp(self.log_prior + log_share, self.log_guide + log_rest)

    @cached_property
    def _relative_weight(self) -> Tensor:
        """w / Z, `[M + K, N]`, of mean 1."""
        return (self.log_weight - log_mean(self.log_weight)).exp()

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values at the draws of the prior, and of the guide."""
        return values[: self.num_prior_draws], values[self.num_prior_draws :]

    def _deviation(self, values: Tensor) -> Tensor:
        """Deviation of values from their mean over the draws of the same distribution."""
        return torch.cat([part - part.mean(0) for part in self._split(values)])
