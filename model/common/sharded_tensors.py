"""Tensors of which each rank holds a part: `DTensor`s of torch, as FSDP2 makes them.

`torch.distributed.tensor` is imported where a tensor is sharded, since the import takes time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from model.common.exchange import in_step

T = TypeVar("T")
BATCH = 1 << 24  # largest number of elements of tensors that are copied together


def is_sharded(tensor: Tensor) -> bool:
    """True for a tensor of which each rank holds a part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """The whole of a tensor, gathered from all ranks if it is sharded."""
    if not is_sharded(tensor):
        return tensor
    with in_step():
        return tensor.full_tensor()


def sharded_like(tensor: Tensor, like: Any) -> Tensor:
    """The part of a whole tensor that this rank holds of `like`; the whole if that is whole."""
    if is_sharded(tensor) or not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    place = {"device_mesh": like.device_mesh, "placements": like.placements}
    return distribute_tensor(tensor.to(like.device), **place, src_data_rank=None)


def local(tensor: Any) -> Tensor:
    """The numbers of a tensor that this rank holds; they share memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def total_norm(tensors: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """Norm of all numbers of tensors together, those of other ranks included.

    Args:
        tensors: whole tensors, the same on every rank, and sharded tensors.
        order: 2, or infinity for the largest absolute number.
    """
    norms = [_norm([tensor for tensor in tensors if not is_sharded(tensor)], order)]
    if shards := [local(tensor) for tensor in tensors if is_sharded(tensor)]:
        is_largest = math.isinf(order)
        norm = _norm(shards, order).to(shards[0].device)
        norm = norm if is_largest else norm.square()
        reduction = distributed.ReduceOp.MAX if is_largest else distributed.ReduceOp.SUM
        distributed.all_reduce(norm, reduction)
        norms.append(norm if is_largest else norm.sqrt())
    return _norm(norms, order)


def inner_product(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of the products of two tensors over all numbers, of all pairs, on all ranks.

    Args:
        pairs: pairs of whole tensors, or of sharded tensors; the same on every rank.
    """
    products: dict[bool, list[Tensor]] = {False: [], True: []}
    for some in batches(pairs, lambda pair: pair[0]):
        rows = [[local(x).flatten() for x in column] for column in zip(*some, strict=True)]
        a, b = (row[0] if len(row) == 1 else torch.cat(row).float() for row in rows)
        products[is_sharded(some[0][0])].append(torch.vdot(a, b).float())
    if products[True]:
        of_shards = torch.stack(products[True]).sum()
        distributed.all_reduce(of_shards, distributed.ReduceOp.SUM)
        products[False].append(of_shards)
    return torch.stack(products[False]).sum() if products[False] else torch.zeros(())


def batches(items: Iterable[T], tensor: Callable[[T], Tensor]) -> Iterator[list[T]]:
    """Lists of consecutive items, for kernels that take many tensors at once.

    The tensors of a list are of one type, all sharded or all whole, and few or small enough that a
    copy of them takes little memory.

    Args:
        items: such as tensors.
        tensor: the tensor of an item.
    """
    some: list[T] = []
    size, kind = 0, None
    for item in items:
        own, own_kind = tensor(item).numel(), _kind(tensor(item))
        if some and (own_kind != kind or size + own > BATCH):
            yield some
            some, size = [], 0
        some.append(item)
        size, kind = size + own, own_kind
    if some:
        yield some


def copy_all(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy each value to its buffer, by few kernels on a GPU."""
    for some in batches(zip(buffers, values, strict=True), lambda pair: pair[0]):
        torch._foreach_copy_([local(to) for to, _ in some], [local(of) for _, of in some])


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, is_sharded(tensor)


def _norm(tensors: Sequence[Tensor], order: float) -> Tensor:
    return torch.nn.utils.get_total_norm([each for each in tensors if each.numel()], order)


def largest_of_ranks(numbers: Tensor) -> Tensor:
    """The largest over all ranks of each of some numbers."""
    numbers = numbers.clone()
    distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
    return numbers
