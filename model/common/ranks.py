"""Ranks: the processes of one run, as `torchrun` starts them, and the tensors that they exchange.

    x = gather(x_own)           on every rank the rows of all ranks
    dL/dx_own = R (dL/dx)_own   in the backward pass, R the number of ranks
    gradient = mean over ranks  of the gradients of each

Each rank computes the loss L of all rows and holds the graph of its own rows. The factor R makes
the mean over ranks the gradient of one process, also for parameters behind no gathered tensor,
whose gradient every rank has whole. Without a process group there is one rank, and no exchange.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import pyro
import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from torch import distributed as dist

from model.common.exchange import RankError, exchange
from model.common.sharded_tensors import is_sharded

BUCKET = 1 << 25
"""Number of bytes of gradients that are reduced together."""

_state = {"alone": False}


def num_ranks() -> int:
    """Number of ranks: 1 without a process group, and inside `alone`."""
    is_alone = _state["alone"] or not (dist.is_available() and dist.is_initialized())
    return 1 if is_alone else dist.get_world_size()


def rank() -> int:
    """Number of this process among the ranks, from 0."""
    return 0 if num_ranks() == 1 else dist.get_rank()


def is_first() -> bool:
    """True for the rank that prints and writes."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Context of code that runs on one rank, or on each by itself, as if there were no others."""
    before, _state["alone"] = _state["alone"], True
    try:
        yield
    finally:
        _state["alone"] = before


@contextmanager
def own_stream() -> Iterator[None]:
    """Context with random numbers of this rank alone; the common generators stay as they are."""
    common, accelerators = get_rng_state(), _accelerators()
    seed = zlib.crc32(bytes(common["torch"].tolist()))
    for index in accelerators:  # a fit on a GPU may draw no number on the CPU
        seed = zlib.crc32(bytes(torch.cuda.get_rng_state(index).tolist()), seed)
    with torch.random.fork_rng(accelerators):
        pyro.set_rng_seed((seed + rank()) % 2**32)
        try:
            yield
        finally:
            set_rng_state(common)


@contextmanager
def failing_together() -> Iterator[None]:
    """Context of the part of a computation that each rank does by itself.

    Raises:
        RankError: on all other ranks if one rank raises an error.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        all_of(f"{type(error).__name__}: {error}")
        raise
    failed = [f"rank {r} failed: {reason}" for r, reason in enumerate(all_of("")) if reason]
    if failed:
        raise RankError("; ".join(failed))


def all_of(value: Any) -> list[Any]:
    """A small value of each rank, in the order of the ranks."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = [None] * num_ranks()
    with exchange():
        dist.all_gather_object(values, value)
    return values


def of_first(value: Any) -> Any:
    """The small value of the first rank, on every rank."""
    if num_ranks() == 1:
        return value
    values = [value]
    with exchange():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def gather(own: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The rows of all ranks, in the order of the ranks, with gradient for the own rows.

    Args:
        own: tensors with the rows of this rank, of types and further dimensions that are the same
            on all ranks.
        sizes: number of rows of each rank.
    """
    return _Gather.apply(tuple(sizes), *own)


class _Gather(torch.autograd.Function):
    """All tensors of a call in one exchange of bytes, padded to the largest number of rows."""

    @staticmethod
    def forward(ctx: Any, sizes: tuple[int, ...], *own: Tensor) -> tuple[Tensor, ...]:
        end = list(accumulate(sizes))[rank()]
        ctx.rows = slice(end - sizes[rank()], end)
        ctx.set_materialize_grads(False)
        padded = [_padded(tensor.detach(), max(sizes)) for tensor in own]
        message = torch.cat([tensor.flatten().view(torch.uint8) for tensor in padded])
        messages = [torch.empty_like(message) for _ in sizes]
        with exchange():
            dist.all_gather(messages, message)
        results, start = [], 0
        for tensor in padded:
            num_bytes = tensor.numel() * tensor.element_size()
            parts = [
                each[start : start + num_bytes].clone().view(tensor.dtype).view_as(tensor)[:size]
                for each, size in zip(messages, sizes, strict=True)
            ]
            results.append(torch.cat(parts))
            start += num_bytes
        ctx.mark_non_differentiable(*(t for t in results if not t.is_floating_point()))
        return tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        number = num_ranks()
        return None, *(None if grad is None else number * grad[ctx.rows] for grad in grads)


def average_gradients(parameters: Mapping[str, Tensor]) -> None:
    """Replace the gradient of each parameter by its mean over ranks.

    One reduction in buckets. A parameter without a gradient on all ranks keeps none. FSDP has
    averaged the gradients of sharded parameters.
    """
    if num_ranks() == 1:
        return
    names = sorted(name for name, p in parameters.items() if not is_sharded(p))
    have = all_of([name for name in names if parameters[name].grad is not None])
    trained = [parameters[name] for name in names if any(name in each for each in have)]
    buckets = []
    for bucket in _buckets(trained):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        message = torch.cat([grad.flatten() for grad in grads])
        with exchange():
            buckets.append((bucket, message, dist.all_reduce(message, async_op=True)))
    for bucket, message, work in buckets:
        with exchange():
            work.wait()
        message /= num_ranks()
        for parameter, grad in zip(bucket, message.split([p.numel() for p in bucket]), strict=True):
            parameter.grad = grad.view_as(parameter)


@torch.no_grad()
def copy_from_first(parameters: Mapping[str, Tensor]) -> None:
    """Give the parameters of every rank the values of the first rank, but for sharded ones."""
    if num_ranks() == 1:
        return
    for name in sorted(name for name, p in parameters.items() if not is_sharded(p)):
        value = parameters[name].detach().contiguous()
        with exchange():
            dist.broadcast(value, src=0)
        parameters[name].copy_(value)


def _buckets(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Parameters of one type and device, in order, up to `BUCKET` bytes together."""
    buckets: dict[Any, list[list[Tensor]]] = {}
    room: dict[Any, float] = {}
    for parameter in parameters:
        kind = (parameter.dtype, parameter.device)
        size = parameter.numel() * parameter.element_size()
        if size > room.get(kind, -math.inf):
            buckets.setdefault(kind, []).append([])
            room[kind] = BUCKET
        buckets[kind][-1].append(parameter)
        room[kind] -= size
    return [bucket for each in buckets.values() for bucket in each]


def _padded(tensor: Tensor, num_rows: int) -> Tensor:
    missing = num_rows - len(tensor)
    if not missing:
        return tensor.contiguous()
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])


def _accelerators() -> list[int]:
    """Index of the device of this process, if any, whose generator the process uses."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []
