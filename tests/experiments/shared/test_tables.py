"""Means over seeds and cells of text tables."""

import math

import pytest

from experiments.shared.tables import cell, mean_and_error


def test_means_and_cells():
    assert mean_and_error([{"kl": 1.0}, {"kl": 3.0}], "kl") == pytest.approx((2.0, 1.0))
    assert math.isnan(mean_and_error([{"kl": 1.0}], "kl")[1])
    assert cell(0.12345, 0.012) == "0.123 ± 0.01"
    assert cell(math.nan) == "-"
