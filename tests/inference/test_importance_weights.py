"""Quality of importance weights: effective sample size and the Pareto tail."""

import math

import pytest
import torch

from inference import Posterior, PriorSample
from inference.importance_weights import (
    WeightQuality,
    effective_sample_size,
    pareto_k,
    spread_levels,
)


def test_pareto_k_is_that_of_a_pareto_tail():
    """Weights w = u^-k, at quantiles of u, have a generalised Pareto tail of shape k."""
    uniform = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)[:, None]
    # at 1e4 all weights but the largest underflow; the fit is 22% low at every k above 30
    for k, share in ((0.3, 0.05), (0.9, 0.05), (1e4, 0.25)):
        assert pareto_k(-k * uniform.log()).item() == pytest.approx(k, rel=share)


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


@pytest.mark.parametrize("noise", [0.0, 0.02], ids=["on a lattice", "near a lattice"])
@pytest.mark.parametrize("k", [0.3, 0.9])
def test_pareto_k_of_a_reward_that_counts_is_that_of_its_levels(k, noise):
    """P(N >= n) = exp(-n gap / k) and w = exp(n gap): the tail of w has the shape k."""
    generator = torch.Generator().manual_seed(1)
    quantile = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    for gap in (k, 2.5 * k):
        count = (-quantile.log() * k / gap).floor()
        jitter = torch.randn(4096, dtype=torch.float64, generator=generator)
        log_weight = (gap * count + noise * jitter)[:, None]
        assert pareto_k(log_weight).item() == pytest.approx(k, abs=0.12)


def test_many_draws_of_the_largest_weight_are_a_bound():
    for number, expected in ((29, False), (30, True)):
        log_weight = torch.zeros(2000, 1, dtype=torch.float64)
        log_weight[:number] = 4.0
        assert (pareto_k(log_weight).item() == -math.inf) == expected


@pytest.mark.parametrize("num_highest", [479, 620])
@pytest.mark.parametrize(("beta", "has_warning"), [(0.001, True), (0.01, True), (0.1, False)])
def test_many_draws_of_the_highest_of_several_levels_are_no_bound(beta, has_warning, num_highest):
    """Levels of the sentiment of film sentences; one draw in 1,000 has 0.54, one in 4,000 0.69."""
    reward = torch.tensor([0.0] * 1500 + [0.44] * 1058 + [0.471] * 109 + [0.493] * num_highest)
    log_weight = reward[:, None].double() / beta
    assert bool(WeightQuality.of(log_weight).warnings) == has_warning
    assert not WeightQuality.of(log_weight, reaches_bound=True).warnings


def test_levels_are_spread_up_to_the_next_and_other_weights_stay():
    body = torch.linspace(0.0, 8.0, 100, dtype=torch.float64)  # one wide run
    assert torch.equal(spread_levels(body, 0.3), body)
    levels = torch.tensor([0.0] * 90 + [2.0] * 9 + [4.0], dtype=torch.float64)
    spread = spread_levels(levels, 0.3)
    assert (spread.diff() > 0).all()
    assert spread[[0, 90, 99]].tolist() == [0.0, 2.0, 4.0]
    assert spread[98] < 4.0
    assert spread[81].item() == pytest.approx(2.0 * math.log(100 / 19) / math.log(10))


@pytest.mark.parametrize("worst", [0, 1])
def test_quality_is_of_the_worst_prompt(worst):
    """The smallest effective sample size and the largest Pareto k."""
    quantiles = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    log_weight = torch.stack([quantiles, quantiles], 1)
    log_weight[:, worst] *= 9.0
    alone = effective_sample_size(log_weight)
    assert alone[worst] < alone[1 - worst]
    sample = PriorSample.of_draws(torch.zeros(400, 2, 2, dtype=torch.long), torch.zeros(400, 2))
    assert sample.effective_sample_size(log_weight) == pytest.approx(alone[worst].item())
    quality, shape = WeightQuality.of(log_weight), pareto_k(log_weight)
    assert shape[worst] > shape[1 - worst]
    relative = (log_weight.exp() / log_weight.exp().mean(0)).amax(0)
    expected = (400, alone[worst].item(), shape[worst].item(), relative[worst].item())
    assert quality[:4] == pytest.approx(expected)
    near = log_weight.exp() >= log_weight.exp().amax(0) / math.e
    assert quality.num_largest == near.sum(0).min().item()


def test_weights_of_0_count_among_the_draws_and_have_no_tail():
    uniform = ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)[:, None]
    log_weight = torch.cat([-0.3 * uniform.log(), torch.full((500, 1), -math.inf).double()])
    num_draws, size, shape, *_ = WeightQuality.of(log_weight)
    assert num_draws == 1500
    assert size == pytest.approx(effective_sample_size(-0.3 * uniform.log()).item())
    assert shape == pytest.approx(0.3, abs=0.1)
    hopeless = torch.full_like(log_weight, -math.inf)
    assert math.isnan(WeightQuality.of(torch.cat([log_weight, hopeless], 1)).pareto_k)


Q = WeightQuality


@pytest.mark.parametrize(
    ("quality", "warnings"),
    [
        (Q(2000, 500.0, 0.65, 50.0), []),
        (Q(2000, 500.0, 0.75, 50.0), ["k-hat 0.75 of the weights of 2000 draws of q, above 0.70"]),
        (Q(2000, 500.0, 0.75, 5.0), []),
        (Q(2000, 500.0, 0.75, 50.0, 30), []),
        (Q(100, 50.0, 0.55, 50.0), ["k-hat 0.55 of the weights of 100 draws of q, above 0.50"]),
        (Q(100, 50.0, -math.inf, 50.0), []),
        (Q(2000, 12.4, 0.1, 5.0), ["12 of 2000 draws of q effective, fewer than 30"]),
        (Q(2000, 29.9, 0.1, 5.0), ["29 of 2000 draws of q effective, fewer than 30"]),
        (Q(100, math.nan, math.nan, 1.0), ["0 of 100 draws of q effective, fewer than 30"]),
    ],
)
def test_warnings_of_weights_are_a_heavy_tail_and_few_effective_draws(quality, warnings):
    assert quality._replace(origin="q").warnings == warnings


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 40.0, 300.7])
def test_a_constant_that_cancels_makes_no_warning(constant):
    log_weight = torch.full((30, 1), constant, dtype=torch.float64)
    assert Posterior(torch.zeros(30, 1, 1), log_weight, None).warnings == []
    assert WeightQuality.of(log_weight[:29]).warnings[0].startswith("29 of 29 draws")


@pytest.mark.parametrize("noise", [0.0, 0.01], ids=["prior", "guide near the prior"])
@pytest.mark.parametrize("beta", [0.1, 0.3])
def test_a_reward_of_0_or_1_has_no_heavy_tail(beta, noise):
    """At most 1 draw of 20 is right: log Z is as sure as the number of right draws."""
    is_right = (torch.rand(2048, 2, dtype=torch.float64) < 0.05).double()
    log_weight = is_right / beta + noise * torch.randn(2048, 2, dtype=torch.float64)
    quality = WeightQuality.of(log_weight)
    assert quality.largest > 10
    assert quality.warnings == []


def test_a_heavy_tail_keeps_its_warning():
    """For 200 samples of 2,048 weights with k = 1."""
    heavy = [-torch.rand(2048, 1, dtype=torch.float64).log() for _ in range(200)]
    warnings = [WeightQuality.of(log_weight).warnings for log_weight in heavy]
    assert sum(map(bool, warnings)) > 190


def test_effective_sample_size():
    assert effective_sample_size(torch.zeros(50, 1)).item() == pytest.approx(50)
    assert effective_sample_size(torch.tensor([[0.0], [-100.0]])).item() == pytest.approx(1)
