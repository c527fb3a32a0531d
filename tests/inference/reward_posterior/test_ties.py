"""The strength of ties: recovered from simulated data, at the maximum of the exact likelihood."""

import math
from dataclasses import replace

import pytest
import torch

from inference import random_state
from inference.reward_posterior.ties import tie_strength
from model.preferences import TIE, Comparisons, log_outcome, simulate


def compared(seed, num_weights, count, nu, flip=0.0):
    """Comparisons of a linear reward, weights with prior scale 2, ties of a known strength."""
    with random_state.isolated(seed):
        features = torch.randn(2, count, num_weights, dtype=torch.float64) / num_weights**0.5
        rewards = features @ (2 * torch.randn(num_weights, dtype=torch.float64))
        return Comparisons(*features, simulate(*rewards, flip=flip, tie_strength=nu))


def test_the_strength_of_ties_is_recovered():
    """Consistent: the log strength is within five standard errors over ten seeds.

    The standard deviation of one seed is 0.28.
    """
    strengths = [
        tie_strength(compared(seed, 16, 200, nu=0.7, flip=0.1), 2.0, 0.1) for seed in range(10)
    ]
    logs = torch.tensor(strengths).div(0.7).log()
    assert logs.mean().abs() < 5 * 0.28 / len(logs) ** 0.5
    assert logs.std() < 0.28 * (1 + 5 / (2 * len(logs)) ** 0.5)


def test_strength_of_ties_maximises_log_z():
    """Integral over two weights on a grid against Laplace's approximation, twenty comparisons."""
    comparisons = compared(0, 2, 20, nu=0.7)
    axis = torch.linspace(-12, 12, 61, dtype=torch.float64)
    w = torch.cartesian_prod(axis, axis)  # [G, 2]
    log_prior = -w.square().sum(1) / (2 * 2.0**2)

    def log_likelihood(log_nu):
        log_prob = log_outcome(w @ comparisons.difference.T, 0.0, math.exp(log_nu))  # [G, C, 3]
        picked = log_prob.gather(-1, comparisons.outcome.expand(len(w), -1)[..., None])
        return (picked[..., 0].sum(1) + log_prior).logsumexp(0).item()

    truth = max(torch.arange(-2, 1, 0.02).tolist(), key=log_likelihood)
    assert math.log(tie_strength(comparisons, 2.0, 0.0)) == pytest.approx(truth, abs=0.03)


def test_strong_ties_between_rewards_far_apart_are_found():
    """Far above where the shares of ties alone would put them."""
    with random_state.isolated(0):
        features = torch.randn(2, 400, 4, dtype=torch.float64)
        rewards = features @ (20 * torch.randn(4, dtype=torch.float64))
        comparisons = Comparisons(*features, simulate(*rewards, tie_strength=1e5))
    assert math.log(tie_strength(comparisons, 20.0)) == pytest.approx(math.log(1e5), abs=1.5)


def test_ties_alone_have_no_strength():
    comparisons = compared(0, 2, 20, nu=0.7)
    for outcome in (None, torch.full((20,), TIE)):
        with pytest.raises(ValueError, match="no outcomes, or ties alone"):
            tie_strength(replace(comparisons, outcome=outcome), 2.0)
