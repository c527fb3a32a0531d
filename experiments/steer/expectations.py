"""Expectations beside the log likelihood: the reward, the forbidden responses, the moments."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from inference import Diagnostics, Estimate, PriorSample, Program, diagnose
from inference.samplers.proposal import draw_chunks
from model import AlignmentModel, HardConstraintSupport, Prompts, Tilt


class Observables(NamedTuple):
    """Functions of responses, `[..., N]`: r, log likelihood of -inf, phi of moments by name.

    NaN for a prompt to which no reward applies, or the feature does not.
    """

    reward: Tensor
    is_forbidden: Tensor
    features: Mapping[str, Tensor]


class Expectations(NamedTuple):
    """E[r], probability of a forbidden response, and E[phi] by name.

    The means of r and of phi are over the prompts to which a reward or the feature applies.
    """

    reward: Estimate
    forbidden: float = 0.0
    moments: Mapping[str, Estimate] = MappingProxyType({})
    scope: str = ""
    """Words on the prompts behind E[r], if rewards apply to some of the prompts alone."""
    warnings: Sequence[str] = ()
    """Reasons to distrust the means; empty if there is none."""


@torch.no_grad()
def observe(model: AlignmentModel, prompts: Prompts, response: Tensor) -> Observables:
    """Observables at responses `[..., N, T]`."""
    reward = model.reward(prompts, response)
    with HardConstraintSupport():
        terms = [term.log_value for term in model.terms(prompts, response)]
    tilts = [factor for factor in model.factors.values() if isinstance(factor, Tilt)]
    features = {name: phi for tilt in tilts for name, phi in tilt.features.items()}
    return Observables(
        reward,
        sum(terms, torch.zeros_like(reward)).isneginf(),
        {name: phi(prompts, response).double() for name, phi in features.items()},
    )


def mean_of_draws(values: Tensor, applies: Tensor) -> Estimate:
    """Mean of independent values `[M, N]` over the prompts `[N]` to which they apply."""
    is_empty = not bool(applies.any())
    return Estimate(math.nan, math.nan) if is_empty else Estimate.of_levels(values[:, applies])


def expectations(
    observables: Observables, mean: Callable[[Tensor, Tensor], Estimate] = mean_of_draws
) -> Expectations:
    """Expectations from observables at M responses to each of N prompts, `[M, N]`.

    `mean` estimates a mean from values `[M, N]` and `[N]` booleans of the prompts to average over,
    by default of independent responses.
    """

    def over_applicable(values: Tensor) -> Estimate:
        return mean(values, ~values.isnan().all(0))

    return Expectations(
        over_applicable(observables.reward),
        over_applicable(observables.is_forbidden.double()).value,
        {name: over_applicable(phi) for name, phi in observables.features.items()},
        scope_of(observables.reward),
    )


def scope_of(reward: Tensor) -> str:
    """Words that tell to how many of N prompts rewards `[M, N]` apply; empty for all."""
    applies = ~reward.isnan().all(0)
    count = f" over {int(applies.sum())} of {len(applies)} prompts"
    return "" if bool(applies.all()) else count


def is_all_reward(model: AlignmentModel, prompts: Prompts) -> bool:
    """True if the log likelihood is r/beta at all prompts: no factors, and a reward for each."""
    return not model.factors and bool(model.applies(prompts).all())


class Measurement(NamedTuple):
    """Diagnostics of a guide, and the expectations under the guide."""

    diagnostics: Diagnostics
    expectations: Expectations


def chunk(prompts: Prompts) -> int:
    """Number of responses to each prompt that are drawn and scored at a time.

    Chunks of a large model end every minute or so, and move a progress bar.
    """
    return max(1, min(256, 512 // len(prompts)))


def measure(
    model: AlignmentModel,
    target: Program,
    guide: Program,
    prompts: Prompts,
    prior_sample: PriorSample,
    num_samples: int,
) -> Measurement:
    """Measure a guide.

    Args:
        model: model with the rewards and the hard constraints.
        target: program whose posterior is approximated, `model` or a softened model.
        guide: q.
        prompts: N prompts.
        prior_sample: independent draws of the prior with log likelihoods of `target`, from which
            nothing was learned.
        num_samples: number of responses of the guide for each prompt.
    """
    size = chunk(prompts)
    diagnostics = diagnose(
        target, guide, prompts, num_samples=num_samples, prior_sample=prior_sample, chunk=size
    )
    if is_all_reward(model, prompts):
        reward = diagnostics.log_likelihood.times(model.beta)
        return Measurement(diagnostics, Expectations(reward))
    response = torch.cat(list(draw_chunks(model, guide, prompts, num_samples, chunk=size)))
    return Measurement(diagnostics, expectations(observe(model, prompts, response)))


def measure_posterior(
    model: AlignmentModel, prompts: Prompts, prior_sample: PriorSample, diagnostics: Diagnostics
) -> Expectations:
    """Expectations under the posterior, consistent: by the weights of draws of the prior.

    If the log likelihood is r/beta at all prompts, E[r] is that of the diagnostics of the guide.
    """
    prior_sample.check_unspent()
    if is_all_reward(model, prompts):
        reward = diagnostics.posterior_log_likelihood.times(model.beta)
        warnings = diagnostics.warnings_of("posterior_log_likelihood")
        return Expectations(reward, warnings=warnings)
    mean = partial(prior_sample.mean, prior_sample.log_likelihood)
    of_posterior = expectations(observe(model, prompts, prior_sample.response), mean)
    return of_posterior._replace(warnings=diagnostics.prior_alone.weights.warnings)
