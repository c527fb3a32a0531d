"""Measurements of a guide: exact if all responses can be listed, estimates otherwise."""

import math
from collections.abc import Sequence
from itertools import chain

from guides import Guide
from inference.diagnostics.diagnose import diagnose
from inference.enumeration import Enumeration, entropy
from inference.estimate import Estimate
from inference.prior_sample import PriorSample
from model import AlignmentModel, Prompts


class Measurements(dict[str, Estimate]):
    """Estimates by name."""

    warnings: Sequence[str] = ()
    """Reasons to distrust the divergences from the posterior; empty if there is none."""


def measure(
    model: AlignmentModel,
    guide: Guide,
    prompts: Prompts,
    *,
    truth: Enumeration | None = None,
    prior_sample: PriorSample | None = None,
    num_samples: int = 1024,
) -> Measurements:
    """Measure a guide against the posterior.

    Args:
        truth: the exact posterior if responses can be listed.
        prior_sample: draws of the prior, see `diagnose`; unused beside `truth`.
        num_samples: number of guide responses behind an estimate.

    Returns:
        `kl_guide_posterior`, `kl_posterior_guide`, `kl_guide_prior` and `entropy`, nats; `reward`,
        E[r] over the prompts to which a reward applies, of a model without factors; without `truth`
        also `log_z_error`, |log Z_hat - log Z|, nats.
    """
    # elsewhere the log likelihood is 0
    num_rewarded = int(model.applies(prompts).sum())
    reward_per_nat = model.beta * len(prompts) / num_rewarded if num_rewarded else math.nan
    if truth is not None:
        exact = {
            "kl_guide_posterior": truth.kl_guide_posterior(guide),
            "kl_posterior_guide": truth.kl_posterior_guide(guide),
            "kl_guide_prior": truth.kl_guide_prior(guide),
            "entropy": entropy(truth.log_guide(guide)),
            "reward": truth.expected_log_likelihood(guide) * reward_per_nat,
        }
        return Measurements((name, Estimate.exact(value)) for name, value in exact.items())
    numbers = diagnose(model, guide, prompts, num_samples=num_samples, prior_sample=prior_sample)
    # the mixture's log Z shares the draws of the guide, whose error this is
    log_z_error = numbers.log_z_bound.minus(numbers.prior_alone.log_z)
    measurements = Measurements(
        kl_guide_posterior=numbers.kl_guide_posterior,
        kl_posterior_guide=numbers.kl_posterior_guide,
        kl_guide_prior=numbers.kl_guide_prior,
        entropy=numbers.entropy,
        reward=numbers.log_likelihood.times(reward_per_nat),
        log_z_error=log_z_error._replace(value=abs(log_z_error.value)),
    )
    both = map(numbers.warnings_of, ("kl_guide_posterior", "kl_posterior_guide"))
    measurements.warnings = [*dict.fromkeys(chain(*both))]
    return measurements
