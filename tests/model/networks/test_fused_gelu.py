"""The GELU of GPT-2 in one kernel: value and gradient of `transformers`, one tensor kept."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.activations import NewGELUActivation

from guides import FineTuned
from model.networks.fused_gelu import FusedGELU, fused_gelu
from tests.model.tiny import tiny


def both() -> tuple[nn.Module, nn.Module]:
    """The layer of `transformers`, and the same layer in one kernel."""
    layer = nn.Sequential(NewGELUActivation())
    fused = copy.deepcopy(layer)
    fused_gelu(fused)
    return layer, fused


def gradient(layer: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(layer(x).sum(), x)[0]


def test_value_and_gradient_are_those_of_transformers():
    layer, fused = both()
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert_close(fused(x), layer(x), rtol=1e-12, atol=1e-14)
    assert_close(gradient(fused, x), gradient(layer, x), rtol=1e-12, atol=1e-14)


def test_half_precision_is_closer_to_float64():
    layer, fused = both()
    x = torch.linspace(-4, 4, 1001).bfloat16()
    exact = layer(x.double())
    errors = [(each(x).double() - exact).abs().mean() for each in (fused, layer)]
    assert errors[0] < 0.8 * errors[1]


def test_the_gradient_keeps_the_input_alone():
    _, fused = both()
    saved: list[Tensor] = []
    x = torch.randn(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda part: saved.append(part) or part, id):
        fused(x)
    assert [part.data_ptr() for part in saved] == [x.data_ptr()]


@pytest.mark.parametrize("make", [tiny, lambda: FineTuned(tiny())])
def test_every_language_model_has_the_kernel(make):
    layers = list(make().modules())
    assert any(type(layer) is FusedGELU for layer in layers)
    assert not any(isinstance(layer, NewGELUActivation) for layer in layers)
