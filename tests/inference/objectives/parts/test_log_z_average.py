"""The moving average of Z, by prompt."""

import math

import pytest
import torch

from inference.objectives.parts.log_z_average import LogZAverage
from tests.inference.objectives.table import ONE, TWO


def test_average_of_z_is_the_mean_at_first_and_then_a_moving_one():
    average = LogZAverage(decay=0.75)
    averages = [
        average.update(ONE, torch.tensor([z]).log())[0].exp().item()
        for z in (1.0, 2.0, 6.0, 7.0, 4.0, 4.0)
    ]
    assert averages[:4] == pytest.approx([1.0, 1.5, 3.0, 4.0])
    assert averages[4:] == pytest.approx([4.0, 4.0])
    last = average.update(ONE, torch.tensor([12.0]).log())[0].exp().item()
    assert last == pytest.approx(0.75 * 4 + 0.25 * 12)
    forgetful = LogZAverage(decay=0.0)
    assert [forgetful.update(ONE, torch.tensor([z])).item() for z in (1.0, 0.0)] == [1.0, 0.0]


def test_average_of_z_is_kept_by_prompt_and_begins_at_an_impossible_batch():
    average = LogZAverage()
    average.update(TWO, torch.tensor([0.0, -math.inf], dtype=torch.float64))
    both = average.update(TWO, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert both.tolist() == pytest.approx([0.0, 1.0 - math.log(2)])
    alone = average.update(TWO[[1]], torch.tensor([1.0], dtype=torch.float64))
    assert alone.tolist() == pytest.approx([math.log(2 / 3) + 1.0])
