"""Errors of exchanges between ranks: one that ended or does not answer is named as the cause."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

import torch
from torch import distributed as dist


class RankError(RuntimeError):
    """Another rank of the run failed, or ended."""


class LostRankError(RankError):
    """Another rank ended or does not answer, and no rank can exchange anything any more."""


@contextmanager
def exchange() -> Iterator[None]:
    """Context of an exchange and nothing else.

    Raises:
        LostRankError: if the exchange fails, because another rank has ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def in_step() -> Iterator[None]:
    """Context of passes in which all ranks gather tensors, as shards do.

    A rank that fails exchanges nothing, since the others would take the message for a tensor: its
    process has to end.

    Raises:
        LostRankError: if a tensor cannot be gathered, because another rank has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not _is_of_exchange(error):
            raise
        raise _lost(error) from error


def _is_of_exchange(error: RuntimeError) -> bool:
    """True for an error raised by `torch.distributed` itself, and not by the layer that it runs.

    Its tensors raise errors of shapes and types.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return False
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    innermost = [name for name in modules if not name.startswith(("torch._ops", "torch._library"))]
    prefixes = "torch.distributed.", "torch.distributed.tensor."
    return innermost[-1].startswith(prefixes[0]) and not innermost[-1].startswith(prefixes[1])


def _lost(error: RuntimeError) -> LostRankError:
    return LostRankError(
        f"rank {dist.get_rank()} of {dist.get_world_size()} waited for the other ranks, and one of "
        f"them has ended or does not answer: look at the messages of the others ({error})"
    )
