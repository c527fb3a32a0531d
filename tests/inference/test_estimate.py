"""Estimates and their standard errors, by hand."""

import math

import pytest
import torch

from inference import Estimate
from inference.estimate import log_mean, log_mean_exp

VALUES = torch.tensor([[1.0, 10.0], [2.0, 14.0], [6.0, 12.0]], dtype=torch.float64)
"""Three samples for each of two prompts."""


def test_the_standard_error_of_a_mean_is_that_of_textbooks():
    """s / sqrt(n) with s^2 over n - 1; prompts are independent: their errors add as squares."""
    first, second = (VALUES[:, n].std(unbiased=True).item() / math.sqrt(3) for n in range(2))
    assert first**2 == pytest.approx((4 + 1 + 9) / 2 / 3)
    alone = Estimate.of_mean(VALUES[:, :1])
    assert alone == pytest.approx((3.0, first))
    assert Estimate.of_mean(VALUES) == pytest.approx((7.5, math.hypot(first, second) / 2))


def test_the_error_is_unbiased_from_two_samples_on():
    """The mean squared error over all pairs of 0 and 1 is the variance of the mean, 1/4 / 2."""
    pairs = [torch.tensor([[a], [b]], dtype=torch.float64) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    squares = [Estimate.of_mean(pair).standard_error ** 2 for pair in pairs]
    assert sum(squares) / 4 == pytest.approx(1 / 8)


@pytest.mark.parametrize(("size", "share"), [(2, 0.70), (4, 0.86), (8, 0.91), (30, 0.94)])
def test_intervals_of_few_normal_numbers_hold_as_often_as_documented(size, share):
    samples = torch.randn(4000, size, 1, dtype=torch.float64)
    estimates = map(Estimate.of_mean, samples)
    num_held = sum(abs(value) < 1.96 * error for value, error in estimates)
    assert num_held / 4000 == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_two_errors_hold_a_share_also_if_no_draw_or_every_draw_has_it(share):
    """Two errors hold the share in nineteen of twenty samples of 20 draws."""
    torch.manual_seed(0)
    samples = (torch.rand(2000, 20, 1) < share).double()
    estimates = [Estimate.of_share(sample) for sample in samples]
    held = [abs(value - share) <= 2 * error for value, error in estimates]
    assert sum(held) / len(held) > 0.93
    assert Estimate.of_share(samples[0]).value == Estimate.of_mean(samples[0]).value


@pytest.mark.parametrize("num_runs", [2, 3, 6])
def test_a_mean_over_few_runs_is_clear_of_the_truth_as_rarely_as_a_normal_number(num_runs):
    """Two standard errors alone would be exceeded in 30%, 18% and 10% of samples, not in 4.6%."""
    torch.manual_seed(0)
    samples = torch.randn(20_000, num_runs, 1, dtype=torch.float64)
    clear = [Estimate.of_mean(each).is_clear_of(0.0, num_runs=num_runs) for each in samples]
    assert sum(clear) / len(clear) == pytest.approx(0.0455, abs=0.006)


def test_a_value_exactly_two_errors_away_is_clear():
    assert Estimate(2.0, 1.0).is_clear_of(0.0)
    assert not Estimate(1.999, 1.0).is_clear_of(0.0)


def test_an_infinite_value_is_clear_if_it_is_exact():
    assert Estimate(math.inf, 0.0).is_above(100.0)
    assert not Estimate(math.inf, math.nan).is_above(100.0)
    assert not Estimate(math.inf, math.nan).is_clear_of(math.inf)


def test_the_error_of_a_share_over_prompts_is_that_of_the_mean():
    torch.manual_seed(0)
    sample = (torch.rand(5000, 3) < torch.tensor([0.1, 0.5, 0.8])).double()
    share, mean = Estimate.of_share(sample), Estimate.of_mean(sample)
    assert share.value == pytest.approx(mean.value)
    assert share.standard_error == pytest.approx(mean.standard_error, rel=0.01)


def test_the_error_of_a_reward_of_two_levels_is_that_of_their_share():
    """Also of a prompt whose draws have one level."""
    wins = torch.zeros(20, 2, dtype=torch.float64)
    wins[:, 0] = 1.0
    estimate, share = Estimate.of_levels(3 * wins - 1), Estimate.of_share(wins)
    assert estimate == pytest.approx((0.5, 3 * share.standard_error))
    assert not estimate.is_constant
    assert Estimate.of_levels(VALUES) == Estimate.of_mean(VALUES)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_draws_of_one_value_are_told(value):
    values = torch.full((640, 2), value)
    assert Estimate.of_levels(values).is_constant
    assert not Estimate.of_levels(VALUES).is_constant
    assert not Estimate.of_levels(values[:1]).is_constant
    assert not Estimate(-math.inf, math.nan).is_constant


def test_one_sample_has_no_standard_error():
    value, error = Estimate.of_mean(VALUES[:1])
    assert value == pytest.approx(5.5)
    assert math.isnan(error)


def test_single_precision_is_widened():
    """A mean of many numbers near each other and far from 0."""
    values = 1e4 + torch.tensor([0.0, 1.0]).repeat(50_000)[:, None]
    assert Estimate.of_mean(values).value == pytest.approx(1e4 + 0.5, abs=1e-6)


def test_units_and_differences():
    assert Estimate(2.0, 0.5).times(-3.0) == (-6.0, 1.5)
    assert Estimate(2.0, 0.3).minus(Estimate(5.0, 0.4)) == pytest.approx((-3.0, 0.5))
    assert str(Estimate(1.23456, 0.01)) == "1.235 ± 0.010"
    assert str(Estimate(0.5, math.nan)) == "0.500 ± unknown"
    assert str(Estimate(-math.inf, math.nan)) == "-inf"


def test_log_of_a_mean_weight():
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64)
    assert log_mean(weights.log()).tolist() == pytest.approx([math.log(2)] * 2)
    estimate = log_mean_exp(weights.log())
    assert estimate.value == pytest.approx(math.log(2))
    of_mean = Estimate.of_mean(weights[:, :1]).standard_error
    assert estimate.standard_error == pytest.approx(
        of_mean / 2 / 2
    )  # d log z = d z / 2; of two prompts


def test_an_estimate_that_rounds_to_zero_has_no_sign():
    assert str(Estimate(-1e-9, 0.25)) == "0.000 ± 0.250"
    assert str(Estimate(-0.25, 0.25)) == "-0.250 ± 0.250"
