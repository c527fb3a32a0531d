"""Devices that compute asynchronously, their memory and their random generators."""

import torch
from torch import Tensor


def is_asynchronous(device: torch.device) -> bool:
    """True if a read of a tensor's value waits for all work before it, as on a GPU."""
    return device.type != "cpu"


def total_memory(device: torch.device) -> int:
    """Memory of a GPU of NVIDIA or AMD, bytes; 0 for other devices."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def generator_state(device: torch.device) -> Tensor:
    """State of torch's own generator on a device."""
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def set_generator_state(device: torch.device, state: Tensor) -> None:
    """Put back a state from `generator_state`."""
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
