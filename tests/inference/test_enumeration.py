"""The truth: exact sums, checked against each other and against sums written out by hand."""

import math
import random

import numpy as np
import pytest
import torch

from inference import Enumeration, enumeration, log_guide_at
from model import AlignmentModel, LanguageModel, NotEnumerableError, TokenReward


def test_posterior_is_prior_times_likelihood_normalised(truth, model, prompts, small_prior):
    prior = small_prior(prompts).log_prob(truth.support).exp()
    reward = model.reward(prompts, truth.support)
    unnormalised = prior * (reward / model.beta).exp()
    assert torch.allclose(truth.log_z.exp(), unnormalised.sum(0), rtol=1e-12)
    assert torch.allclose(truth.log_posterior.exp(), unnormalised / unnormalised.sum(0), rtol=1e-10)


def test_three_sides_of_the_identity(truth, model, guide):
    elbo = truth.elbo(guide)
    rl = (
        model.beta * truth.expected_log_likelihood(guide) - model.beta * truth.kl_guide_prior(guide)
    ) / model.beta
    assert torch.allclose(elbo, truth.log_z - truth.kl_guide_posterior(guide), atol=1e-12, rtol=0)
    assert torch.allclose(elbo, rl, atol=1e-12, rtol=0)
    assert (truth.kl_guide_posterior(guide) > 1e-3).all()


def test_divergences_against_sums_by_hand(truth, guide):
    q, p = truth.log_guide(guide).exp(), truth.log_posterior.exp()
    assert torch.allclose(truth.kl_posterior_guide(guide), (p * (p / q).log()).sum(0), rtol=1e-10)
    assert torch.allclose(truth.total_variation(guide), (q - p).clamp(min=0).sum(0), rtol=1e-10)


def test_gradient_is_that_of_the_enumerated_elbo(truth, guide, prompts):
    log_guide = log_guide_at(guide, prompts, truth.support)
    (log_guide.exp() * (truth.log_joint - log_guide)).sum().backward()
    exact = truth.elbo_gradient(guide)
    for name, parameter in guide.named_parameters():
        assert torch.allclose(exact[name], parameter.grad, rtol=1e-9, atol=1e-12), name


def test_chunks_and_parameters_that_play_no_part_change_nothing(
    model, prompts, truth, guide, monkeypatch
):
    """Seven responses at a time, the last time fewer; terms without q have gradient 0."""
    whole = truth.elbo_gradient(guide)
    monkeypatch.setattr(enumeration, "CHUNK", 14)
    apart = Enumeration(model, prompts)
    assert torch.allclose(apart.log_joint, truth.log_joint, rtol=0, atol=1e-12)
    guide.idle = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    gradient = apart.elbo_gradient(guide)
    assert gradient.pop("idle").tolist() == [0.0] * 3
    assert gradient.keys() == whole.keys()
    for name, part in gradient.items():
        assert torch.allclose(part, whole[name], rtol=1e-9, atol=1e-12), name
    monkeypatch.setattr(enumeration, "CHUNK", 1)  # less than there are prompts
    assert torch.allclose(Enumeration(model, prompts).log_z, truth.log_z, rtol=0, atol=1e-12)


def test_impossible_responses_have_no_posterior_mass(small_prior, prompts):
    """Hard constraint: log 0 unless the first word is `good` (7)."""
    reward = TokenReward(
        lambda response, _: torch.where(response[..., 0] == 7, 0.0, -math.inf), small_prior
    )
    truth = Enumeration(AlignmentModel(small_prior, reward, beta=1.0), prompts)
    starts_good = (
        small_prior(prompts).log_prob(truth.support).exp().where(truth.support[..., 0] == 7, 0.0)
    )
    assert torch.allclose(truth.log_z.exp(), starts_good.sum(0))
    assert torch.allclose(truth.log_posterior.exp().sum(0), torch.ones(2, dtype=torch.float64))
    assert torch.isinf(truth.kl_guide_posterior(AlignmentModelPrior(small_prior))).all()
    assert torch.isfinite(truth.kl_posterior_guide(AlignmentModelPrior(small_prior))).all()


def test_no_possible_response_is_an_error(small_prior, prompts):
    nothing = TokenReward(
        lambda response, _: torch.full(response.shape[:-1], -math.inf), small_prior
    )
    with pytest.raises(ZeroDivisionError, match="rules out every response to 'the film was'"):
        Enumeration(AlignmentModel(small_prior, nothing, beta=1.0), prompts)


def test_large_support_is_refused_with_the_size(small_prior):
    long = LanguageModel(small_prior.network, small_prior.tokenizer, max_new_tokens=12)
    match = r"10 token ids and 12 positions make 3\.18e\+11 responses"
    with pytest.raises(NotEnumerableError, match=match):
        Enumeration(AlignmentModel(long, {}, beta=1.0), long.encode(["the film was"]))


@pytest.mark.parametrize(
    "draw", [torch.rand, lambda _: random.random(), lambda _: np.random.rand()]
)
def test_a_random_factor_is_warned_of(draw, small_prior, prompts):
    noisy = TokenReward(lambda response, _: 0.0 * response.sum(-1) + draw(()), small_prior)
    with pytest.warns(UserWarning, match="AlignmentModel drew random numbers for its factors"):
        Enumeration(AlignmentModel(small_prior, noisy, beta=1.0), prompts)


class AlignmentModelPrior(AlignmentModel):
    """The prior alone, as a guide."""

    def __init__(self, prior):
        super().__init__(prior, {}, beta=1.0)
