import pytest
import torch

from tests.inference.samplers.three_tokens import World, graded, hard, may_stand


@pytest.fixture(scope="module")
def world(prior, prompts):
    """Graded reward."""
    return World(prior, prompts)


@pytest.fixture(scope="module")
def hard_world(prior, prompts):
    """Hard constraint that most responses violate."""
    return World(prior, prompts, hard)


@pytest.fixture(scope="module")
def verdicts(small_prior):
    return small_prior.encode(["the film was", "the plot was"])


@pytest.fixture(scope="module")
def constrained(prior, prompts):
    """Graded reward of the responses that `may_stand` allows."""

    def function(response, is_token):
        return graded(response, is_token).where(may_stand(response), -torch.inf)

    return World(prior, prompts, function)
