"""Chunks of a batch of responses, which are read one after the other.

Responses to the same prompts and of similar length share a chunk: each prompt is read once, and a
short response is not padded to the length of a long response.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from model.prior.prompts import Prompts

WORTHWHILE = 512
"""Number of positions of padding for which a chunk is divided. A small network reads so many
positions in about the time that one more pass takes."""


class Group(NamedTuple):
    """Some of the prompts, and the responses to these prompts.

    Attributes:
        prompts: N' of N prompts.
        places: `[B']`, places of the responses in the batch; None for the whole batch in its order.
        rows: `[B']`, prompt of each response, from 0 to N' - 1.
    """

    prompts: Prompts
    places: Tensor | None
    rows: Tensor


def groups(prompts: Prompts, rows: Tensor, size: int | None) -> Iterator[Group]:
    """Groups of at most `size` prompts, with their responses in a batch; one group if None.

    Args:
        prompts: N prompts.
        rows: `[B]`, prompt of each response.
        size: largest number of prompts in a group.
    """
    if size is None or size >= len(prompts):
        yield Group(prompts, None, rows)
        return
    for start in range(0, len(prompts), size):
        places = ((rows >= start) & (rows < start + size)).nonzero().squeeze(1)
        if len(places):
            yield Group(prompts[start : start + size], places, rows[places] - start)


def chunks(lengths: Sequence[int], size: int | None) -> list[list[int]]:
    """Places of the responses of each chunk: at most `size` responses, with little padding.

    Long responses come first. Responses of one length stay in their order.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    if not order:
        return [[]]
    divided, start = [], 0
    while start < len(order):
        end = len(order) if size is None else min(start + size, len(order))
        longest = lengths[order[start]]
        short = next((i for i in range(start, end) if 2 * lengths[order[i]] <= longest), end)
        if short < end and (end - short) * (longest - lengths[order[short]]) >= WORTHWHILE:
            end = short
        divided.append(order[start:end])
        start = end
    return divided
