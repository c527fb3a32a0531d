"""Adaptive rejection: exact draws, an unbiased Z, and a trie that holds what is ruled out."""

import pytest
import torch

from inference.samplers.adaptive_rejection import adaptive_rejection_sampling
from inference.samplers.posterior import NoSupportError
from model import TokenReward
from tests.inference.samplers.three_tokens import NUM_WORDS, World, assert_unbiased, graded

RUNS = 300


def may_stand(response):
    """No word 8, and after an odd word no other odd word."""
    odd = response % 2 == 1
    return ~(response == 8).any(-1) & ~(odd[..., 1:] & odd[..., :-1]).any(-1)


def allowed(prompts, response, t):
    assert response.shape == (1, len(prompts), 3)
    return may_stand(response)


@pytest.fixture(scope="module")
def constrained(prior, prompts):
    def function(response, is_token):
        return graded(response, is_token).where(may_stand(response), -torch.inf)

    return World(prior, prompts, function)


@pytest.mark.parametrize("every_token", [True, False])
def test_z_and_means_are_unbiased_from_the_first_draw_on(constrained, prior, every_token):
    free = constrained.program(constrained.log_prior, TokenReward(graded, prior))
    posterior = adaptive_rejection_sampling(
        free,
        constrained.repeated(RUNS),
        allowed,
        num_samples=24,
        chunk=4,
        every_token=every_token,
    )
    assert_unbiased(constrained.z_ratio(posterior), torch.ones(2))
    accepted = posterior.response[posterior.log_weight.isfinite()]
    assert may_stand(accepted).all()
    # the last draws, of tries that have ruled out most, have the distribution of the first
    for part in (slice(0, 4), slice(20, 24)):
        weight = posterior.log_weight[part].isfinite().double()
        first = torch.isin(posterior.response[part, :, 0], torch.tensor([5, 2])).double()
        log_p = constrained.truth.log_prior.masked_fill(
            ~may_stand(constrained.truth.support), -torch.inf
        ).log_softmax(0)
        which = torch.isin(constrained.truth.support[..., 0], torch.tensor([5, 2])).double()
        expected = (log_p.exp() * which).sum(0)
        share = ((weight * first).sum(0).view(-1, 2).sum(0)) / weight.sum(0).view(-1, 2).sum(0)
        count = weight.sum(0).view(-1, 2).sum(0)
        error = (expected * (1 - expected) / count).sqrt()
        assert ((share - expected).abs() < 4 * error).all()


@pytest.mark.parametrize("every_token", [True, False])
def test_what_is_left_falls_to_the_mass_of_the_allowed(constrained, prior, every_token):
    model = constrained.program(constrained.log_prior)
    is_allowed = may_stand(constrained.truth.support)
    mass = constrained.truth.log_prior.exp().where(is_allowed, 0.0).sum(0)
    bounds = []
    for num_samples in (2, 64, 2000):
        torch.manual_seed(0)
        posterior = adaptive_rejection_sampling(
            model, constrained.prompts, allowed, num_samples=num_samples, every_token=every_token
        )
        bounds.append(posterior.diagnostics["bound"])
    few, more, most = bounds
    assert (few >= more).all()
    assert (more >= most).all()
    assert (few > most + 0.01).all()
    assert (most > mass - 1e-9).all()
    assert torch.allclose(most, mass, rtol=0, atol=1e-3 if every_token else 0.02)


def test_draws_of_the_tested_tokens_are_all_accepted_once_the_trie_is_full(constrained):
    model = constrained.program(constrained.log_prior)

    def first(prompts, response, t):
        return response[..., 0] % 2 == 0

    posterior = adaptive_rejection_sampling(
        model, constrained.prompts, first, num_samples=64, chunk=1
    )
    assert posterior.log_weight[1:].isfinite().all()
    even = constrained.truth.support[..., 0] % 2 == 0
    mass = constrained.truth.log_prior.exp().where(even, 0.0).sum(0)
    assert torch.allclose(posterior.diagnostics["bound"], mass, rtol=0, atol=1e-9)
    assert (posterior.diagnostics["num_tests"] > 64 + NUM_WORDS).all()


def test_nothing_that_may_stand_is_an_error(constrained):
    def none(prompts, response, t):
        return torch.zeros(response.shape[:-1], dtype=torch.bool)

    model = constrained.program(constrained.log_prior)
    with pytest.raises(NoSupportError, match="no response may stand, loosen `allowed`"):
        adaptive_rejection_sampling(model, constrained.prompts, none, num_samples=64)


def test_another_shape_of_allowed_is_refused(constrained):
    model = constrained.program(constrained.log_prior)
    with pytest.raises(ValueError, match="allowed returned shape"):
        adaptive_rejection_sampling(
            model, constrained.prompts, lambda prompts, response, t: response == 0
        )
