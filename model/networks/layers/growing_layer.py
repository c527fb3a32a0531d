"""Keys and values of one layer in a buffer with room, so that a token of a decode is written once.

`transformers` copies all keys and values for every token: a quarter of the time of a decode of 32
sequences of 200 tokens by a network of 135 million weights.
"""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

SLACK = 64
"""Smallest number of tokens for which a new buffer has room, besides a quarter of those in it."""


class GrowingLayer(DynamicLayer):
    """A layer of a cache. One token without gradient is written to a buffer in place.

    A layer with the same keys as another layer must select its sequences before the next token.
    """

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None
    _view: Tensor | None = None  # the keys, as long as they are those in the buffer

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select sequences; copies of a single sequence are views.

        The gradient of a view is one sum, where that of an index adds row after row on a GPU.
        """
        if not self.get_seq_length() or len(self.keys) > 1:  # no keys: attention to images alone
            super().batch_select_indices(indices)
        else:
            size = (len(indices), -1, -1, -1)
            self.keys, self.values = self.keys.expand(size), self.values.expand(size)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() or key_states.shape[-2] != 1 or not self.get_seq_length():
            return super().update(key_states, value_states, *args, **kwargs)
        size = self.keys.shape[-2]
        if (
            self._buffers is None
            or self._view is not self.keys
            or self._buffers[0].shape[-2] == size
        ):
            room = max(SLACK, size // 4)
            self._buffers = (_with_room(self.keys, room), _with_room(self.values, room))
        keys, values = self._buffers
        keys[..., size : size + 1, :] = key_states
        values[..., size : size + 1, :] = value_states
        self.keys, self.values = keys[..., : size + 1, :], values[..., : size + 1, :]
        self._view = self.keys
        return self.keys, self.values


def _with_room(tensor: Tensor, room: int) -> Tensor:
    """A copy, `[B, heads, P, D]` -> `[B, heads, P + room, D]`."""
    *batch, size, width = tensor.shape
    buffer = tensor.new_empty(*batch, size + room, width)
    buffer[..., :size, :] = tensor
    return buffer
