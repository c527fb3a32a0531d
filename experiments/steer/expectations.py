"""Expectations beside the log likelihood: the reward, the forbidden responses, the moments."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from inference import Diagnostics, Estimate, PriorSample, Program, diagnose, response_distribution
from model import AlignmentModel, HardConstraintSupport, Prompts, Tilt


class Observables(NamedTuple):
    """Functions of responses, `[..., N]`: r, log likelihood of -inf, phi of moments by name."""

    reward: Tensor
    is_forbidden: Tensor
    features: Mapping[str, Tensor]


class Expectations(NamedTuple):
    """E[r], probability of a forbidden response, and E[phi] by name."""

    reward: Estimate
    forbidden: float
    moments: Mapping[str, Estimate]


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


def expectations(
    observables: Observables, mean: Callable[[Tensor], Estimate] = Estimate.of_mean
) -> Expectations:
    """Expectations from observables at M responses to each of N prompts, `[M, N]`.

    `mean` estimates a mean from values `[M, N]`, by default of independent responses.
    """
    return Expectations(
        mean(observables.reward),
        mean(observables.is_forbidden.double()).value,
        {name: mean(phi) for name, phi in observables.features.items()},
    )


class Measurement(NamedTuple):
    """Diagnostics of a guide, and the expectations under the guide for a model with factors."""

    diagnostics: Diagnostics
    expectations: Expectations | None


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
    diagnostics = diagnose(
        target, guide, prompts, num_samples=num_samples, prior_sample=prior_sample
    )
    if not model.factors:
        return Measurement(diagnostics, None)
    response = response_distribution(guide, prompts).sample(torch.Size([num_samples]))
    return Measurement(diagnostics, expectations(observe(model, prompts, response)))


def measure_posterior(
    model: AlignmentModel, prompts: Prompts, prior_sample: PriorSample
) -> Expectations | None:
    """Expectations under the posterior by the weights of draws of the prior, consistent.

    None for a model without factors, of which `Diagnostics` has all.
    """
    prior_sample.check_unspent()
    if not model.factors:
        return None
    mean = partial(prior_sample.mean, prior_sample.log_likelihood)
    return expectations(observe(model, prompts, prior_sample.response), mean)
