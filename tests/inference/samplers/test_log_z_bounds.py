"""Bounds on log Z from both sides: the gap closes as particles are added.

At one particle the gaps are the divergences.
"""

import importlib
import itertools
import math

import pytest
import torch

from inference.samplers.log_z_bounds import log_z_bounds
from inference.samplers.resampling import multinomial
from inference.samplers.smc import sequential_monte_carlo
from inference.samplers.twist import LikelihoodTwist
from tests.inference.samplers.three_tokens import assert_unbiased

RUNS = 300


def bounds_of(world, num_samples, **kwargs):
    """Bounds from RUNS runs for each prompt, as 2 samples for RUNS / 2 repeats of the prompt."""
    # repeats alternate between the prompts, as `repeated` does
    samples = world.exact_samples(RUNS).view(2, RUNS, 3)
    prompts = world.repeated(RUNS // 2)
    return log_z_bounds(world.model, prompts, samples, num_samples=num_samples, **kwargs)


@pytest.mark.parametrize("with_guide", [False, True])
@pytest.mark.parametrize("twisted", [False, True])
def test_bounds_bracket_log_z_and_close(world, with_guide, twisted):
    log_z = world.truth.log_z.mean().item()
    twist = LikelihoodTwist(world.model) if twisted else None
    guide = world.guide if with_guide else None
    gaps = []
    for num_samples in (2, 10, 50):
        bounds = bounds_of(world, num_samples, guide=guide, twist=twist, ess_threshold=0.9)
        assert bounds.lower.value - 5 * bounds.lower.standard_error < log_z
        assert bounds.upper.value + 5 * bounds.upper.standard_error > log_z
        gaps.append(bounds.gap)
    for wide, narrow in itertools.pairwise(gaps):
        assert narrow.value < 0.5 * wide.value
    assert gaps[0].value > 0.1
    assert abs(gaps[-1].value) < 0.12


@pytest.mark.parametrize("with_guide", [False, True])
def test_gap_of_one_particle_is_the_symmetrised_divergence(world, with_guide):
    guide = world.guide if with_guide else world.program(world.log_prior)
    bounds = bounds_of(world, 1, guide=guide)
    elbo = world.truth.elbo(guide).mean().item()
    upper = (world.truth.log_z + world.truth.kl_posterior_guide(guide)).mean().item()
    for bound, exact in [(bounds.lower, elbo), (bounds.upper, upper), (bounds.gap, upper - elbo)]:
        assert bound.standard_error < 0.12
        assert abs(bound.value - exact) < 5 * bound.standard_error
    assert upper - elbo > 0.5


@pytest.mark.parametrize("ess_threshold", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("with_guide", [False, True])
def test_given_an_exact_sample_the_inverse_is_unbiased(world, with_guide, ess_threshold):
    """E[Z / Z_hat] = 1: an error in the kept particle, its ancestors or its weight breaks this."""
    runs = 3_000
    options = {"guide": world.guide if with_guide else None, "ess_threshold": ess_threshold}
    options |= {"twist": LikelihoodTwist(world.model, 0.5), "resampling": multinomial}
    options |= {"retained": world.exact_samples(runs).view(-1, 3), "num_samples": 4}
    posterior = sequential_monte_carlo(world.model, world.repeated(runs), **options)
    assert_unbiased(1 / world.z_ratio(posterior), torch.ones(2))


@pytest.mark.parametrize("ess_threshold", [0.0, 2.0])
def test_the_retained_response_is_particle_0(world, ess_threshold):
    samples = world.exact_samples(200).view(-1, 3)
    model, options = world.network_model, {"num_samples": 4, "resampling": multinomial}
    options |= {"guide": world.network_guide, "twist": LikelihoodTwist(model)}
    options |= {"ess_threshold": ess_threshold, "retained": samples}
    posterior = sequential_monte_carlo(model, world.repeated(200), **options)
    assert torch.equal(posterior.response[0], samples)


def test_hard_constraint_has_an_upper_bound(hard_world):
    bounds = bounds_of(hard_world, 32, ess_threshold=0.5)
    log_z = hard_world.truth.log_z.mean().item()
    assert bounds.lower.value - 5 * bounds.lower.standard_error < log_z
    assert bounds.upper.value + 5 * bounds.upper.standard_error > log_z
    assert 0 < bounds.gap.value < 0.4


def test_resampling_is_the_scheme_with_a_known_conditional_distribution(world, monkeypatch):
    schemes = []

    def watched(*args, **kwargs):
        schemes.append(kwargs["resampling"])
        return sequential_monte_carlo(*args, **kwargs)

    module = importlib.import_module("inference.samplers.log_z_bounds")
    monkeypatch.setattr(module, "sequential_monte_carlo", watched)
    log_z_bounds(world.model, world.prompts, world.exact_samples(2), num_samples=10)
    assert schemes == [multinomial] * 4


def test_one_sample_has_no_standard_error(world):
    bounds = log_z_bounds(world.model, world.prompts, world.exact_samples(1)[0], num_samples=10)
    assert math.isnan(bounds.lower.standard_error)
    assert math.isnan(bounds.gap.standard_error)
    assert math.isfinite(bounds.gap.value)


def test_response_that_is_no_posterior_sample_is_refused(hard_world):
    nothing = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="response to 'the film was' that the model"):
        log_z_bounds(hard_world.model, hard_world.prompts, nothing, num_samples=30)
    samples = hard_world.exact_samples(2).clone()
    samples[1, 0] = torch.tensor([hard_world.space.end_ids[0], 5, 5])
    with pytest.raises(ValueError, match="a row that is no response"):
        log_z_bounds(hard_world.model, hard_world.prompts, samples)


def test_a_retained_response_needs_multinomial_resampling(world):
    retained = world.exact_samples(1)[0]
    with pytest.raises(ValueError, match="retained needs resampling='multinomial'"):
        sequential_monte_carlo(world.model, world.prompts, num_samples=4, retained=retained)
