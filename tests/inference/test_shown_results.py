"""Results as a notebook shows them at the end of a cell: short, with the numbers that matter."""

import re

import pytest

from guides import LoRA
from inference import SAMPLERS, diagnose, fit, importance_sampling
from model import AlignmentModel, TextReward, contains, grammar_prior, vader_sentiment


@pytest.fixture(scope="module")
def prior():
    return grammar_prior(max_new_tokens=2)


@pytest.fixture(scope="module")
def prompts(prior):
    return prior.encode(["the film was", "the plot was"])


@pytest.fixture(scope="module")
def model(prior):
    return AlignmentModel(prior, {"vader": TextReward(vader_sentiment, prior)}, beta=0.3)


def test_a_fit_shows_its_steps_and_what_is_out_of_the_ordinary(model, prior, prompts):
    result = fit(model, LoRA(prior, rank=2), prompts, num_steps=3, progress=False)
    assert repr(result) == f"Fit(step=3, elbo={result.metrics[-1]['elbo']:.3f})"
    result.stopped_early, result.warnings = "step 4: NaN", ["the ELBO fell"]
    assert repr(result).endswith(", stopped_early='step 4: NaN', warnings=['the ELBO fell'])")


def test_diagnostics_show_a_line_for_each_estimate_of_their_summary(model, prior, prompts):
    shown = diagnose(model, LoRA(prior, rank=2), prompts, num_samples=64, num_prior_draws=64)
    lines = [f"{symbol}: {text}" for symbol, text in shown.summary().items()]
    assert repr(shown).splitlines() == str(shown).splitlines() == lines


def test_a_posterior_shows_numbers_and_not_tensors(model, prompts):
    shown = repr(importance_sampling(model, prompts, num_samples=64))
    number = r"-?\d+\.\d{3}"
    expected = rf"Posterior\(64 responses to each of 2 prompts, lowest .*=\d+, mean .*={number}\)"
    assert re.fullmatch(expected, shown)
    assert repr(SAMPLERS["best-of-n"](model, prompts, num_samples=16)).endswith("mean log_z=None)")


def test_a_model_and_its_distribution_show_their_parts(model, prior, prompts):
    assert repr(model) == "AlignmentModel(rewards=['vader'], factors=[], beta=0.3)"
    given = AlignmentModel(prior, {}, 1.0, factors={"not": contains("not", prior)})
    assert repr(given) == "AlignmentModel(rewards=[], factors=['not'], beta=1.0)"
    shown = "ResponseDistribution(LanguageModel, batch_shape=(2,), event_shape=(2,))"
    assert repr(prior(prompts)) == shown
