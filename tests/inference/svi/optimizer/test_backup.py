"""Check of all numbers after a step: NaN and infinity fail, and large numbers do not."""

import math

import pytest
import torch

from inference.svi.optimizer.backup import all_finite

LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize("number", [0.0, 1e-30, 1e30, -1e30, LARGEST, -LARGEST])
def test_a_finite_number_is_finite_also_where_its_square_overflows(number):
    assert all_finite([torch.ones(3), torch.full((2, 40), number)])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("other", [1.0, LARGEST])
def test_one_number_in_one_tensor_is_enough(number, other):
    tensors = [torch.ones(3), torch.full((2, 40), other), torch.ones(0), torch.tensor([1, 2])]
    tensors[1][1, 7] = number
    assert not all_finite(tensors)
