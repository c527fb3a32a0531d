"""What all tests share: one thread, a seed and an empty parameter store for each test, and the enumerable world."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch

from model import LanguageModel, Prompts, grammar_prior
from model.prior.grammar import PROMPTS

torch.set_num_threads(1)

STORIES = Path(__file__).parents[2] / "shared" / "data" / "stories260k"


def pytest_configure(config: pytest.Config) -> None:
    config.option.reportchars += "s"  # say why a test was skipped


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Each test starts from the same seed, and neither finds nor leaves Pyro parameters."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture(scope="session")
def prior() -> LanguageModel:
    """The prior of the enumerable world, 820 responses to a prompt, float64. Shared by all tests: copy it to change it."""
    return grammar_prior(max_new_tokens=3)


@pytest.fixture(scope="session")
def prompts(prior: LanguageModel) -> Prompts:
    """Both prompts of the grammar."""
    return prior.encode(PROMPTS)


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    """A real checkpoint that this project did not train; its padding id is its end id."""
    if not STORIES.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{STORIES} is absent")
    return STORIES
