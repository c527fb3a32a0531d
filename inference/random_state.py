"""State of the random generators: torch's on each device, Python's and NumPy's."""

import contextlib
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
from model.common.devices import accelerators, generator_state, set_generator_state
from model.common.thread_lock import THREAD_LOCK


def capture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state: tensors, and values that JSON can hold."""
    tensors = {name: generator_state(device) for name, device in _devices().items()}
    kind, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def restore(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Put back a state from `capture`. Warns of devices that this machine lacks."""
    devices = _devices()
    if missing := sorted(tensors.keys() - devices.keys()):
        warnings.warn(
            f"the generators of {', '.join(missing)} were not restored: this machine has "
            f"{', '.join([*devices][1:]) or 'the CPU alone'}. Draws will differ",
            stacklevel=2,
        )
    for name in devices.keys() & tensors.keys():
        set_generator_state(devices[name], tensors[name].cpu())
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = plain["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))


def _devices() -> dict[str, torch.device]:
    """Devices with a generator, by name, the CPU first."""
    return {str(device): device for device in (torch.device("cpu"), *accelerators())}


def is_still(state: tuple[dict[str, Tensor], dict[str, Any]]) -> bool:
    """True if no random number was drawn since a `capture`."""
    tensors, plain = capture()
    return plain == state[1] and all(torch.equal(tensors[name], state[0][name]) for name in tensors)


@contextmanager
def isolated(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed all generators inside the context, and restore them after it; locks as `preserved`.

    On a CPU the order of sums is fixed as well, so that the same seed gives the same numbers on any
    number of runs with the same number of threads.

    Args:
        seed: random seed.
        device: device of the computation; by default an accelerator if there is one.
    """
    seed = checks.seed("seed", seed)
    devices = accelerators() if device is None else [device]
    is_on_cpu = all(each.type == "cpu" for each in devices)
    with preserved(), _ordered_sums() if is_on_cpu else contextlib.nullcontext():
        pyro.set_rng_seed(seed)
        yield


@contextmanager
def measuring(device: torch.device | None = None) -> Iterator[None]:
    """Draw from a stream of its own inside the context, which no training shares; see `isolated`.

    A fit and a measurement under one seed would otherwise see the same draws. The new seed is a
    draw of torch's generator from the upper half of all seeds, where no one chooses a seed by hand.
    """
    with isolated(2**31 + int(torch.randint(2**31, ())), device):
        yield


@contextmanager
def _ordered_sums() -> Iterator[None]:
    """Have torch add in a fixed order: threads race for the gradient of an indexed tensor."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(max(mode, 1))  # 0 leaves the order open, 1 warns, 2 raises
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


@contextmanager
def preserved() -> Iterator[None]:
    """Restore all generators after the context. A second thread waits for its end."""
    with THREAD_LOCK:
        before = capture()
        try:
            yield
        finally:
            restore(*before)
