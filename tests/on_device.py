"""The tests on another device: `pytest --device cuda`.

A test creates tensors without a device. Under `--device` those tensors go to the device, and so does
each network that a language model or a reward reads. The library is left alone: a tensor that the
library forgets to place stays on the CPU, and its test fails.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from model.networks.text_network import TextNetwork
from model.prior.cached_decoder import CachedDecoder

TESTS = str(Path(__file__).parent)
NAMES = "arange as_tensor empty eye from_numpy full linspace logspace ones rand randint randn \
randperm tensor zeros"
CREATORS = {getattr(torch, name) for name in NAMES.split()}


class OnDevice(TorchFunctionMode):
    """A device for the tensors that a test creates. Random numbers are those of the CPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        created = func(*args, **kwargs)
        caller = sys._getframe(1).f_code.co_filename
        if func not in CREATORS or "device" in kwargs or not caller.startswith(TESTS):
            return created
        return created.detach().to(self.device).requires_grad_(created.requires_grad)


def place_tests(device: torch.device) -> None:
    """Put the tensors of tests, and the networks that the library reads, on a device."""
    OnDevice(device).__enter__()
    for cls in (CachedDecoder, TextNetwork):
        cls.__init__ = _placing(cls.__init__, device)  # type: ignore[method-assign]


def _placing(initialise: Any, device: torch.device) -> Any:
    """A constructor that moves its network first, if the weights have numbers."""

    @functools.wraps(initialise)
    def placing(self: Any, network: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(network, nn.Module) and not any(p.is_meta for p in network.parameters()):
            network.to(device)
        initialise(self, network, *arguments, **options)

    return placing
