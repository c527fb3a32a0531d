"""A function of a batch of responses, computed part by part.

    by_chunks         parts of any size with the whole graph, or without gradient, as memory allows
    by_micro_batches  the graph of one micro-batch at a time, which the backward pass reads again

Responses to the same prompts and of similar length share a part: each prompt is read once, and a
short response is not padded to the length of a long response.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.common.sharded_tensors import is_sharded
from model.prior.batch import Batch, Start
from model.prior.prompts import Prompts
from model.prior.recomputation import Grads, add_gradients, cut, deferred, leaves_of

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


def by_micro_batches(function: Function, batch: Batch, value: Tensor) -> tuple[Tensor, ...]:
    """`by_chunks` for a batch with micro-batches, with the graph of a micro-batch at a time."""
    with torch.no_grad():
        values = by_chunks(function, batch, value)
    leaves = _leaves(function, batch, value)
    if not leaves:
        return values
    rows, lengths = batch.rows, batch.lengths(value)
    # FSDP reduces gradients that a backward pass leaves at the parameters
    in_place = any(is_sharded(leaf) for leaf in leaves)

    def gradient(grads: Grads) -> Grads:
        total: list[Tensor | None] = [None] * len(leaves)
        for prompts, group, own_rows in groups(batch.prompts, rows, batch.micro_batch):
            pairs: list[tuple[Tensor, Tensor]] = []
            whole = batch.part(prompts, own_rows).reads_whole
            start = None if whole else cut(Start(*batch.decoder.start(prompts)), pairs)
            wide = [*leaves, *(leaf for _, leaf in pairs)]
            sums = [*total, *(None for _ in pairs)]
            index = torch.arange(len(rows), device=rows.device) if group is None else group
            own_lengths = [lengths[place] for place in index.tolist()]
            divided = chunks(own_lengths, batch.micro_batch)
            for chunk, own in zip(divided, _on_device(divided, rows), strict=True):
                longest = _longest(batch, [own_lengths[place] for place in chunk])
                part = batch.part(prompts, own_rows[own], start, longest)
                places = index[own]
                own_grads = [None if grad is None else grad[places] for grad in grads]
                outputs = function(part, value[places])
                add_gradients(sums, wide, outputs, own_grads, in_place=in_place)
            total, grads_of_start = sums[: len(leaves)], sums[len(leaves) :]
            if in_place:
                grads_of_start = [leaf.grad for _, leaf in pairs]
            roots = [old for old, _ in pairs]
            add_gradients(total, leaves, roots, grads_of_start, in_place=in_place)
        return total

    return deferred(values, leaves, gradient)


def _leaves(function: Function, batch: Batch, value: Tensor) -> list[Tensor]:
    """Parameters behind a function of responses: those of the decoder that train, and others.

    A run of the function for one response of two tokens shows the others.
    """
    lengths = batch.lengths(value)
    place = max(range(len(lengths)), key=lengths.__getitem__)
    short = value[place : place + 1].clone()
    if lengths[place] > 1:
        short[:, 1], short[:, 2:] = batch.space.end_ids[0], batch.space.pad_id
    row = batch.rows[place : place + 1]
    prompt = batch.prompts[row.tolist()]
    # a pass that is not recorded, since its gradient is never taken
    start = Start(*batch.decoder.start(prompt)) if batch.decoder.records else None
    behind = leaves_of(function(batch.part(prompt, row.new_zeros(1), start), short))
    leaves = {id(p): p for p in [*batch.decoder.parameters(), *behind] if p.requires_grad}
    return list(leaves.values())


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
        for chunk, index in zip(divided, _on_device(divided, rows), strict=True):
            longest = _longest(batch, [own_lengths[place] for place in chunk])
            places = index if group is None else group[index]
            yield places, batch.part(prompts, rows[index], start, longest)


def _on_device(divided: list[list[int]], rows: Tensor) -> tuple[Tensor, ...]:
    """Places of each chunk on the device of `rows`, by one copy for all chunks."""
    places = rows.new_tensor([place for chunk in divided for place in chunk])
    return places.split([len(chunk) for chunk in divided])


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
