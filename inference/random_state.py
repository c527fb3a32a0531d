"""The state of every random generator that a fit draws from: torch's on each device, Python's and NumPy's."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from model.common import checks
from model.common.thread_lock import THREAD_LOCK


def capture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as tensors, and as what JSON can hold."""
    tensors = {"cpu": torch.get_rng_state()} | {
        str(device): _module(device).get_rng_state(device) for device in _devices()
    }
    kind, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def restore(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Undo everything drawn since `capture`; generators of devices that this machine lacks are left out, with a warning."""
    torch.set_rng_state(tensors["cpu"].cpu())
    devices = {str(device): device for device in _devices()}
    missing = sorted(tensors.keys() - devices.keys() - {"cpu"})
    if missing:
        warnings.warn(
            f"the generators of {', '.join(missing)} were not restored: this machine has "
            f"{', '.join(devices) or 'the CPU alone'}. What is drawn differs from what would have been",
            stacklevel=2,
        )
    for name, device in devices.items():
        if name in tensors:
            _module(device).set_rng_state(tensors[name].cpu(), device)
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = plain["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed all generators for the duration of the context, and put them back as they were after it.

    One thread at a time: a second waits, since the generators are those of the whole process.

    Raises:
        ValueError: if the seed is none that all of them take.
    """
    seed = checks.seed("seed", seed)
    with kept():
        pyro.set_rng_seed(seed)
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Put all generators back as they were, whatever was drawn in the context. One thread at a time."""
    with THREAD_LOCK:
        before = capture()
        try:
            yield
        finally:
            restore(*before)


def _devices() -> list[torch.device]:
    """The accelerators of this machine, a GPU for example."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return []
    return [
        torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())
    ]


def _module(device: torch.device) -> Any:
    """The module of torch with the functions for a kind of device, such as `torch.cuda`."""
    return torch.get_device_module(device)
