"""The tests on another device: `make gpu`, or `pytest --device cuda` with some folders of tests.

A test creates tensors, prompts and networks without a device. Under `--device` they go to the
device. The library is left alone: a tensor that the library forgets to place stays on the CPU, and
its test fails. Tests with the mark `on_cpu` are about the CPU, and create everything there. Two
kinds of tests run without the option: scripts choose a GPU themselves, and features of texts are
computed on the CPU.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from model import Prompts
from model.networks.text_network import TextNetwork
from model.prior.cached_decoder import CachedDecoder

TESTS = str(Path(__file__).parent)
NAMES = "arange as_tensor empty eye from_numpy full linspace logspace ones rand randint randn \
randperm tensor zeros"
CREATORS = {getattr(torch, name) for name in NAMES.split()}

_state = {"places": True}


@contextmanager
def on_cpu() -> Iterator[None]:
    """Context in which tests create tensors, prompts and networks on the CPU."""
    _state["places"] = False
    try:
        yield
    finally:
        _state["places"] = True


class OnDevice(TorchFunctionMode):
    """A device for the tensors that a test creates. Random numbers are those of the CPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        created = func(*args, **kwargs)
        if func not in CREATORS or "device" in kwargs or not _is_test(sys._getframe(1)):
            return created
        return created.detach().to(self.device).requires_grad_(created.requires_grad)


def place_tests(device: torch.device) -> None:
    """Put tensors, prompts and networks of the tests on a device from now on."""
    OnDevice(device).__enter__()
    # rewards and features are numbers on the CPU, which tests compare with numbers on the device
    torch.testing.assert_close = functools.partial(torch.testing.assert_close, check_device=False)

    def place(module: nn.Module, _: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and "torch" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame is not None and _is_test(frame):
            _to(module, device)

    register_module_forward_pre_hook(place)  # a network that a test calls
    for cls in (CachedDecoder, TextNetwork):
        cls.__init__ = _placing(cls.__init__, device)  # type: ignore[method-assign]
    from_ids = Prompts.from_ids

    def placed_ids(rows: Any, texts: Any, to: Any = None, **attributes: Any) -> Prompts:
        default = device if _is_test(sys._getframe(1)) else None
        return from_ids(rows, texts, to or attributes.pop("device", None) or default, **attributes)

    Prompts.from_ids = placed_ids  # type: ignore[method-assign, assignment]


def _placing(initialise: Any, device: torch.device) -> Any:
    """A constructor that moves its network first."""

    @functools.wraps(initialise)
    def placing(self: Any, network: Any, *arguments: Any, **options: Any) -> None:
        _to(network, device)
        initialise(self, network, *arguments, **options)

    return placing


def _to(network: Any, device: torch.device) -> None:
    """Move a network whose weights have numbers, outside `on_cpu`."""
    if not _state["places"]:
        return
    if isinstance(network, nn.Module) and not any(p.is_meta for p in network.parameters()):
        network.to(device)


def _is_test(frame: FrameType) -> bool:
    """True for code of a test, outside `on_cpu`."""
    path = frame.f_code.co_filename
    return _state["places"] and path.startswith(TESTS) and path != __file__
