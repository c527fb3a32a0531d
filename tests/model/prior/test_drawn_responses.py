"""The lengths of draws are known as long as the draws are what was drawn."""

from dataclasses import replace

import pytest
import torch

from model.prior.drawn_responses import known_lengths, remember
from tests.model.tiny import PROMPTS, tiny


@pytest.fixture
def language_model():
    torch.manual_seed(0)
    return tiny(max_new_tokens=4)


@pytest.fixture
def response(language_model):
    response = language_model(language_model.encode(PROMPTS)).sample((20,))
    assert len(set(known_lengths(response, language_model.space))) > 1
    return response


def test_lengths_are_known_of_draws_views_and_slices(language_model, response):
    space = language_model.space
    for value in (response, response.detach(), response.flatten(0, 1), response[3:7], response[2]):
        assert known_lengths(value, space) == space.is_token(value).sum(-1).flatten().tolist()


def test_lengths_are_unknown_of_all_else(language_model, response):
    space = language_model.space
    with torch.inference_mode():
        drawn_without_versions = language_model(language_model.encode(PROMPTS)).sample((2,))
    others = {
        "a copy": response.clone(),
        "an inference tensor": drawn_without_versions,
        "rows apart": response[:, 1],
        "an order of its own": response.flip(0),
        "half rows": response.flatten()[2:-2].view(-1, 4),
        "shorter rows": response.view(-1, 2),
        "numbers of another type": response.view(torch.float64),
    }
    for name, value in others.items():
        assert known_lengths(value, space) is None, name
    for other in (replace(space, end_ids=torch.tensor([2])), replace(space, vocab_size=2)):
        assert known_lengths(response, other) is None
    response[0, 0] = 2
    assert known_lengths(response, space) is None


def test_lengths_are_unknown_after_the_memory_is_used_again(language_model, response):
    response.untyped_storage().resize_(0)
    for _ in range(50):
        other = torch.full(response.shape, 2)
        for _ in range(response._version):
            other.add_(0)  # a change in place
        assert known_lengths(other, language_model.space) is None


def test_lengths_are_unknown_beyond_the_draws_in_a_larger_memory(language_model, response):
    space = language_model.space
    lengths = known_lengths(response[3:7], space)
    remember(response[3:7], space, lengths)
    assert known_lengths(response[4:7], space) == lengths[len(PROMPTS) :]
    assert known_lengths(response[4:8], space) is known_lengths(response[2:5], space) is None


def test_draws_that_changed_are_checked(language_model, response):
    distribution = language_model(language_model.encode(PROMPTS))
    distribution.log_prob(response)
    response[0, 0] = 99
    with pytest.raises(ValueError, match="within the support"):
        distribution.log_prob(response)
