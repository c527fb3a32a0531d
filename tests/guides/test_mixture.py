"""The density of a mixture is the weighted sum over the components, by token and response."""

import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from guides import FineTuned, MeanField, NGram, Recurrent, Tempered, Twisted, mixture_of
from guides.mixture import Mixture
from inference import log_guide_at
from tests.model.tiny import PROMPTS, tiny


def moved(guide, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += 0.5 * torch.randn_like(parameter)
    return guide


@pytest.fixture
def prior():
    return tiny(temperature=0.8)


@pytest.fixture
def prompts(prior):
    return prior.encode(PROMPTS)


@pytest.fixture
def mixture(prior, prompts):
    """Components of different families, at different temperatures, one frozen."""
    return moved(
        Mixture([FineTuned(prior), Recurrent(prior), MeanField(prior, prompts), Tempered(prior)]), 1
    )


def test_density_is_the_weighted_sum(mixture, prior, prompts):
    support = prior(prompts).enumerate_support()
    parts = torch.stack(
        [guide.distribution(prompts).log_prob(support) for guide in mixture.components]
    )
    expected = (mixture.logits.log_softmax(-1)[:, None, None] + parts).logsumexp(0)
    assert torch.allclose(mixture.distribution(prompts).log_prob(support), expected, atol=1e-12)
    assert (parts.std(0) > 0.1).any()
    rooms = [guide.distribution(prompts).decoder.room for guide in mixture.components]
    smallest = min(room for room in rooms if room is not None)
    assert mixture.distribution(prompts).decoder.room == smallest // len(rooms)
    half = nn.ModuleList([FineTuned(prior, dtype="bfloat16")])
    assert Mixture(half).logits.dtype == torch.float32


def test_gradient_is_that_of_the_weighted_sum(mixture, prior, prompts):
    support = prior(prompts).enumerate_support()
    weight = torch.randn(support.shape[:-1], dtype=torch.float64)
    parts = torch.stack(
        [guide.distribution(prompts).log_prob(support) for guide in mixture.components]
    )
    plain = (mixture.logits.log_softmax(-1)[:, None, None] + parts).logsumexp(0)
    parameters = list(mixture.trained().values())
    expected = torch.autograd.grad((weight * plain).sum(), parameters)
    gradients = torch.autograd.grad(
        (weight * log_guide_at(mixture, prompts, support)).sum(), parameters
    )
    assert all(torch.allclose(*pair, atol=1e-10) for pair in zip(gradients, expected, strict=True))


def test_suffixes_are_drawn_from_the_components_that_the_prefix_speaks_for(prior):
    """After a first token of a single component, the second token is of the same component."""
    prompts = prior.encode(["a"])
    guides = [MeanField(prior, prompts), MeanField(prior, prompts)]
    with torch.no_grad():
        for guide, word in zip(guides, (2, 3), strict=True):
            guide.logits[..., word] = 30.0
    distribution = Mixture(guides).distribution(prompts)
    assert {tuple(row) for row in distribution.sample((50,))[:, 0].tolist()} == {
        (2, 2, 2),
        (3, 3, 3),
    }
    value = torch.tensor([[[2, 4, 4]], [[3, 4, 4]]]).repeat(20, 1, 1)
    drawn = distribution.sample_suffix(value, torch.ones(40, 1, dtype=torch.long))[:, 0].tolist()
    assert Counter(map(tuple, drawn)) == {(2, 2, 2): 20, (3, 3, 3): 20}


def test_response_outside_all_components_has_probability_0_and_no_nan(prior, prompts):
    mixture = Mixture([moved(Twisted(prior, top_k=2), 1), moved(Twisted(prior, top_k=3), 2)])
    support = prior(prompts).enumerate_support()
    log_prob = mixture.distribution(prompts).log_prob(support)
    parts = torch.stack(
        [guide.distribution(prompts).log_prob(support) for guide in mixture.components]
    )
    expected = (parts - math.log(2)).logsumexp(0)
    assert expected.isneginf().any()
    assert torch.allclose(log_prob, expected, atol=1e-12)
    log_prob[~expected.isneginf()].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in mixture.trained().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("excluded", [-2e4, -torch.inf])
def test_a_token_that_components_exclude_has_the_probability_of_the_weighted_sum(excluded, dtype):
    """Also where one component excludes the first token, and the other component the second."""
    prior = tiny(dtype=dtype)
    prompts = prior.encode(["a"])
    mixture = Mixture([moved(MeanField(prior, prompts), seed) for seed in (1, 2)])
    with torch.no_grad():
        for t, guide in enumerate(mixture.components):
            guide.logits[:, t, 3] = guide.logits[:, 2, 4] = excluded
    support = prior(prompts).enumerate_support()
    parts = [guide.distribution(prompts).log_prob(support) for guide in mixture.components]
    log_prob = torch.stack(parts) - math.log(2)
    actual, expected = mixture.distribution(prompts).log_prob(support), log_prob.logsumexp(0)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert (expected < -1e4).sum() > 10
    possible = expected > -torch.inf
    values = actual[possible].sum(), log_prob[:, possible].logsumexp(0).sum()
    parameters = [guide.logits for guide in mixture.components]
    ours, plain = (torch.autograd.grad(value, parameters) for value in values)
    assert_close(ours, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("component", ["fine-tuned", "lora", "recurrent", "mean-field"])
def test_components_of_one_family_are_set_apart(prior, prompts, component):
    guide = mixture_of(prior, prompts, component=component, num_components=3)
    support = prior(prompts).enumerate_support()
    first, *others = (one.distribution(prompts).log_prob(support) for one in guide.components)
    assert len(others) == 2
    for other in others:
        assert (other - first).abs().max() > 1e-3
    assert mixture_of(prior, prompts, component=component, num_components=1).distribution(prompts)


def test_guides_that_cannot_be_mixed_are_refused(prior, prompts):
    with pytest.raises(ValueError, match="got no guides"):
        Mixture([])
    with pytest.raises(TypeError, match="guides is one FineTuned, expected a list of guides"):
        Mixture(FineTuned(prior))
    match = "a component is a LanguageModel, expected a `Guide`: wrap it in `Fixed`"
    with pytest.raises(TypeError, match=match):
        Mixture([FineTuned(prior), prior])
    with pytest.raises(ValueError, match="different responses, with max_new_tokens 3 and 2"):
        Mixture([FineTuned(prior), FineTuned(tiny(max_new_tokens=2))]).distribution(prompts)
    other = NGram(prior)
    other.pad_id += 1
    for guide, what in ((other, "pad_id"), (Recurrent(tiny(end_ids=[0, 4])), "end_ids")):
        with pytest.raises(ValueError, match=f"different responses, with {what}"):
            Mixture([FineTuned(prior), guide]).distribution(prompts)
