"""What weights say of themselves."""

import math

import pytest
import torch

from inference import effective_sample_size, pareto_k


def test_pareto_k_is_that_of_a_pareto_tail():
    """Weights w = u^-k have a generalised Pareto tail of shape k."""
    uniform = torch.rand(100_000, 1, dtype=torch.float64)
    for k in (0.3, 0.9):
        assert pareto_k(-k * uniform.log()).item() == pytest.approx(k, abs=0.08)


def test_pareto_k_says_when_it_cannot_tell():
    assert math.isnan(pareto_k(torch.randn(24, 1)).item())
    assert math.isnan(pareto_k(torch.tensor([[-math.inf], *[[0.0]] * 50])).item())
    assert pareto_k(torch.zeros(50, 1)).item() == -math.inf


def test_effective_sample_size():
    assert effective_sample_size(torch.zeros(50, 1)).item() == pytest.approx(50)
    assert effective_sample_size(torch.tensor([[0.0], [-100.0]])).item() == pytest.approx(1)
