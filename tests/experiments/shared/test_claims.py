"""Findings and their limits."""

import math

import pytest

from experiments.shared.claims import Finding


@pytest.mark.parametrize(
    ("values", "limits", "held"),
    [
        ([0.1, 0.2], {"below": 0.3}, True),
        ([0.1, 0.3], {"below": 0.3}, False),
        ([0.4, 0.3], {"above": 0.3}, False),
        ([0.4], {"above": 0.3, "below": 0.5}, True),
        ([0.1, math.nan], {"below": 0.3}, False),
        ([math.nan, 0.4], {"above": 0.3}, False),
    ],
)
def test_a_finding_holds_if_all_values_are_strictly_within_the_limits(values, limits, held):
    assert Finding.of_limits("share", values, **limits).held is held


def test_a_finding_states_values_and_limits():
    finding = Finding.of_limits("share", [0.123, 2.0], above=0.1, below=3)
    assert finding.statement == "share: 0.12 and 2 (above 0.1, below 3)"
