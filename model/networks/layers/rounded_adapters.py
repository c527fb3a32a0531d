"""Adapters in half precision, rounded all together: once for a draw, or once for a gradient.

    A, alpha/rank B  ->  both in half precision;  gradients of both  ->  gradients of A and B

Layer by layer these are six kernels of few numbers, which a GPU starts one after the other.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn

from model.common.sharded_tensors import copy_all
from model.networks.layers import layer_checkpoints
from model.networks.layers.packed_gradients import PackedGroup, note_all_inputs, packed_groups
from model.networks.layers.packed_layers import Decoding, packs

_own = threading.local()
"""Factors, and packed group if any, of each layer inside `rounded_together`."""


class RoundedAdapters(Decoding):
    """Context in which all `AdaptedLinear` layers of a network have their adapters rounded.

        decoding = RoundedAdapters(network)
        with decoding:
            logits = network(ids).logits  # without gradient

    Each entry rounds the parameters of the time, at the same places in memory, where a recorded
    pass reads them.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers: list[Any] = [m for m in network.modules() if hasattr(m, "rounded_factors")]
        self._factors: list[Any] = [None] * len(self._layers)
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = [layer.rounded for layer in self._layers]
        self.write()
        for layer, factors in zip(self._layers, self._factors, strict=True):
            layer.rounded = factors
        return self

    def _write(self) -> None:
        factors = zip(self._layers, self._factors, strict=True)
        self._factors = [layer.rounded_factors(old) for layer, old in factors]

    def __exit__(self, *_: object) -> None:
        for layer, before in zip(self._layers, self._before, strict=True):
            layer.rounded = before


def shared_factors(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """A and alpha/rank B of a layer inside `rounded_together`, in the own thread; None outside."""
    return getattr(_own, "factors", {}).get(layer)


def shared_group(layer: nn.Module) -> PackedGroup | None:
    """The group of a layer inside `rounded_together`, in the own thread; None for others."""
    return getattr(_own, "groups", {}).get(layer)


@contextmanager
def rounded_together(
    network: "transformers.PreTrainedModel", num_tokens: int = 1
) -> Iterator[None]:
    """Context of one pass, with gradient, for which all adapters are rounded together.

    On a GPU, layers that read the same input are packed, and so they are in passes over several
    tokens without gradient. Layers that are computed again in the backward pass round their own.
    """
    layers: list[Any] = []
    is_packed = (torch.is_grad_enabled() or num_tokens > 1) and packs(network, 0)
    has_use = torch.is_grad_enabled() or is_packed
    if has_use and not layer_checkpoints.are_on():
        layers = [module for module in network.modules() if hasattr(module, "rounded_factors")]
        layers = [layer for layer in layers if layer.is_plain(layer.base_layer.weight)]
    if not layers:
        yield
        return
    parts: list[Any] = [(layer, *part) for layer in layers for part in layer.parts()]
    owners, a, b, scales = zip(*parts, strict=True)
    dtypes = [layer.base_layer.weight.dtype for layer in owners]
    halves = _Rounded.apply(dtypes, scales, *a, *b)
    by_layer: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    for layer, *pair in zip(owners, halves[: len(a)], halves[len(a) :], strict=True):
        by_layer[layer].append(tuple(pair))
    before = getattr(_own, "factors", {}), getattr(_own, "groups", {})
    factors = {layer: stacked(pairs) for layer, pairs in by_layer.items()}
    _own.factors, _own.groups = factors, {}
    try:
        if is_packed:
            note_all_inputs(network, layers)
            _own.groups = packed_groups(factors)
        yield
    finally:
        _own.factors, _own.groups = before


def stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The factors of the sum of several products, `[rank, in]` and `[out, rank]`."""
    if len(pairs) == 1:
        return pairs[0]
    a, b = zip(*pairs, strict=True)
    return torch.cat(a), torch.cat(b, 1)


class _Rounded(torch.autograd.Function):
    """A_1 .. A_n and scale_1 B_1 .. scale_n B_n in half precision."""

    @staticmethod
    def forward(
        ctx: Any, dtypes: list[torch.dtype], scales: tuple[float, ...], *factors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.scales, ctx.wide = scales, [factor.dtype for factor in factors]
        ctx.set_materialize_grads(False)
        scaled = torch._foreach_mul(factors[len(scales) :], scales)
        pairs = zip(factors, 2 * dtypes, strict=True)
        halves = [torch.empty_like(factor, dtype=dtype) for factor, dtype in pairs]
        copy_all(halves, [*factors[: len(scales)], *scaled])
        needs = zip(halves, ctx.needs_input_grad[2:], strict=True)
        ctx.mark_non_differentiable(*(half for half, is_trained in needs if not is_trained))
        return tuple(halves)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        places = [
            None if grad is None else torch.empty(grad.shape, dtype=dtype, device=grad.device)
            for grad, dtype in zip(grads, ctx.wide, strict=True)
        ]
        given = [grad for grad in grads if grad is not None]
        copy_all([place for place in places if place is not None], given)
        of_b = zip(places[len(ctx.scales) :], ctx.scales, strict=True)
        if trained := [pair for pair in of_b if pair[0] is not None]:
            torch._foreach_mul_(*map(list, zip(*trained, strict=True)))
        return None, None, *places
