"""Keys and values of B sequences in buffers of fixed shape, for passes that a GPU replays.

A pass writes one token to column c of each buffer, and then adds 1 to c, on the device. Attention
reads the first columns, as many as `extent` says, and a mask hides those after c.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from model.networks.layers.growing_layer import GrowingLayer

PLAIN_LAYERS = (DynamicLayer, GrowingLayer)
"""Layers of a cache with keys and values at every column."""


class FixedLayer(DynamicLayer):
    """One layer: `keys` and `values` `[B, heads, C, D]`, written in place at a column."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Any, num_rows: int, num_columns: int, column: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = (
            # NaN in columns that are hidden would pass through a product with 0
            part.new_zeros(num_rows, part.shape[1], num_columns, part.shape[3])
            for part in (layer.keys, layer.values)
        )
        self._column, self.extent = column, num_columns

    def load(self, layer: Any, rows: Tensor) -> None:
        """Copy the keys and values of another layer's sequences at `rows` `[B]`."""
        for buffer, part in ((self.keys, layer.keys), (self.values, layer.values)):
            buffer[:, :, : part.shape[2]] = part[rows]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self._column, key_states)
        self.values.index_copy_(2, self._column, value_states)
        return self.keys[:, :, : self.extent], self.values[:, :, : self.extent]


class FixedState:
    """State of B sequences in buffers of C columns. `CachedDecoder.extend` changes it in place.

        state = FixedState(after_prompts, num_rows=32, num_columns=64)
        state.load(after_prompts, rows)
        logits, state = language_model.extend(state, ids)  # one token, `[32, 1]`

    Args:
        state: `CachedState` whose layers the buffers copy in number, heads, width and data type.
        num_rows: B, number of sequences.
        num_columns: C, largest number of tokens of prompt and response.

    Attributes:
        cache: cache object of Hugging Face.
        column: `[1]`, column of the next token.
        positions: `[B, C]`, position of each column.
        extent: number of columns that attention reads, at most C.
        hidden: `[B, 1, H]`, see `CachedState`; empty before the first pass.

    Raises:
        TypeError: if a layer has no keys and values at every column, such as a sliding window.
    """

    def __init__(self, state: Any, num_rows: int, num_columns: int) -> None:
        device = state.mask.device
        kinds = {type(layer).__name__ for layer in state.cache.layers if not is_plain(layer)}
        if kinds:
            expected = "expected keys and values at every column"
            raise TypeError(f"the cache has layers of kind {sorted(kinds)}, {expected}")
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        sizes = (num_rows, num_columns, self.column)
        self._layers = [FixedLayer(layer, *sizes) for layer in state.cache.layers]
        self.cache = Cache(layers=list(self._layers))
        self._mask = torch.zeros(num_rows, num_columns, dtype=torch.bool, device=device)
        self.positions = torch.zeros(num_rows, num_columns, dtype=torch.long, device=device)
        self._columns = torch.arange(num_columns, device=device)
        self.hidden = torch.empty(0, device=device)
        self.extent = num_columns

    @property
    def extent(self) -> int:
        return self._extent

    @extent.setter
    def extent(self, num_columns: int) -> None:
        self._extent = num_columns
        for layer in self._layers:
            layer.extent = num_columns

    def load(self, state: Any, rows: Tensor) -> None:
        """Copy the sequences at `rows` `[B]` of a `CachedState`."""
        for buffer, layer in zip(self._layers, state.cache.layers, strict=True):
            buffer.load(layer, rows)
        width = state.mask.shape[1]
        self._mask[:, :width] = state.mask[rows].bool()
        self.positions[:, :width] = state.positions[rows]
        self.column.fill_(state.num_read)

    def next_positions(self) -> Tensor:
        """Position of the next token, `[B, 1]`."""
        return self.positions.index_select(1, self.column)

    def mask(self) -> Tensor:
        """True where the next token attends, the token's own column included, `[B, extent]`."""
        columns = self._columns[: self.extent]
        return self._mask[:, : self.extent] & (columns <= self.column)


def is_plain(layer: Any) -> bool:
    """True for a layer of a cache with keys and values at every column."""
    return type(layer) in PLAIN_LAYERS
