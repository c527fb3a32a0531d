"""Linear layers in half precision on a CPU, for the few rows of one token of a decode.

    y = (W x^T)^T                          the same numbers as x W^T
    y = (W x^T)^T + x A^T (B alpha/rank)^T  with an adapter of `peft`, in float32 as there

`x W^T` writes all of W to memory again in another layout, at every call. `peft` scales the output
of an adapter, and copies it twice, where B can be scaled once for all tokens.
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

Adapter = tuple[Tensor, Tensor]
"""A^T `[in, rank]` and B^T alpha/rank `[rank, out]`, float32."""


@contextmanager
def few_rows(network: nn.Module) -> Iterator[None]:
    """Faster linear layers of a network, in all passes without gradient inside."""
    before: list[tuple[nn.Module, Any]] = []
    try:
        for module in network.modules():
            forward = _forward(module)
            if forward is not None:
                before.append((module, module.__dict__.get("forward")))
                module.forward = forward
        yield
    finally:
        for module, old in before:
            del module.forward
            if old is not None:
                module.forward = old


def _forward(module: nn.Module) -> Any:
    """The faster `forward` of a layer; None for a layer without."""
    layer: Any = module
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    if type(base) is not nn.Linear or type(base.weight) is not nn.Parameter:
        return None  # such as a shard of the weights
    if base.weight.dtype not in HALF or not base.weight.is_cpu:
        return None
    adapters = [] if base is module else _adapters(layer)
    return None if adapters is None else partial(_linear, module, base, adapters)


def _adapters(module: Any) -> list[Adapter] | None:
    """Active adapters of a layer of `peft`; None for a layer that does more than LoRA."""
    from peft.tuners.lora import Linear  # loaded already: the layer is of `peft`

    if type(module) is not Linear or module.merged or module.lora_variant:
        return None
    names = [] if module.disable_adapters else module.active_adapters
    adapters = []
    for name in names:
        if name in module.lora_A:
            a, b = module.lora_A[name], module.lora_B[name]
            if b.bias is not None or a.weight.dtype in HALF:
                return None
            scaled = b.weight.detach() * module.scaling[name]
            adapters.append((a.weight.detach().t(), scaled.t()))
    return adapters


def _linear(
    module: nn.Module,
    base: nn.Linear,
    adapters: list[Adapter],
    x: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """The output of a layer with B rows; by the layer's own code for a pass of another kind."""
    flat = x.reshape(-1, x.shape[-1])
    plain = not (args or kwargs or torch.is_grad_enabled() or module.training)
    if not plain or len(flat) > FEW or x.dtype != base.weight.dtype:
        return type(module).forward(module, x, *args, **kwargs)
    if base.bias is None:
        y = torch.mm(base.weight, flat.t())
    else:
        y = torch.addmm(base.bias[:, None], base.weight, flat.t())
    y = y.t()
    if adapters:
        wide = flat.to(adapters[0][0].dtype)
        change = sum(wide @ a @ b for a, b in adapters)
        y = torch.add(y, change, out=torch.empty(y.shape, dtype=y.dtype))
    return y.contiguous().view(*x.shape[:-1], -1)
