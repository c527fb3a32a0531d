import pytest

from tests.inference.samplers.three_tokens import World, hard


@pytest.fixture(scope="module")
def world(prior, prompts):
    """Graded evidence."""
    return World(prior, prompts)


@pytest.fixture(scope="module")
def hard_world(prior, prompts):
    """Evidence that rules most responses out."""
    return World(prior, prompts, hard)
