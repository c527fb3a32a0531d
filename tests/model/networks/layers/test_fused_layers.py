"""Layers in one kernel: value and gradient of `transformers`, fewer tensors kept."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.activations import NewGELUActivation
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from guides import FineTuned
from model.networks.layers.fused_layers import (
    FusedGELU,
    FusedNorm,
    FusedShiftedNorm,
    fused_layers,
    fused_norm,
    fused_shifted_norm,
)
from tests.model.tiny import tiny


def both() -> tuple[nn.Module, nn.Module]:
    """The layer of `transformers`, and the same layer in one kernel."""
    layer = nn.Sequential(NewGELUActivation())
    fused = copy.deepcopy(layer)
    fused_layers(fused)
    return layer, fused


def gradient(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
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


def norms(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """A norm of `transformers` with weights apart from 1, and the same layer in one kernel."""
    layer = nn.Sequential(LlamaRMSNorm(7, eps=1e-3))
    with torch.no_grad():
        layer[0].weight.copy_(torch.linspace(0.5, 2, 7))
    layer.to(dtype)
    fused = copy.deepcopy(layer)
    fused_layers(fused)
    return layer, fused


def test_a_norm_is_that_of_transformers():
    """Also beside networks with the kernel already, which a guide copies from its prior."""
    layer, fused = norms()
    fused_layers(fused)
    assert isinstance(fused[0], FusedNorm)
    assert isinstance(fused[0], LlamaRMSNorm)
    x = torch.randn(4, 5, 7)
    assert_close(fused(x), layer(x))
    assert_close(gradient(fused, x), gradient(layer, x))
    kernel = functools.partial(fused_norm, fused[0])
    assert_close(kernel(x), layer(x), rtol=1e-5, atol=1e-6)
    assert_close(gradient(kernel, x), gradient(layer, x), rtol=1e-4, atol=1e-5)


def test_a_norm_in_half_precision_is_closer_to_float64():
    x = torch.randn(200, 7).bfloat16()
    layer, fused = (each.to(x.device) for each in norms(torch.bfloat16))
    exact = fused_norm(copy.deepcopy(fused[0]).double(), x.double())
    errors = [(y.double() - exact).abs().mean() for y in (fused_norm(fused[0], x), layer(x))]
    assert errors[0] < 0.9 * errors[1]


def test_other_norms_stay():
    class DoubledRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 2 * super().forward(hidden_states)

    class NoWeightRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) / self.weight

    kinds = [DoubledRMSNorm, NoWeightRMSNorm]  # with weights of 1 like other norms
    layer = nn.Sequential(*(kind(7) for kind in kinds))
    fused_layers(layer)
    assert [type(part) for part in layer] == kinds


@pytest.mark.parametrize(
    ("kind", "base", "function"),
    [
        (GemmaRMSNorm, FusedShiftedNorm, fused_shifted_norm),
        (Gemma3RMSNorm, FusedShiftedNorm, fused_shifted_norm),
        (Gemma3nRMSNorm, FusedNorm, fused_norm),
    ],
)
def test_a_norm_of_gemma_is_rounded_as_in_transformers(kind, base, function):
    x = torch.randn(100, 64).bfloat16()
    layer = kind(64).to(x)
    nn.init.normal_(layer.weight)
    fused = copy.deepcopy(layer)
    fused_layers(nn.Sequential(fused))
    assert isinstance(fused, base)
    kernel = functools.partial(function, fused)
    # numbers of float32 that differ by their last bit rarely round to two numbers of bfloat16
    assert (kernel(x) != layer(x)).double().mean() < 1e-3
    assert_close(gradient(kernel, x), gradient(layer, x), rtol=1e-2, atol=1e-2)
    assert_close(fused(x), layer(x), rtol=1e-2, atol=1e-2)


def test_a_network_keeps_its_norms_where_they_cannot_be_called():
    """A norm of weights without numbers, as of a network on the device `meta`, may stay too."""
    with torch.device("meta"):
        layer = nn.Sequential(LlamaRMSNorm(7))
    fused_layers(layer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel is for a GPU")
def test_a_gpu_has_the_kernel():
    layer, fused = (each.cuda() for each in norms(torch.bfloat16))
    x = torch.randn(64, 7, device="cuda").bfloat16()
    assert_close(fused(x), fused_norm(fused[0], x), rtol=0, atol=0)
    assert_close(fused(x), layer(x), rtol=2e-2, atol=2e-2)
