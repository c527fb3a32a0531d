"""Resampling: counts of ancestors are K W_j on average, with the error that a scheme allows."""

import math

import pytest
import torch

from inference.samplers.population import Population
from inference.samplers.resampling import RESAMPLING, find_scheme, num_distinct

RUNS = 20_000
PROBABILITY = torch.tensor(  # [K, N], four prompts
    [
        [0.5, 0.2, 0.15, 0.1, 0.05, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        [1 / 6] * 6,
        [0.0, 0.9, 0.0, 0.05, 0.05, 0.0],
    ],
    dtype=torch.float64,
).T


@pytest.fixture(params=sorted(RESAMPLING))
def name(request):
    return request.param


def counts_of(ancestors):
    """Number of times that each particle is an ancestor, `[K, N]`."""
    return torch.nn.functional.one_hot(ancestors, len(ancestors)).sum(0).T


def repeated_counts(scheme):
    """Counts of independent runs, `[K, R, 4]`: repeated prompts are resampled independently."""
    return counts_of(scheme(PROBABILITY.repeat(1, RUNS))).view(len(PROBABILITY), RUNS, 4)


def test_counts_are_expected_ones_on_average(name):
    counts = repeated_counts(RESAMPLING[name]).double()
    standard_error = counts.std(1) / RUNS**0.5
    expected = len(PROBABILITY) * PROBABILITY
    assert ((counts.mean(1) - expected).abs() <= 5 * standard_error + 1e-9).all()
    assert (standard_error < 0.02).all()


def test_every_place_is_filled_by_a_particle_with_weight(name):
    ancestors = RESAMPLING[name](PROBABILITY.repeat(1, RUNS))
    assert ancestors.shape == (6, 4 * RUNS)
    assert ancestors.dtype == torch.long
    assert (PROBABILITY.repeat(1, RUNS).gather(0, ancestors) > 0).all()


def test_how_far_counts_stray():
    """Systematic: K W_j rounded down or up. Residual: at least rounded down. Stratified: error < 2.

    Variances at the first prompt are sums of p (1 - p), of stratified resampling over the strata.
    """
    expected = (len(PROBABILITY) * PROBABILITY)[:, None]
    counts = {name: repeated_counts(scheme).double() for name, scheme in RESAMPLING.items()}
    assert (counts["systematic"] >= (expected - 1e-9).floor()).all()
    assert (counts["systematic"] <= (expected + 1e-9).ceil()).all()
    assert (counts["residual"] >= (expected + 1e-9).floor()).all()
    assert ((counts["stratified"] - expected).abs() < 2).all()
    variance = {name: c.var(1).sum(0) for name, c in counts.items()}
    assert variance["systematic"][0].item() == pytest.approx(0.70, rel=0.03)
    assert variance["stratified"][0].item() == pytest.approx(0.86, rel=0.03)
    assert (variance["multinomial"][[0, 2]] > 1.2 * variance["residual"][[0, 2]]).all()
    exact = (expected * (1 - PROBABILITY[:, None])).sum((0, 1))
    assert torch.allclose(variance["multinomial"], exact, rtol=0.05)


def test_equal_weights_lose_nobody():
    for num_particles in (3, 49, 1000):  # 49 times 1/49 is below 1
        equal = torch.zeros(num_particles, 2, dtype=torch.float64).softmax(0)
        for name in ("systematic", "stratified", "residual"):
            assert (counts_of(RESAMPLING[name](equal)) == 1).all(), name


def test_a_point_at_the_very_end_does_not_fall_on_a_dead_particle(monkeypatch):
    """A uniform number a hair below 1 comes out as 1 when added to K - 1."""
    monkeypatch.setattr(
        torch, "rand", lambda shape, **kwargs: torch.full(tuple(shape), 1 - 2.0**-53, **kwargs)
    )
    for name in ("systematic", "stratified"):
        assert (RESAMPLING[name](PROBABILITY)[:, 0] < 5).all(), name


def population(log_weight):
    """Particles of given weights, whose responses are the numbers of the particles."""
    particles = Population(
        torch.arange(len(log_weight))[:, None, None].expand(*log_weight.shape, 2)
    )
    particles.weigh(log_weight)
    return particles


def test_only_degenerate_prompts_are_resampled(name):
    """Ten equal weights at the first prompt, one weight at the second: the first is unchanged."""
    log_weight = torch.zeros(10, 2, dtype=torch.float64)
    log_weight[:, 0] += 5.0
    log_weight[3, 1] = 40.0
    particles = population(log_weight)
    ancestors = particles.resample(RESAMPLING[name], 0.5)
    assert particles.num_resamplings.tolist() == [0, 1]
    assert torch.equal(ancestors[:, 0], torch.arange(10))
    assert (ancestors[:, 1] == 3).all()
    assert torch.equal(particles.response, ancestors[..., None].expand(10, 2, 2))
    assert torch.equal(particles.root, ancestors)
    assert (particles.log_weight[:, 0] == 5.0).all()
    assert (particles.log_weight[:, 1] == 0.0).all()
    assert particles.log_z[0] == 0.0
    assert abs(particles.log_z[1].item() - (40.0 - math.log(10))) < 1e-12


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_never_and_always(threshold, name):
    particles = population(torch.zeros(10, 2, dtype=torch.float64))
    assert (particles.resample(RESAMPLING[name], threshold) is None) == (threshold < 1)
    assert (particles.num_resamplings == (threshold > 1)).all()


@pytest.mark.parametrize("keeps", [True, False])
def test_a_kept_particle_is_its_own_ancestor(keeps):
    log_weight = torch.zeros(8, 500, dtype=torch.float64)
    log_weight[0] = -30.0
    ancestors = population(log_weight).resample(RESAMPLING["multinomial"], 2.0, keep_first=keeps)
    assert (ancestors[0] == 0).all() == keeps


def test_schemes_by_name_or_by_themselves():
    assert find_scheme("residual") is RESAMPLING["residual"]
    assert find_scheme(torch.sort) is torch.sort
    with pytest.raises(ValueError, match=r"is 'sytematic', expected one of: .*systematic"):
        find_scheme("sytematic")


def test_distinct_rows_with_weight():
    rows = torch.tensor([[[1, 2], [1, 2]], [[1, 2], [2, 1]], [[3, 4], [5, 5]]])
    log_weight = torch.tensor([[0.0, 0.0], [0.0, -1.0], [-torch.inf, 2.0]])
    assert num_distinct(rows, log_weight).tolist() == [1, 3]
