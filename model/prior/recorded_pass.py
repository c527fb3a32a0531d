"""A pass over token ids whose kernels a GPU replays: hidden states, and their gradient.

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

MOST_PASSES = 8
"""Largest number of recorded passes of a network. The one that has not
run for longest makes room for a new one."""

States = Callable[[Tensor, Tensor | None], Tensor]
"""A function of ids and of a mask, `[B, L]` each, that returns hidden states `[B, L, H]`."""


class RecordedPasses:
    """The recorded passes of a network, by shape. They share memory for what a pass keeps.

    Args:
        network: the network, whose weights may change in place and not move.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._seen: Counter[Any] = Counter()
        self._passes: dict[Any, _Pass] = {}
        self._memory = _Memory()

    def __call__(self, function: States, ids: Tensor, mask: Tensor | None) -> Tensor:
        """`function(ids, mask)`. Once differentiable by the weights of the network that train.

        Args:
            function: a pass of the network that neither waits for the device nor draws random
                numbers, the same function in each call.
            ids: `[B, L]`, token ids.
            mask: `[B, L]`, 1 at real tokens; None if all are.
        """
        trained: list[Tensor] = []
        if torch.is_grad_enabled():
            trained = [p for p in self._network.parameters() if p.requires_grad]
        places = tuple(p.data_ptr() for p in self._network.parameters())
        key = hash((places, tuple(map(id, trained)))), ids.shape, mask is None
        self._seen[key] += 1
        if self._seen[key] == 1:
            return function(ids, mask)
        with self._memory.lock:
            if key not in self._passes:
                self._passes[key] = _Pass(function, ids, mask, trained, self._memory)
            recorded = self._passes[key] = self._passes.pop(key)  # the newest is the last
            for old in list(self._passes)[:-MOST_PASSES]:
                del self._passes[old]
        return _Replayed.apply(recorded, ids, mask, *trained)


_OF_NETWORK: WeakKeyDictionary[nn.Module, RecordedPasses] = WeakKeyDictionary()


def recorded_passes(network: nn.Module) -> RecordedPasses:
    """The recorded passes of a network, which live as long as it does."""
    if network not in _OF_NETWORK:
        _OF_NETWORK[network] = RecordedPasses(network)
    return _OF_NETWORK[network]


class _Memory:
    """Memory that the passes of a network share.

    Attributes:
        pool: as of `record`; None before the first recording.
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
        function: States,
        ids: Tensor,
        mask: Tensor | None,
        trained: list[Tensor],
        memory: _Memory,
    ) -> None:
        self._memory = memory
        self._ids, self._mask = ids.clone(), None if mask is None else mask.clone()

        def states() -> Tensor:
            return function(self._ids, self._mask)

        def slopes(hidden: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(hidden, trained, self._grad, allow_unused=True)

        def warm_up() -> None:
            hidden = states()
            self._grad = torch.zeros_like(hidden)
            if trained:
                slopes(hidden)

        self._forward, hidden = record(states, ids.device, memory.pool, warm_up)
        memory.pool = self._forward.pool()
        self._hidden = hidden.detach()
        if trained:
            self._backward, self._slopes = record(lambda: slopes(hidden), ids.device, memory.pool)

    def read(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, int]:
        """The hidden states of other inputs, `[B, L, H]`, and the number of the replay."""
        with self._memory.lock:
            self._replay(ids, mask)
            return self._hidden.clone(), self._memory.run

    def gradient(
        self, run: int, ids: Tensor, mask: Tensor | None, grad: Tensor
    ) -> list[Tensor | None]:
        """Gradients of the weights, given that of the states of `read`, which was replay `run`."""
        with self._memory.lock:
            if run != self._memory.run:
                self._replay(ids, mask)
            self._grad.copy_(grad)
            self._backward.replay()
            self._memory.run += 1
            return [None if slope is None else slope.clone() for slope in self._slopes]

    def _replay(self, ids: Tensor, mask: Tensor | None) -> None:
        self._ids.copy_(ids)
        if self._mask is not None and mask is not None:
            self._mask.copy_(mask)
        self._forward.replay()
        self._memory.run += 1


class _Replayed(torch.autograd.Function):
    """The states of a recorded pass, with the weights as inputs."""

    @staticmethod
    def forward(
        ctx: Any, recorded: _Pass, ids: Tensor, mask: Tensor | None, *trained: Tensor
    ) -> Tensor:
        hidden, ctx.run = recorded.read(ids, mask)
        ctx.recorded = recorded
        # autograd refuses a gradient whose weights have changed in place since
        ctx.save_for_backward(ids, mask, *trained)
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ids, mask, *_ = ctx.saved_tensors
        return None, None, None, *ctx.recorded.gradient(ctx.run, ids, mask, grad)
