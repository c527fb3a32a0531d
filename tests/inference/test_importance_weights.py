"""Quality of importance weights: effective sample size and the Pareto tail."""

import math

import pytest
import torch

from inference import PriorSample, diagnose
from inference.importance_weights import effective_sample_size, pareto_k


def test_pareto_k_is_that_of_a_pareto_tail():
    """Weights w = u^-k, at quantiles of u, have a generalised Pareto tail of shape k."""
    uniform = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)[:, None]
    for k in (0.3, 0.9):
        assert pareto_k(-k * uniform.log()).item() == pytest.approx(k, abs=0.03)


def test_pareto_k_is_nan_without_a_tail():
    assert math.isnan(pareto_k(torch.randn(24, 1)).item())
    assert math.isnan(pareto_k(torch.tensor([[-math.inf], *[[0.0]] * 50])).item())
    assert pareto_k(torch.zeros(50, 1)).item() == -math.inf


def test_pareto_k_is_of_the_highest_fifth_and_of_25_weights_or_more():
    """The tail has at least five weights; a flat tail has no spread, whatever the other weights."""
    spread = torch.arange(25.0, dtype=torch.float64)[:, None]
    assert math.isfinite(pareto_k(spread).item())
    assert math.isnan(pareto_k(spread[:24]).item())
    for size, flat in ((25, 5), (100, 20)):
        weights = torch.arange(float(size), dtype=torch.float64)[:, None]
        weights[-flat:] = float(size)
        assert pareto_k(weights).item() == -math.inf
        weights[-1] += 5.0
        assert pareto_k(weights).item() > -math.inf


@pytest.mark.parametrize("worst", [0, 1])
def test_diagnosis_reports_the_worst_prompt(model, guide, prompts, monkeypatch, worst):
    """The smallest effective sample size and the largest Pareto k."""
    log_weight = torch.zeros(50, 2, dtype=torch.float64)
    log_weight[0, worst] = 2.0
    alone = effective_sample_size(log_weight)
    assert alone[1 - worst].item() == pytest.approx(50)
    sample = PriorSample.of_draws(torch.zeros(50, 2, 2, dtype=torch.long), torch.zeros(50, 2))
    assert sample.effective_sample_size(log_weight) == pytest.approx(alone[worst].item())

    sizes, shapes = torch.tensor([40.0, 40.0]), torch.tensor([0.1, 0.1])
    sizes[worst], shapes[worst] = 7.0, 0.9
    monkeypatch.setattr("inference.diagnostics.diagnose.effective_sample_size", lambda _: sizes)
    monkeypatch.setattr("inference.diagnostics.diagnose.pareto_k", lambda _: shapes)
    diagnostics = diagnose(model, guide, prompts, num_samples=4, num_prior_draws=4)
    assert (diagnostics.effective_sample_size, diagnostics.pareto_k) == (7.0, pytest.approx(0.9))


def test_effective_sample_size():
    assert effective_sample_size(torch.zeros(50, 1)).item() == pytest.approx(50)
    assert effective_sample_size(torch.tensor([[0.0], [-100.0]])).item() == pytest.approx(1)
