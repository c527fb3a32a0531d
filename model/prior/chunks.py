"""Chunks of a batch of responses, which are read one after the other.

Responses to the same prompts and of similar length share a chunk: each prompt is read once, and a
short response is not padded to the length of a long response.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.prior.batch import Batch, Start
from model.prior.prompts import Prompts

Function = Callable[[Batch, Tensor], tuple[Tensor, ...]]
"""A function of a batch and its responses `[B, T]` that returns tensors `[B, ...]`."""
LIGHT = 4
"""Number of responses without gradient that are read in the place of one response with gradient.
Their keys and values take less memory than the activations of the one."""
MOST_LOGITS = 1 << 26
"""Number of logits of all responses that are read together without gradient, by a decoder whose
logits are not computed from hidden states chunk by chunk."""

WORTHWHILE = 512
"""Number of positions of padding for which a chunk is divided. A small network reads so many
positions in about the time that one more pass takes."""


def by_chunks(function: Function, batch: Batch, value: Tensor) -> tuple[Tensor, ...]:
    """A function of a batch, computed for a chunk of the responses at a time, with the whole graph.

    Args:
        function: a function of a batch.
        batch: B responses.
        value: `[B, T]`, the responses.
    """
    all_places, results = [], []
    for places, part in parts(batch, batch.lengths(value)):
        if places is None:
            return function(part, value)
        all_places.append(places)
        results.append(function(part, value[places]))
    order = torch.cat(all_places).argsort()
    return tuple(torch.cat(tensors)[order] for tensors in zip(*results, strict=True))


def parts(batch: Batch, lengths: list[int]) -> Iterator[tuple[Tensor | None, Batch]]:
    """Chunks of B responses of these lengths.

    Yields:
        Places of a chunk in the batch, `[B']`, None for the whole batch in its order; and the chunk
        as a batch that has read its prompts, or reads them with the responses. With gradient, the
        chunks have any size, and differ in length.
    """
    size = _most_responses(batch)
    for prompts, group, rows in groups(batch.prompts, batch.rows, None if batch.start else size):
        part = batch.part(prompts, rows, batch.start)
        start = None if part.reads_whole else part.read_prompts()
        own_lengths = lengths if group is None else [lengths[i] for i in group.tolist()]
        has_gradient = torch.is_grad_enabled() and _trains(part, start)
        divided = chunks(own_lengths, None if has_gradient else size)
        if group is None and len(divided) == 1:
            yield None, batch.part(prompts, rows, start, _longest(batch, own_lengths))
            return
        for chunk in divided:
            longest = _longest(batch, [own_lengths[place] for place in chunk])
            index = torch.tensor(chunk, device=rows.device)
            places = index if group is None else group[index]
            yield places, batch.part(prompts, rows[index], start, longest)


def _longest(batch: Batch, lengths: list[int]) -> int | None:
    """Most tokens of a response; None where the ranks run in step, by the longest of all ranks."""
    return None if batch.decoder.in_step else max(lengths, default=0)


def _trains(batch: Batch, start: Start | None) -> bool:
    """True if the log-probabilities of the responses have a gradient."""
    if start is not None:
        return start.logits.requires_grad
    return any(p.requires_grad for p in batch.decoder.parameters())


def _most_responses(batch: Batch) -> int:
    """Most responses that are read together without gradient: as many as memory allows."""
    space, room = batch.space, batch.decoder.room
    limits = []
    if room is not None:
        limits.append(room // (batch.prompts.ids.shape[1] + space.max_new_tokens))
    if not batch.decoder.splits_head:
        limits.append(MOST_LOGITS // (space.max_new_tokens * space.vocab_size))
    if batch.micro_batch is not None:
        limits.append(LIGHT * batch.micro_batch)
    return max(1, min(limits, default=len(batch.rows)))


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
