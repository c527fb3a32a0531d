"""Layers of a network, compiled once for all that are alike: regional compilation of torch.

    layer(x), a sum of attention and MLP with their norms  ->  products, and few kernels in between

A network of 30 layers is traced as one layer is. Layers have no keys and values of earlier passes,
whose number would make each layer another function. One graph serves passes of all shapes.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import transformers
from pyro.distributions.util import is_validation_enabled, validation_enabled
from torch import Tensor, nn
from transformers import DynamicCache

from model.networks.layers.rounded_adapters import shared_factors

NOT_COMPILED = "leave compile_layers out"
"""The fix of errors of compiled layers."""
BACKEND = "inductor"
"""Compiler of torch that writes kernels, in Triton on a GPU and in C++ on a CPU."""
MOST = 64
"""Largest number of graphs in a process: one for each kind of layer, with and without gradient,
with and without padding, and for one sequence. Torch's own limit is 8."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest difference of hidden states that is rounding, by their norm; 0.1 in half precision."""

_lock = threading.RLock()
"""Held in a pass, since the layers hold the adapters that the pass has rounded."""


class NoCache(DynamicCache):
    """A cache of a whole pass, which nothing reads later: empty."""

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return key, value


@contextmanager
def compiled_layers(network: nn.Module) -> Iterator[None]:
    """Compile the layers of passes inside whose cache is a `NoCache`; other passes are plain."""
    import torch._dynamo  # takes a second

    adapted: list[Any] = [part for part in network.modules() if hasattr(part, "rounded_factors")]
    layers = repeated_layers(network)
    # torch switches the checks of all distributions off for good
    checks = validation_enabled(is_validation_enabled())
    with _lock, checks, torch._dynamo.config.patch(recompile_limit=MOST):
        for part in adapted:
            part.shared = shared_factors(part)
        for layer in layers:
            trains = any(weight.requires_grad for weight in layer.parameters())
            layer.forward = partial(_forward, layer, trains and torch.is_grad_enabled())
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward
            for part in adapted:
                del part.shared


def repeated_layers(network: nn.Module) -> list[nn.Module]:
    """The layers of a network of `transformers` that follow each other."""
    kind = transformers.GradientCheckpointingLayer
    return [part for part in network.modules() if isinstance(part, kind)]


def _forward(layer: nn.Module, has_gradient: bool, *args: Any, **kwargs: Any) -> Any:
    if not any(isinstance(each, NoCache) for each in (*args, *kwargs.values())):
        return type(layer).forward(layer, *args, **kwargs)  # a pass of another thread
    own: list[Any] = [None if isinstance(each, NoCache) else each for each in args]
    named = {name: None if isinstance(each, NoCache) else each for name, each in kwargs.items()}
    if has_gradient and own and not own[0].requires_grad:
        # the first layer is then like the others, and not compiled by itself
        own[0] = own[0].detach().requires_grad_()
    try:
        return _compiled()(layer, own, named)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of the compiler, which has many kinds
        reason = " ".join(str(error).split())[:300]
        raise RuntimeError(
            f"{type(layer).__name__} cannot be compiled: {type(error).__name__}: {reason}: "
            f"{NOT_COMPILED}"
        ) from error


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(_output, fullgraph=True, dynamic=True, backend=BACKEND)


def _output(layer: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return type(layer).forward(layer, *args, **kwargs)


@torch.no_grad()
def check_layers(
    network: nn.Module, splits_head: bool, states: Callable[[NoCache | None], Tensor]
) -> None:
    """Compile the layers of a network, and compare hidden states with those of plain layers.

    Args:
        network: the network.
        splits_head: see `Decoder`.
        states: a pass of the network with a cache, which returns hidden states.

    Raises:
        RuntimeError: if there is no compiler, or the layers cannot be compiled.
        ValueError: if the network has no layers to compile, or other numbers then.
    """
    name = type(network).__name__
    if not repeated_layers(network) or not splits_head:
        expected = "expected layers of `transformers` and an output layer apart from them"
        raise ValueError(f"{name} cannot be compiled by layers, {expected}: {NOT_COMPILED}")
    plain, compiled = states(None), states(NoCache())
    difference = float((compiled - plain).double().norm() / plain.double().norm())
    if not difference <= TOLERANCE.get(plain.dtype, 0.1):
        raise ValueError(
            f"compiled layers of {name} differ by {difference:.2g} of the hidden states, which is "
            f"no rounding: {NOT_COMPILED}"
        )
