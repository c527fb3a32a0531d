"""A pass over token ids whose kernels a GPU replays: its results, and the gradient of the first.

    ids [B, L]  ->  hidden states [B, L, H]
    gradient of the hidden states  ->  gradient of the weights that train

A network of 30 layers starts a thousand kernels in a pass and four thousand for its gradient. For
small batches the CPU takes longer to start them one by one than the GPU to run them. The first pass
of a shape is a plain pass, the second is recorded.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from model.common.graphs import lasting, record
from model.common.sharded_tensors import copy_all
from model.networks.sharded_modules import replaced_parameters

MOST_PASSES = 8
"""Largest number of recorded passes of a network. One that has not run for long makes room."""

Reads = Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]
"""A function of ids and of a mask, `[B, L]` each, that returns tensors. The first alone may have a
gradient."""


class RecordedPasses:
    """The recorded passes of a network, by shape. They share memory for what a pass keeps."""

    def __init__(self) -> None:
        self._places = 0
        self._seen: set[Any] = set()
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
        places = hash(tuple(each.data_ptr() for each in read))
        if places != self._places:
            self._places, self._seen, self._passes = places, set(), {}
        key = function.__qualname__, ids.shape, mask is None, tuple(map(id, trained))
        if key not in self._seen:
            self._seen.add(key)
            return function(ids, mask)
        with self._memory.lock:
            if key not in self._passes:
                self._passes[key] = _Pass(network, function, ids, mask, trained, self._memory)
            recorded = self._passes[key] = self._passes.pop(key)  # the newest is the last
            for old in list(self._passes)[:-MOST_PASSES]:
                del self._passes[old]
        if not recorded.has_gradient:
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
        slopes: places of the gradients of weights, by the weight's id.
        lock: held from the inputs of a replay to the copies of its results. Threads must start
            kernels on one stream of the device, as they do unless told otherwise.
    """

    def __init__(self) -> None:
        self.pool: Any = None
        self.run = 0
        self.slopes: dict[int, Tensor] = {}
        self.lock = threading.RLock()


class _Pass:
    """A pass of one shape: the graph of the states, that of the gradient, and their memory.

    Args:
        network: see `RecordedPasses`, as for function, ids and mask.
        trained: weights with a gradient; none for a pass without gradient.
        memory: memory of the network's passes.

    Attributes:
        has_gradient: True if the first result depends on weights that train.
    """

    def __init__(
        self,
        network: nn.Module,
        function: Reads,
        ids: Tensor,
        mask: Tensor | None,
        trained: list[Tensor],
        memory: _Memory,
    ) -> None:
        self._memory = memory
        with lasting(bool(trained)), _aliases(network, trained) as aliases:
            self._ids, self._mask = ids.clone(), None if mask is None else mask.clone()

            def results() -> tuple[Tensor, ...]:
                return function(self._ids, self._mask)

            def warm_up() -> None:
                first = results()[0]
                self.has_gradient = first.requires_grad
                self._grad = torch.zeros_like(first)
                if self.has_gradient:
                    torch.autograd.grad(first, aliases, self._grad, allow_unused=True)

            self._forward, (first, *others) = record(results, ids.device, memory.pool, warm_up)
            memory.pool = self._forward.pool()
            self._results = [first.detach(), *others]
            if self.has_gradient:
                self._record_gradient(first, aliases, trained)

    def _record_gradient(self, first: Tensor, aliases: list[Tensor], trained: list[Tensor]) -> None:
        for weight in trained:
            if id(weight) not in self._memory.slopes:
                place = torch.empty_like(weight, requires_grad=False)
                self._memory.slopes[id(weight)] = place
        places = [self._memory.slopes[id(weight)] for weight in trained]

        def write_slopes() -> list[Tensor | None]:
            new = torch.autograd.grad(first, aliases, self._grad, allow_unused=True)
            pairs = [pair for pair in zip(places, new, strict=True) if pair[1] is not None]
            copy_all([place for place, _ in pairs], [slope for _, slope in pairs])
            is_none = [slope is None for slope in new]
            return [None if none else place for place, none in zip(places, is_none, strict=True)]

        self._backward, self._slopes = record(write_slopes, first.device, self._memory.pool)

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


@contextmanager
def _aliases(network: nn.Module, weights: list[Tensor]) -> Iterator[list[Tensor]]:
    """The weights in the same memory, in place of those of a network.

    Autograd keeps the stream of a weight's first use for as long as a graph has the weight, and a
    recording must not wait for another stream.
    """
    aliases = {id(weight): nn.Parameter(weight.detach()) for weight in weights}
    with replaced_parameters(network, aliases):
        yield list(aliases.values())


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
