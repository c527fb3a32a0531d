import pytest

from tests.inference.samplers.three_tokens import World, hard


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
