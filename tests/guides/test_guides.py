"""What every guide owes: a normalised law, gradients for all and only its parameters, and a start at the prior."""

import copy
from functools import partial

import pyro
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from guides import GUIDES, FineTuned
from inference import log_guide_at
from model import LanguageModel

assert_close = partial(torch.testing.assert_close, atol=1e-12, rtol=0)


@pytest.fixture(params=GUIDES)
def guide(request, prior):
    return GUIDES[request.param](prior)


def test_probabilities_sum_to_one(guide, prompts):
    distribution = guide.distribution(prompts)
    total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-10)


def test_gradient_reaches_all_and_only_its_parameters(guide, prior, prompts):
    log_guide_at(guide, prompts, guide.distribution(prompts).sample((4,))).sum().backward()
    for name, parameter in guide.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert guide.num_trained_parameters() == sum(p.numel() for p in guide.parameters() if p.requires_grad) > 0
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_registers_its_parameters_with_pyro(guide, prompts):
    guide(prompts)
    registered = dict(pyro.get_param_store().named_parameters())
    trained = {f"guide$$${name}": p for name, p in guide.named_parameters() if p.requires_grad}
    assert registered.keys() == trained.keys()
    assert all(registered[name] is parameter for name, parameter in trained.items())


def test_fine_tuned_starts_at_the_prior(prior, prompts):
    guide = FineTuned(prior)
    support = prior(prompts).enumerate_support()
    assert_close(guide.distribution(prompts).log_prob(support), prior(prompts).log_prob(support))
    assert all(parameter.requires_grad for parameter in guide.parameters())


def test_fine_tuned_leaves_the_prior_alone(prior):
    before = copy.deepcopy(prior.state_dict())
    guide = FineTuned(prior)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 1
    assert all(torch.equal(before[name], value) for name, value in prior.state_dict().items())
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_fine_tuned_has_no_dropout_even_when_told_to_train(prior, prompts):
    guide = FineTuned(prior).train()
    response = prior(prompts).sample((3,))
    assert not guide.language_model.network.training
    assert_close(guide.distribution(prompts).log_prob(response), prior(prompts).log_prob(response))


def test_fine_tuned_is_loaded_by_transformers_alone(prior, prompts, tmp_path):
    guide = FineTuned(prior)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.01
    guide.save_pretrained(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    again = LanguageModel(network, AutoTokenizer.from_pretrained(tmp_path), max_new_tokens=prior.max_new_tokens)
    response = prior(prompts).sample((5,))
    assert_close(again(again.encode(prompts.texts)).log_prob(response), guide.distribution(prompts).log_prob(response))


def test_fine_tuned_in_another_dtype(prior, prompts):
    guide = FineTuned(prior, dtype=torch.bfloat16)
    assert guide.language_model.network.dtype == torch.bfloat16
    assert guide.distribution(prompts).log_prob(prior(prompts).sample()).dtype == torch.float32
    assert prior.network.dtype == torch.float64
