"""Reward, forbidden responses and moments, against enumeration."""

import pytest
import torch

from experiments.steer.expectations import measure, measure_posterior, observe
from guides import Fixed
from inference import Enumeration, random_state, sample_prior
from inference.prior_sample import SpentSampleError
from inference.svi.anneal import soften
from model import AlignmentModel, Length, TextReward, Tilt, contains, vader_sentiment


def measured(model, target, prior, prompts):
    """Expectations under the prior, from draws, and under the posterior, from weighted draws."""
    with random_state.isolated(0):
        sample = sample_prior(target, prompts, 2000, independent=True)
        guide = measure(model, target, Fixed(prior), prompts, sample, 2000)
    posterior = measure_posterior(model, prompts, sample, guide.diagnostics)
    return guide.expectations, posterior


def exact(log_prob, values):
    return (log_prob.exp() * values).sum(0).mean().item()


@pytest.mark.parametrize("case", ["reward", "constraint", "penalty", "moment"])
def test_means_are_those_of_the_enumeration(prior, prompts, case):
    """A constraint, a penalty and a tilt are no part of the reward; features have own means."""
    taste, very, length = TextReward(vader_sentiment, prior), contains("very", prior), Length(prior)
    factors = {} if case == "reward" else {"very": very}
    functions = {"reward": taste}
    if case == "moment":
        factors = {"moments": Tilt({"length": length}, {"length": 1.5})}
        functions["length"] = length
    model = AlignmentModel(prior, taste, 0.5, factors)
    target = soften(model, 1.0) if case == "penalty" else model
    truth = Enumeration(target, prompts)
    is_forbidden = ~very.holds(prompts, truth.support) if "very" in factors else torch.zeros(1)
    estimates = measured(model, target, prior, prompts)
    for estimate, log_prob in zip(estimates, (truth.log_prior, truth.log_posterior), strict=True):
        means = {"reward": estimate.reward, **estimate.moments}
        assert means.keys() == functions.keys()
        for name, mean in means.items():
            value = exact(log_prob, functions[name](prompts, truth.support))
            assert mean.value == pytest.approx(value, abs=4 * mean.standard_error)
            assert 0 < mean.standard_error < 0.1
        assert estimate.forbidden == pytest.approx(exact(log_prob, is_forbidden), abs=0.04)
        assert (estimate.forbidden == 0) or is_forbidden.any()
        assert not estimate.warnings


def test_expectations_from_few_effective_draws_have_warnings(prior, prompts):
    """A posterior far from the prior, without factors and with one."""
    taste, length = TextReward(vader_sentiment, prior), Length(prior)
    for factors in ({}, {"length": Tilt({"length": length}, {"length": 1.5})}):
        model = AlignmentModel(prior, taste, 0.002, factors)
        sample = sample_prior(model, prompts, 40, independent=True)
        guide = measure(model, model, Fixed(prior), prompts, sample, 40)
        posterior = measure_posterior(model, prompts, sample, guide.diagnostics)
        assert posterior.warnings
        assert not guide.expectations.warnings


def test_observables_are_functions_of_the_response(prior, prompts):
    taste, very = TextReward(vader_sentiment, prior), contains("very", prior)
    response = Enumeration(AlignmentModel(prior, taste, 0.5), prompts).support
    observables = observe(AlignmentModel(prior, taste, 0.5, {"very": very}), prompts, response)
    assert torch.equal(observables.is_forbidden, ~very.holds(prompts, response))
    assert torch.allclose(observables.reward, taste(prompts, response).double())


def test_draws_that_moments_were_matched_on_are_refused(prior, prompts):
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.5)
    sample = sample_prior(model, prompts, 20, independent=True).spend("matching moments")
    with pytest.raises(SpentSampleError, match="used for matching moments"):
        measure(model, model, Fixed(prior), prompts, sample, 20)
    with pytest.raises(SpentSampleError, match="used for matching moments"):
        measure_posterior(model, prompts, sample, None)
