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


@pytest.mark.parametrize("penalty", [None, 1.0])
def test_the_reward_has_no_constraint_and_no_penalty_in_it(prior, prompts, penalty):
    taste, very = TextReward(vader_sentiment, prior), contains("very", prior)
    model = AlignmentModel(prior, taste, 0.5, {"very": very})
    target = model if penalty is None else soften(model, penalty)
    truth = Enumeration(target, prompts)
    reward, forbidden = taste(prompts, truth.support), ~very.holds(prompts, truth.support)
    distributions = (truth.log_prior, truth.log_posterior)
    for estimate, log_prob in zip(
        measured(model, target, prior, prompts), distributions, strict=True
    ):
        error = 4 * estimate.reward.standard_error
        assert estimate.reward.value == pytest.approx(exact(log_prob, reward), abs=error)
        assert 0 < estimate.reward.standard_error < 0.05
        assert estimate.forbidden == pytest.approx(exact(log_prob, forbidden), abs=0.04)
        assert estimate.moments == {}


def test_a_tilt_is_no_reward_and_its_features_have_means(prior, prompts):
    taste, length = TextReward(vader_sentiment, prior), Length(prior)
    moments = Tilt({"length": length}, {"length": 1.5})
    model = AlignmentModel(prior, taste, 0.5, {"moments": moments})
    truth = Enumeration(model, prompts)
    distributions = (truth.log_prior, truth.log_posterior)
    for estimate, log_prob in zip(
        measured(model, model, prior, prompts), distributions, strict=True
    ):
        pairs = ((estimate.reward, taste), (estimate.moments["length"], length))
        for mean, function in pairs:
            value = exact(log_prob, function(prompts, truth.support))
            assert mean.value == pytest.approx(value, abs=4 * mean.standard_error)
            assert 0 < mean.standard_error < 0.1
        assert estimate.forbidden == 0


def test_without_factors_the_diagnostics_have_the_reward(prior, prompts):
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.5)
    truth = Enumeration(model, prompts)
    reward = model.reward(prompts, truth.support)
    distributions = (truth.log_prior, truth.log_posterior)
    for estimate, log_prob in zip(
        measured(model, model, prior, prompts), distributions, strict=True
    ):
        error = 4 * estimate.reward.standard_error
        assert estimate.reward.value == pytest.approx(exact(log_prob, reward), abs=error)
        assert (estimate.forbidden, dict(estimate.moments), estimate.doubt) == (0.0, {}, "")


def test_expectations_from_few_effective_draws_are_in_doubt(prior, prompts):
    """A posterior far from the prior, without factors and with one."""
    taste, length = TextReward(vader_sentiment, prior), Length(prior)
    for factors in ({}, {"length": Tilt({"length": length}, {"length": 1.5})}):
        model = AlignmentModel(prior, taste, 0.002, factors)
        sample = sample_prior(model, prompts, 40, independent=True)
        guide = measure(model, model, Fixed(prior), prompts, sample, 40)
        posterior = measure_posterior(model, prompts, sample, guide.diagnostics)
        assert posterior.doubt
        assert not guide.expectations.doubt


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
