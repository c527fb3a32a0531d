"""Every check of the script holds, and the helpers of findings tell truth from noise."""

import math

import pytest
import torch

from experiments.identities import (
    chains,
    credit,
    high_entropy,
    judges,
    own_draws,
    sampling,
    token_rejection,
    training,
)
from experiments.identities.__main__ import CHECKS, FILES, Identities, checks_of, main
from experiments.identities.findings import agrees, exact, over_cases
from experiments.identities.world import World, kl, mean_gradient, noise
from experiments.shared.claims import NOISY, within
from inference import Estimate, random_state

SLOW = {
    "gflownet": (training, {}),
    "ppo": (training, {}),
    "opo": (credit, {}),
    "high-entropy": (high_entropy, {}),
    "sppo": (judges, {}),
    "smc-bounds": (sampling, {}),
    "awrs": (token_rejection, {"PARTICLES": 2000}),
    "gkd": (own_draws, {"MAX_STEPS": 150}),
    "rewarded-soups": (training, {"SOUP_STEPS": 50}),
    "on-policy-pairs": (own_draws, {"STEPS": 150}),
}
"""Checks that train, or run a sampler many times, with sizes at which each holds by far."""


@pytest.fixture(scope="module")
def world():
    return World.of()


def test_no_two_checks_share_a_name():
    assert sum(len(checks_of(file)) for file in FILES) == len(CHECKS) > 100


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - SLOW.keys()))
def test_check_holds(name, world):
    findings = CHECKS[name](world)
    assert len(findings) > 0
    assert [finding.statement for finding in findings if not finding.held] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_check_with_fits_or_runs_holds(name, world, monkeypatch):
    module, sizes = SLOW[name]
    for size, number in sizes.items():
        monkeypatch.setattr(module, size, number)
    assert all(finding.held for finding in CHECKS[name](world))


def test_statements_begin_with_the_name_of_their_check(capsys):
    findings = main(Identities(only=("chi-po",)))
    assert {finding.statement.split(",")[0] for finding in findings} == {"chi-po"}
    assert "yes  chi-po, spread" in capsys.readouterr().out


def test_guide_is_away_from_prior_and_posterior(world):
    distances = [kl(world.log_guide, other) for other in (world.log_prior, world.log_posterior)]
    assert min(distances) > 0.2


@pytest.mark.parametrize("alpha", [4, 40])
def test_stationary_distribution_is_exact_at_its_smallest_probability(alpha):
    """Metropolis moves for p^alpha: at 40 the smallest probability is exp(-440)."""
    log_p = (2 * torch.randn(60, dtype=torch.float64)).log_softmax(0)
    log_target = (alpha * log_p).log_softmax(0)
    moves = log_p.exp() * chains._accepted(log_target - log_p)
    assert (chains._stationary(moves) - log_target).abs().max() < 1e-10


def test_noise_and_mean_are_those_of_draws(world):
    coefficient = world.log_joint - world.log_guide
    with random_state.isolated(0):
        draws = world.draws(world.log_guide, 200_000)
    terms = coefficient[draws, None] * (
        torch.eye(len(coefficient), dtype=torch.float64)[draws] - world.log_guide.exp()
    )
    exact_noise = noise(world.log_guide, coefficient)
    assert terms.var(0).sum().item() == pytest.approx(exact_noise, rel=0.03)
    mean = mean_gradient(world.log_guide, world.log_guide, coefficient)
    assert (terms.mean(0) - mean).norm() < 4 * (exact_noise / len(draws)) ** 0.5


def test_equation_fails_beyond_rounding():
    assert exact("a", 1e-12, -1e-12).held
    assert not exact("a", 0.0, -1e-3).held
    assert not exact("a", float("nan")).held


def test_estimate_near_a_limit_is_too_noisy():
    assert within("a", Estimate(1.0, 0.1), above=0.0).held
    for near in (Estimate(0.1, 0.1), Estimate(1.0, math.nan)):
        finding = within("a", near, above=0.0)
        assert not finding.held
        assert finding.statement.endswith(NOISY)
    assert within("a", Estimate(1.0, 0.1), above=0.0, num_runs=3).held
    assert not within("a", Estimate(1.0, 0.1), above=0.0, num_runs=2).held
    far = within("a", Estimate(1.0, 0.1), below=0.0)
    assert not far.held
    assert not far.statement.endswith(NOISY)


def test_estimate_agrees_within_three_errors():
    assert agrees("a", Estimate(1.2, 0.1), 1.0).held
    assert not agrees("a", Estimate(1.4, 0.1), 1.0).held


def test_means_over_cases_are_clear_of_noise_and_count_the_cases_that_agree():
    few = over_cases("a", [1.0, 2.0, -1.0], below=3.0)
    assert few.statement.startswith("a, in 3 of 3 cases, and their mean: 0.667 ± ")
    assert few.statement.endswith(NOISY)
    many = over_cases("a", [1.0, 2.0, -1.0] * 20, [2.0, -2.0, 3.0] * 20, above=0.0)
    assert "in 20 of 60 cases" in many.statement
    assert many.held
