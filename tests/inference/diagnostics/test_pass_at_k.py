"""pass@k from draws has the mean of pass@k, and the exact number of listed responses."""

import itertools
import math

import pytest
import torch

from inference.diagnostics.pass_at_k import exact_pass_at_k, pass_at_k


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_estimate_is_unbiased(k, rate):
    """Mean over all outcomes of five draws; the share of successes in place of p is biased."""
    mean = plug_in = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=5):
        weight = math.prod(rate if success else 1 - rate for success in outcome)
        mean += weight * pass_at_k(torch.tensor(outcome)[:, None], k).value
        plug_in += weight * (1 - (1 - sum(outcome) / 5) ** k)
    assert mean == pytest.approx(1 - (1 - rate) ** k, abs=1e-12)
    if k > 1:
        assert plug_in < mean - 1e-3


def test_standard_error_is_the_spread_of_the_estimates():
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.2, 0.5])
    runs = []
    for _ in range(400):
        success = (torch.rand(200, 2, generator=generator) < rates).double()
        runs.append(pass_at_k(success, 4))
    spread = torch.tensor([run.value for run in runs]).std().item()
    errors = torch.tensor([run.standard_error for run in runs]).mean().item()
    assert errors == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("rate", [0.01, 0.9])
def test_intervals_hold_where_no_draw_or_all_of_them_succeed(rate):
    """By the share of successes alone, 10% of the intervals hold at the lowest rate."""
    generator, num_held = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        run = pass_at_k((torch.rand(10, 1, generator=generator) < rate).double(), 2)
        num_held += abs(run.value - (1 - (1 - rate) ** 2)) < 1.96 * run.standard_error
    assert num_held > 0.85 * 400
    error = pass_at_k(torch.zeros(10, 1), 1).standard_error  # of one success in twelve draws
    assert error == pytest.approx(math.sqrt(11) / 12 / math.sqrt(10))


def test_exact_number_is_that_of_independent_draws():
    success = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    prob = torch.tensor([[0.2, 0.1], [0.7, 0.5], [0.1, 0.4]], dtype=torch.float64)
    assert exact_pass_at_k(success, prob, 3).tolist() == pytest.approx([1 - 0.7**3, 1.0])


def test_wrong_arguments_are_refused():
    success = torch.tensor([[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"k is 3, expected .* 2"):
        pass_at_k(success, 3)
    with pytest.raises(ValueError, match="other than 0 and 1"):
        pass_at_k(success / 2, 1)
