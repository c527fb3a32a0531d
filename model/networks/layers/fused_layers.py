"""Layers in one kernel, where `transformers` runs up to eight.

    gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))     Hendrycks and Gimpel 2016
    norm(x) = w x / sqrt(mean(x^2) + eps)                       Zhang and Sennrich 2019, on a GPU

The gradient needs x alone, and for the norm one number a row, where autograd keeps other tensors.
In half precision the result is rounded once, where each of the kernels rounds.
"""

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
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        if is_asynchronous(x.device) and x.dtype == self.weight.dtype:
            return fused_norm(self, x)
        return super().forward(x)


def fused_norm(layer: Any, x: Tensor) -> Tensor:
    """w x / sqrt(mean(x^2) + eps) over the last dimension; torch has one kernel on a GPU."""
    return rms_norm(x, x.shape[-1:], layer.weight, layer.variance_epsilon)


def fused_layers(network: nn.Module) -> None:
    """Make the layers of a network that compute one of the two `FusedGELU` or `FusedNorm`."""
    from transformers.activations import NewGELUActivation  # takes a second without a network

    for module in network.modules():
        if type(module) is NewGELUActivation:
            module.__class__ = FusedGELU
        elif _is_plain_norm(module):
            kind: Any = type(module)
            module.__class__ = _fused_kind(kind)


@cache
def _fused_kind(kind: Any) -> Any:
    return type(kind.__name__, (FusedNorm, kind), {})


@torch.no_grad()
def _is_plain_norm(module: Any) -> bool:
    """True for a layer that computes `fused_norm`, and not for example with weights 1 + w."""
    if not type(module).__name__.endswith("RMSNorm") or isinstance(module, FusedNorm):
        return False
    weight = getattr(module, "weight", None)
    if type(weight) is not nn.Parameter or weight.is_meta:
        return False  # such as a shard of the weights
    if not hasattr(module, "variance_epsilon"):
        return False
    x = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1)
    try:
        expected = module(x)
        got = rms_norm(x, x.shape[-1:], weight.float(), module.variance_epsilon)
    except Exception:  # any error of the layer's own code: the layer stays
        return False
    return bool((got - expected).abs().max() <= TOLERANCE * (1 + weight.abs().max()))
