"""A pass over token ids whose kernels a GPU replays: its results, and the gradient of the first.

    ids [B, L]  ->  hidden states [B, L, H]
    gradient of the hidden states  ->  gradient of the weights that train

A network of 30 layers starts a thousand kernels in a pass and four thousand for its gradient. For
small batches the CPU takes longer to start them one by one than the GPU to run them. The first pass
of a shape is a plain pass, the second is recorded.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from model.common.graphs import record
from model.common.sharded_tensors import copy_all

MOST_PASSES = 8
"""Largest number of recorded passes of a network. One that has not run for long makes room."""

Reads = Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]
"""A function of ids and of a mask, `[B, L]` each, that returns tensors. The first alone may have a
gradient."""


class RecordedPasses:
    """The recorded passes of a network, by shape. They share memory for what a pass keeps."""

    def __init__(self) -> None:
        self._seen: Counter[Any] = Counter()
        self._passes: dict[Any, _Pass] = {}
        self._memory = _Memory()

    def __call__(
        self, network: nn.Module, function: Reads, ids: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        """`function(ids, mask)`. Once differentiable by the weights of the network that train.

        Weights may change in place. Passes of weights that moved are recorded again.

        Args:
            network: the network, the same in all calls.
            function: a pass of the network that neither waits for the device nor draws random
                numbers.
            ids: `[B, L]`, token ids.
            mask: `[B, L]`, 1 at real tokens; None if all are.
        """
        trained: list[Tensor] = []
        if torch.is_grad_enabled():
            trained = [p for p in network.parameters() if p.requires_grad]
        read = [*network.parameters(), *network.buffers()]
        places = hash((*(each.data_ptr() for each in read), *map(id, trained)))
        key = function.__qualname__, places, ids.shape, mask is None
        self._seen[key] += 1
        if self._seen[key] == 1:
            return function(ids, mask)
        with self._memory.lock:
            if key not in self._passes:
                self._passes[key] = _Pass(function, ids, mask, trained, self._memory)
            recorded = self._passes[key] = self._passes.pop(key)  # the newest is the last
            for old in list(self._passes)[:-MOST_PASSES]:
                del self._passes[old]
        if not trained:
            return recorded.read(ids, mask)[0]
        return _Replayed.apply(recorded, ids, mask, *trained)


_OF_NETWORK: WeakKeyDictionary[nn.Module, RecordedPasses] = WeakKeyDictionary()


def recorded_passes(network: nn.Module) -> RecordedPasses:
    """The recorded passes of a network, which live as long as it does."""
    return _OF_NETWORK.setdefault(network, RecordedPasses())


class _Memory:
    """Memory that the passes of a network share.

    Attributes:
        pool: memory of the graphs, see `record`; None before the first recording.
        run: number of replays. A replay overwrites what passes before it kept for their gradient.
        lock: held from the inputs of a replay to the copies of its results.
    """

    def __init__(self) -> None:
        self.pool: Any = None
        self.run = 0
        self.lock = threading.RLock()


class _Pass:
    """A pass of one shape: the graph of the states, that of the gradient, and their memory.

    Args:
        function: see `RecordedPasses`, as for ids and mask.
        trained: weights with a gradient; none for a pass without gradient.
        memory: memory of the network's passes.
    """

    def __init__(
        self,
        function: Reads,
        ids: Tensor,
        mask: Tensor | None,
        trained: list[Tensor],
        memory: _Memory,
    ) -> None:
        self._memory = memory
        self._ids, self._mask = ids.clone(), None if mask is None else mask.clone()

        def results() -> tuple[Tensor, ...]:
            return function(self._ids, self._mask)

        def slopes(first: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(first, trained, self._grad, allow_unused=True)

        def warm_up() -> None:
            first = results()[0]
            if trained:
                self._grad = torch.zeros_like(first)
                slopes(first)

        self._forward, (first, *others) = record(results, ids.device, memory.pool, warm_up)
        memory.pool = self._forward.pool()
        self._results = [first.detach(), *others]
        if trained:
            self._backward, self._slopes = record(lambda: slopes(first), ids.device, memory.pool)

    def read(self, ids: Tensor, mask: Tensor | None) -> tuple[tuple[Tensor, ...], int]:
        """The results for other inputs, and the number of the replay."""
        with self._memory.lock:
            self._replay(ids, mask)
            return tuple(_copies(self._results)), self._memory.run

    def gradient(
        self, run: int, ids: Tensor, mask: Tensor | None, grad: Tensor
    ) -> list[Tensor | None]:
        """Gradients of the weights, given that of the first result of `read`, as replay `run`."""
        with self._memory.lock:
            if run != self._memory.run:
                self._replay(ids, mask)
            self._grad.copy_(grad)
            self._backward.replay()
            self._memory.run += 1
            known = iter(_copies([slope for slope in self._slopes if slope is not None]))
            return [None if slope is None else next(known) for slope in self._slopes]

    def _replay(self, ids: Tensor, mask: Tensor | None) -> None:
        self._ids.copy_(ids)
        if self._mask is not None and mask is not None:
            self._mask.copy_(mask)
        self._forward.replay()
        self._memory.run += 1


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    copy_all(copies, tensors)
    return copies


class _Replayed(torch.autograd.Function):
    """The results of a recorded pass, with the weights as inputs."""

    @staticmethod
    def forward(
        ctx: Any, recorded: _Pass, ids: Tensor, mask: Tensor | None, *trained: Tensor
    ) -> tuple[Tensor, ...]:
        results, ctx.run = recorded.read(ids, mask)
        ctx.recorded = recorded
        ctx.mark_non_differentiable(*results[1:])
        # autograd refuses a gradient whose weights have changed in place since
        ctx.save_for_backward(ids, mask, *trained)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        ids, mask, *_ = ctx.saved_tensors
        return None, None, None, *ctx.recorded.gradient(ctx.run, ids, mask, grad)
