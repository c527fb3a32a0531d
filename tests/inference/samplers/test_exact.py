"""Enumeration as a sampler: the truth in the shape that every sampler returns."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference.samplers.exact import enumerate_posterior
from inference.samplers.posterior import NoSupportError
from model import LanguageModel, NotEnumerableError
from tests.inference.samplers.goodness_of_fit import graded_model, nothing_for_the_second


def test_takes_the_arguments_of_every_sampler(model, prompts, truth, guide):
    posterior = enumerate_posterior(model, prompts, guide=guide, num_samples=3)
    assert torch.equal(posterior.log_weight, truth.log_joint)


def test_no_support_names_the_prompt(small_prior, prompts):
    with pytest.raises(NoSupportError, match=r"rules out every response to 'the': .* Soften"):
        enumerate_posterior(nothing_for_the_second(small_prior), prompts)


def test_responses_that_cannot_be_listed_are_refused(small_prior, model, prompts):
    def counting(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample("response", dist.Poisson(torch.ones(len(prompts), 1)).to_event(1))

    match = r"of type Independent, which cannot list .*`importance_sampling`"
    with pytest.raises(NotEnumerableError, match=match):
        enumerate_posterior(counting, prompts)
    long = LanguageModel(small_prior.network, small_prior.tokenizer, max_new_tokens=12)
    with pytest.raises(NotEnumerableError, match="too many to enumerate"):
        enumerate_posterior(graded_model(long), long.encode(["the film was"]))
