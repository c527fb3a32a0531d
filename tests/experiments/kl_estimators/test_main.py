"""Objective of each implementation of the KL penalty, by enumeration."""

import pytest

from experiments.kl_estimators.__main__ import KLEstimators, findings_of, measure
from experiments.kl_estimators.gradients import OF_SAMPLER
from experiments.kl_estimators.implementations import CORRECTIONS, IMPLEMENTATIONS, OFF_POLICY

REVERSE, BY_POSITION = "KL(q || p0)", "KL(q || p0) by position"
MATCHES = {
    "k1 in the reward, returns-to-go (RLHF's PPO)": REVERSE,
    "k1 in the reward, its own token only": BY_POSITION,
    "k1 as a loss, token by token": None,
    "k2 as a loss, token by token": BY_POSITION,
    "k2 as a loss, whole response": REVERSE,
    "k3 as a loss, token by token (GRPO)": "KL(p0 || q) by position",
    "k3 as a loss, whole response": "KL(p0 || q)",
    "k3 in the reward, returns-to-go": None,
    "k3+ as a loss, token by token": BY_POSITION,
    "k3 times the ratio, token by token (TRL)": BY_POSITION,
    "k3 upside down as a loss, whole response": "chi2(q || p0)/2",
}
RESTORED = {
    ("k1 in the reward, returns-to-go", "ratio of the response"): REVERSE,
    ("k2 as a loss, whole response", "ratio of the response"): REVERSE,
    ("k2 as a loss, token by token", "ratio of the response"): BY_POSITION,
    ("k2 as a loss, token by token", "ratio of the prefix"): BY_POSITION,
    ("k2 as a loss, token by token", "ratio of the token"): OF_SAMPLER,
    ("k3 as a loss, token by token", "ratio of the response"): "KL(p0 || q) by position",
    ("k3 as a loss, token by token", "ratio of the prefix"): "KL(p0 || q) by position",
    ("k3 times the ratio, token by token", "ratio of the response"): BY_POSITION,
    ("k3 times the ratio, token by token", "ratio of the prefix"): BY_POSITION,
    ("k3 times the ratio, token by token", "ratio of the token"): OF_SAMPLER,
    ("k3 times the ratio, whole response", "ratio of the response"): REVERSE,
}
UNBIASED = ("k1", "k3 ", "k3+")
"""Beginnings of the names of implementations whose value is KL(q || p0) in the mean."""


@pytest.fixture(scope="module")
def tables():
    return measure(KLEstimators())


def matches(row):
    """The objectives of a row whose gradient the mean gradient is."""
    others = row.items() - {("size", row["size"]), ("value", row.get("value"))}
    return {objective for objective, distance in others if distance < 1e-10}


def test_each_implementation_has_the_gradient_of_its_objective(tables):
    distances, _ = tables
    assert MATCHES.keys() == IMPLEMENTATIONS.keys() == distances.keys()
    for name, row in distances.items():
        assert matches(row) == ({MATCHES[name]} - {None}), name
    assert distances["k1 as a loss, token by token"]["size"] < 1e-10


def test_value_is_the_kl_but_for_k2_and_the_ratio_upside_down(tables):
    for name, row in tables[0].items():
        is_unbiased = name.startswith(UNBIASED) and "upside down" not in name
        assert (abs(row["value"] - 1) < 1e-9) == is_unbiased, name


def test_ratio_of_the_response_restores_what_an_older_guide_draws(tables):
    _, rows = tables
    assert len(rows) == len(OFF_POLICY) * len(CORRECTIONS)
    for name in OFF_POLICY:
        for correction in CORRECTIONS:
            goal = RESTORED.get((name, correction))
            if name.endswith("whole response") and correction == "ratio of the prefix":
                goal = REVERSE  # the prefix that ends with the last token is the response
            assert matches(rows[f"{name}, {correction}"]) == ({goal} - {None}), (name, correction)


def test_findings_hold_and_fail_for_another_gradient(tables):
    rows, older = tables
    assert all(finding.held for finding in findings_of(rows, older))
    name = "k3 as a loss, token by token (GRPO)"
    other = rows | {name: rows["k2 as a loss, whole response"]}
    failed = [finding for finding in findings_of(other, older) if not finding.held]
    assert len(failed) == 3
    assert all(finding.statement.startswith(name) for finding in failed)
