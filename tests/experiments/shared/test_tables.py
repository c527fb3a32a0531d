"""Means over seeds and cells of text tables."""

import math

import pytest

from experiments.shared.tables import cell, mean_and_error, summary, table_of


def test_means_and_cells():
    assert mean_and_error([{"kl": 1.0}, {"kl": 3.0}], "kl") == pytest.approx((2.0, 1.0))
    assert math.isnan(mean_and_error([{"kl": 1.0}], "kl")[1])
    assert cell(0.12345, 0.012) == "0.123 ± 0.01"
    assert cell(math.nan) == "-"


def test_rows_name_the_columns_of_a_table():
    row = summary([{"kl": 1.0, "reward": 0.5}, {"kl": 3.0, "reward": 0.5}])
    assert list(row) == ["kl", "reward"]
    assert row["kl"] == pytest.approx((2.0, 1.0))
    rows = {"guide": row, "prior": {"reward": "low", "n": 8.0}}
    assert table_of("Title", rows).splitlines() == [
        "Title",
        "          kl   reward  n",
        "guide  2 ± 1  0.5 ± 0  -",
        "prior      -      low  8",
    ]
