"""A function of a batch of responses with gradient, whose backward pass reads part by part.

    value     of all responses, by chunks and without gradient
    gradient  of one micro-batch at a time, each of which is read again

The activations of one micro-batch are in memory at a time.
"""

import torch
from torch import Tensor

from model.common.sharded_tensors import is_sharded
from model.prior.batch import Batch, Start
from model.prior.chunks import Function, by_chunks, chunks, groups
from model.prior.recomputation import Grads, add_gradients, cut, deferred, leaves_of


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
            for chunk in chunks(own_lengths, batch.micro_batch):
                part = batch.part(prompts, own_rows[chunk], start)
                places = index[chunk]
                parts = [None if grad is None else grad[places] for grad in grads]
                outputs = function(part, value[places])
                add_gradients(sums, wide, outputs, parts, in_place=in_place)
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
    behind = leaves_of(function(batch.part(batch.prompts[row.tolist()], row.new_zeros(1)), short))
    leaves = {id(p): p for p in [*batch.decoder.parameters(), *behind] if p.requires_grad}
    return list(leaves.values())
