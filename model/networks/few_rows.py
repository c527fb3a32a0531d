"""Linear layers in half precision on a CPU, for the few rows of one token of a decode.

    y = (W x^T)^T       the same numbers as x W^T

`x W^T` writes all of W to memory again in another layout, at every call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)
FEW = 64
"""Largest number of rows for which the layers inside `few_rows` differ from torch's."""


@contextmanager
def few_rows(network: nn.Module) -> Iterator[None]:
    """Faster linear layers of a network, in all passes without gradient inside.

    The adapters of all layers are rounded once.
    """
    before: list[tuple[nn.Module, str, Any]] = []

    def replace(module: nn.Module, name: str, value: Any) -> None:
        before.append((module, name, vars(module).get(name)))
        setattr(module, name, value)

    try:
        for module in network.modules():
            layer: Any = module
            if hasattr(layer, "rounded_factors"):
                replace(layer, "rounded", layer.rounded_factors())
            elif _has_faster(layer):
                replace(layer, "forward", partial(_linear, layer))
        yield
    finally:
        for module, name, old in before:
            delattr(module, name)
            if old is not None:
                setattr(module, name, old)


def _has_faster(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter:
        return False  # such as a shard of the weights
    return module.weight.dtype in HALF and module.weight.is_cpu


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The output of a layer with B rows; by the layer's own code for a pass of another kind."""
    flat = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() or len(flat) > FEW or x.dtype != layer.weight.dtype:
        return type(layer).forward(layer, x)
    if layer.bias is None:
        y = torch.mm(layer.weight, flat.t())
    else:
        y = torch.addmm(layer.bias[:, None], layer.weight, flat.t())
    return y.t().contiguous().view(*x.shape[:-1], -1)
