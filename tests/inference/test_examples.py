"""Examples in the docstrings of the ground, the fit, the targets and the diagnostics run."""

import pytest
import torch

import inference
from guides import FineTuned
from model import AlignmentModel, TextReward, vader_sentiment
from tests.guides.test_examples import example

EXAMPLES = [
    inference.Enumeration,
    inference.FusedOptimizer,
    inference.PriorSample,
    inference.diagnose,
    inference.fit,
    inference.match_moments,
    inference.solve_beta,
]


@pytest.fixture
def names(model, small_prior, prompts):
    """Names that an example uses."""
    return {
        **vars(inference),
        "AlignmentModel": AlignmentModel,
        "guide": FineTuned(small_prior),
        "model": model,
        "positive": lambda _, response: (response == 7).any(-1).double(),
        "prior": small_prior,
        "prompts": prompts,
        "reward": TextReward(vader_sentiment, small_prior),
        "torch": torch,
    }


@pytest.mark.parametrize("documented", EXAMPLES, ids=lambda documented: documented.__name__)
def test_example_of_a_docstring_runs(documented, names, monkeypatch):
    code = example(documented)
    assert documented.__name__ in code or "sample_prior" in code
    names |= {"print": lambda *values: [str(value) for value in values]}
    exec(
        code.replace("num_steps=1000", "num_steps=2").replace("num_steps=100", "num_steps=2"), names
    )
