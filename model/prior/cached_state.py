"""Keys and values of the sequences that a causal network has read."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from model.networks.layers.growing_layer import GrowingLayer


@dataclass(frozen=True)
class CachedState:
    """The keys and values of B sequences, with the mask of their real tokens.

    Mask and positions also cover the columns to come: a step of the decode takes a view of them.

    Attributes:
        cache: cache object of Hugging Face.
        num_read: number of columns in the cache.
        mask: `[B, P + T]`, 1 where a column holds a real token, or will.
        positions: `[B, P + T]`, position of each column.
        is_padded: True if the mask has a 0.
        hidden: `[B, L, H]`, input of the output layer for the L tokens read last; for a prompt the
            last token alone, if the network can.
    """

    cache: Any
    num_read: int
    mask: Tensor
    positions: Tensor
    is_padded: bool
    hidden: Tensor

    def select(self, rows: Tensor) -> Self:
        cache, mask, positions = rows_of(self.cache, rows), self.mask[rows], self.positions[rows]
        hidden = self.hidden[rows]
        return replace(self, cache=cache, mask=mask, positions=positions, hidden=hidden)


def cache_of(parts: Sequence[Tensor]) -> Cache:
    """A cache of the keys and values of each layer, in turns."""
    layers = []
    for keys, values in zip(parts[::2], parts[1::2], strict=True):
        layer = GrowingLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        layers.append(layer)
    return Cache(layers=layers)


def rows_of(cache: Any, rows: Tensor) -> Any:
    """The sequences at `rows` of a cache, repeats allowed; the original stays as it was."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in selected.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = GrowingLayer
    selected.batch_select_indices(rows)
    return selected
