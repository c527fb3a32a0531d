"""Guides without training: the prior or another guide as a proposal, at any temperature."""

import copy

import pyro
import pytest
import torch
from pyro.infer import SVI

from guides import FineTuned, Fixed, LoRA, Tempered
from inference import LeaveOneOut_ELBO, log_guide_at
from inference.objectives.parts.off_policy import tempered
from model import AlignmentModel, TextReward, vader_sentiment


@pytest.fixture
def model(prior):
    return AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta=0.3)


@pytest.mark.parametrize(
    "wrap", [Fixed, lambda guide: Tempered(guide, temperature=1.0)], ids=["fixed", "tempered"]
)
def test_is_constant_while_the_source_trains(prior, model, prompts, wrap):
    guide = FineTuned(prior, subset="last-layers")
    fixed, response = wrap(guide), prior(prompts).sample((4,))
    before = log_guide_at(fixed, prompts, response)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), LeaveOneOut_ELBO(4))
    svi.step(prompts)
    assert not torch.allclose(log_guide_at(guide, prompts, response), before)
    assert torch.equal(log_guide_at(fixed, prompts, response), before)
    assert not before.requires_grad


def test_copies_only_trained_parameters(prior):
    for guide in (FineTuned(prior, subset="norms-and-biases"), LoRA(prior)):
        own, fixed = (
            {p.data_ptr() for p in guide.parameters()},
            {p.data_ptr() for p in Fixed(guide).parameters()},
        )
        assert len(own - fixed) == len(guide.trained())
    assert {p.data_ptr() for p in Fixed(prior).parameters()} == {
        p.data_ptr() for p in prior.parameters()
    }


def test_a_thawed_language_model_stands_still_too(prior, prompts):
    thawed = copy.deepcopy(prior)
    thawed.network.requires_grad_(True)
    fixed, response = Fixed(thawed), prior(prompts).sample((4,))
    before = log_guide_at(fixed, prompts, response)
    assert fixed.num_trained_parameters() == 0
    with torch.no_grad():
        for parameter in thawed.parameters():
            parameter += 1
    assert torch.equal(log_guide_at(fixed, prompts, response), before)


def test_tempered_divides_logits_at_the_temperature_of_the_source(prior, prompts):
    warm = FineTuned(prior)
    warm.language_model.temperature = 0.5
    response = prior(prompts).sample((4,))
    expected = prior(prompts).at_temperature(0.5 * 3.0).log_prob(response)
    assert torch.allclose(
        log_guide_at(Tempered(warm, temperature=3.0), prompts, response), expected, atol=1e-12
    )
    assert not torch.allclose(expected, prior(prompts).log_prob(response))


def test_one_more_temperature_comes_on_top_of_the_distributions_own(prior, prompts):
    """In a guide, and in the bolder draws of an objective."""
    response = prior(prompts).sample((4,))
    expected = prior(prompts).at_temperature(6.0).log_prob(response)
    warm = Fixed(lambda prompts: prior(prompts).at_temperature(2.0))
    in_guide = log_guide_at(Tempered(warm, temperature=3.0), prompts, response)
    in_draws = tempered(warm.distribution(prompts), 3.0).log_prob(response)
    replaced = prior(prompts).at_temperature(3.0).log_prob(response)
    assert torch.allclose(in_guide, expected, atol=1e-12)
    assert torch.allclose(in_draws, expected, atol=1e-12)
    assert not torch.allclose(expected, replaced, atol=1e-3)


def test_guide_that_cannot_be_tempered_is_refused(prior, prompts):
    uniform = pyro.distributions.Categorical(logits=torch.zeros(2, 3, 10)).to_event(1)
    match = r"got a guide with a Independent, expected a `ResponseDistribution`"
    with pytest.raises(TypeError, match=match):
        Tempered(Fixed(lambda _: uniform)).distribution(prompts)
    with pytest.raises(
        TypeError, match="what source returned is a Tensor, expected a Distribution"
    ):
        Fixed(lambda _: uniform.sample()).distribution(prompts)
