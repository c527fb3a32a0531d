"""A function of a batch of responses, computed by each rank for its own responses."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from model.prior.batch import Batch
from model.prior.division import Block

OfOwn = Callable[[Tensor], Tensor]
"""A function from a tensor of all responses, `[B, ...]`, to those of a rank, `[B', ...]`."""


def by_ranks(
    function: Callable[[Batch, OfOwn], tuple[Tensor, ...]], batch: Batch
) -> tuple[Tensor, ...]:
    """A function of a batch with a division, computed by each rank for its own block.

    Args:
        function: takes the batch of the B' responses of a rank, and a function from tensors
            `[B, ...]` to `[B', ...]`; returns tensors `[B', ...]`.
        batch: B responses to the N prompts in their order, K times.

    Returns:
        The tensors `[B, ...]` on every rank.
    """
    assert batch.division is not None
    num_prompts = len(batch.prompts)

    def of_block(block: Block) -> tuple[Tensor, ...]:
        def own(tensor: Tensor) -> Tensor:
            grid = tensor.unflatten(0, (-1, num_prompts))
            return grid[block.particles, block.prompts].flatten(0, 1)

        is_whole = block.prompts == slice(None)
        prompts = batch.prompts if is_whole else batch.prompts[block.prompts]
        rows = own(batch.rows) - own(batch.rows).min()
        part = batch.part(prompts, rows, batch.start if is_whole else None)
        results = function(replace(part, micro_batch=batch.micro_batch), own)
        return tuple(tensor.unflatten(0, (-1, len(prompts))) for tensor in results)

    sizes = len(batch.rows) // num_prompts, num_prompts
    grid = batch.division.compute(of_block, *sizes, even=batch.is_in_step)
    return tuple(tensor.flatten(0, 1) for tensor in grid)
