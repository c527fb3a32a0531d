"""The world `two-modes`, and variants of guides for it in float64."""

import copy

import pytest
import torch

from experiments.guide_zoo.runs import VARIANTS
from experiments.shared.worlds import two_modes


@pytest.fixture(scope="module")
def world():
    return two_modes()


@pytest.fixture(scope="module")
def make(world):
    """Build a variant by name."""
    prior = copy.deepcopy(world.model.prior).double()

    def build(name):
        torch.manual_seed(0)
        return VARIANTS[name](prior, world.prompts)

    return build
