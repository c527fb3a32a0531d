"""Division of responses over ranks: each rank draws and scores its own, and all ranks have all.

    K particles of N prompts, on R ranks:   K/R particles of all prompts, or N/R prompts

Inside `divided`, a distribution of responses draws and scores, and a model rewards, the responses
of this rank, and gathers those of the others. Algorithms see all responses, as in one process.
The random numbers are those of one process: every rank draws the numbers of all responses, and
uses its own. A grid with fewer particles and prompts than ranks is computed whole on every rank.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor

from model.common import ranks
from model.common.checks import one_of
from model.common.exchange import in_step
from model.common.thread_lock import one_thread

P = ParamSpec("P")
R = TypeVar("R")
Axis = Literal["particles", "prompts"]
AXES: tuple[Axis, ...] = get_args(Axis)


class Block(NamedTuple):
    """The part of a grid of particles and prompts that a rank computes."""

    particles: slice
    prompts: slice


@dataclass(frozen=True)
class Division:
    """A division of grids of K particles and N prompts over the ranks.

    Attributes:
        by: the axis that is divided, or the other axis if the axis is shorter than the ranks.
    """

    by: Axis

    def compute(
        self,
        function: Callable[[Block], tuple[Tensor, ...]],
        num_particles: int,
        num_prompts: int,
        *,
        even: bool = False,
    ) -> tuple[Tensor, ...]:
        """A function of a block, computed by each rank for its own block.

        Args:
            function: returns tensors `[K', N', ...]` for a block of K' particles and N' prompts.
            num_particles: K.
            num_prompts: N.
            even: True for blocks of one size, for ranks that run the same passes. A smaller block
                has a place of another rank too, whose result is dropped.

        Returns:
            The tensors `[K, N, ...]` of the whole grid, on every rank.

        Raises:
            RankError: if the function fails on another rank, unless `even`.
        """
        axis, block = self.own_block(num_particles, num_prompts, even=even)
        if axis is None:
            with undivided():
                return function(block)
        sizes = _sizes({"particles": num_particles, "prompts": num_prompts}[axis])
        extra = max(sizes) - sizes[ranks.rank()] if even else 0
        with in_step() if even else ranks.failing_together(), undivided():
            results = function(block)
        if axis == "particles":
            return ranks.gather([tensor[extra:] for tensor in results], sizes)
        swapped = ranks.gather([tensor.transpose(0, 1)[extra:] for tensor in results], sizes)
        return tuple(tensor.transpose(0, 1) for tensor in swapped)

    def own_block(
        self, num_particles: int, num_prompts: int, *, even: bool = False
    ) -> tuple[Axis | None, Block]:
        """The divided axis of a grid, and the block of this rank; None and the whole if neither.

        With `even`, the block begins with a place of another rank if it is smaller than others.
        """
        lengths: dict[Axis, int] = {"particles": num_particles, "prompts": num_prompts}
        axes = sorted(lengths, key=lambda axis: axis != self.by)
        axis = next((a for a in axes if lengths[a] >= ranks.num_ranks()), None)
        if axis is None:
            return None, Block(slice(None), slice(None))
        sizes = _sizes(lengths[axis])
        end = sum(sizes[: ranks.rank() + 1])
        size = max(sizes) if even else sizes[ranks.rank()]
        own = slice(end - size, end)
        return axis, Block(own, slice(None)) if axis == "particles" else Block(slice(None), own)


_division: ContextVar[Division | None] = ContextVar("division", default=None)


def division() -> Division | None:
    """The division of this place in the code; None outside `divided`, and for one rank."""
    return None if ranks.num_ranks() == 1 else _division.get()


@contextmanager
def divided(by: Axis = "particles") -> Iterator[None]:
    """Context in which the ranks divide draws and scores. All ranks run the code inside alike."""
    token = _division.set(Division(one_of("divide", by, AXES)))
    try:
        yield
    finally:
        _division.reset(token)


def by_all_ranks(function: Callable[P, R]) -> Callable[P, R]:
    """The function without gradient, by one thread at a time, inside `divided`."""

    return torch.no_grad()(one_thread(divided()(function)))


@contextmanager
def undivided() -> Iterator[None]:
    """Context in which a rank draws and scores all responses that it has."""
    token = _division.set(None)
    try:
        yield
    finally:
        _division.reset(token)


def _sizes(length: int) -> list[int]:
    """Number of places of each rank; sizes differ by one at most."""
    share, rest = divmod(length, ranks.num_ranks())
    return [share + (r < rest) for r in range(ranks.num_ranks())]
