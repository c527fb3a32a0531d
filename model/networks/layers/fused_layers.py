"""Layers in one kernel, where `transformers` runs up to eight.

    gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))     Hendrycks and Gimpel 2016
    norm(x) = w x / sqrt(mean(x^2) + eps)                       Zhang and Sennrich 2019, on a GPU;
                                                                of Gemma with 1 + w, in float32

The gradient needs x alone, and for the norm one number a row, where autograd keeps other tensors.
In half precision the result is rounded once, where each of the kernels rounds.
"""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, rms_norm

from model.common.devices import is_asynchronous

TOLERANCE = 1e-5
"""Largest difference between `fused_norm` and a layer of `transformers`, times 1 + |w|."""


class FusedGELU(nn.Module):
    """`NewGELUActivation` of `transformers`, up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x, approximate="tanh")


class FusedNorm(nn.Module):
    """First base of a norm such as `LlamaRMSNorm`, the same up to rounding."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if is_asynchronous(x.device) and x.dtype == self.weight.dtype:
            return fused_norm(self, x)
        return super().forward(x)


class FusedShiftedNorm(nn.Module):
    """First base of a norm such as `Gemma3RMSNorm`, with weights 1 + w; rounded as there."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if is_asynchronous(x.device):
            return fused_shifted_norm(self, x)
        return super().forward(x)


def fused_shifted_norm(layer: Any, x: Tensor) -> Tensor:
    """(1 + w) x / sqrt(mean(x^2) + eps) in float32: five kernels in place of nine."""
    weight = 1.0 + layer.weight.float()
    return rms_norm(x.float(), x.shape[-1:], weight, _eps(layer)).type_as(x)


def _eps(layer: Any) -> Any:
    """The number that a norm adds to the mean of squares, by its two names in `transformers`."""
    return getattr(layer, "variance_epsilon", None) or layer.eps


def fused_norm(layer: Any, x: Tensor) -> Tensor:
    """w x / sqrt(mean(x^2) + eps) over the last dimension; torch has one kernel on a GPU."""
    return rms_norm(x, x.shape[-1:], layer.weight, _eps(layer))


def fused_layers(network: nn.Module) -> None:
    """Make the layers of a network that compute one of these a fused layer, in place."""
    from transformers.activations import NewGELUActivation  # takes a second without a network

    for module in network.modules():
        if type(module) is NewGELUActivation:
            module.__class__ = FusedGELU
        elif (base := _base_of_norm(module)) is not None:
            kind: Any = type(module)
            module.__class__ = _fused_kind(base, kind)


@cache
def _fused_kind(base: Any, kind: Any) -> Any:
    return type(kind.__name__, (base, kind), {})


@torch.no_grad()
def _base_of_norm(module: Any) -> Any:
    """The fused layer that computes what a norm computes, as its numbers show; None for others."""
    if not type(module).__name__.endswith("RMSNorm") or isinstance(module, tuple(NORMS)):
        return None
    weight = getattr(module, "weight", None)
    if type(weight) is not nn.Parameter or weight.is_meta:
        return None  # such as a shard of the weights
    x = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1)
    try:
        other = copy.deepcopy(module)  # weights of 1 are 1 + w of weights of 0, and half of 2 w
        other.weight += torch.linspace(0.5, 1, len(weight)).to(weight)
        expected, wide, eps = other(x), other.weight.float(), _eps(module)
        results = {n: rms_norm(x, x.shape[-1:], wide + shift, eps) for n, shift in NORMS.items()}
    except Exception:  # any error of the layer's own code: the layer stays
        return None
    most = TOLERANCE * (1 + wide.abs().max())
    return next((n for n, own in results.items() if (own - expected).abs().max() <= most), None)


NORMS: dict[type[nn.Module], float] = {FusedNorm: 0.0, FusedShiftedNorm: 1.0}
"""Number added to the weights by each kind of norm."""
