"""Importance sampling against exact sums."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference import Enumeration, log_guide_at
from inference.samplers.importance import importance_sampling
from tests.inference.samplers.goodness_of_fit import counts, graded_model, misfit


@pytest.mark.parametrize("guided", [False, True])
def test_weights_are_those_of_the_definition(model, prompts, guide, truth, guided):
    guide = guide if guided else None
    posterior = importance_sampling(model, prompts, guide=guide, num_samples=300, chunk=128)
    proposal = truth.log_prior if guide is None else truth.log_guide(guide)
    row = (posterior.response[None] == truth.support[:, None]).all(-1).int().argmax(0)  # [M, N]
    expected = (truth.log_joint - proposal).gather(0, row)
    assert torch.allclose(posterior.log_weight, expected, atol=1e-9)
    assert posterior.log_weight.dtype == torch.float64


@pytest.mark.parametrize("guided", [False, True])
def test_means_are_consistent_and_resampling_gives_the_posterior(small_prior, guide, guided):
    model, prompts = graded_model(small_prior), small_prior.encode(["the film was", "the plot was"])
    truth = Enumeration(model, prompts)
    exact = (truth.log_posterior.exp() * truth.log_likelihood).sum(0)
    prior = (truth.log_prior.exp() * truth.log_likelihood).sum(0)
    options = {"guide": guide if guided else None, "num_samples": 16384, "chunk": 4096}
    posterior = importance_sampling(model, prompts, **options)
    log_proposal = truth.log_guide(guide) if guided else truth.log_prior
    square = (truth.log_likelihood - exact).square()
    variance = ((2 * truth.log_posterior - log_proposal).exp() * square).sum(0)
    error = (variance / 16384).sqrt()  # of a mean under normalised weights, by the delta method
    mean = posterior.mean(model.reward(prompts, posterior.response))
    assert ((mean - exact).abs() < 5 * error).all()
    assert ((prior - exact).abs() > 10 * error).all()
    drawn = counts(posterior.resample(4000), truth.support)
    assert (misfit(drawn, truth.log_posterior.exp()) < 5).all()
    assert (misfit(drawn, truth.log_prior.exp()) > 10).all()


def test_diagnostics(small_prior, prompts, guide):
    model = graded_model(small_prior)
    posterior = importance_sampling(model, prompts, guide=guide, num_samples=500)
    weight = posterior.log_weight.exp()
    by_hand = weight.sum(0).square() / weight.square().sum(0)
    assert torch.allclose(posterior.diagnostics["effective_sample_size"], by_hand)
    assert posterior.diagnostics["pareto_k"].shape == (2,)


def test_a_prior_that_proposes_is_not_scored(small_prior, prompts, monkeypatch):
    monkeypatch.setattr("model.prior.response_distribution.ResponseDistribution.log_prob", _refuse)
    importance_sampling(graded_model(small_prior), prompts, num_samples=4)


def _refuse(*_):
    raise AssertionError("scored")


def test_any_distribution_at_the_site(prompts):
    """Normal prior, Gaussian likelihood, known posterior and Z; the guide is a Student."""

    def model(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            normal = dist.Normal(torch.zeros(len(prompts), 3).double(), 1.0)
            x = pyro.sample("response", normal.to_event(1))
            pyro.factor("reward", -0.5 * (x - 1).square().sum(-1))

    def guide(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            student = dist.StudentT(5.0, torch.full((len(prompts), 3), 0.5).double())
            return pyro.sample("response", student.to_event(1))

    for proposal in (None, guide):
        options = {"guide": proposal, "num_samples": 20000, "chunk": 8192}
        posterior = importance_sampling(model, prompts, **options)
        mean = posterior.mean(posterior.response[..., 0])
        assert ((posterior.log_z + 1.5 * math.log(2) + 0.75).abs() < 0.05).all()
        assert ((mean - 0.5).abs() < 0.04).all()
    assert log_guide_at(guide, prompts, posterior.response).shape == (20000, 2)
