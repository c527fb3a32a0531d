"""Bias and deviation of k1, k2, k3 between two normal distributions (Schulman 2020)."""

import pytest
import torch
from torch.distributions import Normal

from inference.kl_estimators import KL_ESTIMATORS

BIAS_AND_SPREAD = {0.1: {"k1": (0, 20.0), "k2": (0.0025, 1.418), "k3": (0, 1.417)}}
BIAS_AND_SPREAD[0.1]["k3+"] = BIAS_AND_SPREAD[0.1]["k3"]
BIAS_AND_SPREAD[1.0] = {"k1": (0, 2.0), "k2": (0.25, 1.732), "k3": (0, 1.695)}
BIAS_AND_SPREAD[1.0]["k3+"] = BIAS_AND_SPREAD[1.0]["k3"]


@pytest.mark.parametrize("name", KL_ESTIMATORS)
@pytest.mark.parametrize("mean", [0.1, 1.0])
def test_bias_and_spread(name, mean):
    """By quadrature over q; bias and standard deviation relative to the KL, mean^2 / 2."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    log_q, log_p = Normal(0.0, 1.0).log_prob(x), Normal(mean, 1.0).log_prob(x)
    weight = log_q.exp() * (x[1] - x[0])
    values = KL_ESTIMATORS[name](log_q - log_p)
    expected = (weight * values).sum()
    spread = (weight * (values - expected).square()).sum().sqrt()
    kl = mean**2 / 2
    bias_ratio, spread_ratio = BIAS_AND_SPREAD[mean][name]
    assert (expected / kl - 1).item() == pytest.approx(bias_ratio, abs=1e-4)
    assert (spread / kl).item() == pytest.approx(spread_ratio, abs=2e-3)


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2():
    log_ratio = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    value = KL_ESTIMATORS["k3+"](log_ratio)
    assert torch.equal(value, KL_ESTIMATORS["k3"](log_ratio))
    (gradient,) = torch.autograd.grad(value.sum(), log_ratio)
    assert torch.equal(gradient, log_ratio)
