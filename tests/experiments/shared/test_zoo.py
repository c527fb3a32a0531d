"""Measurements of guides on worlds, exact and estimated."""

from dataclasses import replace

import pytest

from experiments.shared.gradients import moved_guide
from experiments.shared.measure import measure
from experiments.shared.worlds import eight_tokens, reference
from experiments.shared.zoo import measure_guide
from inference import diagnose


def test_estimates_of_a_guide_are_near_the_exact_measurements():
    """Unbiased or consistent: within five standard errors of the sums over all responses."""
    listed = eight_tokens()
    drawn = replace(listed, num_prior_draws=4096)
    guide = moved_guide(listed.model.prior)
    exact, estimates = (measure_guide(world, guide) for world in (listed, drawn))
    assert {*estimates} - {*exact} == {"log_z_error"}
    for name, estimate in exact.items():
        assert estimate.standard_error == 0
        error = estimates[name].standard_error
        assert estimates[name].value == pytest.approx(estimate.value, abs=5 * error + 1e-6), name
        assert error < 0.5, name
    log_posterior = listed.truth.log_posterior
    entropy = -(log_posterior.exp() * log_posterior).sum().item()
    assert reference(listed).endswith(f", entropy {entropy:.3f}")
    assert "entropy" not in reference(drawn)  # unknown
    assert len(exact.warnings) == len(estimates.warnings) == 0


def test_few_effective_draws_are_a_warning(monkeypatch):
    drawn, calls = replace(eight_tokens(), num_prior_draws=12), []

    def record(*args, **options):
        calls.append(diagnose(*args, **options))
        return calls[-1]

    monkeypatch.setattr("experiments.shared.measure.diagnose", record)
    guide, draws = moved_guide(drawn.model.prior), {"prior_sample": drawn.sample}
    measurements = measure(drawn.model, guide, drawn.prompts, num_samples=12, **draws)
    few = "of 24 draws of prior and guide effective, fewer than 30"
    assert sum(few in warning for warning in measurements.warnings) == 1
    error = calls[0].log_z_bound.minus(calls[0].prior_alone.log_z)
    assert measurements["log_z_error"] == (abs(error.value), error.standard_error)
