"""Modules that may be sharded by `shards.py`: moved, copied, gathered for a draw or to be saved."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from model.common.sharded_tensors import is_sharded, whole

M = TypeVar("M", bound=nn.Module)


def move(module: nn.Module, device: torch.device) -> None:
    """Move the tensors of a module that are not sharded to a device."""
    for parameter in module.parameters(recurse=False):
        if not is_sharded(parameter):
            parameter.data = parameter.data.to(device)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else buffer.to(device)


@contextmanager
def gathered_once(network: Any) -> Iterator[None]:
    """Context in which a layer of a sharded network stays gathered after its first pass.

    A draw of T tokens then gathers the network once in place of T times.
    """
    network.set_reshard_after_forward(False)
    try:
        yield
    finally:
        network.set_reshard_after_forward(True)
        for module in network.modules():
            if class_of(module) is not type(module):
                module.reshard()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Context in which the first rank has a module whole, on the CPU, to save it.

    All ranks enter and leave the context. The first rank alone uses the module inside.
    """
    tensors = {id(p): p for p in module.parameters() if is_sharded(p)}
    copies: dict[int, nn.Parameter] = {}
    for key, tensor in tensors.items():
        # one whole tensor at a time on the device
        numbers = whole(tensor.detach())
        if torch.distributed.get_rank() == 0:
            copies[key] = nn.Parameter(numbers.cpu(), requires_grad=tensor.requires_grad)
    with replaced_parameters(module, copies):
        yield


@contextmanager
def replaced_parameters(module: nn.Module, new: Mapping[int, nn.Parameter]) -> Iterator[None]:
    """Context in which a module has other parameters in place of its own, given by their ids."""
    places = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner._parameters.items()
        if id(parameter) in new
    ]
    try:
        for owner, name, parameter in places:
            owner._parameters[name] = new[id(parameter)]
        yield
    finally:
        for owner, name, parameter in places:
            owner._parameters[name] = parameter


def class_of(module: nn.Module) -> type:
    """Class of a module before the module was sharded; FSDP makes a class of its own."""
    names = [each.__name__ for each in type(module).__mro__]
    return type(module).__mro__[names.index("FSDPModule") + 1 if "FSDPModule" in names else 0]


def shallow_copy(module: M) -> M:
    """A copy with the parts of a module, without FSDP's hooks around the module itself."""
    kind = class_of(module)
    if kind is type(module):
        return copy.copy(module)
    new: Any = object.__new__(kind)
    new.__dict__.update(vars(module))
    for hooks in ("_forward_pre_hooks", "_forward_hooks"):
        new.__dict__[hooks] = type(vars(module)[hooks])()
    return new
