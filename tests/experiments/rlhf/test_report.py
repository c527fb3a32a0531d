"""Findings, mean curves and tables over the simulated data sets."""

import math
import re
from itertools import chain

import pytest
import torch

from experiments.rlhf.learning import KLS, Run
from experiments.rlhf.report import FARTHEST, findings, mean_curves, positive, world_tables
from experiments.rlhf.text_sample import Curve
from model.preferences import AGGREGATIONS


def runs(**changed):
    """Two seeds of a world where all of the claim holds, but for what is changed."""
    gold = {"mean": 1.0, "lower-bound": 1.5, "minimum": 1.6, "marginal-likelihood": 0.5}
    measured = {f"{name} gold 2": value for name, value in gold.items()}
    measured |= {"mean fall": 1.0, "mean gain": 1.0}
    few = measured | changed.get("few", {})
    many = measured | {"mean fall": 2.0, "mean gain": 2.0} | changed.get("many", {})
    return [
        Run("next word", count, seed, {name: value + 0.001 * seed for name, value in row.items()})
        for seed in range(2)
        for count, row in ((20, few), (60, many))
    ]


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, set()),
        ({"few": {"mean fall": 0.05}}, {0}),
        ({"many": {"mean gain": 1.0}}, {1}),
        ({"many": {"mean fall": 1.0}}, {2}),
        ({"few": {"lower-bound gold 2": 0.4}}, {3}),
        ({"many": {"minimum gold 2": 0.4}}, {4}),
        ({"few": {"marginal-likelihood gold 2": 1.6}}, {5}),
    ],
)
def test_each_finding_is_decided_by_its_own_number(changed, failed):
    held = [finding.held for finding in findings(runs(**changed))]
    assert {index for index, holds in enumerate(held) if not holds} == failed


def test_a_tenth_of_the_gain_is_what_must_be_lost():
    """The share is one of the own gain, with the fewest preferences alone."""
    for fall, held in ((0.95, False), (1.05, True)):
        few = {"mean fall": fall, "mean gain": 10.0}
        many = {"mean fall": 1.0, "mean gain": 0.0}
        assert findings(runs(few=few, many=many))[0].held == held


def test_aggregations_are_compared_over_data_sets_of_every_size():
    """Their differences are averaged within a seed first: one size may say the opposite."""
    for loss, held in ((0.4, True), (0.6, False)):  # the other size has a gain of 0.5
        low, least, most = 1.0 - loss, 0.9 - loss, 1.0 + loss
        assert findings(runs(few={"lower-bound gold 2": low}))[3].held == held
        assert findings(runs(many={"minimum gold 2": least}))[4].held == held
        assert findings(runs(many={"marginal-likelihood gold 2": most}))[5].held == held


def test_certain_is_what_is_above_zero_by_student_s_t():
    for mean, held in ((4.4, False), (4.6, True), (-4.6, False)):  # 4.53 errors over three seeds
        values = [mean + 3**0.5 * shift for shift in (-1.0, 0.0, 1.0)]  # a standard error of 1
        assert positive("gain", values).held == held
    assert not positive("gain", [5.0]).held


def test_curves_are_averaged_where_all_of_them_are_known():
    """The line spans the KL that all curves reach; with a limit the line spans the whole figure."""

    def curve(kl, gold, size):
        columns = [1.0, 1.0], kl, gold, gold, [size, size]
        return {"mean": Curve(*(torch.tensor(column, dtype=torch.float64) for column in columns))}

    two = [curve([0.0, 2.0], [0.0, 2.0], 50.0), curve([0.5, 1.5], [1.5, 2.5], 50.0)]
    grid, gold, error = mean_curves(two)["mean"]
    assert (grid[0], grid[-1]) == pytest.approx((0.5, 1.5))
    assert gold == pytest.approx([at + 0.5 for at in grid])  # one is the KL, the other 1 more
    assert error == pytest.approx([0.5] * len(grid))
    whole = mean_curves([curve([0.0, 2.0], [0.0, 2.0], math.inf)])["mean"]
    assert whole[0][-1] == FARTHEST
    assert (whole[1][-1], whole[2][-1]) == (2.0, 0.0)


def test_tables_of_a_world_are_means_over_its_data_sets():
    """Number i is i + count, plus and minus 1 in the two data sets of that size."""
    ends = ("peak kl", "gain", "fall", "proxy rise")
    keys = {
        name: [*(f"{name} gold {kl:g}" for kl in KLS), *(f"{name} {end}" for end in ends)]
        for name in AGGREGATIONS
    }
    names = ["correlation", "accuracy", "ece", "ece by chance", *chain(*keys.values())]
    data_sets = []
    for count in (20, 60):
        for seed in range(2):
            measured = {name: index + count + (-1) ** seed for index, name in enumerate(names)}
            data_sets.append(Run("next word", count, seed, measured))
    reward, gold = world_tables(data_sets, "all KL exact; prior 0.125")
    rows = {line.split("  ")[0]: line for line in [*reward.splitlines(), *gold.splitlines()]}
    for count in (20, 60):
        expected = {f"{count} preferences": names[:4]} | {
            f"{count}, {name}": own for name, own in keys.items()
        }
        for row, own in expected.items():
            cells = re.findall(r"\d+ ± 1", rows[row])
            assert cells == [f"{names.index(key) + count} ± 1" for key in own]
    assert "next word (all KL exact; prior 0.125)" in gold


def test_a_noisy_number_decides_nothing():
    noisy = runs()
    # of the other seed 1.01: the mean is positive, by one standard error
    noisy[0].measured["mean fall"] = 0.15
    assert not findings(noisy)[0].held
