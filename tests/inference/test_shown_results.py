"""Results as a notebook shows them at the end of a cell: short, with the numbers that matter."""

import re

from guides import LoRA
from inference import SAMPLERS, diagnose, fit, importance_sampling
from model import AlignmentModel, contains


def test_a_fit_shows_its_steps_and_what_is_out_of_the_ordinary(model, small_prior, prompts):
    result = fit(model, LoRA(small_prior, rank=2), prompts, num_steps=3, progress=False)
    assert repr(result) == f"Fit(step=3, elbo={result.metrics[-1]['elbo']:.3f})"
    result.stopped_early, result.warnings = "step 4: NaN", ["the ELBO fell"]
    assert repr(result).endswith(", stopped_early='step 4: NaN', warnings=['the ELBO fell'])")


def test_diagnostics_show_a_line_for_each_estimate_of_their_summary(model, small_prior, prompts):
    shown = diagnose(model, LoRA(small_prior, rank=2), prompts, num_samples=64, num_prior_draws=64)
    lines = [f"{symbol}: {text}" for symbol, text in shown.summary().items()]
    assert repr(shown).splitlines() == str(shown).splitlines() == lines


def test_a_posterior_shows_numbers_and_not_tensors(model, prompts):
    shown = repr(importance_sampling(model, prompts, num_samples=64))
    number = r"-?\d+\.\d{3}"
    expected = rf"Posterior\(64 responses to each of 2 prompts, lowest .*=\d+, mean .*={number}\)"
    assert re.fullmatch(expected, shown)
    assert repr(SAMPLERS["best-of-n"](model, prompts, num_samples=16)).endswith("mean log_z=None)")


def test_a_model_and_its_distribution_show_their_parts(model, small_prior, prompts):
    assert repr(model) == "AlignmentModel(rewards=['reward'], factors=[], beta=0.3)"
    given = AlignmentModel(small_prior, {}, 1.0, factors={"not": contains("not", small_prior)})
    assert repr(given) == "AlignmentModel(rewards=[], factors=['not'], beta=1.0)"
    shown = "ResponseDistribution(LanguageModel, batch_shape=(2,), event_shape=(2,))"
    assert repr(small_prior(prompts)) == shown
