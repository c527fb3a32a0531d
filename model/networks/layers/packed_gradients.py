"""Adapted layers that read the same x, packed for a pass with gradient, in half precision on a GPU.

    [y_1 .. y_n, z_1 .. z_n] = x [W; A]^T + b,    y_i += z_i B_i^T
    dz_i = dy_i B_i,    dx = [dy, dz] [W; A],    dA = dz^T x,    dB_i = dy_i^T z_i

Queries, keys and values have 12 products in place of 24, and dx is not summed over layers. A layer
that reads an x alone would have as many operations as before, and stays as it is. [W; A] is packed
for each pass, a copy that takes less than a thousandth of a pass over many tokens; weights may
change between passes.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.weak import WeakTensorKeyDictionary

from model.common.sharded_tensors import copy_all
from model.networks.layers.head import ALIGNMENT
from model.networks.layers.packed_layers import SharedOutputs, weight_of

Factors = tuple[Tensor, Tensor]
"""A, `[rank, in]`, and alpha/rank B, `[out, rank]`, in half precision."""

_inputs: WeakKeyDictionary[nn.Module, object] = WeakKeyDictionary()
"""One object for all layers that read the same tensor in their last pass that was not packed."""
_objects = WeakTensorKeyDictionary()
"""The object of each tensor that such a layer has read, while the tensor lives."""


def note_input(layer: nn.Module, x: Tensor) -> None:
    """Note which layers read the same x, so that the next pass packs them."""
    _inputs[layer] = _objects.setdefault(x, object())


def note_all_inputs(network: Any, layers: Iterable[nn.Module]) -> None:
    """Note which layers read the same x, by a pass over one token if that is not known yet."""
    new = [layer for layer in layers if layer not in _inputs]
    if new:
        with torch.no_grad():
            network(torch.zeros(1, 1, dtype=torch.long, device=network.device))
    for layer in new:
        _inputs.setdefault(layer, object())  # of a layer that the token does not reach


class PackedGroup(SharedOutputs):
    """Layers that read the same x in a pass, and their factors."""

    def __init__(self, factors: Mapping[Any, Factors]) -> None:
        super().__init__(list(factors))
        self._a, self._b = zip(*factors.values(), strict=True)
        sizes, ranks = [len(b) for b in self._b], [len(a) for a in self._a]
        padding = -sum(ranks) % ALIGNMENT  # rows of a product begin at multiples of 16 bytes
        self._sizes, like = [*sizes, *ranks, padding], self._a[0]
        self.weight = like.new_empty(sum(self._sizes), like.shape[1])
        biases = [layer.base_layer.bias for layer in self.layers]
        self.bias = None
        if any(bias is not None for bias in biases):
            self.bias = torch.cat(
                [
                    like.new_zeros(size) if bias is None else bias.detach()
                    for bias, size in zip(biases, sizes, strict=True)
                ]
                + [like.new_zeros(sum(ranks) + padding)]
            )

    def rows(self) -> tuple[list[Tensor], list[Tensor]]:
        """The rows of [W; A], and the tensors to copy there."""
        *rows, padding = self.weight.split(self._sizes)
        if len(padding):
            padding.zero_()
        weights = [weight_of(layer.base_layer) for layer in self.layers]
        return rows, [part.detach() for part in (*weights, *self._a)]

    def outputs(self, x: Tensor) -> Iterable[Tensor]:
        """See `SharedOutputs`."""
        return _Products.apply(x, self.weight, self.bias, self._sizes, *self._a, *self._b)


def packed_groups(factors: Mapping[Any, Factors]) -> dict[nn.Module, PackedGroup]:
    """The group of each layer that reads its x together with others, as noted."""
    by_input: dict[object, dict[Any, Factors]] = {}
    for layer, pair in factors.items():
        if (key := _inputs.get(layer)) is not None:
            by_input.setdefault(key, {})[layer] = pair
    groups = {PackedGroup(each): each for each in by_input.values() if len(each) > 1}
    rows = [group.rows() for group in groups]
    with torch.no_grad():
        copy_all(_flat(each for each, _ in rows), _flat(each for _, each in rows))
    return {layer: group for group, layers in groups.items() for layer in layers}


def _flat(lists: Iterable[list[Tensor]]) -> list[Tensor]:
    return [tensor for each in lists for tensor in each]


class _Products(torch.autograd.Function):
    """Outputs of the layers of a group, with gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sizes: list[int], *factors: Tensor
    ) -> tuple[Tensor, ...]:
        flat, b = x.reshape(-1, x.shape[-1]), factors[len(factors) // 2 :]
        size, ranks = sum(sizes[: len(b)]), sizes[len(b) :]
        y = linear(flat, weight, bias)
        inner = y[:, size:].clone()  # a view would keep y
        outputs = y[:, :size].split(sizes[: len(b)], 1)
        for output, z, b_i in zip(outputs, inner.split(ranks, 1)[:-1], b, strict=True):
            output.addmm_(z, b_i.t())
        ctx.save_for_backward(flat, inner, weight, *b)
        ctx.sizes, ctx.shape = sizes, x.shape
        # no views for autograd, since Gemma 3n multiplies them in place
        shapes = [(*x.shape[:-1], output.shape[1]) for output in outputs]
        return tuple(map(torch.ops.aten._unsafe_view, outputs, shapes))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        flat, inner, weight, *b = ctx.saved_tensors
        size, ranks, num = sum(ctx.sizes[: len(b)]), ctx.sizes[len(b) :], len(b)
        parts = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        joined = torch.cat([*parts, inner], 1)  # [dy, dz], once dz is written to the place of z
        slopes = joined[:, :size].split(ctx.sizes[:num], 1)
        inner_slope = joined[:, size:]
        for z, slope, b_i in zip(inner_slope.split(ranks, 1)[:-1], slopes, b, strict=True):
            torch.mm(slope, b_i, out=z)
        grad_x = (joined @ weight).view(ctx.shape) if ctx.needs_input_grad[0] else None
        grad_a = (inner_slope.t() @ flat).split(ranks)[:-1]
        pairs = zip(slopes, inner.split(ranks, 1)[:-1], strict=True)
        grad_b = [slope.t() @ z for slope, z in pairs]
        return grad_x, None, None, None, *grad_a, *grad_b
