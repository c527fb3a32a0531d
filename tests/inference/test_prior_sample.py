"""Weighted samples of the prior, all responses or draws, at other betas."""

from dataclasses import replace

import pytest
import torch

from guides import FineTuned, Fixed
from inference import (
    BestOfN_ELBO,
    Enumeration,
    PriorSample,
    diagnose,
    fit,
    match_moments,
    random_state,
    sample_prior,
    solve_beta,
)
from inference.prior_sample import SpentSampleError
from model import AlignmentModel, ResponseDistribution, TextReward, vader_sentiment
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


def test_spent_draws_measure_nothing_and_neither_do_their_copies(small_prior, prompts, reward):
    """Draws are spent at birth by a purpose, or later, in all copies. A list of all is exact."""
    model = AlignmentModel(small_prior, reward, 0.5)
    sample = sample_prior(model, prompts, 20, independent=True)
    copy = replace(sample, log_likelihood=2 * sample.log_likelihood)
    sample.check_unspent()
    assert sample.spend("a warm start") is sample
    copy.spend("matching moments")
    fault = "the 20 draws .* used for a warm start and matching moments, .*: measure with a new"
    for spent in (sample, copy):
        with pytest.raises(SpentSampleError, match=fault):
            spent.check_unspent()
        with pytest.raises(SpentSampleError, match=fault):
            diagnose(model, Fixed(small_prior), prompts, num_samples=20, prior_sample=spent)
    born = sample_prior(model, prompts, 20, independent=True, purpose="solving for beta")
    with pytest.raises(SpentSampleError, match="used for solving for beta, "):
        diagnose(model, Fixed(small_prior), prompts, num_samples=20, prior_sample=born)
    every = sample_prior(model, prompts, small_prior.space.num_responses, purpose="anything")
    every.check_unspent()
    with pytest.raises(ValueError, match="lists all responses, expected independent draws"):
        diagnose(model, Fixed(small_prior), prompts, prior_sample=every)


@pytest.mark.parametrize("learn", ["moments", "beta", "best of n"])
def test_what_learns_from_prior_draws_spends_the_draws(
    small_prior, prompts, reward, learn, monkeypatch
):
    model, spent = AlignmentModel(small_prior, reward, 0.5), []
    spend = PriorSample.spend
    monkeypatch.setattr(
        PriorSample, "spend", lambda self, purpose: spent.append(purpose) or spend(self, purpose)
    )
    purposes = {
        "moments": "matching moments",
        "beta": "solving for beta",
        "best of n": "ranks of best of n",
    }
    if learn == "moments":
        match_moments(model, prompts, {"r": reward}, {"r": 0.2}, num_draws=50)
    elif learn == "beta":
        solve_beta(small_prior, reward, prompts, max_kl=0.1, num_draws=50)
    else:
        BestOfN_ELBO(4, num_prior_draws=50).loss(model, FineTuned(small_prior), prompts)
    assert spent == [purposes[learn]]


def test_under_one_seed_fits_and_measurements_draw_from_different_streams(
    small_prior, prompts, reward, monkeypatch
):
    """A guide starts at the prior, and its first responses would be the prior's in one stream."""
    model, seeds = AlignmentModel(small_prior, reward, 0.5), []
    sample = ResponseDistribution._draw

    def recorded(self, sample_shape):
        if sample_shape:
            seeds.append(torch.initial_seed())
        return sample(self, sample_shape)

    def streams(action):
        seeds.clear()
        with random_state.isolated(0):
            action()
        return set(seeds)

    monkeypatch.setattr(ResponseDistribution, "_draw", recorded)
    options = {"num_steps": 1, "objective": BestOfN_ELBO(4), "progress": False}
    trained = streams(lambda: fit(model, FineTuned(small_prior), prompts, **options))
    trained |= streams(
        lambda: match_moments(model, prompts, {"r": reward}, {"r": 0.2}, num_draws=50)
    )
    assert trained == {0}
    sizes = {"num_samples": 64, "num_prior_draws": 64}
    measured = streams(lambda: diagnose(model, Fixed(small_prior), prompts, **sizes))
    measured |= streams(lambda: sample_prior(model, prompts, 64, independent=True))
    assert len(measured) == 2
    assert min(measured) >= 2**31


def test_measurements_repeat_under_a_seed_and_differ_one_after_the_other(
    small_prior, prompts, reward
):
    model = AlignmentModel(small_prior, reward, 0.5)
    responses = []
    for _ in range(2):
        with random_state.isolated(3):
            responses.append(
                [sample_prior(model, prompts, 50, independent=True).response for _ in range(2)]
            )
    (first, second), (again, _) = responses
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_the_error_of_few_effective_draws_is_that_of_as_many_independent_draws():
    values = torch.randn(100, 1, dtype=torch.float64)
    log_weight = torch.where(torch.arange(100)[:, None] < 4, 0.0, -torch.inf).double()
    sample = PriorSample.of_draws(torch.zeros(100, 1, 1), log_weight)
    estimate = sample.mean(log_weight, values)
    assert estimate == pytest.approx((values[:4].mean().item(), values[:4].std().item() / 2))
