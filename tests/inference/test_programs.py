"""Densities by running programs: sums of the parts, and an unchanged parameter store."""

import pyro
import pytest
import torch

from guides import FineTuned
from guides.guide import GuideRegistrationError
from inference import joint_at, log_guide_at, log_likelihood_at, response_distribution


def test_joint_is_prior_plus_likelihood(model, small_prior, prompts):
    response = small_prior(prompts).sample((3,))
    joint = joint_at(model, prompts, response)
    reward = model.reward(prompts, response)
    assert torch.allclose(joint.log_prior, small_prior(prompts).log_prob(response))
    assert torch.allclose(joint.log_likelihood, reward / model.beta)
    assert torch.equal(log_likelihood_at(model, prompts, response), joint.log_likelihood)
    assert torch.equal(joint.log_joint, joint.log_prior + joint.log_likelihood)


def test_guide_is_scored_with_gradient(guide, prompts):
    response = response_distribution(guide, prompts).sample((2,))
    log_guide = log_guide_at(guide, prompts, response)
    assert torch.allclose(log_guide, guide.distribution(prompts).log_prob(response))
    log_guide.sum().backward()
    assert all(parameter.grad is not None for parameter in guide.parameters())


def test_two_guides_can_be_measured_side_by_side(small_prior, prompts):
    for guide in (FineTuned(small_prior), FineTuned(small_prior)):
        response_distribution(guide, prompts)
    assert len(pyro.get_param_store()) == 0


def test_second_guide_in_one_store_is_an_error(small_prior, prompts):
    """Pyro would train the first guide's parameters and say nothing."""
    FineTuned(small_prior)(prompts)
    with pytest.raises(GuideRegistrationError, match="training would not reach this guide"):
        FineTuned(small_prior)(prompts)


def test_factors_count_as_scaled_and_from_inside_the_plate(small_prior, prompts):
    def model(prompts, scale=2.0):
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", small_prior(prompts))
            with pyro.poutine.scale(scale=scale):
                pyro.factor("first", response[..., 0].double())

    response = small_prior(prompts).sample((3,))
    assert torch.equal(
        joint_at(model, prompts, response).log_likelihood, 2.0 * response[..., 0].double()
    )

    def outside(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            pyro.sample("response", small_prior(prompts))
        pyro.factor("loose", torch.tensor(1.0))

    match = r"factor 'loose' has shape \(\), expected one value for each of 2 prompts"
    with pytest.raises(ValueError, match=match):
        joint_at(outside, prompts, response)

    def two_latents(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            pyro.sample("response", small_prior(prompts))
            pyro.sample("mood", pyro.distributions.Bernoulli(0.5))

    with pytest.raises(ValueError, match="the model draws 'mood' besides 'response'"):
        joint_at(two_latents, prompts, response)
