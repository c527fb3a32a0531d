"""Devices by name, with their memory and random generators, and floating-point types by name."""

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor

from model.common.texts import quoted

HALF = (torch.bfloat16, torch.float16)
"""Floating-point types of two bytes."""


def is_asynchronous(device: torch.device) -> bool:
    """True if a read of a tensor's value waits for all work before it, as on a GPU."""
    return device.type != "cpu"


def total_memory(device: torch.device) -> int:
    """Memory of a GPU of NVIDIA or AMD, bytes; 0 for other devices."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def accelerators() -> list[torch.device]:
    """Accelerators of this machine, such as a GPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return []
    count = torch.accelerator.device_count()
    return [torch.device(accelerator.type, index) for index in range(count)]


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


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed torch's own generator on one device; `torch.manual_seed` seeds those of all devices."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        module = torch.get_device_module(device)
        with module.device(device):
            module.manual_seed(seed)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it and can give it back.

    Reading a network of 135 million weights from a GGUF file left 300 MB of freed memory with the
    process, beside 269 MB of weights.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def is_half_on_a_cpu(place: Any) -> bool:
    """True for a tensor or a network in half precision on a CPU."""
    return place.device.type == "cpu" and place.dtype in HALF


def named_device(device: torch.device | str | int | None) -> torch.device:
    """A device of this machine by name or number, or a `ValueError`; None for a GPU if any.

    The device has float64.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if isinstance(device, bool) or not isinstance(device, torch.device | str | int):
            raise TypeError("it is neither a name nor a number")
        if torch.device(device).type == "meta":
            raise ValueError("it holds no numbers")
        # log densities are added up in float64, which Apple's GPU does not have
        return torch.empty(0, dtype=torch.float64, device=device).device
    # torch asserts that it was built with CUDA
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        # after its first sentence torch lists every operator
        reason, _, _ = str(error).partition(". ")
        raise ValueError(
            f"device is {quoted(device)}, expected one of this machine with float64: {reason}"
        ) from error


def named_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point type of torch, by its name or as it is; a `ValueError` otherwise."""
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        expected = "the name of a floating-point type such as 'bfloat16'"
        raise ValueError(f"dtype is {quoted(dtype)}, expected {expected}")
    return named
