"""The number of tokens of responses that were drawn, so that who scores the draws need not count.

A count on a GPU is a wait for the GPU, and prior, guide and changed guide score the same draws. The
numbers belong to the memory of a tensor, also as seen by its views, until the tensor changes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from model.prior.response_space import ResponseSpace


class _Draws(NamedTuple):
    """Responses of one draw, contiguous in memory."""

    memory: StorageWeakRef
    start: int  # place of the first number in the memory
    version: int  # number of changes in place at the time
    space: ResponseSpace  # the set of responses
    lengths: list[int]  # number of tokens of each response


_last: list[_Draws] = []  # the last draw, if any


def remember(response: Tensor, space: ResponseSpace, lengths: list[int]) -> None:
    """Keep the numbers of tokens of responses that were drawn, `[..., T]`, in place of the last."""
    if response.is_inference():  # such a tensor has no version
        return
    memory, start = StorageWeakRef(response.untyped_storage()), int(response.storage_offset())
    _last[:] = [_Draws(memory, start, response._version, space, lengths)]


def known_lengths(value: Tensor, space: ResponseSpace) -> list[int] | None:
    """Number of tokens of each response `[..., T]`, if they are some of the last draw; or None."""
    if not _last or not value.is_contiguous():
        return None
    memory, start, version, of_draws, lengths = _last[0]
    if value.untyped_storage()._cdata != memory.cdata or value._version != version:
        return None
    size = space.max_new_tokens
    if value.shape[-1:] != (size,) or value.dtype != torch.long or not _are_same(space, of_draws):
        return None
    first, rest = divmod(int(value.storage_offset()) - start, size)
    last = first + value.numel() // size
    return lengths[first:last] if rest == 0 <= first and last <= len(lengths) else None


def _are_same(space: ResponseSpace, other: ResponseSpace) -> bool:
    """True if responses have the same lengths and ids in both, told without a read of end ids."""
    sizes = (space.max_new_tokens, space.vocab_size) == (other.max_new_tokens, other.vocab_size)
    return sizes and space.end_ids is other.end_ids
