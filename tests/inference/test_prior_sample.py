"""Weighted samples of the prior, all responses or draws, at other betas."""

import pytest
import torch

from inference import Enumeration, PriorSample, sample_prior
from model import AlignmentModel, TextReward, vader_sentiment
from model.prior.grammar import PROMPTS


@pytest.fixture(scope="module")
def reward(small_prior):
    return TextReward(vader_sentiment, small_prior, upper_bound=1.0)


@pytest.fixture(scope="module")
def prompts(small_prior):
    return small_prior.encode(PROMPTS)


def test_the_frontier_is_the_posterior_of_every_beta(small_prior, prompts, reward):
    """Compare with the enumeration of each model."""
    sample = sample_prior(
        AlignmentModel(small_prior, reward, 0.5), prompts, small_prior.space.num_responses
    )
    assert sample.exact
    for factor, (kl, log_likelihood) in zip(
        [0.2, 1.0, 5.0], sample.frontier([0.2, 1.0, 5.0]), strict=True
    ):
        truth = Enumeration(AlignmentModel(small_prior, reward, 0.5 / factor), prompts)
        posterior = truth.log_posterior.exp()
        exact_kl = (posterior * (truth.log_posterior - truth.log_prior)).sum(0).mean().item()
        exact_mean = (posterior * truth.log_likelihood).sum(0).mean().item() / factor
        assert kl == pytest.approx(exact_kl, abs=1e-6)
        assert log_likelihood == pytest.approx(exact_mean, abs=1e-6)


@pytest.fixture
def four():
    """Four responses, two of them with the same log likelihood."""
    prob = torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64)
    log_likelihood = torch.tensor([[0.0], [1.0], [1.0], [2.0]], dtype=torch.float64)
    return PriorSample(torch.arange(4).view(4, 1, 1), prob.log(), log_likelihood, exact=True)


def test_the_frontier_at_a_kl_is_the_posterior_with_this_kl(four):
    for kl, mean in four.frontier([0.3, 1.0, 4.0]):
        assert four.frontier_at(kl) == pytest.approx(mean, abs=1e-9)


def test_no_distribution_is_above_the_frontier(four):
    for row in torch.rand(200, 4, 1).double().log_softmax(1) * 3:
        log_prob = row.log_softmax(0)
        kl = (log_prob.exp() * (log_prob - four.log_prior_weight)).sum().item()
        mean = (log_prob.exp() * four.log_likelihood).sum().item()
        assert mean <= four.frontier_at(kl) + 1e-9


def test_beyond_the_last_posterior_the_frontier_is_the_largest_log_likelihood(four):
    assert four.frontier_at(5.0) == pytest.approx(2.0, abs=1e-9)


def test_draws_agree_with_the_enumeration_within_standard_errors(small_prior, prompts, reward):
    model = AlignmentModel(small_prior, reward, 0.5)
    every = sample_prior(model, prompts, small_prior.space.num_responses)
    draws = sample_prior(model, prompts, 4000, independent=True)
    assert not draws.exact
    for factor in (0.3, 1.0, 2.0):
        exact, estimates = (
            (sample.kl(weight), sample.mean(weight, sample.log_likelihood))
            for sample in (every, draws)
            for weight in [sample.log_likelihood * factor]
        )
        for truth, estimate in zip(exact, estimates, strict=True):
            assert truth.standard_error == 0
            assert 0 < estimate.standard_error < 0.1
            assert abs(estimate.value - truth.value) < 5 * estimate.standard_error
    assert draws.effective_sample_size(torch.zeros_like(draws.log_likelihood)) == pytest.approx(
        4000
    )
